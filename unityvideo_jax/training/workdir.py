"""A run's folder: one run at a time, one configuration for good."""

import contextlib
import fcntl
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections

from unityvideo_jax import provenance
from unityvideo_jax.errors import UserError
from unityvideo_jax.paths import is_part

CONFIG = "config.json"
# What may change when a run goes on: how it reports, how far it goes, and where it runs.
MUTABLE = (
    "init_from",
    "train.steps",
    "train.log_every",
    "train.checkpoint_every",
    "train.keep",
    "train.sample_every",
    "train.sample_count",
    "data.read_threads",
    "sampling.",
    "mesh.",
    "model.remat",
    "model.scan_layers",
    "model.attention",
)


@contextlib.contextmanager
def open_workdir(
    path: str | os.PathLike, config: ml_collections.ConfigDict
) -> Iterator[pathlib.Path]:
    """Locks a run's folder and pins its configuration.

    Raises:
      UserError: another process uses it, it holds something else, or a run of another config.
    """
    path = pathlib.Path(path)
    if path.exists() and not path.is_dir():
        raise UserError(f"--workdir={path}: a file of that name exists; name a folder")
    there = path.iterdir() if path.exists() else ()
    strangers = [f.name for f in there if f.name != ".lock" and not is_part(f)]
    if strangers and not (path / CONFIG).exists():
        raise UserError(
            f"--workdir={path}: holds {sorted(strangers)[0]!r} but no {CONFIG}, so it is not a "
            "run's folder; name an empty or a new one"
        )
    path.mkdir(parents=True, exist_ok=True)
    with open(path / ".lock", "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            raise UserError(
                f"--workdir={path}: in use by process {lock.read().strip() or 'unknown'}; wait for "
                "it, stop it, or name another folder"
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        _pin(path, config)
        yield path


def _pin(path: pathlib.Path, config: ml_collections.ConfigDict) -> None:
    wanted = _flat(provenance.plain(config))
    # Until there is a checkpoint there is nothing that another config could damage.
    if (path / CONFIG).exists() and any((path / "checkpoints").glob("[0-9]*")):
        stored = _flat(provenance.plain(read_config(path)))
        keys = sorted(k for k in {*stored, *wanted} if stored.get(k) != wanted.get(k))
        fixed = [k for k in keys if not k.startswith(MUTABLE)]
        if fixed:
            lines = ", ".join(
                f"config.{k}={wanted.get(k)!r} (was {stored.get(k)!r})" for k in fixed[:4]
            )
            raise UserError(
                f"--workdir={path}: holds a run of another config: {lines}; set them back or name "
                "another --workdir"
            )
    provenance.write_json(path / CONFIG, config)


def read_config(path: str | os.PathLike) -> ml_collections.ConfigDict:
    """The configuration of the run in a folder.

    Raises:
      UserError: no run there, or a damaged file.
    """
    file = pathlib.Path(path) / CONFIG
    try:
        return ml_collections.ConfigDict(json.loads(file.read_text()))
    except FileNotFoundError as error:
        raise UserError(
            f"--workdir={path}: no {CONFIG}, so no run is there; check the path, or train one with "
            "`python -m unityvideo_jax.train --workdir=...`"
        ) from error
    except ValueError as error:
        raise UserError(f"{file}: not readable as JSON ({error}); restore it") from error


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
