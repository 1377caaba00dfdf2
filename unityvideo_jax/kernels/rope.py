"""Rotary position embedding over (time, height, width) of streams placed side by side."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

RopeTable = tuple[Float[Array, "*tokens half"], Float[Array, "*tokens half"]]
# Of whole streams, beside a table of tokens.
ColumnTable = tuple[Float[Array, "*columns half"], Float[Array, "*columns half"]]


def axis_sizes(head_dim: int) -> tuple[int, int, int]:
    """Returns the numbers of a head's features that rotate with time, height and width.

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


def column_table(head_dim: int, columns: Int[np.ndarray, " n"], theta: float = 1e4) -> ColumnTable:
    """Returns cosine and sine of the angles of `columns` to the right: they turn with width alone.

    Args:
      head_dim: features of a head.
      columns: tokens along the width.
      theta: base of the frequencies.

    Returns:
      (cos, sin), float32 [n, head_dim // 2].
    """
    size = axis_sizes(head_dim)[2]
    frequencies = theta ** (-np.arange(0, size, 2, dtype=np.float64) / max(size, 1))
    angles = np.zeros((len(columns), head_dim // 2))
    angles[:, angles.shape[1] - size // 2 :] = np.outer(columns, frequencies)
    return jnp.asarray(np.cos(angles), jnp.float32), jnp.asarray(np.sin(angles), jnp.float32)


def apply_rope(x: Float[Array, "b *n d"], table: RopeTable) -> Float[Array, "b *n d"]:
    """Returns the feature pairs (2i, 2i+1) of every head rotated by the table's angles.

    Args:
      x: features of one head, or of several one after another, of any type.
      table: angles of the tokens.

    Returns:
      float32.
    """
    cos, sin = (part[..., None, :] for part in table)
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, cos.shape[-1], 2)
    even, odd = pairs[..., 0], pairs[..., 1]
    turned = jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
    return turned.reshape(x.shape)
