"""The training step, compiled once for every shape of a batch."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax

from unityvideo_jax.inputs.buckets import count_streams, size_name
from unityvideo_jax.models.config import DiTConfig, model_flops
from unityvideo_jax.models.lora import LoraConfig
from unityvideo_jax.runtime import threads
from unityvideo_jax.training.batches import check_batch
from unityvideo_jax.training.profiling import Profiler
from unityvideo_jax.training.state import TrainState

Batch = Mapping[str, Any]


class StepPrograms:
    """Compiled steps by the shape of a batch's latents, [B, S, t, h, w, C].

    Args:
      step: the jitted step.
      key: of its draws.
      model, lora: what it trains.
      shapes: of the batches that are known beforehand.
      profiler: compiles, and records what it is asked to.
      log: takes a line for each shape.
    """

    def __init__(
        self,
        step: Callable,
        key: jax.Array,
        model: DiTConfig,
        lora: LoraConfig,
        shapes: tuple[tuple[int, ...], ...],
        profiler: Profiler,
        log: Callable[[str], None],
    ):
        self._step, self._key, self._model, self._lora = step, key, model, lora
        self._several, self._profiler, self._log = len(shapes) > 1, profiler, log
        self._compiled: dict[tuple[int, ...], Callable] = {}

    def has(self, batch: Batch) -> bool:
        """Whether the step is compiled for batches of this shape."""
        return batch["latents"].shape in self._compiled

    def compile(self, state: TrainState, *batches: Batch) -> None:
        """Compiles the step for batches of these shapes, real or abstract, all at once.

        Raises:
          UserError: the model does not take such a batch.
        """
        lowered, several = {}, self._several or bool(self._compiled)
        for batch in batches:
            shape = batch["latents"].shape
            if shape in self._compiled or shape in lowered:
                continue
            check_batch(batch, self._model)
            of = f" of {shape[0]} samples, {count_streams(shape[1])} of {size_name(shape[2:5])}"
            self._log(f"compiling the step{of if several else ''}")
            lowered[shape] = self._step.lower(state, batch, self._key)
        names = [f"step_{size_name(shape[:5])}" if several else "step" for shape in lowered]
        named = zip(lowered.values(), names, strict=True)
        done = threads.map_all(lambda one: self._profiler.compile(*one), named)
        self._compiled.update(zip(lowered, done, strict=True))

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Any]]:
        """Dispatches a step on a batch that lies on the devices; `state` is donated."""
        with jax.transfer_guard("disallow"):
            return self._compiled[batch["latents"].shape](state, batch, self._key)

    def work(self, batch: Batch) -> tuple[int, int]:
        """Model FLOPs and tokens of a step on such a batch."""
        shape = batch["latents"].shape
        flops = self._lora.passes * model_flops(self._model, shape[2:5], shape[1]) * shape[0]
        return flops, math.prod(shape[:5]) // math.prod(self._model.patch_size)
