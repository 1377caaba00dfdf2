"""Results as JSON for programs and as a Markdown table for people."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from unityvideo_jax import provenance

# How the columns of the table are titled, in order; a results record may lack some.
COLUMNS = {
    "metrics": "model",
    "vae_round_trip": "truth through codec and VAE",
    "trivial": "trivial prediction",
}


def markdown(record: Mapping[str, Any]) -> str:
    """The table of a results record: one metric a row, one column for each of `COLUMNS` present."""
    columns = [name for name in COLUMNS if record.get(name)]
    keys: Sequence[str] = list(dict.fromkeys(key for name in columns for key in record[name]))
    lines = [
        f"# {record['benchmark']}: {record['num_clips']} clips",
        "",
        f"Checkpoint step {record['checkpoint_step']}"
        f"{' (averaged weights)' if record['ema'] else ''}, config {record['config_sha256'][:12]}, "
        f"{record['sampler']['solver']} in {record['sampler']['steps']} steps, "
        f"seed {record['seed']}, {record['size'][0]} frames of "
        f"{record['size'][1]}x{record['size'][2]} (height x width).",
        "",
        "| metric | " + " | ".join(COLUMNS[name] for name in columns) + " |",
        "| --- |" + " ---: |" * len(columns),
    ]
    for key in keys:
        cells = [_number(record[name].get(key)) for name in columns]
        lines.append(f"| `{key}` | " + " | ".join(cells) + " |")
    if record.get("protocols"):
        lines += ["", "## Protocols", ""]
        lines += [f"- `{name}`: {text}" for name, text in record["protocols"].items()]
    return "\n".join(lines) + "\n"


def _number(value: float | int | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.4f}"


def write_report(folder: str | os.PathLike, record: Mapping[str, Any]) -> None:
    """Writes `results.json` and `results.md`; each appears only when it is whole.

    Args:
      folder: made if missing.
      record: "benchmark", "num_clips", "checkpoint_step", "ema", "config_sha256", "sampler",
        "seed", "size", "metrics" and, optionally, "vae_round_trip", "trivial", "protocols";
        whatever else it holds goes into the JSON alone.
    """
    folder = pathlib.Path(folder)
    text = markdown(record)
    provenance.write_json(folder / "results.json", record)
    temporary = folder / ".results.md.part"
    temporary.write_text(text)
    os.replace(temporary, folder / "results.md")
