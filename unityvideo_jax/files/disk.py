"""Refusals of a disk, in one line: faults of this machine, never of the files that it holds.

A program that sets bad items aside must not take a full disk for a bad item: code that records a
fault calls `raise_if_refused` first.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator

from unityvideo_jax.errors import UserError
from unityvideo_jax.files import store_faults
from unityvideo_jax.files.store_faults import AGAIN

ADVICE = {
    errno.ENOSPC: f"make space, {AGAIN}",
    errno.EDQUOT: f"delete files or raise the quota, {AGAIN}",
    errno.EFBIG: f"raise the limit on the size of files (`ulimit -f`), {AGAIN}",
    errno.EROFS: "it is mounted read-only; name a folder on another disk, or mount it for writing",
    errno.EACCES: "allow this user to read and write there, or name another path",
    errno.EPERM: "allow this user to read and write there, or name another path",
    errno.EIO: f"the disk itself fails; look into the system's log and replace it, {AGAIN}",
    errno.ESTALE: f"the network folder is gone; mount it again, {AGAIN}",
    errno.EMFILE: f"raise the number of open files (`ulimit -n`), {AGAIN}",
    errno.ENFILE: f"close other programs' files, {AGAIN}",
}
SPACE = (errno.ENOSPC, errno.EDQUOT)


class DiskError(UserError):
    """A disk or store that refuses to be read or written; says which, why and what to do."""


def refusal(error: BaseException) -> OSError | None:
    """The refusal that an error comes from, directly or as a cause; None if there is none.

    Libraries in other languages give the system's reason as text, in errors of any kind.
    """
    chain = store_faults.chain(error)
    for one in chain:
        path = getattr(one, "filename", None)
        path = os.fsdecode(path) if isinstance(path, str | bytes) else None
        number = getattr(one, "errno", None)
        if number in ADVICE and not (number == errno.EIO and _reads(one, path)):
            return OSError(number, os.strerror(number), path)
    numbers = [_number_in(str(one)) for one in chain if not isinstance(one, UserError | OSError)]
    number = next((n for n in numbers if n is not None), None)
    return None if number is None else OSError(number, os.strerror(number))


def _number_in(text: str) -> int | None:
    return next((number for number in ADVICE if os.strerror(number) in text), None)


def _reads(error: BaseException, path: str | None) -> bool:
    """Whether FFmpeg calls a damaged file an input/output error: the disk gives all its bytes."""
    if not type(error).__module__.startswith("av.") or path is None:
        return False
    try:
        with open(path, "rb") as handle:
            while handle.read(1 << 20):
                pass
    except OSError:
        return False
    return True


def explain(error: OSError, where: str | os.PathLike | None = None) -> str:
    """Formats one line: the path, the reason, the free space if that is the reason, and what to do.

    Args:
      error: with one of the numbers of `ADVICE`.
      where: what was written, if the error itself names no path.
    """
    path = error.filename or (None if where is None else os.fspath(where))
    return reason(error, path) if path is None else f"{path}: {reason(error, path)}"


def reason(error: OSError, path: str | None) -> str:
    """Returns `explain` without the path, which is only looked at for its free space."""
    free = _free(path) if error.errno in SPACE and path is not None else None
    space = "" if free is None else f" ({free / 1e6:.1f} MB free)"
    advice = ADVICE.get(error.errno, "name another path")
    return f"{os.strerror(error.errno)}{space}: {advice}"


def _free(path: str) -> int | None:
    """Bytes free on the disk of the nearest folder that exists."""
    while not os.path.isdir(path):
        above = os.path.dirname(os.path.abspath(path))
        if above == path:
            return None
        path = above
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return None


def raise_if_refused(error: BaseException, where: str | os.PathLike | None = None) -> None:
    """Raises DiskError if an error comes from the disk or a store; call it before noting it.

    Args:
      error: any.
      where: what was written, if the error itself names no path.
    """
    if isinstance(error, DiskError):
        raise error
    if line := _line(error, where):
        raise DiskError(line) from error


def _line(error: BaseException, where: str | os.PathLike | None) -> str | None:
    """What a disk or a store refused; None if neither did."""
    if isinstance(error, DiskError):
        return str(error)
    if line := store_faults.explain(error, folder=where):
        return line
    found = refusal(error)
    return None if found is None else explain(found, where)


@contextlib.contextmanager
def explained(
    where: str | os.PathLike | None = None, stands: Callable[[], str] = lambda: ""
) -> Iterator[None]:
    """Turns every refusal in the block into a DiskError.

    Args:
      where: what is written, for errors that name no path.
      stands: says what of the work is safe; asked only if there is an error.
    """
    try:
        yield
    except Exception as error:
        line = _line(error, where)
        if line is None:
            raise
        safe = stands()
        raise DiskError(f"{line}; {safe}" if safe else line) from error
