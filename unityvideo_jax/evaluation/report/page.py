"""The report as one HTML page that needs no other file: pictures and videos are inside it."""

import base64
import dataclasses
import html
import io
import pathlib
from collections.abc import Mapping, Sequence

from PIL import Image

from unityvideo_jax import media, modalities
from unityvideo_jax.evaluation.report import plots
from unityvideo_jax.metrics.scores import ClipScore
from unityvideo_jax.modalities import RGB

# A page holds at most these, whatever the number of clips, so that it stays a few tens of MB.
SHOWN = 3  # best and worst clips of each modality, with their videos
SHOWN_VIDEOS = 6  # of RGB
THUMBNAILS = 100  # clips with small pictures in the list of all
THUMBNAIL = 96  # pixels high
STYLE = """
body{font:14px/1.5 system-ui,sans-serif;max-width:88rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;margin:.6rem 0}
th,td{padding:.15rem .7rem;border-bottom:1px solid #ddd;text-align:left;vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
code{font-size:.9em}figure{display:inline-block;margin:.4rem .8rem .4rem 0;vertical-align:top}
figcaption{color:#555;font-size:.9em;max-width:44rem}
img,video{border:1px solid #ccc;max-width:100%}video{display:block;width:100%;height:auto}
.warn{background:#fff4e0;border-left:4px solid #e08a00;padding:.3rem .8rem}
summary{cursor:pointer;font-size:1.2em;font-weight:600;margin:.8rem 0}
.summary td,.summary th{vertical-align:middle;padding:.5rem .9rem}.summary th{font-size:1.2em}
.summary span,.summary code{color:#555;font-size:13px;font-weight:400}.summary b{font-size:1.5em}
.summary td{white-space:nowrap}.summary svg{display:block}
.ends{display:flex;justify-content:space-between;gap:1.5rem}
"""
Table = tuple[Sequence[str], Sequence[Sequence[str]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipEntry:
    """A clip on the page.

    Attributes:
      name: of the clip.
      score: its own.
      pictures: PNGs below the report's folder, by modality, perhaps with an mp4 beside each.
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
    head = "".join(f"<th class='n'>{html.escape(t)}</th>" for t in titles)
    head = head.replace(" class='n'", "", 1 if code else -1)
    body = []
    for first, *rest in rows:
        name = html.escape(first)
        cells = "".join(f"<td class='n'>{html.escape(c)}</td>" for c in rest)
        if not code:
            cells = cells.replace(" class='n'", "")
        body.append(f"<tr><td>{f'<code>{name}</code>' if code else name}</td>{cells}</tr>")
    return f"<table><tr>{head}</tr>{''.join(body)}</table>"


def _folded(title: str, content: str, is_open: bool = False) -> str:
    """Content below a title that shows and hides it."""
    state = " open" if is_open else ""
    return f"<details{state}><summary>{html.escape(title)}</summary>{content}</details>"


def image(path: pathlib.Path, height: int | None = None) -> str:
    """An <img> with the picture inside, as it is, or small and as JPEG."""
    kind, content = "png", path.read_bytes()
    if height is not None:
        small = io.BytesIO()
        with Image.open(path) as opened:
            opened.thumbnail((opened.width, height))
            opened.convert("RGB").save(small, format="JPEG", quality=80)
        kind, content = "jpeg", small.getvalue()
    encoded = base64.b64encode(content).decode()
    return f"<img src='data:image/{kind};base64,{encoded}' alt='{html.escape(path.stem)}'>"


def _player(picture: pathlib.Path) -> str:
    """A <video> with the mp4 beside a picture inside, which shows its first frame at rest.

    Empty if there is none.
    """
    path = picture.with_suffix(".mp4")
    if not path.exists():
        return ""
    info = media.video_info(path)
    encoded = base64.b64encode(path.read_bytes()).decode()
    size = f"width='{info.width}' height='{info.height}'"
    return (
        f"<video controls loop muted preload='metadata' {size} "
        f"src='data:video/mp4;base64,{encoded}'></video>"
    )


def _figure(picture: pathlib.Path, caption: str) -> str:
    """A clip's picture, its video and what they are."""
    return (
        f"<figure>{image(picture)}{_player(picture)}"
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def _videos(clips: Sequence[ClipEntry], folder: pathlib.Path) -> str:
    """The RGB of the first clips; empty if none has any."""
    chosen = [c for c in clips if RGB in c.pictures][:SHOWN_VIDEOS]
    figures = [_figure(folder / c.pictures[RGB], c.name) for c in chosen]
    return f"<h2>Video</h2>{''.join(figures)}" if figures else ""


def _joint(sheets: Sequence[tuple[str, str]], folder: pathlib.Path) -> str:
    """Sheets of the first joint samples under their captions; empty if there are none."""
    figures = [_figure(folder / path, caption) for path, caption in sheets[:SHOWN_VIDEOS]]
    if not figures:
        return ""
    text = (
        f"<p>Sampled together from the captions below them, which nothing was chosen from; all "
        f"{len(sheets)} lie in <code>joint</code>.</p>"
    )
    return f"<h2>Joint samples</h2>{text}{''.join(figures)}"


def _modality(
    name: str,
    clips: Sequence[ClipEntry],
    metrics: Mapping,
    intervals: Mapping,
    folder: pathlib.Path,
) -> str:
    """Spread, best and worst cases of one modality; empty if no clip was scored."""
    metric = modalities.get(name).metric
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
            _figure(folder / c.pictures[name], f"{c.name}: {v:.4g}")
            for v, c in chosen
            if name in c.pictures
        ]
        if figures:
            parts.append(f"<h4>{title}</h4>{''.join(figures)}")
    return "".join(parts)


def _clip_list(clips: Sequence[ClipEntry], folder: pathlib.Path) -> str:
    headlines = {name: metric.headline for name, metric in modalities.metrics().items()}
    shown = [n for n, key in headlines.items() if any(c.value(key) is not None for c in clips)]
    head = "".join(f"<th>{n}</th>" for n in ("clip", *shown, "pictures", "faults"))
    rows = []
    for place, clip in enumerate(clips):
        cells = [f"<td>{html.escape(clip.name)}</td>"]
        for name in shown:
            value = clip.value(headlines[name])
            cells.append(f"<td class='n'>{'n/a' if value is None else f'{value:.4g}'}</td>")
        drawn = clip.pictures.values() if place < THUMBNAILS else ()
        pictures = "".join(image(folder / p, THUMBNAIL) for p in drawn)
        cells += [f"<td>{pictures}</td>", f"<td>{html.escape('; '.join(clip.faults))}</td>"]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    more = f"<p>Pictures of the first {THUMBNAILS}; those of all lie in <code>pictures</code>.</p>"
    table = f"<table><tr>{head}</tr>{''.join(rows)}</table>"
    return table if len(clips) <= THUMBNAILS else more + table


def render(
    *,
    title: str,
    paragraph: str,
    summary: str,
    table: Table,
    comparisons: Table,
    source: Mapping,
    sections: Mapping[str, Sequence[str]],
    protocols: Mapping[str, str],
    metrics: Mapping,
    intervals: Mapping,
    clips: Sequence[ClipEntry],
    joint: Sequence[tuple[str, str]],
    folder: pathlib.Path,
) -> str:
    """Makes the page; see `report.write_report` for its parts.

    `summary` is its HTML, which opens the page; without one the table below is unfolded.
    """
    parts = [f"<h1>{html.escape(title)}</h1><p>{html.escape(paragraph)}</p>{summary}"]
    for heading, items in sections.items():
        listed = "".join(f"<li>{html.escape(item)}</li>" for item in items)
        parts.append(f"<div class='warn'><h3>{heading}</h3><ul>{listed}</ul></div>")
    parts.append(_folded(f"All {len(table[1])} scores", _table(table, code=True), not summary))
    if comparisons[1]:
        text = (
            f"<p>Source: {html.escape(source['source'])}; on {html.escape(source['benchmarks'])}."
            f"</p>{_table(comparisons, code=False)}"
        )
        parts.append(_folded(f"Beside the paper's numbers: {source['status']}", text))
    cases = [_modality(n, clips, metrics, intervals, folder) for n in modalities.metrics()]
    if any(cases):
        text = "<p>Each video shows the rows of the picture above it side by side.</p>"
        parts.append(f"<h2>Best and worst cases</h2>{text}" + "".join(cases))
    parts += [_joint(joint, folder), _videos(clips, folder)]
    if clips:
        text = "<p>A modality's number is that of the metric named under it above.</p>"
        parts.append(f"<h2>Clips</h2>{text}" + _clip_list(clips, folder))
    if protocols:
        rows = [[name, text] for name, text in protocols.items()]
        parts.append(_folded("Protocols", _table((["name", "meaning"], rows), code=False)))
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{html.escape(title)}</title>"
        f"<style>{STYLE}</style><body>{''.join(parts)}</body></html>\n"
    )
