"""Adapters of files on our transformer: merged into its weights, or beside its layers."""

import collections
import dataclasses
import pathlib
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from unityvideo_jax.errors import UserError
from unityvideo_jax.interop import wan_keys
from unityvideo_jax.interop.lora import AdapterFile, Change
from unityvideo_jax.models.dit import DiT, DiTConfig
from unityvideo_jax.models.lora import attach, linears


def merge_into(params: nnx.State, adapters: Iterable[tuple[AdapterFile, float]]) -> nnx.State:
    """Merges adapters, each times its weight, into the weights of a transformer.

    Args:
      params: float32.
      adapters: of `open_adapter`, and their weights.
    """
    changes = collections.defaultdict(list)
    for adapter, weight in adapters:
        for change in adapter.changes:
            changes[change.entry.ours].append((change, weight))
    flat = dict(nnx.to_flat_state(params))
    for path, leaf in flat.items():
        if found := changes.get(".".join(map(str, path))):
            flat[path] = leaf.replace(_added(leaf[...], found))
    return nnx.from_flat_state(flat)


def _added(array: Any, changes: Iterable[tuple[Change, float]]) -> Any:
    """One weight with its changes, on the device where it is."""
    value = np.array(array, np.float32)
    for change, weight in changes:
        part = np.float32(weight) * change.value()
        for place in change.entry.places:
            value[place] += part
    return jax.device_put(value, array.sharding)


def apply(model: DiT, adapters: Iterable[tuple[AdapterFile, float]]) -> DiT:
    """Puts adapters beside a transformer's layers, applied at run time; its kernels stay.

    Args:
      model: without adapters; it is not changed.
      adapters: of `open_adapter`, and their weights. What they change elsewhere than in kernels of
        linear layers is merged.

    Raises:
      UserError: a model that has adapters already.
    """
    if model.adapters:
        raise UserError("the model has adapters of its own beside its layers: merge these instead")
    layers, rest = low_rank(adapters, model.config)
    whole = AdapterFile(path=pathlib.Path(), what="", changes=tuple(rest))
    adapted = nnx.merge(nnx.graphdef(model), merge_into(nnx.state(model), [(whole, 1.0)]))
    attach(adapted, {path: down.shape[-1] for path, (down, _) in layers.items()}, rngs=nnx.Rngs(0))
    found = linears(adapted)
    for path, (down, up) in layers.items():
        found[path].adapter.down.set_value(jnp.asarray(down))
        found[path].adapter.up.set_value(jnp.asarray(up))
    return adapted


def low_rank(
    adapters: Iterable[tuple[AdapterFile, float]], config: DiTConfig
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], list[Change]]:
    """Joins several adapters to one beside each stacked layer, to be applied at run time.

    Their ranks add up; where a layer has a lower rank than others, the rest is zero.

    Returns:
      (down [*layers, in, r], up [*layers, r, out]) by path of our linear layer, with scales and
      weights in `up`; and the changes that have no place beside a linear layer, to be merged.
    """
    linears = {
        ours.removesuffix(".kernel")
        for ours, weight in wan_keys.weights(config).items()
        if ours.endswith(".kernel") and "modality" not in weight.axes
    }
    parts: dict[str, dict[tuple[int, ...], list]] = {}
    rest = []
    for adapter, weight in adapters:
        for change in adapter.changes:
            path = change.entry.ours.removesuffix(".kernel")
            if change.down is None or path not in linears:
                diff = change.value() * np.float32(weight)
                rest.append(dataclasses.replace(change, diff=change.entry.to_theirs(diff)))
                continue
            up = change.up.astype(np.float32) * np.float32(weight * change.scale)
            parts.setdefault(path, {}).setdefault(change.entry.places[0], []).append(
                (change.down.astype(np.float32).T, up.T)
            )
    stacked = {}
    for path, places in parts.items():
        shape = wan_keys.weights(config)[f"{path}.kernel"].shape
        rank = max(sum(down.shape[1] for down, _ in found) for found in places.values())
        downs = np.zeros((*shape[:-1], rank), np.float32)
        ups = np.zeros((*shape[:-2], rank, shape[-1]), np.float32)
        for place, found in places.items():
            down = np.concatenate([down for down, _ in found], axis=1)
            downs[(*place, slice(None), slice(down.shape[1]))] = down
            ups[(*place, slice(down.shape[1]))] = np.concatenate([up for _, up in found])
        stacked[path] = downs, ups
    return stacked, rest
