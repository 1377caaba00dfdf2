"""Records of a run on demand: a trace, the compiled step, device memory."""

import dataclasses
import pathlib
import re
from collections.abc import Callable
from typing import Any

import jax

from unityvideo_jax.errors import UserError
from unityvideo_jax.parallel import hosts

FOLDER = "profile"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProfileConfig:
    """The choice of records.

    Attributes:
      steps: "A:B" traces steps A to B - 1, as a Python range, counted from 1; "" traces none.
      hlo: write the step as it is given to XLA and as XLA compiled it.
      memory: the step before which live device memory is written, in pprof's format; 0 is never.

    Raises:
      UserError: `steps` is not A:B with 1 <= A < B.
    """

    steps: str = ""
    hlo: bool = False
    memory: int = 0

    def __post_init__(self):
        self.traced()

    def traced(self) -> range:
        """Returns the steps to trace.

        Raises:
          UserError: `steps` is not A:B.
        """
        if not self.steps:
            return range(0)
        found = re.fullmatch(r"(\d+):(\d+)", self.steps)
        steps = range(int(found[1]), int(found[2])) if found else range(0)
        if not steps or steps.start < 1:
            raise UserError(
                f"--profile_steps={self.steps}: give A:B with 1 <= A < B; 10:13 traces the steps "
                "10, 11 and 12"
            )
        return steps


class Profiler:
    """Annotates steps, and records what `config` asks for into `workdir/profile`.

    Each of several processes traces into a folder of its own; the first writes the step.

    Args:
      config: what to record.
      workdir: of the run.
      start, end: the run does steps start + 1 to end.
      log: takes a line for each thing written.

    Raises:
      UserError: steps to record that the run does not reach.
    """

    def __init__(
        self,
        config: ProfileConfig,
        workdir: pathlib.Path,
        start: int,
        end: int,
        log: Callable[[str], None],
    ):
        self._config, self._log = config, log
        self._steps = config.traced()
        self._folder = folder = workdir / FOLDER
        self._own = folder / f"process_{jax.process_index()}" if jax.process_count() > 1 else folder
        self._tracing = False
        last = {"steps": self._steps.stop - 1, "memory": config.memory}
        for name, step in last.items():
            asked = f"--profile_{name}={getattr(config, name)}"
            if step > end:
                raise UserError(f"{asked}: the run ends at config.train.steps={end}")
            if 0 < step <= start:
                log(f"{asked}: the run continues after step {start}; nothing to record")

    def compile(self, lowered: Any, name: str) -> Any:
        """Compiles the lowered step; also writes it as `name` if asked for."""
        compiled = lowered.compile()
        if self._config.hlo and hosts.is_first():
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / f"{name}.stablehlo.txt").write_text(lowered.as_text())
            (self._folder / f"{name}.optimized_hlo.txt").write_text(compiled.as_text())
            where = f"{self._folder}/{name}.stablehlo.txt and .optimized_hlo.txt"
            self._log(f"wrote the step to {where}")
        return compiled

    def step(self, number: int, state: Any) -> jax.profiler.StepTraceAnnotation:
        """The annotation to hold while step `number` is dispatched.

        Waits for `state`, the result of the step before, where a record begins or ends.
        """
        if self._tracing and number >= self._steps.stop:
            jax.block_until_ready(state)
            self._stop()
        if number == self._config.memory:
            jax.block_until_ready(state)
            self._own.mkdir(parents=True, exist_ok=True)
            file = self._own / f"memory_before_step_{number}.prof"
            jax.profiler.save_device_memory_profile(file)
            self._log(f"wrote live device memory before step {number} to {file}")
        if not self._tracing and number in self._steps:
            jax.block_until_ready(state)
            jax.profiler.start_trace(self._own)
            self._tracing = True
        return jax.profiler.StepTraceAnnotation("train", step_num=number)

    def close(self) -> None:
        """Ends a trace that still runs; after the last step has been read."""
        if self._tracing:
            self._stop()

    def _stop(self) -> None:
        jax.profiler.stop_trace()
        self._tracing = False
        self._log(f"wrote a trace to {self._own}; `xprof --logdir={self._folder}` shows it")


def peak_memory() -> dict[str, float]:
    """The most memory that a device of this process has held, in GiB, where the backend says so."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [one["peak_bytes_in_use"] for one in stats if "peak_bytes_in_use" in one]
    return {"peak_memory_gib": max(peaks) / 2**30} if peaks else {}
