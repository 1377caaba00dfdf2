"""The start of a run that trains adapters: the weights of another run, which it freezes."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from unityvideo_jax.checkpoints import sources
from unityvideo_jax.errors import UserError
from unityvideo_jax.models import backbone, quantised
from unityvideo_jax.models.dit import DiTConfig
from unityvideo_jax.models.lora import ADAPTER, LoraConfig
from unityvideo_jax.training.state import TrainState


def check(lora: LoraConfig, source: str | None) -> None:
    """Raises UserError if adapters would have nothing to stand beside."""
    if lora.rank and not source:
        raise UserError(
            f"config.lora.rank={lora.rank} trains adapters beside frozen weights: set "
            "config.init_from to a pretrained model, or to the workdir of a conversion or run"
        )


def load_base(
    state: TrainState,
    model: DiTConfig,
    lora: LoraConfig,
    source: str | os.PathLike,
    fallback: bool = False,
    *,
    fresh: bool,
    log: Callable[[str], None] = print,
) -> TrainState:
    """Returns a state with its frozen weights read, one at a time, and held as `lora.base` says.

    Args:
      state: as `state.create` makes it, or restored; its frozen parts are shapes and shardings.
      model: of `state`.
      lora: what trains.
      source, fallback: as `sources.base` takes them.
      fresh: whether the run starts: then the model's own weights that train are read too.
      log: takes a line for modalities that the source lacks, and for those that it alone has.

    Raises:
      UserError: no checkpoint there, a damaged one, or one of another model.
    """
    base = sources.base(source, model, fallback)
    for line in backbone.differences(model, base.source.model, source):
        log(line)
    stored = base.stored()
    frozen: dict[tuple, Any] = {}
    shapes = dict(nnx.to_flat_state(state.frozen))
    for path, leaf in shapes.items():
        if path[-2:] == ("quantised", "codes"):
            scales = (*path[:-1], "scales")
            kernel = stored[_name((*path[:-2], "kernel"))]
            like = (leaf.get_value(), shapes[scales].get_value())
            both = _quantised(kernel, lora.base, *like)
            frozen[path], frozen[scales] = leaf.replace(both[0]), shapes[scales].replace(both[1])
        elif path[-2:] != ("quantised", "scales"):
            frozen[path] = leaf.replace(_read(stored, path, leaf.get_value()))
    state = dataclasses.replace(state, frozen=nnx.from_flat_state(frozen))
    if not fresh:
        return state
    params = {
        path: leaf if ADAPTER in path else leaf.replace(_read(stored, path, leaf[...]))
        for path, leaf in nnx.to_flat_state(state.params)
    }
    params = nnx.from_flat_state(params)
    ema = None if state.ema is None else jax.tree.map(jnp.copy, params)
    return dataclasses.replace(state, params=params, ema=ema)


def _name(path: tuple) -> str:
    return ".".join(map(str, path))


def _put(value: np.ndarray, like: Any) -> jax.Array:
    return jax.make_array_from_callback(value.shape, like.sharding, lambda index: value[index])


def _read(stored: Mapping[str, Any], path: tuple, like: Any) -> jax.Array:
    """A stored array in the type and the layout of another; the host holds it in that type.

    Those of the blocks are stacks, read a layer at a time.
    """
    array = stored[_name(path)]
    if path[0] != "blocks":
        return _put(np.asarray(array).astype(like.dtype), like)
    value = np.empty(like.shape, like.dtype)
    for layer in range(len(value)):
        value[layer] = np.asarray(array[layer])
    return _put(value, like)


def _quantised(kernel: Any, kind: str, *like: Any) -> tuple[jax.Array, jax.Array]:
    """Codes and scales of a stored stack of kernels, one layer at a time."""
    both = [np.empty(leaf.shape, leaf.dtype) for leaf in like]
    quantise = jax.jit(quantised.quantise, static_argnums=1)
    for layer in range(kernel.shape[0]):
        parts = quantise(np.asarray(kernel[layer]), kind)
        for whole, part in zip(both, parts, strict=True):
            whole[layer] = part
    return tuple(_put(whole, leaf) for whole, leaf in zip(both, like, strict=True))


def identity(source: str | os.PathLike) -> dict[str, str | None]:
    """Returns the fingerprint of the weights that adapters stand beside, for a run's record."""
    return {"init_from": sources.find(source).fingerprint()}
