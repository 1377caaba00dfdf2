"""A page for people: counts, and a contact sheet of every clip."""

import html
import pathlib
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from unityvideo_jax import media, modalities
from unityvideo_jax.curation.stage import Clip, Job
from unityvideo_jax.files.names import safe_path
from unityvideo_jax.files.npz import read_npz
from unityvideo_jax.files.paths import atomic_path

COLUMNS, TILE = 6, 176  # frames per row of a sheet, and their greatest width in pixels
SHEETS = "sheets"
STYLE = """
body{font:14px/1.5 system-ui,sans-serif;max-width:80rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;margin:.6rem 0}th,td{padding:.15rem .7rem;text-align:left;
border-bottom:1px solid #ddd;vertical-align:top}td.n,th.n{text-align:right;
font-variant-numeric:tabular-nums}figure{margin:1rem 0;padding:.4rem;border:1px solid #ddd}
figure.out{background:#fff4f0}figcaption{color:#333}code{font-size:.9em}img{max-width:100%}
"""


def write(
    job: Job, clips: Sequence[Clip], record: Mapping[str, Any], max_clips: int
) -> pathlib.Path:
    """Writes `index.html` and `sheets/<key>.png`; sheets of an earlier run are not made again.

    Args:
      job: its folders.
      clips: all, rejected ones too.
      record: `manifest.statistics`.
      max_clips: sheets at most of accepted clips, and as many of rejected ones.
    """
    accepted = [clip for clip in clips if not clip.rejected_by]
    rejected = [clip for clip in clips if clip.rejected_by]
    parts = [
        "<h1>Curation</h1>",
        f"<p>{record['videos']} videos gave {record['clips']} clips "
        f"({record['hours'] * 60:.2f} minutes); {record['rejected']} videos, scenes and clips were "
        "set aside. A clip has one row in <code>manifest.jsonl</code>; the numbers here are in "
        "<code>statistics.json</code>.</p>",
        "<h2>Stages</h2>",
        _table(
            ("stage", "entered", "rejected", "seconds", "a second", ""),
            [
                (
                    row["stage"],
                    row.get("entered", ""),
                    row["rejected"],
                    row.get("seconds", ""),
                    # Times under a millisecond say nothing of the rate.
                    row.get("per_second") or "" if row.get("seconds", 0.0) >= 1e-3 else "",
                    f"skipped: {row['skipped']}" if "skipped" in row else "",
                )
                for row in record["stages"]
            ],
        ),
        "<h2>Groups</h2>",
        _table(
            ("group", "clips", "by source", "by modality"),
            [
                (name, group["clips"], _counts(group["sources"]), _counts(group["modalities"]))
                for name, group in record["groups"].items()
            ],
        ),
        "<h2>Scores</h2>",
        _table(
            ("score", "clips", "least", "quarter", "median", "three quarters", "most"),
            [(name, *spread.values()) for name, spread in record["scores"].items()],
        ),
        f"<h2>Clips</h2>{_shown(accepted, max_clips)}",
        *(_figure(clip, job) for clip in accepted[:max_clips]),
        f"<h2>Set aside</h2>{_shown(rejected, max_clips)}",
        *(_figure(clip, job) for clip in rejected[:max_clips]),
    ]
    path = pathlib.Path(job.workdir) / "index.html"
    with atomic_path(path) as temporary:
        temporary.write_text(
            "<!doctype html><html lang='en'><meta charset='utf-8'><title>Curation</title>"
            f"<style>{STYLE}</style><body>{''.join(parts)}</body></html>\n",
            encoding="utf-8",
            # Names of files may hold bytes that are no text.
            errors="backslashreplace",
        )
    return path


def _shown(clips: Sequence[Clip], most: int) -> str:
    return f"<p>The first {most} of {len(clips)}.</p>" if len(clips) > most else ""


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name or '(no folder)'} {n}" for name, n in counts.items())


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    cells = [
        "".join(
            f"<td{' class=n' if isinstance(c, int | float) else ''}>{html.escape(_cell(c))}</td>"
            for c in row
        )
        for row in rows
    ]
    numeric = [any(isinstance(row[n], int | float) for row in rows) for n in range(len(head))]
    titles = "".join(
        f"<th{' class=n' if right else ''}>{html.escape(title)}</th>"
        for title, right in zip(head, numeric, strict=True)
    )
    return f"<table><tr>{titles}</tr>{''.join(f'<tr>{c}</tr>' for c in cells)}</table>"


def _cell(value: Any) -> str:
    """Numbers to four digits, whole ones without a point."""
    return f"{value:.4g}" if isinstance(value, float) and abs(value) < 1e4 else str(value)


def _figure(clip: Clip, job: Job) -> str:
    scores = ", ".join(f"{k} {_cell(v)}" for k, v in clip.scores.items())
    # The table of stages says once what was skipped.
    said = {k: v for k, v in clip.notes.items() if not v.startswith("skipped: ")}
    notes = ", ".join(f"{k}: {v}" for k, v in said.items())
    where = f"{clip.video}, {clip.start:.2f} to {clip.end:.2f} s"
    lines = [f"<b>{html.escape(clip.key)}</b> ({html.escape(where)})"]
    if clip.rejected_by:
        lines.append(f"<b>{html.escape(clip.rejected_by)}</b>: {html.escape(clip.reason)}")
    lines += [html.escape(text) for text in (clip.caption, scores, notes) if text]
    sheet = _sheet(clip, job)
    picture = f"<img src='{sheet}' loading='lazy' alt=''>" if sheet else ""
    kind = " class='out'" if clip.rejected_by else ""
    return f"<figure{kind}>{picture}<figcaption>{'<br>'.join(lines)}</figcaption></figure>"


def _sheet(clip: Clip, job: Job) -> str:
    """The clip's contact sheet below the workdir; '' for a clip that was never cut."""
    video = job.file(clip, ".mp4")
    if not clip.frame_count or not video.exists():
        return ""
    # Its name says what is on it, so that a modality added later makes a new one.
    name = f"{'-'.join([clip.key, 'rgb', *clip.modalities])}.png"
    path = safe_path(pathlib.Path(job.workdir), SHEETS, name, where="clip key")
    if not path.exists():
        frames = media.read_video(video)[0]
        picks = np.linspace(0, len(frames) - 1, min(COLUMNS, len(frames))).round().astype(int)
        rows = [("rgb", frames[picks])]
        rows += [(m, _drawn(clip, m, job, frames)[picks]) for m in clip.modalities]
        media.contact_sheet([(n, _small(f)) for n, f in rows], path, columns=COLUMNS)
    return f"{SHEETS}/{urllib.parse.quote(name)}"


def _drawn(clip: Clip, modality: str, job: Job, frames: np.ndarray) -> np.ndarray:
    """A modality as its codec draws it."""
    codec = modalities.get(modality).codec
    arrays = read_npz(job.file(clip, f".{modality}.npz"), ())
    if "rgb" in codec.keys:
        arrays["rgb"] = frames
    return media.to_uint8(np.asarray(codec.encode(arrays)[0]))


def _small(frames: np.ndarray) -> np.ndarray:
    scale = min(1.0, TILE / frames.shape[2])
    size = (max(1, round(frames.shape[2] * scale)), max(1, round(frames.shape[1] * scale)))
    return np.stack(
        [np.asarray(Image.fromarray(f).resize(size, Image.Resampling.BOX)) for f in frames]
    )
