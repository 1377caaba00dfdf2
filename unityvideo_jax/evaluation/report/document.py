"""Results as JSON for programs, and as Markdown and one self-contained page for people."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from unityvideo_jax.evaluation.report import page, reported, summary
from unityvideo_jax.files import escape, provenance
from unityvideo_jax.files.paths import atomic_path

# How the columns of the table are titled, in order; a results record may lack some.
COLUMNS = {
    "metrics": "score",
    "intervals": "95 % interval",
    "vae_round_trip": "truth through codec and VAE",
    "trivial": "trivial prediction",
}


def joint_sheet(clip: int | str) -> str:
    """The contact sheet of a joint sample, below the report's folder."""
    return f"joint/{int(clip):04d}.png"


def describe(record: Mapping[str, Any]) -> str:
    """Describes what was scored, in one paragraph."""
    parts = []
    if record.get("system"):
        parts.append(f"System {record['system']}")
    if "checkpoint_step" in record:
        averaged = " (averaged weights)" if record["ema"] else ""
        parts.append(f"Checkpoint step {record['checkpoint_step']}{averaged}")
        parts.append(f"config {record['config_sha256'][:12]}")
        parts.append(f"{record['sampler']['solver']} in {record['sampler']['steps']} steps")
    parts.append(f"seed {record['seed']}")
    if record.get("size"):
        frames, height, width = record["size"]
        parts.append(f"{frames} frames of {height}x{width} (height x width)")
    text = ", ".join(parts) + "."
    if record.get("counts"):
        counts = (f"{n} {what.replace('_', ' ')}" for what, n in record["counts"].items())
        text += " " + ", ".join(counts) + "."
    if record.get("intervals"):
        text += (
            f" Intervals: percentile bootstrap over clips, {record['bootstrap']['samples']} "
            f"draws, seed {record['bootstrap']['seed']}."
        )
    return text


def table(record: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Titles and cells: one row per metric, one column for each of `COLUMNS` that there is."""
    columns = [name for name in COLUMNS if record.get(name)]
    keys: Sequence[str] = list(dict.fromkeys(key for name in columns for key in record[name]))
    cells = [[key, *(number(record[name].get(key, "")) for name in columns)] for key in keys]
    titles = [COLUMNS[name] for name in columns]
    titles[0] = record.get("system", "model")
    return ["metric", *titles], cells


def comparisons(record: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Titles and cells of the reported numbers beside ours."""
    rows = [
        [
            row.metric,
            f"{row.system} ({row.task}, Table {row.table})",
            f"{row.value:g}",
            f"{row.measured:.4g}",
            row.caveat,
        ]
        for row in reported.beside(record["metrics"])
    ]
    titles = ["metric", "system", reported.STATUS, f"measured on {record['benchmark']}", "caveat"]
    return titles, rows


def number(value: Any) -> str:
    """Formats a cell: integers as they are, others to four digits, "n/a" without a score."""
    if value is None:
        return "n/a"
    if isinstance(value, str | int):
        return str(value)
    if isinstance(value, tuple | list):
        return " to ".join(f"{v:.4f}" for v in value)
    return f"{value:.4f}"


def _rows(titles: Sequence[str], rows: Sequence[Sequence[str]], code: bool = False) -> list[str]:
    align = " ---: |" if code else " --- |"
    cells = [list(map(escape.markdown, titles))]
    for first, *rest in rows:
        name = escape.code(first) if code else escape.markdown(first)
        cells.append([name, *map(escape.markdown, rest)])
    head, *body = ["| " + " | ".join(row) + " |" for row in cells]
    return [head, "| --- |" + align * (len(titles) - 1), *body]


def markdown(record: Mapping[str, Any], opening: Sequence[summary.Line] = ()) -> str:
    """The whole record; of its pictures those of the lines that it opens with."""
    title = escape.markdown(f"{record['benchmark']}: {record['num_clips']} clips")
    lines = [f"# {title}", "", escape.markdown(describe(record)), ""]
    rows = _rows(*table(record), code=True)
    if opening:
        fold = f"<details><summary>All {len(rows) - 2} scores</summary>"
        rows = [*summary.markdown(opening), "", fold, "", *rows, "", "</details>"]
    lines += rows
    titles, rows = comparisons(record)
    if rows:
        source = reported.load()
        lines += ["", f"## Beside the paper's numbers: {reported.STATUS}", ""]
        lines += [f"Source: {source['source']}; on {source['benchmarks']}.", ""]
        lines += _rows(titles, rows)
    for title, items in sections(record).items():
        lines += ["", f"## {title}", ""] + [f"- {escape.markdown(item)}" for item in items]
    if record.get("protocols"):
        lines += ["", "## Protocols", ""]
        for name, text in record["protocols"].items():
            lines.append(f"- {escape.code(name)}: {escape.markdown(text)}")
    return "\n".join(lines) + "\n"


def sections(record: Mapping[str, Any]) -> dict[str, list[str]]:
    """Lists of faults and omissions: nothing is left out in silence."""
    lists = {
        "Notes": record.get("notes", []),
        "Faults": record.get("faults", []),
        "Skipped": list(record.get("skipped", {}).values()),
        "Clips that the benchmark does not have": record.get("unknown_clips", []),
    }
    return {title: list(items) for title, items in lists.items() if items}


def write_report(
    folder: str | os.PathLike,
    record: Mapping[str, Any],
    clips: Sequence[page.ClipEntry] = (),
) -> None:
    """Writes `results.json`, `results.md` and `results.html`; each appears only when it is whole.

    Args:
      folder: made if missing.
      record: "benchmark", "num_clips", "seed", "metrics" and, optionally, "system", "counts",
        "intervals" with "bootstrap", "vae_round_trip", "trivial", "protocols", "notes", "faults",
        "skipped", "unknown_clips", "size", "joint" (captions of joint samples by clip, whose sheets
        are at `joint_sheet`), and "checkpoint_step" with "ema", "config_sha256" and
        "sampler"; whatever else it holds goes into the JSON alone.
      clips: for the page's list of clips.
    """
    folder = pathlib.Path(folder)
    opening = summary.lines(record, clips)
    text = markdown(record, opening)
    html = page.render(
        title=f"{record['benchmark']}: {record['num_clips']} clips",
        paragraph=describe(record),
        summary=summary.page_part(opening, folder),
        table=table(record),
        comparisons=comparisons(record),
        source=reported.load(),
        sections=sections(record),
        protocols=record.get("protocols", {}),
        metrics=record["metrics"],
        intervals=record.get("intervals", {}),
        clips=clips,
        joint=[(joint_sheet(clip), text) for clip, text in record.get("joint", {}).items()],
        folder=folder,
    )
    provenance.write_json(folder / "results.json", record)
    for name, content in (("results.md", text), ("results.html", html)):
        # Names of files may hold bytes that are no text.
        with atomic_path(folder / name) as temporary:
            temporary.write_text(content, encoding="utf-8", errors="backslashreplace")
