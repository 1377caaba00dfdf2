"""Object stores, gs:// and s3://, as folders of this machine.

FFmpeg, memory maps, safetensors and TensorBoard need files on a disk. So whatever is at a URL has a
place below one temporary folder of the process, with the store's own structure: for
`gs://bucket/run/config.json` it is `ROOT/gs/bucket/run/config.json`. What is read is fetched there
(`local`). What is written there is uploaded: a file that is written whole or not at all as soon as
it is whole (`uploaded`), everything else by `push`.

A store has no rename, and needs none here: a request to store an object either stores all of it or
nothing, large ones in parts that appear together, so readers see the object before or the one
after. Of a folder whose files belong together, `LAST` is uploaded after the others, and readers of
checkpoints look for it.

Checkpoints of a run never pass through this machine's disk: Orbax and TensorStore read and write
them in the store itself, at what `remote` returns.
"""

import contextlib
import functools
import importlib.util
import os
import pathlib
import re
import tempfile
import time
import uuid
from collections.abc import Iterator
from typing import Any

from etils import epath

from unityvideo_jax.errors import UserError, reason
from unityvideo_jax.files import store_faults
from unityvideo_jax.files.disk import DiskError

# A path on this machine, or one in a store.
AnyPath = pathlib.Path | epath.Path
# pathlib makes one slash of two.
_URL = re.compile(r"(gs|s3):/+([^/]+)/*(.*)", re.DOTALL)
# fsspec's module of a scheme, and the extra of this package that installs it.
CLIENTS = {"gs": ("gcsfs", "gcs"), "s3": ("s3fs", "s3")}
# By these Orbax marks a checkpoint, and each item of it, as whole.
LAST = "commit_success.txt"
# Parts of a run's folder that are not fetched: they are read in the store itself, or only written.
RUN_MARK = "checkpoints"
OF_RUNS = (RUN_MARK, "set_aside", "samples", "tensorboard", "profile", "hangs")
# What is of this machine alone.
HERE = (".lock",)
PART = ".part"

_known: dict[pathlib.Path, tuple[int, int]] = {}  # what the store has of a file here
_writable: set[pathlib.Path] = set()
_fetched: set[str] = set()
_pushed: dict[pathlib.Path, float] = {}


class StoreError(DiskError):
    """A store that refuses or does not answer; the message says which, why and what to do."""


@functools.cache
def _folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="unityvideo-stores-")


def _root() -> pathlib.Path | None:
    """The folder of all places; None as long as there is none."""
    return pathlib.Path(_folder().name).resolve() if _folder.cache_info().currsize else None


def is_url(path: str | os.PathLike) -> bool:
    """Returns whether a path is a URL of a store itself, and no place on this machine."""
    return bool(_URL.fullmatch(os.fspath(path)))


def url(path: str | os.PathLike) -> str | None:
    """The URL of an object or folder, from its URL or its place here; None for other paths."""
    text = os.fspath(path)
    if found := _URL.fullmatch(text):
        return f"{found[1]}://{found[2]}/{found[3]}".rstrip("/")
    root = _root()
    if root is None or not (whole := pathlib.Path(os.path.abspath(text))).is_relative_to(root):
        return None
    scheme, *parts = whole.relative_to(root).parts or ("",)
    return f"{scheme}://{'/'.join(parts)}" if parts else None


def place(path: str | os.PathLike) -> pathlib.Path:
    """Returns the place of a URL on this machine; any other path as it is.

    Raises:
      UserError: a URL with `.` or `..` in it.
    """
    address = url(path)
    if address is None:
        return pathlib.Path(path)
    scheme, _, key = address.partition("://")
    if {".", ".."} & set(key.split("/")):
        raise UserError(f"{address}: names of objects here hold neither `.` nor `..`; rename it")
    _folder()
    return _root() / scheme / key


def remote(path: str | os.PathLike) -> AnyPath:
    """Returns the path for libraries that read stores themselves.

    Returns:
      An `epath.Path` of the URL if the path lies in a store and is not on this machine too; else a
      `pathlib.Path`.
    """
    address = url(path)
    if address is None or place(address).exists():
        return pathlib.Path(path)
    _client(address)
    return epath.Path(address)


