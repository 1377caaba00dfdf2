"""Names of files and folders as users give them: expanded, checked before work starts, and safe.

Nothing here knows flags; `cli` applies it to every program's.
"""

import contextlib
import functools
import glob
import hashlib
import os
import pathlib
import tempfile
import unicodedata
from collections.abc import Iterator
from typing import Any, Literal

from unityvideo_jax.errors import UserError
from unityvideo_jax.files import disk, stores

# Longest path in bytes on Linux, and how many more the files of a run have than its folder.
PATH_MAX, DEEPEST = 4096, 400
NAME_MAX = 255
PART = ".part"
# A disk without this many bytes counts as full.
PROBE_BYTES = 1 << 16


def expand(path: str) -> str:
    """Returns the path with `~` or `~user` at its beginning replaced by that home folder.

    Raises:
      UserError: the home folder is not known.
    """
    expanded = os.path.expanduser(path)
    if expanded == path and (path == "~" or path.startswith("~/")):
        raise UserError(
            f"{path}: the home folder is not known, as HOME is not set; write the path in full"
        )
    return expanded


def argument(name: str, path: Any, *, empty: bool = False) -> str:
    """Returns an argument of a function that is a path, as text with `~` expanded.

    Args:
      name: of the argument, which errors begin with.
      path: text or an `os.PathLike` of text.
      empty: whether an empty path means something.

    Raises:
      UserError: another type, an empty path, or an unknown home folder.
    """
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str):
        raise UserError(f"{name}: of type {type(path).__name__}; give a name or a path as text")
    if not (text or empty):
        raise UserError(f"{name}: an empty path; name a file or folder")
    return expand(text)


def check_output(what: str, path: str, kind: Literal["folder", "file"]) -> None:
    """Makes sure that a folder or file can be written, by a file that is gone when this returns.

    Nothing is created at `path` itself, nor is any folder above it.

    Args:
      what: names the path in errors, such as "--workdir=run".
      path: what shall be written, with all that is below it; need not exist.
      kind: what `path` shall be.

    Raises:
      UserError: a name that cannot be used, a file where a folder must be or the other way round,
        a link to nothing, or a disk that refuses.
    """
    if not path:
        raise UserError(f"{what}: empty; name a {kind}")
    if any(unicodedata.category(c) in ("Cc", "Cs") for c in path):
        raise UserError(
            f"{what.encode('unicode_escape').decode()}: holds a control character, or bytes that "
            f"are not UTF-8; name another {kind}"
        )
    if stores.url(path):
        stores.check_output(what, path)
        return
    if "://" in path:
        raise UserError(
            f"{what}: an address of no known store (gs://, s3://); mount it and name the folder "
            "that it is mounted at"
        )
    whole = pathlib.Path(os.path.abspath(path))
    if len(os.fsencode(whole)) > PATH_MAX - DEEPEST:
        raise UserError(f"{what}: longer than {PATH_MAX - DEEPEST} bytes; name a shorter one")
    room = NAME_MAX - (len(f".{PART}") if kind == "file" else 0)
    if any(len(os.fsencode(part)) > room for part in whole.parts):
        raise UserError(f"{what}: a part of it is longer than {room} bytes; name a shorter one")
    if kind == "file" and whole.is_dir():
        raise UserError(f"{what}: is a folder; name a file in it")
    folder = whole if kind == "folder" else whole.parent
    nearest = next(p for p in (folder, *folder.parents) if os.path.lexists(p))
    if not nearest.exists():
        raise UserError(
            f"{what}: {nearest} is a link to {os.readlink(nearest)}, which does not exist; make "
            "that folder or remove the link"
        )
    if not nearest.is_dir():
        raise UserError(f"{what}: {nearest} is a file; name a folder")
    try:
        with tempfile.TemporaryFile(dir=nearest) as probe:
            probe.write(bytes(PROBE_BYTES))
    except OSError as error:
        raise disk.DiskError(f"{what}: {disk.reason(error, str(nearest))}") from error


@contextlib.contextmanager
def atomic_path(path: pathlib.Path, *, shared: bool = False) -> Iterator[pathlib.Path]:
    """A temporary path that becomes `path` when the block ends, and goes away if it fails.

    What it held is then on the disk itself: neither a full disk nor a loss of power leaves half a
    file under the name. If `path` is the place of an object store's object (`files.stores`), the
    object is stored then, whole or not at all.

    Args:
      path: of the file; its folder is made if missing.
      shared: other processes may write the same file at the same time.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    name = f".{path.name}.{os.getpid()}{PART}" if shared else f".{path.name}{PART}"
    temporary = path.with_name(name)
    try:
        yield temporary
        with open(temporary, "rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
        stores.uploaded(path)
    except BaseException as error:
        if isinstance(error, OSError) and error.errno and error.filename is None:
            error.filename = os.fspath(path)  # a full disk does not say which file it was
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def write_bytes(path: pathlib.Path, content: bytes) -> None:
    """Writes a file, whole or not at all, as `atomic_path` does."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def is_part(path: pathlib.Path) -> bool:
    """Returns whether a kill left this: a temporary file or folder that was never renamed."""
    return path.name.startswith(".") and path.name.endswith(PART)


def without_patterns(folder: pathlib.Path) -> pathlib.Path:
    """A name of the folder that holds none of `*`, `?` and `[`, for libraries that use glob.

    Orbax finds the parts of a checkpoint by a pattern that begins with the folder's own name, so a
    folder named `run[1]` would lose all of them.
    """
    folder = pathlib.Path(os.path.abspath(folder))
    return pathlib.Path(_link(str(folder))) if glob.has_magic(str(folder)) else folder


@functools.cache
def _links() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="unityvideo-")


@functools.cache
def _link(folder: str) -> str:
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    link = pathlib.Path(_links().name) / name
    link.symlink_to(folder, target_is_directory=True)
    return str(link)
