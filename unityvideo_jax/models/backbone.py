"""Start a multi-modal transformer from an RGB-only one: a pretrained Wan, or one trained here."""

import jax.numpy as jnp
from flax import nnx

from unityvideo_jax.errors import UserError
from unityvideo_jax.models.dit import DiT


def adopt_backbone(model: DiT, backbone: DiT) -> None:
    """Copy the weights of an RGB-only `backbone` into a fresh `model`, in place.

    A weight that the model has once a modality and the backbone once starts as the same copy for
    all (modulation tables, patch embeddings, heads). What the backbone lacks keeps its value, which
    in a fresh model is zero; so the model then equals the backbone, on the RGB stream exactly.

    Args:
      model: receives the weights.
      backbone: a model with one modality; its switcher is "none".

    Raises:
      UserError: the two differ in a size; nothing has been copied then.
    """
    target = dict(nnx.to_flat_state(nnx.state(model, nnx.Param)))
    source = dict(nnx.to_flat_state(nnx.state(backbone, nnx.Param)))
    copied = {}
    for path, weight in source.items():
        if path not in target:
            raise UserError(f"The backbone has a weight that the model lacks: {'/'.join(path)}.")
        axes, shape = weight.get_metadata("logical_axes"), target[path].shape
        once = tuple(
            1 if axis == "modality" else size for axis, size in zip(axes, shape, strict=True)
        )
        if weight.shape not in (once, shape):
            raise UserError(
                f"Weight {'/'.join(path)} is {weight.shape} in the backbone but {shape} in the "
                "model: give the model the backbone's sizes."
            )
        copied[path] = jnp.broadcast_to(weight[...], shape)
    for path, value in copied.items():
        target[path] = target[path].replace(value)
    nnx.update(model, nnx.from_flat_state(target))
