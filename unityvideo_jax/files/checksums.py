"""SHA-256 of files and records, written beside them and compared whenever they are read.

A folder's files are listed in `SHA256SUMS`, as `sha256sum FILES > SHA256SUMS` writes it; a JSON
record holds the hash of its own other keys.
"""

import functools
import hashlib
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from unityvideo_jax.errors import UserError
from unityvideo_jax.files import provenance
from unityvideo_jax.files.paths import atomic_path
from unityvideo_jax.files.stores import AnyPath

SUMS = "SHA256SUMS"
KEY = "sha256"
FIX = f"restore it from a copy, or delete {SUMS} if the change is yours"


def write_sums(folder: pathlib.Path, contents: Mapping[str, bytes]) -> pathlib.Path:
    """Lists the files of a folder, before they are written, so that a half-written one is noticed.

    Args:
      folder: exists.
      contents: bytes by file name.
    """
    lines = [f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in contents.items()]
    with atomic_path(folder / SUMS) as temporary:
        temporary.write_text("".join(lines))
    return folder / SUMS


def list_files(folder: pathlib.Path, names: Iterable[str]) -> None:
    """Lists files of a folder that are written already."""
    lines = [f"{provenance.file_hash(folder / name)}  {name}\n" for name in names]
    with atomic_path(folder / SUMS) as temporary:
        temporary.write_text("".join(lines))


def check(path: pathlib.Path, fix: str = FIX) -> None:
    """Compares a file with the list beside it, if there is one.

    Args:
      path: of the file.
      fix: what to do about a damaged file, for the message.

    Raises:
      UserError: the file is missing, or is not what the list says.
    """
    try:
        listed = _listed(path.parent / SUMS).get(path.name)
        if listed is None or provenance.file_hash(path) == listed:
            return
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: does not read ({error}); {fix}") from error
    raise UserError(
        f"{path}: damaged or changed: its SHA-256 is not the one in {SUMS} beside it; {fix}"
    )


def listed(path: pathlib.Path) -> str:
    """Returns the SHA-256 of a file by the list beside it; UserError if it is not in there."""
    try:
        return _listed(path.parent / SUMS)[path.name]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path.parent / SUMS}: does not list {path.name}; {FIX}") from error


def _listed(sums: pathlib.Path) -> dict[str, str]:
    if not sums.is_file():
        return {}
    rows = [line.split(maxsplit=1) for line in sums.read_text().splitlines()]
    return {name.strip(): value for value, name in rows}


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a JSON-able record with the hash of its other keys under `KEY`."""
    return {**record, KEY: provenance.config_hash(record)}


def unsealed(path: AnyPath, record: Mapping[str, Any], fix: str) -> dict[str, Any]:
    """The record without its hash; a record of an older version has none, which is said once.

    Raises:
      UserError: the hash is another.
    """
    rest = {key: value for key, value in record.items() if key != KEY}
    if KEY not in record:
        say_unverified(path)
    elif record[KEY] != provenance.config_hash(rest):
        raise UserError(f"{path}: damaged or changed: it does not fit its own {KEY}; {fix}")
    return rest


@functools.cache
def say_unverified(path: AnyPath) -> None:
    """Prints, once per path, that what is read has no checksum."""
    print(f"{path}: written without checksums by an older version; not verified", flush=True)
