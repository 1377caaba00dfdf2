"""Memory and disk of this machine, and refusal of sizes that it cannot hold.

Refusals come before any memory is taken. A size is refused if the least that it needs is more than
the total: a program that passes may still need more than is free.
"""

import contextlib
import os
import pathlib
import shutil

from unityvideo_jax.errors import UserError

LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def host_bytes() -> int:
    """Returns the bytes of memory of this machine, or of its container if that has less."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in LIMITS:
        with contextlib.suppress(OSError, ValueError):
            found.append(int(pathlib.Path(file).read_text()))
    return min(found)


def check_host(needed: int, what: str, fix: str) -> None:
    """Raises UserError if `needed` bytes are more than the memory of this machine.

    Args:
      needed: the least that it takes.
      what: the flag, key or file that asks for it.
      fix: what to do about it.
    """
    if needed > (have := host_bytes()):
        raise UserError(
            f"{what}: needs at least {show(needed)} of memory, this machine has {show(have)}; {fix}"
        )


def check_disk(needed: int, folder: str | os.PathLike, what: str, fix: str) -> None:
    """Raises UserError if `needed` bytes are more than the disk below `folder` has left.

    Args:
      needed: the least that will be written.
      folder: to write to; it need not exist yet.
      what, fix: as `check_host` takes them.
    """
    path = pathlib.Path(folder).absolute()
    there = next(part for part in (path, *path.parents) if part.exists())
    if needed > (free := shutil.disk_usage(there).free):
        raise UserError(
            f"{what}: writes at least {show(needed)}, the disk of {folder} has {show(free)} left; "
            f"{fix}"
        )


def show(size: int) -> str:
    """Formats bytes as people write them, such as "1.5 GiB"."""
    power = min((max(size, 1).bit_length() - 1) // 10, len(UNITS) - 1)
    # Integers, since sizes that are refused may be too large for a float.
    tenths = size * 10 // 1024**power
    text = f"{tenths // 10}.{tenths % 10}" if power and tenths < 10_000 else f"{tenths // 10}"
    return f"{text} {UNITS[power]}"
