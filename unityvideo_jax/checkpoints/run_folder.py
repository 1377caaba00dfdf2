"""Paths of a run's configuration and checkpoints."""

import json
import os
import pathlib
import shlex

import ml_collections

from unityvideo_jax.errors import UserError
from unityvideo_jax.files import stores
from unityvideo_jax.files.stores import AnyPath

CONFIG = "config.json"
CHECKPOINTS = "checkpoints"
RECORD = "run.json"


def checkpoints(path: str | os.PathLike) -> AnyPath:
    """The folder of a run's checkpoints, a `pathlib.Path`, or in a store an `epath.Path`.

    Args:
      path: of the run's folder, or its URL.
    """
    return stores.remote(stores.place(path) / CHECKPOINTS)


def checkpoint_steps(path: str | os.PathLike) -> list[int]:
    """Returns the steps of the checkpoints in a run's folder, in order.

    In an object store, a folder of objects that lacks Orbax's mark is what a kill left of a save:
    it counts as none.

    Raises:
      UserError: a file where a folder belongs, or a checkpoint without content.
    """
    folder = checkpoints(path)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: a file where the checkpoints' folder belongs; remove it")
    found = [f for f in folder.iterdir() if f.name.isdigit()] if folder.exists() else []
    if stores.is_url(folder):
        found = [entry for entry in found if (entry / stores.LAST).exists()]
    for entry in found:
        if not entry.is_dir():
            raise UserError(f"{entry}: a file where a checkpoint's folder belongs; remove it")
        if not any(entry.iterdir()):
            raise UserError(
                f"{entry}: an empty folder where a checkpoint belongs; remove it, and the run goes "
                "on from the checkpoint before"
            )
    return sorted(int(entry.name) for entry in found)


def read_config(path: str | os.PathLike) -> ml_collections.ConfigDict:
    """Returns the configuration of the run in a folder.

    Raises:
      UserError: no run there, or a damaged file.
    """
    path = stores.local(path)
    file = path / CONFIG
    if path.is_file():
        raise UserError(f"{path}: a file; name the folder of a run")
    try:
        content = json.loads(file.read_text())
    except FileNotFoundError as error:
        if copy := copy_of_config(path):
            raise UserError(f"{file}: missing; {how_to_restore(copy, file)}") from error
        raise UserError(
            f"{path}: no {CONFIG}, so no run is there; check the path, or train one with "
            "`python -m unityvideo_jax.train --workdir=...`"
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(
            f"{file}: not readable as JSON ({error}); {how_to_restore(copy_of_config(path), file)}"
        ) from error
    for name in ("model", "data"):
        if not isinstance(content, dict) or not isinstance(content.get(name), dict):
            raise UserError(
                f"{file}: lacks the section {name!r}, so it is no run's configuration; "
                f"{how_to_restore(copy_of_config(path), file)}"
            )
    return ml_collections.ConfigDict(content)


def is_begun(path: pathlib.Path) -> bool:
    """Whether a folder holds the configuration of a run; models have files of that name too."""
    try:
        return "train" in read_config(path)
    except UserError:
        return False


def fingerprint_of_base(path: str | os.PathLike) -> str | None:
    """The fingerprint of the weights that a run's adapters stand beside; None if unrecorded."""
    try:
        return json.loads((stores.local(path) / RECORD).read_text())["fingerprints"]["init_from"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def copy_of_config(path: AnyPath) -> AnyPath | None:
    """Returns the path of the configuration that the newest checkpoint was saved with."""
    for step in reversed(checkpoint_steps(path)):
        copy = checkpoints(path) / str(step) / "config" / "metadata"
        if copy.exists():
            return copy
    return None


def how_to_restore(copy: AnyPath | None, file: AnyPath) -> str:
    """The advice of an error about a damaged configuration, of which there may be a copy."""
    if copy is None:
        return "restore it from a copy, or name another --workdir"
    address = stores.url(file)
    copies = {"gs": "gcloud storage cp", "s3": "aws s3 cp"}
    command = copies[address.partition("://")[0]] if address else "cp"
    return (
        f"restore it with `{command} {shlex.quote(str(copy))} {shlex.quote(address or str(file))}`"
    )