def named(text: str) -> str:
    """Returns a text in which places on this machine are replaced by their URLs."""
    root = _root()
    return text if root is None else re.sub(rf"{re.escape(str(root))}/(gs|s3)/", r"\1://", text)


def local(path: str | os.PathLike, *, writes: bool = False) -> pathlib.Path:
    """Fetches what is at a URL once and returns its local path; any other path as it is.

    Nothing is there if the store has nothing. Of a run's folder only the small files at its top are
    fetched.

    Args:
      path: URL or place of an object or folder.
      writes: whether files written there later go to the store.

    Raises:
      StoreError: no such bucket, no access, or a store that does not answer.
      UserError: the client's package is not installed.
    """
    address = url(path)
    if address is None:
        return pathlib.Path(path)
    target = place(address)
    if writes:
        _writable.add(target)
    if address not in _fetched and not (target.exists() and not writes):
        pull(target)
    return target


def pull(path: pathlib.Path) -> None:
    """Fetches what a store has at a place that is new or was changed; nothing for other paths."""
    address = url(path)
    if address is None:
        return
    client, key = _client(address)
    with _calls(address):
        found = _objects(client, key)
        pairs = [(name, place(f"{address.partition('://')[0]}://{name}")) for name in found]
        for _, target in pairs:
            target.parent.mkdir(parents=True, exist_ok=True)
        if pairs:
            client.get([name for name, _ in pairs], [str(target) for _, target in pairs])
    _known.update({target: _signature(target) for _, target in pairs})
    _fetched.add(address)


def _objects(client: Any, key: str) -> list[str]:
    """Names of all objects at or below a key that are to be fetched."""
    try:
        entries = client.ls(key, detail=True, refresh=True)
    except FileNotFoundError as error:
        if store_faults.explain(error, key):
            raise
        return []
    is_run = any(e["name"].rstrip("/") == f"{key}/{RUN_MARK}" for e in entries)
    found = []
    for entry in entries:
        name = entry["name"].rstrip("/")
        if entry["type"] == "directory":
            if name == key or (is_run and name.rpartition("/")[2] in OF_RUNS):
                continue
            found += [below for below in client.find(name) if not below.endswith("/")]
        elif not entry["name"].endswith("/") and name.rpartition("/")[2] not in HERE:
            found.append(name)
    return found


def uploaded(path: pathlib.Path) -> None:
    """Stores a file that was just written whole, if its place belongs to a store."""
    if any(path.is_relative_to(folder) for folder in _writable):
        _put([path])


def push(path: str | os.PathLike | None = None, *, every: float = 0.0) -> None:
    """Brings a store up to date with what is at the places that are written to.

    Args:
      path: the place of a folder; None is all.
      every: seconds in which this is done at most once.

    Raises:
      StoreError: it refuses.
    """
    for folder in sorted(_writable):
        if path is not None and pathlib.Path(path) != folder:
            continue
        if every and time.monotonic() - _pushed.get(folder, -every) < every:
            continue
        _pushed[folder] = time.monotonic()
        files = [folder] if folder.is_file() else sorted(_files(folder))
        changed = [file for file in files if _known.get(file) != _signature(file)]
        _put([file for file in changed if file.name != LAST])
        # The deepest first: an item of a checkpoint before the checkpoint.
        for file in sorted(changed, key=lambda f: -len(f.parts)):
            if file.name == LAST:
                _put([file])
        gone = [file for file in _known if file.is_relative_to(folder) and not file.exists()]
        for file in gone:
            remove(file)


