"""Bytes of a model's weights on each device, those that train and those that are frozen."""

import collections
import dataclasses
import functools
import math
from collections.abc import Mapping

from flax import nnx

from unityvideo_jax.models import build
from unityvideo_jax.models.config import DiTConfig
from unityvideo_jax.models.lora import LoraConfig
from unityvideo_jax.parallel.rules import AxisRules


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
    """Weights on one device.

    Attributes:
      kernels: numbers that train in the blocks' matrices.
      rest: all others that train, adapters among them.
      frozen: bytes of frozen weights.
      frozen_kernels: numbers in the blocks' frozen matrices, whatever they are held in.
    """

    kernels: int
    rest: int
    frozen: int
    frozen_kernels: int


def weights_of(model: DiTConfig, lora: LoraConfig, mesh: Mapping[str, int]) -> Weights:
    """Counts the weights that each device holds of a model; no array is made.

    Raises:
      UserError: a pattern of `lora` that nothing matches.
    """
    found: collections.Counter[str] = collections.Counter()
    plain = dataclasses.replace(model, remat="full", attention_parallel="ulysses")
    for (kind, axes), size in _counts(plain, lora).items():
        found[kind] += size // math.prod(mesh[axis] for axis in axes)
    return Weights(**{field.name: found[field.name] for field in dataclasses.fields(Weights)})


@functools.lru_cache(maxsize=8)
def _counts(model: DiTConfig, lora: LoraConfig) -> dict[tuple[str, tuple[str, ...]], int]:
    """Amounts by (field of `Weights`, mesh axes that split them)."""
    _, whole = build.abstract_transformer(model, lora)
    trained, frozen = nnx.split_state(whole, lora.trains, ...)
    counts, rules = collections.Counter(), AxisRules()
    for state, is_trained in ((trained, True), (frozen, False)):
        for path, weight in nnx.to_flat_state(state):
            axes = tuple(axis for axis in rules.spec(weight.get_metadata("logical_axes")) if axis)
            in_kernel = path[0] == "blocks" and path[-1] in ("kernel", "codes")
            if is_trained:
                counts["kernels" if in_kernel else "rest", axes] += weight.size
                continue
            counts["frozen", axes] += weight.size * weight.dtype.itemsize
            if in_kernel:
                packed = 2 if str(weight.dtype) == "uint8" else 1
                counts["frozen_kernels", axes] += packed * weight.size
    return dict(counts)
