"""Goodput: the share of a run's wall time in which a step ran, and causes of the rest."""

import collections
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax

# What keeps the devices from the next step; "other" is what no phase names.
LOST = ("start", "input", "transfer", "checkpoint", "sampling", "other")


class Goodput:
    """Divides wall time into steps and into the causes of waiting in between.

    A step counts from its dispatch, or from the end of the step before if that is later, to the
    moment its metrics exist. What lies between two steps is lost, to the phases that the host was
    in: reading input while a step still runs loses nothing. Time before the first step (building,
    restoring, compiling) is lost to "start", unless a phase names it.

    Nothing here waits for the devices, save a thread of its own.

    Args:
      clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self._clock = clock
        self._begun = self._until = clock()
        self._in_steps = 0.0
        self._lost = dict.fromkeys(LOST, 0.0)
        self._phases: list[tuple[str, float, float]] = []
        self._running: collections.deque[tuple[float, Future[float]]] = collections.deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="goodput")

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """What the host does in this block, one of `LOST`; also named so in a trace."""
        begin = self._clock()
        try:
            with jax.profiler.TraceAnnotation(name):
                yield
        finally:
            self._phases.append((name, begin, self._clock()))

    def dispatched(self, metrics: Any) -> None:
        """A step was dispatched; it ends when `metrics`, its outputs, are ready."""

        def end() -> float:
            jax.block_until_ready(metrics)
            return self._clock()

        self._running.append((self._clock(), self._thread.submit(end)))

    def finished(self) -> None:
        """The metrics of the oldest dispatched step have been read."""
        dispatched, end = self._running.popleft()
        self.add_step(dispatched, end.result())

    def add_step(self, dispatched: float, end: float) -> None:
        """Counts a step, and what lies between it and the step before; times of the clock."""
        begin = max(dispatched, self._until)
        rest = "other" if self._in_steps else "start"
        for name, seconds in self._between(self._until, begin, rest).items():
            self._lost[name] += seconds
        self._in_steps += end - begin
        self._until = end
        self._phases = [phase for phase in self._phases if phase[2] > end]

    def shares(self) -> dict[str, float]:
        """Shares of the time since the beginning, which sum to one: "goodput" and "lost/...".

        While a step runs, time counts up to the end of the step before.
        """
        now = self._until if self._running else self._clock()
        tail = self._between(self._until, now, "other" if self._in_steps else "start")
        whole = max(now - self._begun, 1e-9)
        lost = {f"lost/{name}": (self._lost[name] + tail.get(name, 0.0)) / whole for name in LOST}
        return {"goodput": self._in_steps / whole} | lost

    def close(self) -> None:
        """Stops the worker thread."""
        self._thread.shutdown(wait=False)

    def _between(self, begin: float, end: float, rest: str) -> dict[str, float]:
        """Seconds of each phase within an interval; phases do not overlap."""
        seconds = collections.Counter({rest: end - begin})
        for name, first, last in self._phases:
            overlap = max(0.0, min(end, last) - max(begin, first))
            seconds[name] += overlap
            seconds[rest] -= overlap
        return seconds


def goodput_line(shares: Mapping[str, float]) -> str:
    """One line of what `Goodput.shares` gives: all that is at least a thousandth, largest first."""
    lost = sorted(((shares[f"lost/{name}"], name) for name in LOST), reverse=True)
    named = ", ".join(f"{name} {share:.1%}" for share, name in lost if share >= 0.001)
    return f"goodput {shares['goodput']:.1%}" + (f"; lost to {named}" if named else "")
