"""Rays against capsules, boxes, balls, cylinders, the ground and walls, in closed form."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from unityvideo_jax.worlds import looks
from unityvideo_jax.worlds.bodies import PARTS
from unityvideo_jax.worlds.looks import MAX_ACTORS, MAX_OBJECTS
from unityvideo_jax.worlds.pytree import pytree
from unityvideo_jax.worlds.vector import Vec

NUM_LIMBS = MAX_ACTORS * PARTS
NUM_SOLIDS = NUM_LIMBS + MAX_OBJECTS
GROUND, WALL_0, WALL_1, SKY = range(NUM_SOLIDS, NUM_SOLIDS + 4)
FAR = 200.0  # metres; farther than this there is only sky


@pytree
class Solids:
    """Every limb, then every object, frame by frame, for rays to meet.

    A solid is the image of a unit shape: local = inverse (world - centre). Limbs are capsules of
    radius 1 about a segment of half length `half` along z; objects have extents -1..1.

    Attributes:
      inverse: 3x3 maps from world to local axes.
      centre: metres.
      half: half length of a limb's segment in local units; 0 for objects.
      size: mean radius in metres, which turns local distances into penumbrae.
      shape: of objects, index into looks.OBJECT_NAMES.
      active: whether an object slot is used.
      clear: whether an object lets most light through.
      someone: actor slots that any clip of the batch uses; the others are skipped.
      walls, wall_distance, wall_height: which of two walls stand, and where, in metres.
    """

    inverse: Float[Array, "b t n 3 3"]
    centre: Float[Array, "b t n 3"]
    half: Float[Array, "b t n"]
    size: Float[Array, "b t n"]
    shape: Int[Array, "b o"]
    active: Bool[Array, "b o"]
    clear: Bool[Array, "b o"]
    someone: Bool[Array, " a"]
    walls: Bool[Array, "b 2"]
    wall_distance: Float[Array, "b 2"]
    wall_height: Float[Array, " b"]

    def frames(self, start: int, stop: int) -> "Solids":
        """Returns the frames [start, stop)."""
        return self.each_frame(lambda x: x[:, start:stop])

    def each_frame(self, cut: Callable[[Array], Array]) -> "Solids":
        """Applies `cut` to the arrays that change from frame to frame."""
        names = ("inverse", "centre", "half", "size")
        return dataclasses.replace(self, **{name: cut(getattr(self, name)) for name in names})


class _Limb(NamedTuple):
    """One limb (or object) for all rays; every leaf broadcasts against [b, t, rays]."""

    inverse: Any
    centre: Any
    half: Any
    size: Any


def _rows(solids: Solids, start: int, stop: int) -> _Limb:
    """Parameters as [n, ..., b, t, 1], so that a loop over n reads one contiguous slice."""

    def leading(x: Array) -> Array:
        x = x[:, :, start:stop]
        return jnp.moveaxis(x.reshape(*x.shape[:3], -1), (2, 3), (0, 1))[..., None]

    return _Limb(*[leading(getattr(solids, f)) for f in _Limb._fields])


def _into(limb: _Limb, origin: Vec, direction: Vec) -> tuple[Vec, Vec]:
    m = limb.inverse
    offset = origin - Vec(*[limb.centre[i] for i in range(3)])
    rows = [Vec(m[3 * i], m[3 * i + 1], m[3 * i + 2]) for i in range(3)]
    return Vec(*[r.dot(offset) for r in rows]), Vec(*[r.dot(direction) for r in rows])


def hit_capsule(origin: Vec, direction: Vec, half: Any) -> Any:
    """Returns the first t > 0 at which the ray meets a unit capsule along z; +inf if it misses."""
    squared = direction.dot(direction)
    # Start next to the capsule: the quadratics then lose no digits to a far origin.
    start = -origin.dot(direction) / squared
    near = origin + direction * start
    a = jnp.maximum(direction.x**2 + direction.y**2, 1e-12)
    b = near.x * direction.x + near.y * direction.y
    c = near.x**2 + near.y**2 - 1.0
    inside = b * b - a * c
    t = (-b - jnp.sqrt(jnp.maximum(inside, 0.0))) / a
    z = near.z + t * direction.z
    cap = Vec(near.x, near.y, near.z - jnp.sign(z) * half)
    cap_b = cap.dot(direction)
    cap_inside = cap_b**2 - squared * (cap.dot(cap) - 1.0)
    cap_t = (-cap_b - jnp.sqrt(jnp.maximum(cap_inside, 0.0))) / squared
    on_side = jnp.abs(z) < half
    t = start + jnp.where(on_side, t, cap_t)
    hit = (inside > 0.0) & (on_side | (cap_inside > 0.0)) & (t > 1e-4)
    return jnp.where(hit, t, jnp.inf)


def interval(origin: Vec, direction: Vec, shape: Any) -> tuple[Any, Any]:
    """T where a ray enters and leaves a unit box, ball or cylinder; a miss has enter > leave."""
    tiny = 1e-9
    inverse = Vec(*[1.0 / jnp.where(jnp.abs(d) < tiny, tiny, d) for d in direction])
    low, high = [], []
    for o, i in zip(origin, inverse, strict=True):
        low.append(-o * i - jnp.abs(i))
        high.append(-o * i + jnp.abs(i))
    ball = shape == looks.BALL
    # A ball is x²+y²+z² < 1, a cylinder's side the same without z.
    keep = jnp.where(ball, 1.0, 0.0)
    flat = Vec(origin.x, origin.y, origin.z * keep)
    course = Vec(direction.x, direction.y, direction.z * keep)
    a = jnp.maximum(course.dot(course), 1e-12)
    start = -flat.dot(course) / a
    near = flat + course * start
    inside = a * (1.0 - near.dot(near))
    root = jnp.sqrt(jnp.maximum(inside, 0.0)) / a
    # Missing by much must look like missing by much: soft shadows measure by it.
    root = jnp.where(inside > 0.0, root, -jnp.sqrt(jnp.maximum(-inside, 0.0)) / a)
    round_in, round_out = start - root, start + root
    box = shape == looks.BOX
    enter = jnp.where(box, jnp.maximum(low[0], low[1]), round_in)
    leave = jnp.where(box, jnp.minimum(high[0], high[1]), round_out)
    enter = jnp.where(ball, enter, jnp.maximum(enter, low[2]))
    leave = jnp.where(ball, leave, jnp.minimum(leave, high[2]))
    return enter, leave


def _hit_planes(solids: Solids, origin: Vec, direction: Vec) -> list[tuple[Any, int]]:
    hits = []

    def along(component: Any, offset: Any) -> Any:
        safe = jnp.where(jnp.abs(component) < 1e-9, 1e-9, component)
        t = offset / safe
        return jnp.where(t > 1e-4, t, jnp.inf)

    t = along(direction.z, -origin.z)
    hits.append((jnp.where(t < FAR, t, jnp.inf), GROUND))
    for wall, name in enumerate("yx"):
        distance = solids.wall_distance[:, wall][:, None, None]
        t = along(getattr(direction, name), distance - getattr(origin, name))
        z = origin.z + jnp.where(jnp.isfinite(t), t, 0.0) * direction.z
        shown = solids.walls[:, wall][:, None, None] & (t < FAR)
        shown = shown & (z < solids.wall_height[:, None, None]) & (z > -1e-3)
        hits.append((jnp.where(shown, t, jnp.inf), WALL_0 + wall))
    return hits


def _unroll() -> int:
    # Fewer, larger loop bodies spare an accelerator trips to memory; a CPU has its cache.
    return 1 if jax.default_backend() == "cpu" else 6


def nearest(
    solids: Solids, origin: Vec, direction: Vec
) -> tuple[Float[Array, "b t r"], Int[Array, "b t r"]]:
    """Finds the first surface that each ray meets.

    Args:
      solids: for the rays' frames.
      origin, direction: broadcast to [b, t, rays]; the direction need not be a unit vector.

    Returns:
      t in units of the direction (+inf for sky), and which: a limb or object, GROUND, WALL_0,
      WALL_1 or SKY.
    """
    rays = jnp.broadcast_shapes(origin.x.shape, direction.x.shape)
    far = jnp.full(rays, jnp.inf, jnp.float32)
    best, which = far, jnp.full(rays, SKY, jnp.int32)
    for t, name in _hit_planes(solids, origin, direction):
        closer = t < best
        best, which = jnp.where(closer, t, best), jnp.where(closer, name, which)

    def limb_step(carry: tuple, xs: tuple) -> tuple[tuple, None]:
        limb, name = xs
        local = _into(limb, origin, direction)
        t = hit_capsule(*local, limb.half[0])
        closer = t < carry[0]
        return (jnp.where(closer, t, carry[0]), jnp.where(closer, name, carry[1])), None

    def actor_step(carry: tuple, xs: tuple) -> tuple[tuple, None]:
        limbs, names, someone = xs
        scan = lambda c: jax.lax.scan(limb_step, c, (limbs, names), unroll=_unroll())[0]  # noqa: E731
        return jax.lax.cond(someone, scan, lambda c: c, carry), None

    limbs = jax.tree.map(
        lambda x: x.reshape(MAX_ACTORS, PARTS, *x.shape[1:]), _rows(solids, 0, NUM_LIMBS)
    )
    names = jnp.arange(NUM_LIMBS, dtype=jnp.int32).reshape(MAX_ACTORS, PARTS)
    carry, _ = jax.lax.scan(actor_step, (best, which), (limbs, names, solids.someone))

    def thing_step(carry: tuple, xs: tuple) -> tuple[tuple, None]:
        thing, shape, active, name = xs
        enter, leave = interval(*_into(thing, origin, direction), shape)
        hit = active & (enter < leave) & (enter > 1e-4) & (enter < carry[0])
        return (jnp.where(hit, enter, carry[0]), jnp.where(hit, name, carry[1])), None

    things = _rows(solids, NUM_LIMBS, NUM_SOLIDS)
    shapes, active = (x.T[:, :, None, None] for x in (solids.shape, solids.active))
    names = jnp.arange(NUM_LIMBS, NUM_SOLIDS, dtype=jnp.int32)
    (best, which), _ = jax.lax.scan(thing_step, carry, (things, shapes, active, names))
    return best, which


def light(
    solids: Solids, point: Vec, normal: Vec, sun: Vec, radius: Any
) -> tuple[Float[Array, "b t r"], Float[Array, "b t r"]]:
    """Returns the share of the sun that reaches each point, and of the sky (ambient occlusion).

    Shadows are soft: a solid that the ray misses by less than the sun's angular radius times the
    way to it hides a part of the sun. The sky is hidden by each solid in proportion to the inverse
    square of its distance, which darkens where things touch the ground.

    Args:
      solids: for the rays' frames.
      point, normal: of surfaces, [b, t, rays]; points slightly off their own surface.
      sun: unit direction towards the sun, broadcast to [b, t, rays].
      radius: of the sun in radians, broadcast likewise.
    """
    ones = jnp.ones_like(point.x + sun.x)

    def sky_share(limb: _Limb, gap: Any) -> Any:
        to = Vec(*[limb.centre[i] for i in range(3)]) - point
        facing = to.dot(normal) * jax.lax.rsqrt(jnp.maximum(to.dot(to), 1e-9))
        return 1.0 - 0.55 * jnp.clip(facing, 0.0, 1.0) / (1.0 + gap) ** 2

    def limb_step(carry: tuple, limb: _Limb) -> tuple[tuple, None]:
        sunlight, sky = carry
        half = limb.half[0]
        o, d = _into(limb, point, sun)
        squared = d.dot(d)
        # Nearest approach of the ray to the axis: on the infinite line, then on the segment.
        t = -(o.x * d.x + o.y * d.y) / jnp.maximum(d.x**2 + d.y**2, 1e-9)
        z = jnp.clip(o.z + t * d.z, -half, half)
        t = -(o.dot(d) - z * d.z) / squared
        z = jnp.clip(o.z + t * d.z, -half, half)
        miss = Vec(o.x + t * d.x, o.y + t * d.y, o.z + t * d.z - z)
        gap = (jnp.sqrt(miss.dot(miss)) - 1.0) * limb.size[0]
        width = jnp.maximum(radius * t, 4e-3)
        shade = jnp.clip(0.5 + 0.5 * gap / width, 0.0, 1.0)
        shade = jnp.where(t > 0.02, shade, 1.0)
        near = Vec(o.x, o.y, o.z - jnp.clip(o.z, -half, half))
        away = jnp.maximum(jnp.sqrt(near.dot(near)) - 1.0, 0.0)
        return (jnp.minimum(sunlight, shade), sky * sky_share(limb, away)), None

    def actor_step(carry: tuple, xs: tuple) -> tuple[tuple, None]:
        limbs, someone = xs
        scan = lambda c: jax.lax.scan(limb_step, c, limbs, unroll=_unroll())[0]  # noqa: E731
        return jax.lax.cond(someone, scan, lambda c: c, carry), None

    limbs = jax.tree.map(
        lambda x: x.reshape(MAX_ACTORS, PARTS, *x.shape[1:]), _rows(solids, 0, NUM_LIMBS)
    )
    carry, _ = jax.lax.scan(actor_step, (ones, ones), (limbs, solids.someone))

    def thing_step(carry: tuple, xs: tuple) -> tuple[tuple, None]:
        sunlight, sky = carry
        thing, shape, active, clear = xs
        o, d = _into(thing, point, sun)
        enter, leave = interval(o, d, shape)
        # The chord's length stands for how deep the ray passes under the edge.
        width = jnp.maximum(2.0 * radius * jnp.maximum(leave, 0.0), 8e-3)
        shade = jnp.clip(0.5 - 0.5 * (leave - enter) / width, 0.0, 1.0)
        shade = jnp.where(active & (leave > 0.01), shade, 1.0)
        shade = jnp.where(clear, 0.65 + 0.35 * shade, shade)
        out = Vec(*[jnp.maximum(jnp.abs(c) - 1.0, 0.0) for c in o])
        share = sky_share(thing, 1.5 * jnp.sqrt(out.dot(out)))
        share = jnp.where(active, jnp.where(clear, 0.5 + 0.5 * share, share), 1.0)
        return (jnp.minimum(sunlight, shade), sky * share), None

    things = _rows(solids, NUM_LIMBS, NUM_SOLIDS)
    per_thing = tuple(x.T[:, :, None, None] for x in (solids.shape, solids.active, solids.clear))
    carry, _ = jax.lax.scan(thing_step, carry, (things, *per_thing))
    return carry
