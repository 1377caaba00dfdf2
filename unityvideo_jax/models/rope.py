"""Rotary position embedding over (time, height, width) of streams placed side by side."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

RopeTable = tuple[Float[Array, "*tokens half"], Float[Array, "*tokens half"]]


def axis_sizes(head_dim: int) -> tuple[int, int, int]:
    """Share of a head's features that rotate with time, height and width.

    Wan 2.1: 44, 42, 42 of 128. Each is even because pairs rotate.
    """
    spatial = 2 * (head_dim // 6)
    return head_dim - 2 * spatial, spatial, spatial


def rope_table(
    head_dim: int, streams: int, grid: tuple[int, int, int], theta: float = 1e4
) -> RopeTable:
    """Cosine and sine of every token's angles, tokens ordered (stream, time, height, width).

    The streams share one grid, laid out along the width: stream s covers the columns s*w to
    (s+1)*w - 1 (UnityVideo sec. 3.2; public release).

    Args:
      head_dim: features of a head.
      streams: number of streams S.
      grid: tokens of one stream along (time, height, width).
      theta: base of the frequencies.

    Returns:
      (cos, sin), float32 [S*t*h*w, head_dim // 2].
    """
    t, h, w = grid
    # Angles per axis are made in float64: at position 1000, float32 would already be off by 1e-4.
    tables = []
    for length, size in zip((t, h, streams * w), axis_sizes(head_dim), strict=True):
        frequencies = theta ** (-np.arange(0, size, 2, dtype=np.float64) / max(size, 1))
        angles = np.outer(np.arange(length), frequencies)
        tables.append(np.stack([np.cos(angles), np.sin(angles)]).astype(np.float32))
    time, height, width = tables
    # Broadcast inside the program, not here: the full table would be a large constant in it.
    lead = (2, streams, t, h, w)
    parts = [
        jnp.broadcast_to(jnp.asarray(time)[:, None, :, None, None], (*lead, time.shape[-1])),
        jnp.broadcast_to(jnp.asarray(height)[:, None, None, :, None], (*lead, height.shape[-1])),
        jnp.broadcast_to(
            jnp.asarray(width).reshape(2, streams, 1, 1, w, -1), (*lead, width.shape[-1])
        ),
    ]
    table = jnp.concatenate(parts, axis=-1).reshape(2, streams * t * h * w, head_dim // 2)
    return table[0], table[1]


def apply_rope(
    x: Float[Array, "b *n d"], table: RopeTable, scale: Float[Array, " d"] | None = None
) -> Float[Array, "b *n d"]:
    """`x * scale` with the feature pairs (2i, 2i+1) of every head rotated by the table's angles.

    Args:
      x: features of one head, or of several one after another, of any type.
      table: angles of the tokens.
      scale: float32, of the features; None is one.

    Returns:
      float32.
    """
    scale = jnp.ones(x.shape[-1], jnp.float32) if scale is None else scale
    # The same sums and products. By XLA's own estimate of two layers, a TPU needs a tenth less time
    # and a fifth less memory for the first; a GPU writes no arrays of halves for the second.
    return jax.lax.platform_dependent(x, scale, *table, tpu=_by_halves, default=_by_partners)


def _by_halves(x, scale, cos, sin):
    heads = (x.astype(jnp.float32) * scale).reshape(*x.shape[:-1], -1, cos.shape[-1], 2)
    even, odd = heads[..., 0], heads[..., 1]
    cos, sin = cos[..., None, :], sin[..., None, :]
    turned = jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
    return turned.reshape(x.shape)


def _by_partners(x, scale, cos, sin):
    def swap(x):
        return x.reshape(*x.shape[:-1], -1, 2)[..., ::-1].reshape(x.shape)

    # The tables are read in their own size; multiplied by anything, they would be written as wide
    # as the features.
    heads = x.shape[-1] // (2 * cos.shape[-1])
    cos, sin = (jnp.tile(jnp.repeat(part, 2, axis=-1), heads) for part in (cos, sin))
    partners = swap(x).astype(jnp.float32) * swap(scale)
    is_even = jax.lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 1) % 2 == 0
    return x.astype(jnp.float32) * scale * cos + jnp.where(is_even, -partners, partners) * sin
