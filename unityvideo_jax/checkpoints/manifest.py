"""A checkpoint's manifest: its items and their digests, checked whenever they are read.

The digests do not depend on the mesh or on the number of hosts (see `digests`), so a checkpoint is
verified wherever it is restored: on the devices that hold the arrays, or chunk by chunk from disk.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from unityvideo_jax.checkpoints import arrays, digests
from unityvideo_jax.errors import UserError
from unityvideo_jax.files import checksums, disk, provenance, stores
from unityvideo_jax.files.stores import AnyPath

ITEM = "digests"
FILE = "metadata"  # the name that Orbax gives a JSON item's file
# Arrays, and JSON records; by the names of their folders.
ARRAYS = {
    "params": "weights",
    "ema": "averaged weights",
    "optimizer": "optimiser's state",
}
RECORDS = {"inputs": "input position", "config": "configuration"}


class DamagedError(UserError):
    """A checkpoint that is not what was saved."""


def make(trees: Mapping[str, Any], records: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the manifest of a checkpoint that is about to be saved.

    Args:
      trees: arrays by item.
      records: JSON-able values by item.
    """
    found = digests.of_arrays(_named(trees))
    arrays: dict[str, dict[str, str]] = {item: {} for item in trees}
    for name, digest in found.items():
        item, _, path = name.partition("/")
        arrays[item][path] = digest
    return _sealed(arrays, records)


def write(folder: AnyPath, items: Iterable[str], records: Mapping[str, Any]) -> None:
    """Writes the manifest of a checkpoint whose arrays are on disk already."""
    arrays = {
        item: {name: _of_stored(array) for name, array in _opened(folder, item).items()}
        for item in items
    }
    provenance.write_json(folder / ITEM / FILE, _sealed(arrays, records))


def _sealed(arrays: Mapping[str, Any], records: Mapping[str, Any]) -> dict[str, Any]:
    hashes = {item: provenance.config_hash(record) for item, record in records.items()}
    return checksums.sealed({"arrays": arrays, "records": hashes})


def _named(trees: Mapping[str, Any]) -> dict[str, jax.Array]:
    """The arrays of some items as item/dotted.path, as they are called on disk."""
    return {
        f"{item}/{jax.tree_util.keystr(path, simple=True, separator='.')}": leaf
        for item, tree in trees.items()
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def read(folder: AnyPath) -> dict[str, Any] | None:
    """A checkpoint's manifest; None, and a line that says so, if it is older than manifests.

    Raises:
      DamagedError: a damaged manifest.
    """
    if not (folder / ITEM).is_dir() and ITEM not in _saved_by_orbax(folder):
        checksums.say_unverified(folder)
        return None
    path = folder / ITEM / FILE
    try:
        record = json.loads(path.read_text())
        if checksums.KEY not in record:
            raise ValueError(f"no {checksums.KEY}")
        return checksums.unsealed(path, record, "")
    except (OSError, ValueError, TypeError) as error:
        raise DamagedError(f"{path}: the list of digests is missing or damaged") from error


def _saved_by_orbax(folder: AnyPath) -> set[str]:
    """The items that Orbax recorded; those that are there, if its record is damaged."""
    try:
        record = json.loads((folder / "_CHECKPOINT_METADATA").read_text())
        return set(record["item_handlers"])
    except (OSError, ValueError, KeyError, TypeError):
        return {path.name for path in folder.iterdir() if path.is_dir()}


def items(folder: AnyPath, manifest: Mapping[str, Any] | None) -> set[str]:
    """Returns the items that a checkpoint was saved with, whether or not they are still there."""
    if manifest is None:
        return _saved_by_orbax(folder)
    return {*manifest["arrays"], *manifest["records"]}


def require(folder: AnyPath, names: Iterable[str]) -> None:
    """Raises DamagedError if one of these items is not there."""
    for name in names:
        if not (folder / name).is_dir():
            what = (ARRAYS | RECORDS)[name]
            raise DamagedError(f"{folder}: lacks the {what} ({name}) that it was saved with")


def check_arrays(
    folder: AnyPath, manifest: Mapping[str, Any] | None, trees: Mapping[str, Any]
) -> None:
    """Compares restored arrays with the digests; all processes of a job call this together.

    Raises:
      DamagedError: names the first array that is not what was saved.
    """
    if manifest is None:
        return
    expected = {
        f"{item}/{path}": digest
        for item in trees
        for path, digest in manifest["arrays"][item].items()
    }
    found = digests.of_arrays(_named(trees))
    wrong = [name for name in expected if found.get(name) != expected[name]]
    if wrong:
        more = f" and {len(wrong) - 1} more arrays" if len(wrong) > 1 else ""
        raise DamagedError(f"{folder}: {wrong[0]}{more}: not the values that were saved")


def check_records(folder: AnyPath, manifest: Mapping[str, Any] | None) -> None:
    """Compares the JSON items with the manifest.

    Raises:
      DamagedError: names the first that is not what was saved.
    """
    for item, expected in ({} if manifest is None else manifest["records"]).items():
        path = folder / item / FILE
        try:
            found = provenance.config_hash(json.loads(path.read_text()))
        except (OSError, ValueError) as error:
            raise DamagedError(f"{path}: the {RECORDS[item]} does not read ({error})") from error
        if found != expected:
            raise DamagedError(f"{path}: not the {RECORDS[item]} that was saved")


def verify(folder: AnyPath, names: Iterable[str] | None = None) -> None:
    """Reads a checkpoint from disk, chunk by chunk, and compares all of it with its manifest.

    Args:
      folder: of the checkpoint.
      names: its items; all of them by default.

    Raises:
      DamagedError: names the first array or file that is missing, unreadable or not as saved.
    """
    manifest = read(folder)
    names = items(folder, manifest) if names is None else set(names)
    require(folder, sorted(names & {*ARRAYS, *RECORDS}))
    check_records(folder, manifest)
    for item in sorted(names & set(ARRAYS)):
        expected = None if manifest is None else manifest["arrays"][item]
        arrays = _opened(folder, item)
        for name in sorted(arrays if expected is None else expected):
            if name not in arrays:
                raise DamagedError(f"{folder}: {item}/{name} is missing")
            try:
                found = _of_stored(arrays[name])
            except disk.DiskError:
                raise
            except UserError as error:
                raise DamagedError(f"{folder}: {item}/{name} {error}") from error
            if expected is not None and found != expected[name]:
                raise DamagedError(f"{folder}: {item}/{name}: not the values that were saved")


def _opened(folder: AnyPath, item: str) -> dict[str, Any]:
    try:
        return arrays.open_arrays(folder, item)
    except disk.DiskError:
        raise
    except UserError as error:
        raise DamagedError(str(error)) from error


def _of_stored(array: Any) -> str:
    sums = np.zeros(2, np.uint32)
    for origin, chunk in arrays.chunks(array):
        sums += digests.of_part(chunk, origin, tuple(array.shape))
    return digests.as_text(sums)


def newest_whole(folder: AnyPath, before: int) -> int | None:
    """Returns the step of the newest whole checkpoint in a folder; reads all that it looks at.

    Args:
      folder: of checkpoints.
      before: only older ones are looked at.
    """
    steps = sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())
    if stores.is_url(folder):
        steps = [step for step in steps if (folder / str(step) / stores.LAST).exists()]
    for step in reversed([step for step in steps if step < before]):
        try:
            verify(folder / str(step))
        except DamagedError:
            continue
        return step
    return None
