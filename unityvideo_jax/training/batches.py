"""The batches of a run, stage after stage, and descriptions of their records for messages."""

from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax
import numpy as np
from jaxtyping import Float, Int

from unityvideo_jax.errors import UserError
from unityvideo_jax.inputs.shares import table_lines
from unityvideo_jax.models.config import DiTConfig
from unityvideo_jax.training.curriculum import Stage, stage_at

# Builds a stage's batches: an iterator with get_state() and set_state(), describe() if its records
# have names, and the `shapes` of its latents if they are known.
BuildIterator = Callable[[Stage], Any]


class Inputs:
    """Batches of the stage that each step belongs to, and the position to resume from.

    Args:
      plan: the stages.
      build: makes a stage's batches.
      step: steps done so far.
      log: takes lines about the shares of what a stage draws, when it begins.
    """

    def __init__(
        self,
        plan: tuple[Stage, ...],
        build: BuildIterator,
        step: int,
        log: Callable[[str], None] = print,
    ):
        self._plan, self._step, self._log = plan, step, log
        # Those of later stages too: their faults must not cost the steps before.
        first = stage_at(plan, step).index
        self._iterators = {stage.index: build(stage) for stage in plan[first:]}
        self._begin(plan[first])

    def _begin(self, stage: Stage) -> None:
        self._stage, self._iterator = stage, self._iterators.pop(stage.index)
        for line in table_lines(getattr(self._iterator, "shares", ())):
            self._log(line)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the latents of all further batches, each once; () where they are not known."""
        iterators = (self._iterator, *self._iterators.values())
        return tuple(dict.fromkeys(x for one in iterators for x in getattr(one, "shapes", ())))

    def resume(self, position: Mapping[str, Any]) -> None:
        """Continues from a position that `next` returned for the step before.

        Raises:
          LookupError, TypeError, ValueError: not such a position.
        """
        saved = stage_at(self._plan, self._step - 1).index
        if position["stage"] != saved:
            raise ValueError(f"stage {position['stage']!r}, where step {self._step} is of {saved}")
        if saved == self._stage.index:
            self._iterator.set_state(position["state"])

    def next(self) -> tuple[Mapping[str, Any], dict[str, Any]]:
        """Returns the batch of the next step, and the position after it."""
        stage = stage_at(self._plan, self._step)
        if stage.index != self._stage.index:
            self._begin(stage)
        batch = next(self._iterator)
        self._step += 1
        return batch, {"stage": self._stage.index, "state": self._iterator.get_state()}

    def describe(self, index: int) -> str:
        """Describes a record in words: by name, if the iterator knows it.

        Args:
          index: of the record, as its batch gives it.
        """
        return getattr(self._iterator, "describe", "record {}".format)(index)


def check_divides(key: str, batch_size: int, parts: int) -> None:
    """Raises UserError, naming `key`, unless the mesh and accumulation divide a batch evenly.

    Args:
      key: of the configuration, that the size comes from.
      batch_size: samples of a global batch.
      parts: slice x data x fsdp x accumulation.
    """
    if batch_size % parts:
        raise UserError(
            f"{key}={batch_size} must be a multiple of slice x data x fsdp x accumulation = {parts}"
        )


def check_batch(batch: Mapping[str, Any], model: DiTConfig) -> None:
    """Checks the shapes and kinds of a batch, before a step is compiled for it.

    Numbers that are not finite are found by the step, which names their records.

    Args:
      batch: real or abstract; latents [B, S, t, h, w, C], modality [B, S] and context [B, S, L, D].
      model: what it goes to.

    Raises:
      UserError: the model does not take it.
    """
    latents, modality, context = (batch[key] for key in ("latents", "modality", "context"))
    rows, streams = np.shape(latents)[:2]
    try:
        chex.assert_shape(latents, (rows, streams, None, None, None, model.in_channels))
        chex.assert_shape(modality, (rows, streams))
        chex.assert_shape(context, (rows, streams, None, model.text_dim))
        chex.assert_type([latents, modality, context], [float, int, float])
    except AssertionError as error:
        raise UserError(
            f"the batches of config.data do not fit config.model: {error}; use the data that was "
            "prepared for this model, or give the model its in_channels and text_dim"
        ) from error


def abstract_batch(batch: Mapping[str, Any], latents: tuple[int, ...]) -> dict[str, Any]:
    """Returns a batch laid out on the devices as another is, with latents of another shape.

    Args:
      batch: of the same iterator.
      latents: [B, S, t, h, w, C].
    """
    shapes = {
        name: latents if name == "latents" else (*latents[:2], *array.shape[2:])
        for name, array in batch.items()
    }
    return {
        name: jax.ShapeDtypeStruct(shapes[name], array.dtype, sharding=array.sharding)
        for name, array in batch.items()
    }


def not_finite(
    samples: Float[np.ndarray, "b"],
    index: Int[np.ndarray, "n"],
    first: int,
    describe: Callable[[int], str],
) -> str:
    """Returns which losses of a step are not finite and what to do about it, in words.

    Args:
      samples: loss of each sample of the global batch.
      index: records of this process's rows.
      first: of these rows in the global batch.
      describe: a record in words.
    """
    bad = ~np.isfinite(samples)
    lower = "lower config.optimizer.learning_rate"
    if not bad.any():
        return f"the gradient is not finite, though each record's loss is; {lower}"
    if bad.all() and len(bad) > 1:
        return f"the loss of all {len(bad)} records is not finite; {lower}"
    own = index[bad[first : first + len(index)]].tolist()
    names = ", ".join(map(describe, own[:3])) or "a record that another process reads"
    more = f" and {len(own) - 3} more" if len(own) > 3 else ""
    return (
        f"the loss of {names}{more} is not finite, and that of the others is; look at what it "
        f"holds, or {lower}"
    )
