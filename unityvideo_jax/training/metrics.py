"""Numbers of a run: JSONL, TensorBoard and a line on the screen."""

import contextlib
import json
import os
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from unityvideo_jax.errors import UserError
from unityvideo_jax.files import stores
from unityvideo_jax.files.paths import atomic_path
from unityvideo_jax.parallel.chips import chip_of

# Seconds between uploads of a run's records: a store has no appending, each stores all of them.
STORED = 60.0


class Averages:
    """Adds (sum, count) pairs over steps and divides once, so that rare tasks weigh right."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, float]] = {}

    def add(self, metrics: Mapping[str, Any]) -> None:
        """Adds one step's metrics; a plain number counts once."""
        for name, value in metrics.items():
            total, count = value if isinstance(value, tuple | list) else (value, 1.0)
            before = self._sums.get(name, (0.0, 0.0))
            self._sums[name] = (before[0] + float(total), before[1] + float(count))

    def take(self) -> dict[str, float]:
        """Returns the means of all names with a count, and starts anew."""
        means = {name: total / count for name, (total, count) in self._sums.items() if count > 0}
        self._sums = {}
        return means

    def get_state(self) -> dict[str, list[float]]:
        """Returns the sums since the last `take`, as JSON values."""
        return {name: list(pair) for name, pair in self._sums.items()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Restores what `get_state` gave, so that a mean covers the steps before a resume too.

        Raises:
          TypeError, ValueError, AttributeError: not such a state.
        """
        self._sums = {name: (float(total), float(n)) for name, (total, n) in state.items()}


class MetricWriter:
    """Appends to `metrics.jsonl` and TensorBoard files in the workdir.

    Nothing is written by another thread, so whoever writes also learns of a disk that is full. As
    a context it closes both.

    Args:
      workdir: of the run.
      resumed_step: records of later steps, which a killed run left, are dropped.
      log: takes a line if there are lines that do not read.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        resumed_step: int,
        log: Callable[[str], None] = print,
    ):
        from tensorboardX.event_file_writer import EventsWriter

        self._workdir, self._log = pathlib.Path(workdir), log
        self._path = self._workdir / "metrics.jsonl"
        self._trim(resumed_step, log)
        self._file = self._path.open("a")
        board = pathlib.Path(workdir) / "tensorboard"
        board.mkdir(exist_ok=True)
        self._board = EventsWriter(str(board / "events"))
        # TensorBoard drops what an earlier file has of later steps.
        self._event(resumed_step + 1, session_log={"status": "START"})

    def _trim(self, step: int, log: Callable[[str], None]) -> None:
        if not self._path.exists():
            return
        if not self._path.is_file():
            raise UserError(f"{self._path}: not a file, where the run's records belong; remove it")
        whole = self._path.read_bytes()
        lines = whole.splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n") and _step_of(lines[-1]) is None:
            lines.pop()  # the half line of a kill
        steps = [_step_of(line) for line in lines]
        if damaged := steps.count(None):
            aside = self._path.with_name("metrics.damaged.jsonl")
            with atomic_path(aside) as temporary:
                temporary.write_bytes(whole)
            log(f"{self._path}: {damaged} of {len(lines)} lines do not read; left out, see {aside}")
        earlier = (
            line.rstrip(b"\r\n") + b"\n"
            for line, found in zip(lines, steps, strict=True)
            if found is not None and found <= step
        )
        with atomic_path(self._path) as temporary:
            temporary.write_bytes(b"".join(earlier))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one record; it is on disk when this returns, and in a store within `STORED` s."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        scalars = [{"tag": name, "simple_value": value} for name, value in values.items()]
        self._event(step, summary={"value": scalars})
        try:
            stores.push(self._workdir, every=STORED)
        except stores.StoreError as error:  # before a checkpoint it is tried again
            self._log(f"records are not stored for now: {error}")

    def _event(self, step: int, **what: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._board.write_event(Event(wall_time=time.time(), step=step, **what))
        self._board.flush()

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        for file in (self._file, self._board):
            # What a full disk did not take is tried again on closing.
            with contextlib.nullcontext() if kind is None else contextlib.suppress(OSError):
                file.close()


def _step_of(line: bytes) -> int | None:
    """The step of a record; None if the line is none."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, LookupError, TypeError):
        return None
    return step if type(step) is int else None


class Speed:
    """Step time and the rates that follow from it.

    Args:
      step: steps done so far.
    """

    def __init__(self, step: int):
        # Of all steps up to each one that may begin or end an interval.
        self._totals: dict[int, tuple[int, int]] = {step: (0, 0)}
        self.start(step)

    def dispatched(self, step: int, flops: int, tokens: int) -> None:
        """Counts a step that the devices are to do; steps come in order.

        Args:
          step: its number.
          flops: model FLOPs of all devices (forward and backward, nothing recomputed).
          tokens: of all devices and streams.
        """
        before = self._totals[step - 1]
        self._totals[step] = (before[0] + flops, before[1] + tokens)

    def start(self, step: int) -> None:
        """Begins an interval at a step: what came before (compiling, sampling) is not counted."""
        self._step, self._since = step, time.perf_counter()
        self._totals = {n: totals for n, totals in self._totals.items() if n >= step}

    def take(self, step: int) -> dict[str, float]:
        """Means over the interval that ends at a step, and begins the next.

        Args:
          step: steps done.

        Returns:
          Seconds per step, tokens/s, model TFLOP/s per device and, if known, the share of the peak;
          nothing if no step was done since.
        """
        steps = step - self._step
        if steps < 1:
            return {}
        elapsed = time.perf_counter() - self._since
        flops, tokens = (
            now - then
            for now, then in zip(self._totals[step], self._totals[self._step], strict=True)
        )
        self.start(step)
        tflops = flops / elapsed / jax.device_count() / 1e12
        values = {
            "step_seconds": elapsed / steps,
            "tokens_per_second": tokens / elapsed,
            "model_tflops_per_device": tflops,
        }
        chip = chip_of(jax.devices()[0].device_kind)
        if chip is not None:
            values["peak_share"] = tflops * 1e12 / chip.flops
        return values


def progress_line(step: int, steps: int, values: Mapping[str, float], eta: float) -> str:
    """One line: loss in all and by task, gradient norm, speed, time left."""
    tasks = " ".join(
        f"{name.rsplit('/', 1)[1]} {values[name]:.4f}"
        for name in sorted(values)
        if name.startswith("loss/task/")
    )
    speed = f"{values['step_seconds']:.3f} s/step, " if "step_seconds" in values else ""
    if "peak_share" in values:
        speed += f"{values['model_tflops_per_device']:.1f} TFLOP/s ({values['peak_share']:.1%}), "
    minutes, seconds = divmod(round(eta), 60)
    return (
        f"step {step}/{steps}  loss {values.get('loss', float('nan')):.4f} ({tasks})  "
        f"grad {values.get('grad_norm', float('nan')):.3f}  {speed}{minutes}:{seconds:02d} left"
    )
