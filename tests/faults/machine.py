"""Unlucky machines: disks that are small, full, limited or read-only, and users without rights."""

import contextlib
import os
import pathlib
import resource
import subprocess
from collections.abc import Iterator

SYS_ADMIN = 21  # bit of the capability that mounting needs


def can_mount() -> bool:
    """Whether this process may mount; on Linux."""
    status = pathlib.Path("/proc/self/status")
    if not status.exists():
        return False
    line = next(x for x in status.read_text().splitlines() if x.startswith("CapEff"))
    return bool(int(line.split()[1], 16) >> SYS_ADMIN & 1)


@contextlib.contextmanager
def small_disk(folder: pathlib.Path, kilobytes: int) -> Iterator[pathlib.Path]:
    """A disk of its own, mounted at `folder`/disk."""
    disk = folder / "disk"
    disk.mkdir()
    _mount("-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", disk)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def grow(disk: pathlib.Path, kilobytes: int) -> None:
    """Makes space on a small disk."""
    _mount("-o", f"remount,size={kilobytes}k", disk)


def make_read_only(disk: pathlib.Path) -> None:
    """Whatever is on a small disk stays, and nothing can be written."""
    _mount("-o", "remount,ro", disk)


def fill(disk: pathlib.Path) -> None:
    """Leaves no byte free."""
    with contextlib.suppress(OSError), open(disk / "ballast", "wb", buffering=0) as ballast:
        while True:
            ballast.write(bytes(4096))


def _mount(*arguments: object) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True)


@contextlib.contextmanager
def limited(size: int) -> Iterator[None]:
    """No file of this process can grow beyond `size` bytes: EFBIG, without any rights."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def as_nobody(code: str, *arguments: str) -> subprocess.CompletedProcess:
    """Runs Python code as a user who owns nothing, or as this user if it is not root.

    The interpreter starts as root, whose home may hold it, and gives its rights up then.
    """
    drop = "import os\nif os.geteuid() == 0: os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
    # What the code imports must be there before.
    lines = code.splitlines()
    first = [line for line in lines if line.startswith(("import ", "from "))]
    rest = [line for line in lines if line not in first]
    return subprocess.run(
        [os.sys.executable, "-c", "\n".join([*first, drop, *rest]), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
