"""A run's folder: one run at a time, and the fixed parts of its configuration."""

import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import ml_collections

from unityvideo_jax.checkpoints import run_folder
from unityvideo_jax.errors import UserError
from unityvideo_jax.files import lock, provenance, store_lock
from unityvideo_jax.files.paths import is_part
from unityvideo_jax.training import resume


@contextlib.contextmanager
def open_workdir(
    path: str | os.PathLike,
    config: ml_collections.ConfigDict,
    *,
    overridden: Collection[str] = (),
    identify: Callable[[], Mapping[str, Any]] = dict,
    log: Callable[[str], None] = print,
) -> Iterator[pathlib.Path]:
    """Locks a run's folder and pins its configuration, which `config.json` then says.

    Args:
      path: of the folder, or its place if it is in an object store; made if missing.
      config: of the experiment. `training.resume` says what may differ from the run's own.
      overridden: keys that the command line set, without "config.".
      identify: gives fingerprints of what `resume.PLACES` name.
      log: takes a line for each change that changes the training.

    Raises:
      UserError: another process uses it, it holds something else, a run of another config, or a
        run whose files are damaged.
    """
    path = pathlib.Path(path)
    if path.exists() and not path.is_dir():
        raise UserError(f"--workdir={path}: a file of that name exists; name a folder")
    steps = run_folder.checkpoint_steps(path)
    there = path.iterdir() if path.exists() else ()
    strangers = [f.name for f in there if f.name != ".lock" and not is_part(f)]
    if strangers and not steps and not run_folder.is_begun(path):
        raise UserError(
            f"--workdir={path}: holds {sorted(strangers)[0]!r} but no {run_folder.CONFIG} of a "
            "run, so it is not a run's folder; name an empty or a new one"
        )
    path.mkdir(parents=True, exist_ok=True)
    with store_lock.locked(path), lock.locked(path / ".lock", f"--workdir={path}"):
        now = resume.Record(
            overridden=tuple(sorted(overridden)), fingerprints=provenance.plain(identify())
        )
        # Until there is a checkpoint there is nothing that another config could damage.
        for line in _pin(path, config, now, steps[-1] if steps else None):
            log(line)
        yield path


def pin_batch_multiple(
    path: str | os.PathLike, config: ml_collections.ConfigDict, parts: int
) -> None:
    """Sets a `config.data.batch_multiple` of 0 to that of the run, or of a new run to `parts`.

    A run so keeps its batches on another mesh.

    Args:
      path: of the run's folder.
      config: of the experiment; changed only if it has buckets.
      parts: number of parts that the mesh and accumulation divide a batch into.
    """
    stages = config.get("curriculum", ())
    has_buckets = config.data.get("buckets") or any(stage.get("buckets") for stage in stages)
    if not has_buckets or config.data.get("batch_multiple"):
        return
    begun = run_folder.checkpoint_steps(pathlib.Path(path))
    stored = run_folder.read_config(path).data.get("batch_multiple") if begun else 0
    with config.unlocked():
        config.data.batch_multiple = stored or parts


def _pin(
    path: pathlib.Path, config: ml_collections.ConfigDict, now: resume.Record, done: int | None
) -> list[str]:
    """Writes the configuration and the record; returns lines about what changes.

    Args:
      path, config, now: of the run.
      done: steps of the newest checkpoint; None is a run without one.
    """
    command, stored, lines = resume.flat(config), None, []
    if done is not None:
        stored = resume.flat(run_folder.read_config(path))
        _check_unedited(path, stored)
        if reason := resume.refusal(stored, command, _read_record(path), now, done):
            raise UserError(f"--workdir={path}: {reason}")
    wanted = resume.with_schedule(command, stored)
    if stored is not None:
        lines = resume.notes(resume.with_schedule(stored, None), wanted, command)
    values = provenance.plain(config)
    if "optimizer" in values:
        values["optimizer"]["schedule_steps"] = wanted[resume.SCHEDULE_STEPS]
    provenance.write_json(path / run_folder.CONFIG, values)
    provenance.write_json(path / run_folder.RECORD, dataclasses.asdict(now))
    return lines


def _check_unedited(path: pathlib.Path, stored: Mapping[str, Any]) -> None:
    copy, file = run_folder.copy_of_config(path), path / run_folder.CONFIG
    try:
        trained = resume.flat(json.loads(copy.read_text())) if copy else stored
    except (OSError, ValueError, AttributeError):
        return  # a damaged copy is found when the checkpoint is restored
    for key in filter(resume.is_fixed, resume.differences(trained, stored)):
        raise UserError(
            f"{file}: config.{key} is {stored.get(key)!r} and {trained.get(key)!r} in {copy}, so "
            f"it was edited; {run_folder.how_to_restore(copy, file)}"
        )


def _read_record(path: pathlib.Path) -> resume.Record:
    file = path / run_folder.RECORD
    try:
        content = json.loads(file.read_text())
        return resume.Record(
            overridden=tuple(content["overridden"]), fingerprints=dict(content["fingerprints"])
        )
    except FileNotFoundError:
        return resume.Record()  # of a run of an earlier version
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{file}: does not read ({error!r}); remove it, and set config.data.dirs, vae and "
            "text_encoder as they were"
        ) from error
