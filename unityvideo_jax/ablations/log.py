"""The log of a grid: one sealed JSON line per finished run, and locks of the runs at work."""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from unityvideo_jax.ablations.plan import REFERENCE, Run
from unityvideo_jax.errors import UserError
from unityvideo_jax.files import checksums, lock, provenance, text_files
from unityvideo_jax.files.paths import atomic_path

FILE = "runs.jsonl"
WORK = "work"


def read(path: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Reads records by name, in the order of the file; none if there is no file.

    Raises:
      UserError: a line that is not JSON or was changed, or a run that is there twice.
    """
    found: dict[str, dict[str, Any]] = {}
    if not path.exists():
        return found
    for where, record in text_files.read_json_lines(path):
        if not isinstance(record, dict) or not isinstance(record.get("name"), str):
            raise UserError(f"{where}: no record of a run; remove the line, and it is run again")
        fix = "remove the line, and it is run again"
        one = checksums.unsealed(pathlib.Path(where), record, fix)
        if one["name"] in found:
            raise UserError(f"{where}: {one['name']} is there twice; remove one of the lines")
        found[one["name"]] = one
    return found


def locked(folder: pathlib.Path) -> contextlib.AbstractContextManager[str]:
    """Waits for the grid's other processes, and holds them off what all of them write."""
    return lock.attempt(folder / ".lock", wait=True)


def add(folder: pathlib.Path, record: Mapping[str, Any]) -> None:
    """Adds a record to the log of a grid; several processes may."""
    with locked(folder):
        records = read(folder / FILE) | {record["name"]: provenance.plain(record)}
        with atomic_path(folder / FILE) as temporary:
            lines = [json.dumps(checksums.sealed(one), allow_nan=False) for one in records.values()]
            temporary.write_text("".join(f"{line}\n" for line in lines))


def finished(
    records: Mapping[str, Mapping[str, Any]], runs: Iterable[Run], frozen: str
) -> set[str]:
    """Returns the names of finished runs, the reference among them.

    Args:
      records: of the log.
      runs: that are planned.
      frozen: hash of what the grid shares.

    Raises:
      UserError: a record of another configuration, or of another frozen part.
    """
    wanted = {run.name: run.config_hash for run in runs} | {REFERENCE: None}
    for name, config in wanted.items():
        record = records.get(name)
        if record is None:
            continue
        if record["frozen"] != frozen:
            raise UserError(
                f"{name}: scored with other clips, settings or autoencoder than now; name another "
                f"--output, or remove its line from {FILE}"
            )
        if config is not None and record["config_sha256"] != config:
            raise UserError(
                f"{name}: the log has it with another configuration; give --steps, --max_seconds "
                f"and --change as before, name another --output, or remove its line from {FILE}"
            )
    return {name for name in wanted if name in records}


def work_of(folder: pathlib.Path, name: str) -> pathlib.Path:
    """The workdir of a run."""
    return folder / WORK / name


def devices(parallel: int) -> list[dict[str, str]]:
    """The environment of each of `parallel` worker processes: one NVIDIA GPU for each.

    Raises:
      UserError: CUDA_VISIBLE_DEVICES names fewer.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(n) for n in range(parallel)]
    if len(names) < parallel:
        raise UserError(
            f"--parallel={parallel}: CUDA_VISIBLE_DEVICES={visible} names {len(names)} devices"
        )
    return [{**os.environ, "CUDA_VISIBLE_DEVICES": name} for name in names[:parallel]]
