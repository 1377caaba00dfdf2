"""What the steps of a run gave: read one step late, averaged, written and printed."""

import contextlib
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from unityvideo_jax.errors import UserError
from unityvideo_jax.parallel import hosts
from unityvideo_jax.training.goodput import Goodput
from unityvideo_jax.training.ledger import Ledger
from unityvideo_jax.training.metrics import MetricWriter, Speed, progress_line
from unityvideo_jax.training.optimizer import make_schedule
from unityvideo_jax.training.profiling import peak_memory
from unityvideo_jax.training.setup import Setup


class Progress:
    """Reads the metrics of a step while the next one runs, and says every so often what they are.

    The first process writes records and `goodput.json`. As a context it closes them and `goodput`.

    Args:
      setup: of the run.
      workdir: of the run.
      goodput: of this process.
      why: words for a step that is not finite, from its samples' losses and its records' indices.
      log: takes a line per record.

    Attributes:
      finished: the last step whose metrics have been read.
    """

    def __init__(
        self,
        setup: Setup,
        workdir: pathlib.Path,
        goodput: Goodput,
        why: Callable[[np.ndarray, np.ndarray], str],
        log: Callable[[str], None],
    ):
        self._run, self._start, self._averages = setup.run, setup.start, setup.averages
        self._schedule = make_schedule(setup.optim, setup.run.steps)
        self._goodput, self._why, self._log = goodput, why, log
        first = hosts.is_first()
        self._writer = MetricWriter(workdir, setup.start, log) if first else None
        self._ledger = Ledger(workdir, goodput, setup.start, log) if first else None
        self._begun = time.perf_counter()
        self._waiting: tuple[int, np.ndarray, Any] | None = None
        self._newest: tuple[int, Any] = (setup.start, None)
        self.finished = setup.start
        self._speed = Speed(setup.start)

    def __enter__(self) -> "Progress":
        self._closing = contextlib.ExitStack()
        for one in (self._writer, contextlib.closing(self._goodput), self._ledger):
            if one is not None:
                self._closing.enter_context(one)
        return self

    def __exit__(self, *error: Any) -> None:
        self._closing.__exit__(*error)

    def dispatched(
        self, step: int, metrics: Any, index: Int[np.ndarray, "n"], work: tuple[int, int]
    ) -> None:
        """A step was dispatched: reads the metrics of the one before.

        Args:
          step: its number.
          metrics: its outputs on the devices.
          index: records of this process's rows.
          work: model FLOPs and tokens.

        Raises:
          UserError: the step before is not finite.
        """
        self._goodput.dispatched(metrics)
        self._speed.dispatched(step, *work)
        self._newest = step, metrics
        before, self._waiting = self._waiting, (step, index, metrics)
        if before is not None:
            self._read(*before)

    @contextlib.contextmanager
    def pause(self, phase: str) -> Iterator[None]:
        """Reads the last step's metrics; what the host does in this block is in no step's time.

        Args:
          phase: its name, one of `goodput.LOST`.

        Raises:
          UserError: the last step is not finite.
        """
        last, self._waiting = self._waiting, None
        if last is not None:
            self._read(*last)
        with self._goodput.phase(phase):
            yield
        self._speed.start(self._newest[0])

    def _read(self, step: int, index: np.ndarray, metrics: Any) -> None:
        values = jax.device_get(metrics)
        samples = values.pop("samples")
        if not values.pop("finite"):
            why = self._why(samples, index)
            raise UserError(f"step {step}: {why}; the checkpoint before it stands")
        self._averages.add(values)
        self._goodput.finished()
        self.finished = step
        if self._ledger is not None:
            self._ledger.finished(step)
        # Where dispatching waits, as on CPUs, the step that was dispatched since is done too.
        newest, last = self._newest
        done = newest if last["finite"].is_ready() else step
        if step == self._start + 1:
            self._speed.start(done)  # the first step also sets things up
        if step % self._run.log_every == 0 or step == self._run.steps:
            self._record(step, done)

    def _record(self, step: int, done: int) -> None:
        """Writes and prints the means of the steps since the last record, this one included."""
        record = self._averages.take()
        record["learning_rate"] = float(self._schedule(step - 1))
        record |= self._speed.take(done) | self._goodput.shares() | self._goodput.losses()
        record |= peak_memory()
        if self._writer is not None:
            self._writer.write(step, record)
        each = (time.perf_counter() - self._begun) / (step - self._start)
        self._log(progress_line(step, self._run.steps, record, each * (self._run.steps - step)))
