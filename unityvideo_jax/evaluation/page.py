"""The report as one HTML page that needs no other file: pictures are inside it."""

import base64
import dataclasses
import html
import io
import pathlib
from collections.abc import Mapping, Sequence

from PIL import Image

from unityvideo_jax.evaluation import plots
from unityvideo_jax.evaluation.metrics import METRICS
from unityvideo_jax.evaluation.scores import ClipScore

SHOWN = 3  # best and worst clips of each modality
THUMBNAIL = 96  # pixels high
STYLE = """
body{font:14px/1.5 system-ui,sans-serif;max-width:76rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;margin:.6rem 0}
th,td{padding:.15rem .7rem;border-bottom:1px solid #ddd;text-align:left;vertical-align:top}
td.n{text-align:right;font-variant-numeric:tabular-nums}
code{font-size:.9em}figure{display:inline-block;margin:.4rem .8rem .4rem 0;vertical-align:top}
figcaption{color:#555;font-size:.9em;max-width:44rem}img{border:1px solid #ccc;max-width:100%}
.warn{background:#fff4e0;border-left:4px solid #e08a00;padding:.3rem .8rem}
"""
Table = tuple[Sequence[str], Sequence[Sequence[str]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipEntry:
    """A clip on the page.

    Attributes:
      name: of the clip.
      score: its own.
      pictures: PNGs below the report's folder, by modality.
      faults: in words.
    """

    name: str
    score: ClipScore
    pictures: Mapping[str, str]
    faults: Sequence[str] = ()

    def value(self, key: str) -> float | None:
        """Its number under a key, None if it was not scored."""
        value, weight = self.score.means.get(key, (0.0, 0.0))
        return value if weight > 0 else None


def _table(table: Table, code: bool) -> str:
    titles, rows = table
    head = "".join(f"<th>{html.escape(t)}</th>" for t in titles)
    body = []
    for first, *rest in rows:
        name = html.escape(first)
        cells = "".join(f"<td class='n'>{html.escape(c)}</td>" for c in rest)
        if not code:
            cells = cells.replace(" class='n'", "")
        body.append(f"<tr><td>{f'<code>{name}</code>' if code else name}</td>{cells}</tr>")
    return f"<table><tr>{head}</tr>{''.join(body)}</table>"


def _image(path: pathlib.Path) -> str:
    """An <img> with the picture inside."""
    encoded = base64.b64encode(path.read_bytes()).decode()
    return f"<img src='data:image/png;base64,{encoded}' alt='{html.escape(path.stem)}'>"


def _thumbnail(path: pathlib.Path) -> str:
    """The same, small and as JPEG: a benchmark has hundreds of them."""
    small = io.BytesIO()
    with Image.open(path) as image:
        image.thumbnail((image.width, THUMBNAIL))
        image.convert("RGB").save(small, format="JPEG", quality=80)
    encoded = base64.b64encode(small.getvalue()).decode()
    return f"<img src='data:image/jpeg;base64,{encoded}' alt='{html.escape(path.stem)}'>"


def _modality(
    name: str,
    clips: Sequence[ClipEntry],
    metrics: Mapping,
    intervals: Mapping,
    folder: pathlib.Path,
) -> str:
    """Spread, best and worst cases of one modality; empty if no clip was scored."""
    metric = METRICS[name]
    key = metric.headline
    scored = [(v, c) for c in clips if (v := c.value(key)) is not None]
    if not scored:
        return ""
    scored.sort(key=lambda pair: pair[0], reverse=not metric.lower_is_better)
    direction = "lower is better" if metric.lower_is_better else "higher is better"
    values = [v for v, _ in scored]
    parts = [
        f"<h3>{name}</h3><p><code>{html.escape(key)}</code> of {len(values)} clips ({direction}); "
        "line: the average, band: its interval</p>",
        plots.histogram(values, metrics.get(key), intervals.get(key)),
    ]
    count = min(SHOWN, len(scored))
    for title, chosen in (("Best", scored[:count]), ("Worst", scored[::-1][:count])):
        figures = [
            f"<figure>{_image(folder / c.pictures[name])}<figcaption>{html.escape(c.name)}: "
            f"{v:.4g}</figcaption></figure>"
            for v, c in chosen
            if name in c.pictures
        ]
        if figures:
            parts.append(f"<h4>{title}</h4>{''.join(figures)}")
    return "".join(parts)


def _clip_list(clips: Sequence[ClipEntry], folder: pathlib.Path) -> str:
    shown = [n for n, m in METRICS.items() if any(c.value(m.headline) is not None for c in clips)]
    head = "".join(f"<th>{n}</th>" for n in ("clip", *shown, "pictures", "faults"))
    rows = []
    for clip in clips:
        cells = [f"<td>{html.escape(clip.name)}</td>"]
        for name in shown:
            value = clip.value(METRICS[name].headline)
            cells.append(f"<td class='n'>{'n/a' if value is None else f'{value:.4g}'}</td>")
        pictures = "".join(_thumbnail(folder / p) for p in clip.pictures.values())
        cells += [f"<td>{pictures}</td>", f"<td>{html.escape('; '.join(clip.faults))}</td>"]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def render(
    *,
    title: str,
    paragraph: str,
    table: Table,
    comparisons: Table,
    source: Mapping,
    sections: Mapping[str, Sequence[str]],
    protocols: Mapping[str, str],
    metrics: Mapping,
    intervals: Mapping,
    clips: Sequence[ClipEntry],
    folder: pathlib.Path,
    sheet: str | None,
) -> str:
    """The page; see `report.write_report` for what its parts are."""
    parts = [f"<h1>{html.escape(title)}</h1><p>{html.escape(paragraph)}</p>"]
    for heading, items in sections.items():
        listed = "".join(f"<li>{html.escape(item)}</li>" for item in items)
        parts.append(f"<div class='warn'><h3>{heading}</h3><ul>{listed}</ul></div>")
    parts.append("<h2>Scores</h2>" + _table(table, code=True))
    if comparisons[1]:
        parts.append(
            f"<h2>Beside the paper's numbers: {html.escape(source['status'])}</h2>"
            f"<p>Source: {html.escape(source['source'])}; on {html.escape(source['benchmarks'])}."
            f"</p>{_table(comparisons, code=False)}"
        )
    modalities = [_modality(n, clips, metrics, intervals, folder) for n in METRICS]
    if any(modalities):
        parts.append("<h2>Best and worst cases</h2>" + "".join(modalities))
    if clips:
        parts.append("<h2>Clips</h2>" + _clip_list(clips, folder))
    if sheet:
        parts.append(f"<h2>Samples</h2>{_image(folder / sheet)}")
    if protocols:
        rows = [[name, text] for name, text in protocols.items()]
        parts.append("<h2>Protocols</h2>" + _table((["name", "meaning"], rows), code=False))
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{html.escape(title)}</title>"
        f"<style>{STYLE}</style><body>{''.join(parts)}</body></html>\n"
    )
