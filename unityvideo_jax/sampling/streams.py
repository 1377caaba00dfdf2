"""Streams as a user sees them: names in the model's order, sizes that it takes, what comes out."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from unityvideo_jax.errors import UserError

# Strides of the Wan 2.1 VAE: the first frame alone, then groups of four; 8 x 8 pixels.
TIME_STRIDE, SPACE_STRIDE = 4, 8

RGB = "rgb"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Samples:
    """What one call made.

    Attributes:
      videos: per stream, f32 [B,T,H,W,3] in [-1, 1]: sampled and decoded where wanted, as passed in
        where given.
      latents: per stream, f32 [B,t,h,w,C].
      streams: names in the model's order.
    """

    videos: dict[str, Float[np.ndarray, "b t h w 3"]]
    latents: dict[str, Float[np.ndarray, "b lt lh lw c"]]
    streams: tuple[str, ...]


def check_size(num_frames: int, height: int, width: int, patch: int = 2) -> None:
    """Raises UserError unless the VAE and the model's patches can take this size."""
    if num_frames < 1 or num_frames % TIME_STRIDE != 1:
        below = max(num_frames - 1, 0) // TIME_STRIDE * TIME_STRIDE + 1
        raise UserError(
            f"num_frames={num_frames}: the VAE takes 4n+1 frames; use {below} or {below + 4}"
        )
    multiple = SPACE_STRIDE * patch
    for name, size in (("height", height), ("width", width)):
        if size < multiple or size % multiple:
            below = max(size // multiple, 1) * multiple
            raise UserError(
                f"{name}={size}: must be a multiple of {multiple} pixels; "
                f"use {below} or {below + multiple}"
            )


def stream_order(names: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """RGB first, then the order of the model's modalities, whatever order a user names them in.

    Raises:
      UserError: a name that the model does not have, or one named twice.
    """
    for name in names:
        if name not in known:
            raise UserError(f"modality {name!r}: this model knows {', '.join(known)}")
    if len(set(names)) != len(names):
        raise UserError(f"streams {', '.join(names)}: a modality is either given or wanted, once")
    return tuple(sorted(names, key=known.index))