def _files(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    for parent, below, names in os.walk(folder):
        below[:] = [name for name in below if not _is_part(name)]
        for name in names:
            if name not in HERE and not _is_part(name):
                yield pathlib.Path(parent) / name


def _is_part(name: str) -> bool:
    return name.startswith(".") and name.endswith(PART)


def _put(files: list[pathlib.Path]) -> None:
    if not files:
        return
    before = {file: _signature(file) for file in files}
    client, _ = _client(url(files[0]))
    with _calls(url(files[0])):
        client.put([str(f) for f in files], [url(f).partition("://")[2] for f in files])
    _known.update(before)


def remove(path: pathlib.Path) -> None:
    """Deletes the object of a place, and the file."""
    address = url(path)
    client, key = _client(address)
    with _calls(address), contextlib.suppress(FileNotFoundError):
        client.rm_file(key)
    path.unlink(missing_ok=True)
    _known.pop(path, None)


def move(source: AnyPath, target: AnyPath) -> None:
    """Moves a folder, of a disk or a store, to a new name beside it.

    A store copies and deletes object by object, so the mark of a whole checkpoint is deleted first:
    what a kill leaves is not taken for one.
    """
    if not is_url(source):
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(source, target)
        return
    address = url(source)
    client, key = _client(address)
    with _calls(address):
        if client.exists(f"{key}/{LAST}"):
            client.rm_file(f"{key}/{LAST}")
        names = client.find(key)
        start = url(target).partition("://")[2]
        client.copy(names, [f"{start}{name.removeprefix(key)}" for name in names])
        client.rm(names)


def _signature(file: pathlib.Path) -> tuple[int, int]:
    stat = file.stat()
    return stat.st_mtime_ns, stat.st_size


@contextlib.contextmanager
def output(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """The place of a folder that is written in the block, and stored when the block ends.

    Any other path as it is.
    """
    if url(path) is None or place(path) in _writable:
        yield place(path)
        return
    target = local(path, writes=True)
    yield target
    push(target)


@contextlib.contextmanager
def session() -> Iterator[None]:
    """Brings stores up to date when the block ends, and removes what lies on this machine.

    After an error in the block, what is whole is stored too, as it would be on a disk.
    """
    try:
        yield
    except Exception:
        with contextlib.suppress(StoreError):
            push()
        raise
    else:
        push()
    finally:
        _forget()


def _forget() -> None:
    if _folder.cache_info().currsize:
        _folder().cleanup()
        _folder.cache_clear()
    for held in (_known, _writable, _fetched, _pushed):
        held.clear()


def check_output(what: str, path: str) -> None:
    """Makes sure that objects can be stored at a URL, by one that is gone when this returns.

    Raises:
      UserError: names `what`, and why they cannot.
    """
    address = url(path)
    place(address)
    client, key = _client(address, what)
    probe = f"{key}/.{uuid.uuid4().hex}{PART}"
    with _calls(address, what):
        try:
            client.pipe_file(probe, b"probe")
        except FileNotFoundError as error:
            raise FileNotFoundError("NoSuchBucket") from error
        client.rm_file(probe)


@contextlib.contextmanager
def requests(address: str) -> Iterator[tuple[Any, str]]:
    """fsspec's file system of a URL, and bucket and key; errors in the block become StoreError."""
    with _calls(address):
        yield _client(address)


@contextlib.contextmanager
def _calls(address: str, what: str = "") -> Iterator[None]:
    """Turns what a client raises into one line that names the URL."""
    where = f"{what}: {address}" if what and address not in what else what or address
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the clients' errors have no common type
        line = store_faults.explain(error, where)
        raise StoreError(line or f"{where}: {reason(error)}") from error


def _client(address: str, what: str = "") -> tuple[Any, str]:
    """The file system of a URL, and the bucket and key in it."""
    scheme, _, key = address.partition("://")
    package, extra = CLIENTS[scheme]
    if importlib.util.find_spec(package) is None:
        raise UserError(
            f"{what or address}: {scheme}:// needs the package {package}; "
            f"pip install 'unityvideo_jax[{extra}]'"
        )
    return _file_system(scheme), key


@functools.cache
def _file_system(scheme: str) -> Any:
    """fsspec's file system; what it has listed is not remembered, since others write there too."""
    # Orbax's paths are etils.epath's: by fsspec too, where TensorFlow is installed as well.
    os.environ.setdefault("EPATH_USE_TF", "0")
    # Asks for a bucket's type before every request, with rights that one often lacks.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    import fsspec
    from fsspec.config import conf

    for name in ("gcs", "gs", "s3"):
        conf.setdefault(name, {}).setdefault("use_listings_cache", False)
    return fsspec.filesystem("gcs" if scheme == "gs" else scheme)
