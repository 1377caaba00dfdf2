"""One process at a time: a lock on a file, which the kernel frees however its process ends."""

import contextlib
import fcntl
import os
import pathlib
from collections.abc import Iterator

from unityvideo_jax.errors import UserError


@contextlib.contextmanager
def attempt(file: pathlib.Path, *, wait: bool = False) -> Iterator[str]:
    """Takes the lock for a block, if no other process has it.

    Args:
      file: to lock; made if missing, with its folder. It says which process has the lock.
      wait: until the other process leaves it.

    Yields:
      "", or the number of the process that has the lock, "unknown" if the file does not say.

    Raises:
      UserError: a file system without locks.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "a+") as handle:
        holder = ""
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            handle.seek(0)
            holder = handle.read().strip() or "unknown"
        except OSError as error:
            raise UserError(
                f"{file}: cannot be locked ({error.strerror}); name a folder on another file system"
            ) from error
        if not holder:
            handle.truncate(0)
            handle.write(str(os.getpid()))
            handle.flush()
        yield holder


@contextlib.contextmanager
def locked(file: pathlib.Path, what: str) -> Iterator[None]:
    """Holds the lock for a block.

    Args:
      file: as `attempt` takes it.
      what: is locked, such as "--workdir=run".

    Raises:
      UserError: another process has it, or a file system without locks.
    """
    with attempt(file) as holder:
        if holder:
            raise UserError(
                f"{what}: in use by process {holder}; wait for it, stop it, or name another folder"
            )
        yield
