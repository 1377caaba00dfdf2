"""One process at a time in a folder of an object store, which has no locks of files.

The lock is an object that is stored on condition that there is none, which the store decides; its
holder stores it anew every `RENEWED` seconds. One that was not renewed for `EXPIRES` seconds, or
whose process on this host is dead, is left over from a kill and is replaced. Should two processes
replace it in the same moment, the one whose lock was overwritten learns of it when it renews, and
before every checkpoint (`check`), and stops.
"""

import contextlib
import json
import os
import pathlib
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from unityvideo_jax.errors import UserError
from unityvideo_jax.files import stores

NAME = ".lock"
RENEWED, EXPIRES = 15.0, 60.0
# Changes when a machine starts; distinguishes machines of one name.
BOOT = pathlib.Path("/proc/sys/kernel/random/boot_id")

_held: dict[pathlib.Path, "_Lock"] = {}


class _Lock:
    """A lock that is held; a thread renews it."""

    def __init__(self, client: Any, key: str, address: str):
        self._client, self._key, self._address = client, key, address
        self._own = {
            "host": socket.gethostname(),
            "boot": BOOT.read_text().strip() if BOOT.exists() else "",
            "process": os.getpid(),
            "token": uuid.uuid4().hex,
        }
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def take(self) -> None:
        """Stores the lock; raises UserError if another process holds it."""
        while not self._store(mode="create"):
            there = self.read()
            if there is not None and not self._is_dead(there) and not self._expires(there):
                raise UserError(
                    f"--workdir={self._address}: in use by process {there['process']} of "
                    f"{there['host']}; wait for it, stop it, or name another folder"
                )
            with contextlib.suppress(FileNotFoundError):
                self._client.rm_file(self._key)
        self.check()
        self._thread.start()

    def _store(self, **how: Any) -> bool:
        content = json.dumps({**self._own, "renewed": time.time()}).encode()
        try:
            self._client.pipe_file(self._key, content, **how)
        except FileExistsError:
            return False
        return True

    def read(self) -> dict[str, Any] | None:
        """What the lock says; None if there is none, or none that reads."""
        try:
            return json.loads(self._client.cat_file(self._key))
        except (FileNotFoundError, ValueError):
            return None

    def _is_dead(self, there: dict[str, Any]) -> bool:
        if any(there[name] != self._own[name] for name in ("host", "boot")):
            return False
        if there["process"] == os.getpid():
            return True  # of a container that was started anew
        try:
            os.kill(there["process"], 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return False

    def _expires(self, there: dict[str, Any]) -> bool:
        """Whether a lock is not renewed any more; hosts' clocks need not agree."""
        end = time.monotonic() + EXPIRES
        print(
            f"{self._address}: locked by process {there['process']} of {there['host']}; waiting up "
            f"to {EXPIRES:g} s to see whether it lives",
            flush=True,
        )
        while time.monotonic() < end:
            time.sleep(min(1.0, EXPIRES / 10))
            if self.read() != there:
                return self.read() is None
        return True

    def check(self) -> None:
        """Raises UserError if another process took the lock."""
        there = self.read()
        if there is None or there["token"] != self._own["token"]:
            who = "nobody" if there is None else f"process {there['process']} of {there['host']}"
            raise UserError(
                f"{self._address}: its lock was taken from this process and is held by {who}; "
                "stop the other one, then give the same command again"
            )

    def _renew(self) -> None:
        while not self._ended.wait(RENEWED):
            # An answer that does not come is no loss: the lock is checked before every checkpoint.
            with contextlib.suppress(Exception):
                self.check()
                self._store()

    def release(self) -> None:
        """Deletes the lock if it is still this process's."""
        self._ended.set()
        self._thread.join()
        there = self.read()
        if there is not None and there["token"] == self._own["token"]:
            self._client.rm_file(self._key)


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
    """Holds the lock of a folder that is the place of one in a store; of others, nothing.

    Raises:
      UserError: another process holds it.
      StoreError: the store refuses.
    """
    address = stores.url(folder)
    if address is None:
        yield
        return
    with stores.requests(address) as (client, key):
        lock = _Lock(client, f"{key}/{NAME}", address)
        lock.take()
    _held[folder] = lock
    try:
        yield
    finally:
        del _held[folder]
        with contextlib.suppress(Exception):  # it expires
            lock.release()


def check(folder: pathlib.Path) -> None:
    """Raises UserError if the lock that this process holds on a folder was taken from it."""
    if lock := _held.get(folder):
        with stores.requests(stores.url(folder)):
            lock.check()
