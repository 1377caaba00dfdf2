"""Colours of surfaces as functions of position; all patterns fade out before they alias."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from unityvideo_jax.worlds import looks
from unityvideo_jax.worlds.vector import Vec


def _hash(x: Array, y: Array) -> Array:
    """A lattice point's pseudo-random number in [0, 1), the same on every backend."""
    n = x.astype(jnp.int32).astype(jnp.uint32) * jnp.uint32(0x9E3779B1)
    n = n ^ (y.astype(jnp.int32).astype(jnp.uint32) * jnp.uint32(0x85EBCA77))
    n = (n ^ (n >> 15)) * jnp.uint32(0x2C1B3C6D)
    n = (n ^ (n >> 12)) * jnp.uint32(0x297A2D39)
    return (n >> 8).astype(jnp.float32) * (1.0 / (1 << 24))


def noise(x: Float[Array, "..."], y: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns smooth noise with features of size 1, in [-1, 1].

    Args:
      x, y: coordinates, of shapes that broadcast.
    """
    x0, y0 = jnp.floor(x), jnp.floor(y)
    u, v = x - x0, y - y0
    u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
    low = _hash(x0, y0) * (1 - u) + _hash(x0 + 1, y0) * u
    high = _hash(x0, y0 + 1) * (1 - u) + _hash(x0 + 1, y0 + 1) * u
    return 2.0 * (low * (1 - v) + high * v) - 1.0


def square_wave(x: Float[Array, "..."], blur: Any) -> Float[Array, "..."]:
    """A square wave of -1 and 1, period 2, box-filtered over about `blur`, which fades to 0."""
    triangle = 4.0 * jnp.abs(x / 2 - jnp.floor(x / 2) - 0.5) - 1.0
    return jnp.clip(triangle * jnp.clip(0.7 / jnp.maximum(blur, 1e-3), 0.0, 40.0), -1.0, 1.0)


def fade(blur: Any) -> Float[Array, "..."]:
    """Returns the contrast left to a pattern of which a pixel covers `blur` features."""
    return jnp.clip(1.3 - 1.6 * blur, 0.0, 1.0)


def lines(x: Float[Array, "..."], width: Any, blur: Any) -> Float[Array, "..."]:
    """Draws lines of `width` at integers: 1 on them, 0 between; paler where a pixel widens them."""
    distance = jnp.abs(x - jnp.round(x))
    wide = jnp.maximum(width, blur)
    return jnp.clip(1.5 - distance / (0.5 * wide), 0.0, 1.0) * jnp.clip(width / wide, 0.0, 1.0)


def mix(a: Vec, b: Vec, share: Any) -> Vec:
    """Interpolates from a (share 0) to b (share 1)."""
    return a + (b - a) * share


def ground_share(
    style: Int[Array, "..."], scale: Float[Array, "..."], x: Float[Array, "..."],
    y: Float[Array, "..."], blur: Float[Array, "..."],
) -> Float[Array, "..."]:  # fmt: skip
    """Returns the share of the second ground colour, in [0, 1].

    Args:
      style: index into looks.GROUNDS.
      scale: size of a tile in metres.
      x, y: place in metres.
      blur: size of a pixel on the ground in metres.
    """
    coarse = noise(0.8 * x, 0.8 * y) * fade(0.8 * blur)
    fine_x = jnp.where(style == looks.WOOD, 1.4, 9.0)
    fine_y = jnp.where(style == looks.WOOD, 22.0, 9.0)
    fine = noise(fine_x * x + 31.0, fine_y * y) * fade(jnp.maximum(fine_x, fine_y) * blur)
    tiles = 0.5 + 0.47 * square_wave(x / scale, blur / scale) * square_wave(y / scale, blur / scale)
    board = jnp.floor(y / 0.22)
    tone = (_hash(board, jnp.floor(x / 1.7 + 0.37 * board)) - 0.5) * fade(blur / 0.22)
    wood = 0.4 + 0.6 * tone + 0.25 * fine + 0.5 * lines(y / 0.22, 0.06, blur / 0.22)
    slabs = jnp.maximum(lines(x / (2 * scale), 0.02, blur / scale / 2),
                        lines(y / (2 * scale), 0.02, blur / scale / 2))  # fmt: skip
    grass = 0.5 + 0.35 * coarse + 0.5 * fine
    concrete = 0.35 + 0.3 * coarse + 0.2 * fine + 0.5 * slabs
    sand = 0.45 + 0.3 * coarse + 0.2 * fine
    share = jnp.select(
        [style == s for s in range(len(looks.GROUNDS))], [tiles, grass, wood, concrete, sand]
    )
    return jnp.clip(share, 0.0, 1.0)


def wall_shade(
    pattern: Int[Array, "..."], along: Float[Array, "..."], z: Float[Array, "..."],
    blur: Float[Array, "..."],
) -> Float[Array, "..."]:  # fmt: skip
    """Returns the brightness of a wall: plaster, bricks, or panels with a skirting board.

    Args:
      pattern: 0, 1 or 2, in the order above.
      along, z: place along the wall and height, in metres.
      blur: size of a pixel on the wall in metres.
    """
    plaster = 1.0 + 0.07 * noise(1.3 * along, 1.3 * z) * fade(1.3 * blur)
    row = jnp.floor(z / 0.16)
    brick = along / 0.42 + 0.5 * jnp.mod(row, 2.0)
    tone = (_hash(jnp.floor(brick), row) - 0.5) * 0.4 * fade(blur / 0.2)
    joints = jnp.maximum(lines(z / 0.16, 0.12, blur / 0.16), lines(brick, 0.05, blur / 0.42))
    bricks = (0.95 + tone) * (1.0 - 0.4 * joints)
    panels = 1.0 - 0.25 * lines(along / 0.8, 0.03, blur / 0.8)
    panels = jnp.where(z < 0.14, 0.55, panels)
    return jnp.select([pattern == 0, pattern == 1], [plaster, bricks], panels)


def sky(direction: Vec, low: Vec, high: Vec, clouds: Any, sun: Vec, sun_colour: Vec) -> Vec:
    """Returns the radiance of the sky in unit directions."""
    up = jnp.maximum(direction.z, 0.0)
    colour = mix(low, high, jnp.sqrt(up))
    x, y = (1.6 * c / (up + 0.12) for c in (direction.x, direction.y))
    cover = noise(x, y) + 0.5 * noise(2.3 * x + 7.0, 2.3 * y)
    cover = jnp.clip(cover + clouds - 0.75, 0.0, 1.0) * jnp.clip(up * 4.0, 0.0, 1.0)
    colour = mix(colour, Vec(0.95, 0.95, 0.96), 0.75 * cover)
    glow = jnp.maximum(direction.dot(sun), 0.0)
    glow = glow**8
    return colour + sun_colour * (0.25 * glow**4)
