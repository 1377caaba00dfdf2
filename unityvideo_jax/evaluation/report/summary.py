"""One line per modality: its headline score between the trivial prediction and the ceiling."""

import dataclasses
import html
import pathlib
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

from unityvideo_jax import modalities
from unityvideo_jax.evaluation.report import page, plots
from unityvideo_jax.files import escape

NOT_MEASURED = "not measured in this run"
PICTURE = 160  # pixels high
BLOCKS = 20  # characters of a bar


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """One modality at a glance.

    Attributes:
      modality: its name.
      key: of the headline metric.
      lower_is_better: how to read the metric.
      score, interval: of what was scored; the interval is None where there is none.
      ceiling: score of the truth through codec and VAE; None where it was not measured.
      trivial: score of the prediction that needs no model; None where it was not measured.
      clip, picture: name of the first scored clip, and its picture below the report's folder; None
        where nothing was drawn.
    """

    modality: str
    key: str
    lower_is_better: bool
    score: float
    interval: tuple[float, float] | None
    ceiling: float | None
    trivial: float | None
    clip: str | None
    picture: str | None

    def way(self, value: float) -> float | None:
        """A value's share of the way from the trivial prediction, 0, to the ceiling, 1.

        None where one of the two was not measured, or the ceiling is no better than the other.
        """
        if self.ceiling is None or self.trivial is None:
            return None
        length = self.ceiling - self.trivial
        better = length < 0 if self.lower_is_better else length > 0
        return (value - self.trivial) / length if better else None

    @property
    def direction(self) -> str:
        """Direction of the metric, in words."""
        return "lower is better" if self.lower_is_better else "higher is better"


def lines(record: Mapping[str, Any], clips: Sequence[page.ClipEntry]) -> list[Line]:
    """A line for every modality whose headline was scored, in the order of registration.

    Args:
      record: as `document.write_report` takes it.
      clips: of which the first one with a score and a picture is shown.
    """
    found = []
    for name, metric in modalities.metrics().items():
        key = metric.headline
        if record["metrics"].get(key) is None:
            continue
        drawn = (c for c in clips if name in c.pictures and c.value(key) is not None)
        first = next(drawn, None)
        found.append(
            Line(
                modality=name,
                key=key,
                lower_is_better=metric.lower_is_better,
                score=record["metrics"][key],
                interval=record.get("intervals", {}).get(key),
                ceiling=record.get("vae_round_trip", {}).get(key),
                trivial=record.get("trivial", {}).get(key),
                clip=first and first.name,
                picture=first and first.pictures[name],
            )
        )
    return found


def page_part(found: Sequence[Line], folder: pathlib.Path) -> str:
    """The lines as HTML, each with its bar and its picture; empty if there are none."""
    if not found:
        return ""
    rows = "".join(_row(line, folder) for line in found)
    return (
        "<p>The bar goes from the prediction that needs no model to the ceiling: the truth through "
        "codec and VAE. Pictures show the first clip that was scored.</p>"
        f"<table class='summary'>{rows}</table>"
    )


def _row(line: Line, folder: pathlib.Path) -> str:
    interval = (
        f"{_number(line.interval[0])} to {_number(line.interval[1])}" if line.interval else ""
    )
    picture = page.image(folder / line.picture, PICTURE) if line.picture else ""
    return (
        f"<tr><th>{html.escape(line.modality)}<br><code>{html.escape(line.key)}</code><br>"
        f"<span>{line.direction}</span></th>"
        f"<td class='n'><b>{_number(line.score)}</b><br><span>{interval}</span></td>"
        f"<td>{_bar(line)}</td><td>{picture}</td></tr>"
    )


def _bar(line: Line) -> str:
    way, ends = line.way(line.score), [line.way(end) for end in line.interval or ()]
    bar = "" if way is None else plots.bar(way, (min(ends), max(ends)) if ends else None)
    return (
        f"{bar}<div class='ends'><span>trivial {_or_not(line.trivial)}</span>"
        f"<span>ceiling {_or_not(line.ceiling)}</span></div>"
    )


def markdown(found: Sequence[Line]) -> list[str]:
    """The lines as a table of Markdown, with a bar of characters, and their pictures below it."""
    if not found:
        return []
    titles = ("modality", "metric", "score", "95 % interval", "trivial", "ceiling", "on the way")
    lines = ["| " + " | ".join(titles) + " |", "| --- | --- |" + " ---: |" * 4 + " --- |"]
    for line in found:
        cells = [
            escape.markdown(line.modality),
            f"{escape.code(line.key)}, {line.direction}",
            _number(line.score),
            " to ".join(map(_number, line.interval or ())),
            _or_not(line.trivial),
            _or_not(line.ceiling),
            _blocks(line.way(line.score)),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    for line in found:
        if line.picture:
            label = escape.markdown(f"{line.modality}, clip {line.clip}")
            lines += ["", f"![{label}]({urllib.parse.quote(line.picture)})"]
    return lines


def _blocks(way: float | None) -> str:
    if way is None:
        return ""
    full = round(BLOCKS * min(max(way, 0.0), 1.0))
    return "█" * full + "░" * (BLOCKS - full) + f" {way:.0%}"


def _number(value: float) -> str:
    return f"{value:.4f}"


def _or_not(value: float | None) -> str:
    return NOT_MEASURED if value is None else _number(value)
