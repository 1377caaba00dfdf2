"""Goodput: the share of a run's wall time in which a step ran, and causes of the rest."""

import collections
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax

# What keeps the devices from the next step; "other" is what no phase names. After a process was
# lost: "restart" is all until the first step of those that follow it, "repeated" are steps that
# were done before it was lost, and after the checkpoint.
LOST = ("start", "input", "transfer", "checkpoint", "sampling", "restart", "repeated", "other")
# What `doing` says between phases, when steps have begun.
STEP = "step"


class Goodput:
    """Divides wall time into steps and into the causes of waiting in between.

    A step counts from its dispatch, or from the end of the step before if that is later, to the
    moment its metrics exist. What lies between two steps is lost, to the phases that the host was
    in: reading input while a step still runs loses nothing. Time before the first step (building,
    restoring, compiling) is lost to "start", unless a phase names it.

    Nothing here waits for the devices, save a thread of its own.

    Args:
      clock: seconds that never go back.

    Attributes:
      doing: what the host does now, a phase or `STEP`, and since when by the clock.
      longest: seconds that steps, and phases by name, have taken at most.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self._clock = clock
        self._begun = self._until = clock()
        self._stepped = self._lost_process = False
        self._repeats = 0  # steps that are still to be done again
        # Of the whole run: seconds by name, and counts.
        self._seconds = dict.fromkeys(("goodput", *LOST), 0.0)
        self._counts = {"restarts": 0, "restart_seconds": 0.0, "repeated_steps": 0}
        self._phases: list[tuple[str, float, float]] = []
        self._running: collections.deque[tuple[float, Future[float]]] = collections.deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="goodput")
        self.doing = ("start", self._begun)
        self.longest: dict[str, float] = {}

    def resume(self, state: Mapping[str, Any], repeats: int, gap: float | None) -> None:
        """Continues the count of another process of the same run; before the first step.

        Args:
          state: that `get_state` gave when its last step had finished.
          repeats: steps that it had finished and that are done again.
          gap: seconds from the end of that step to the beginning of this process, if that process
            was lost; None if it ended in order, and nobody waited for this one.

        Raises:
          LookupError, TypeError, ValueError: not such a state.
        """
        seconds = {name: float(state["seconds"].get(name, 0.0)) for name in self._seconds}
        counts = {name: type(n)(state[name]) for name, n in self._counts.items()}
        self._seconds, self._counts, self._repeats = seconds, counts, repeats
        if gap is not None:
            self._lost_process = True
            self._counts["restarts"] += 1
            self._lose("restart", gap)

    def get_state(self, wall: float) -> dict[str, Any]:
        """What was counted so far, as JSON knows it, and until which "time".

        Args:
          wall: Unix time of now, which other processes have too.
        """
        now, seconds = self._counted()
        time_of_now = wall - (self._clock() - now)
        return {"time": time_of_now, "seconds": seconds, **self._counts}

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """What the host does in this block, one of `LOST`; also named so in a trace."""
        between = self.doing[0]
        self.doing = (name, self._clock())
        try:
            with jax.profiler.TraceAnnotation(name):
                yield
        finally:
            begin, end = self.doing[1], self._clock()
            self.longest[name] = max(self.longest.get(name, 0.0), end - begin)
            self.doing = (between, end)
            self._phases.append((name, begin, end))

    def begin_steps(self) -> None:
        """From now on what no phase names is a step, or the wait for one."""
        self.doing = (STEP, self._clock())

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
        for name, seconds in self._between(self._until, begin).items():
            self._lose(name, seconds)
        repeated = self._repeats > 0
        self._repeats -= repeated
        self._counts["repeated_steps"] += repeated
        self._seconds["repeated" if repeated else "goodput"] += end - begin
        self._stepped = True
        self._until = end
        self.longest[STEP] = max(self.longest.get(STEP, 0.0), end - begin)
        self._phases = [phase for phase in self._phases if phase[2] > end]

    def shares(self) -> dict[str, float]:
        """Shares of the run's time, which sum to one: "goodput" and "lost/...".

        That is the time of all processes that trained it one after the other, and of what lies
        between them after a loss. While a step runs, time counts up to the end of the step before.
        """
        _, seconds = self._counted()
        whole = max(sum(seconds.values()), 1e-9)
        lost = {f"lost/{name}": seconds[name] / whole for name in LOST}
        return {"goodput": seconds["goodput"] / whole} | lost

    def losses(self) -> dict[str, int | float]:
        """What was lost with processes of the run: "restarts" after a loss, "restart_seconds" from
        the last step before to the first one after each, and "repeated_steps".
        """
        return dict(self._counts)

    def close(self) -> None:
        """Stops the worker thread."""
        self._thread.shutdown(wait=False)

    def _counted(self) -> tuple[float, dict[str, float]]:
        """Until when time is counted now, and seconds of the whole run by name."""
        now = self._until if self._running else self._clock()
        tail = self._between(self._until, now)
        return now, {name: n + tail.get(name, 0.0) for name, n in self._seconds.items()}

    def _lose(self, name: str, seconds: float) -> None:
        self._seconds[name] += seconds
        if name == "restart":
            self._counts["restart_seconds"] += seconds

    def _between(self, begin: float, end: float) -> dict[str, float]:
        """Seconds of each phase within an interval; phases do not overlap."""
        if self._lost_process and not self._stepped:
            return {"restart": end - begin}
        rest = "other" if self._stepped else "start"
        seconds = collections.Counter({rest: end - begin})
        for name, first, last in self._phases:
            overlap = max(0.0, min(end, last) - max(begin, first))
            seconds[name] += overlap
            seconds[rest] -= overlap
        return seconds


def goodput_line(shares: Mapping[str, float], losses: Mapping[str, int | float]) -> str:
    """One line of what `Goodput` gives: shares of at least a thousandth, the largest first."""
    lost = sorted(((shares[f"lost/{name}"], name) for name in LOST), reverse=True)
    named = ", ".join(f"{name} {share:.1%}" for share, name in lost if share >= 0.001)
    line = f"goodput {shares['goodput']:.1%}" + (f"; lost to {named}" if named else "")
    if restarts := losses["restarts"]:
        line += (
            f"; restarts after a loss: {restarts}, with {losses['restart_seconds']:.0f} s until "
            f"the next step and {losses['repeated_steps']} steps done again"
        )
    return line
