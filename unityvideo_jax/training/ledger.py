"""A run's `goodput.json`: what its time went to, carried from process to process."""

import contextlib
import json
import os
import pathlib
import time
from collections.abc import Callable

from unityvideo_jax.files import provenance, stores
from unityvideo_jax.training.goodput import Goodput
from unityvideo_jax.training.metrics import STORED

FILE = "goodput.json"


class Ledger:
    """Stores a process's goodput while it trains; the next process of the run continues from it.

    The file says how far the run ever got, and whether the last process ended in order. If it did
    not, it was lost, and what lies between its last step and the first of this process is lost to
    "restart". Steps that the run had finished before are "repeated" when they are done again.

    The file is at most `PERIOD` seconds old, in an object store `STORED`. As a context it notes on
    leaving that the process ended in order, by an error too: only what leaves at once is a loss.

    Args:
      workdir: of the run.
      goodput: of this process, before its first step.
      step: steps done so far, of the checkpoint that this process resumes from.
      log: takes a line if the file does not read.
    """

    PERIOD = 1.0

    def __init__(
        self,
        workdir: str | os.PathLike,
        goodput: Goodput,
        step: int,
        log: Callable[[str], None] = print,
    ):
        self._path, self._goodput = pathlib.Path(workdir) / FILE, goodput
        self._furthest = step
        self._period = STORED if stores.url(workdir) else self.PERIOD
        self._written = time.monotonic()
        if not self._path.exists():
            return
        try:
            before = json.loads(self._path.read_text())
            repeats = max(0, int(before["step"]) - step)
            gap = None if before["ended"] else max(0.0, time.time() - float(before["time"]))
            goodput.resume(before, repeats, gap)
            self._furthest += repeats
        except (OSError, LookupError, TypeError, ValueError, AttributeError) as error:
            log(f"{self._path}: does not read ({error!r}); goodput is counted from this start on")

    def finished(self, step: int) -> None:
        """Steps up to this one are done."""
        self._furthest = max(self._furthest, step)
        if time.monotonic() - self._written >= self._period:
            self._write(ended=False)

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._write(ended=True)
        except OSError:
            if kind is None:
                raise

    def _write(self, ended: bool) -> None:
        self._written = time.monotonic()
        state = self._goodput.get_state(time.time())
        # The writer of records says that a store refuses, and tries again with all that is new.
        with contextlib.suppress(stores.StoreError):
            provenance.write_json(self._path, {"step": self._furthest, "ended": ended, **state})
