"""Noise that a clip meets again in every evaluation, whatever else is in its batch."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from unityvideo_jax.sampling.generate import stream_noise


def clip_keys(seed: int, *numbers: Int[Array, " b"]) -> Key[Array, " b"]:
    """One key per clip: the seed's, folded with each number of the clip in turn."""
    keys = jnp.broadcast_to(jax.random.key(seed), numbers[0].shape)
    for number in numbers:
        keys = jax.vmap(jax.random.fold_in)(keys, number)
    return keys


def noise_of(
    keys: Key[Array, " b"], draw: Int[Array, ""], shape: tuple[int, ...]
) -> Float[Array, "b s t h w c"]:
    """Draws N(0, I) for each clip's streams, for one of its draws.

    Args:
      keys: of the clips.
      draw: number of the draw.
      shape: [B, S, t, h, w, C].
    """
    drawn = jax.vmap(jax.random.fold_in)(keys, jnp.broadcast_to(draw, keys.shape))
    return stream_noise(drawn, shape, 0)
