"""The points that rays hit: place, normal and solid."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from unityvideo_jax.worlds import looks
from unityvideo_jax.worlds.geometry import (
    GROUND,
    NUM_LIMBS,
    NUM_SOLIDS,
    SKY,
    WALL_0,
    WALL_1,
    Solids,
)
from unityvideo_jax.worlds.pytree import pytree
from unityvideo_jax.worlds.vector import Vec


@pytree
class Surface:
    """Hits of rays [b, t, r]; points in the sky hold finite nonsense.

    Attributes:
      which: limb or object number, GROUND, WALL_0, WALL_1 or SKY.
      solid: `which`, clipped to a solid so that it may index.
      distance: t of the hit; +inf in the sky.
      point, normal: world; the normal faces the ray.
      local: the point in the solid's local units; nonsense off solids.
    """

    which: Int[Array, "b t r"]
    solid: Int[Array, "b t r"]
    distance: Float[Array, "b t r"]
    point: Vec
    normal: Vec
    local: Vec

    @property
    def on_solid(self) -> Bool[Array, "b t r"]:
        """Whether the point lies on a limb or an object."""
        return self.which < NUM_SOLIDS

    @property
    def on_limb(self) -> Bool[Array, "b t r"]:
        """Whether the point lies on a limb."""
        return self.which < NUM_LIMBS


def take(table: Shaped[Array, "b _ n k"], solid: Int[Array, "b t r"]) -> Shaped[Array, "b t r k"]:
    """Returns rows of a table [b, t or 1, n, k] at the solids that rays hit."""
    table = jnp.broadcast_to(table, (*solid.shape[:2], *table.shape[2:]))
    return jnp.take_along_axis(table, solid[..., None], axis=2)


def pose_table(solids: Solids) -> Float[Array, "b t n 12"]:
    """Joins inverse (row by row) and centre of each solid in one row, for one gather."""
    flat = solids.inverse.reshape(*solids.inverse.shape[:3], 9)
    return jnp.concatenate([flat, solids.centre], axis=-1)


def to_local(pose: Float[Array, "b t r 12"], point: Vec) -> Vec:
    """Maps world points to the local units of their solids."""
    offset = point - Vec(pose[..., 9], pose[..., 10], pose[..., 11])
    return Vec(*[Vec(*[pose[..., 3 * i + j] for j in range(3)]).dot(offset) for i in range(3)])


def turn_local(pose: Float[Array, "b t r 12"], direction: Vec) -> Vec:
    """Maps world directions to the local units of their solids."""
    return Vec(*[Vec(*[pose[..., 3 * i + j] for j in range(3)]).dot(direction) for i in range(3)])


def turn_normal(pose: Float[Array, "b t r 12"], normal: Vec) -> Vec:
    """Maps local gradients to unit vectors in the world."""
    columns = [Vec(*[pose[..., 3 * i + j] for i in range(3)]) for j in range(3)]
    return Vec(*[c.dot(normal) for c in columns]).unit()


def to_world(pose: Float[Array, "b t r 12"], local: Vec) -> Vec:
    """Maps local points to the world: the inverse of `to_local`.

    inverse = diag(1/r) Rᵀ, so that its own inverse is R diag(r) = inverseᵀ diag(r²).
    """
    rows = [Vec(*[pose[..., 3 * i + j] for j in range(3)]) for i in range(3)]
    scaled = Vec(*[c / r.dot(r) for c, r in zip(local, rows, strict=True)])
    columns = [Vec(*[pose[..., 3 * i + j] for i in range(3)]) for j in range(3)]
    return Vec(*[c.dot(scaled) for c in columns]) + Vec(pose[..., 9], pose[..., 10], pose[..., 11])


def local_normal(
    local: Vec, half: Float[Array, "*s"], shape: Int[Array, "*s"], is_limb: Bool[Array, "*s"]
) -> Vec:
    """Returns the gradient of the unit shape at a point on it.

    Args:
      local: the point in local units.
      half: half length of a limb's segment.
      shape: index into looks.OBJECT_NAMES.
      is_limb: whether the point lies on a limb.
    """
    z = local.z - jnp.clip(local.z, -half, half)
    size = Vec(*[jnp.abs(c) for c in local])
    most = jnp.maximum(size.x, jnp.maximum(size.y, size.z))
    # The largest coordinate names a box's face; a cylinder's cap is where |z| is nearer to 1.
    face = Vec(*[jnp.where(s >= most, jnp.sign(c), 0.0) for s, c in zip(size, local, strict=True)])
    radial = jnp.sqrt(local.x**2 + local.y**2)
    cap = size.z > radial
    zero = jnp.zeros_like(z)
    tube = Vec(
        jnp.where(cap, zero, local.x),
        jnp.where(cap, zero, local.y),
        jnp.where(cap, jnp.sign(local.z), zero),
    )
    smooth = Vec(local.x, local.y, z)

    def choose(i: int) -> Array:
        thing = jnp.where(
            shape == looks.BOX, face[i], jnp.where(shape == looks.CYLINDER, tube[i], local[i])
        )
        return jnp.where(is_limb, smooth[i], thing)

    return Vec(choose(0), choose(1), choose(2))


def surface(
    solids: Solids, which: Int[Array, "b t r"], distance: Float[Array, "b t r"], origin: Vec,
    direction: Vec,
) -> tuple[Surface, Float[Array, "b t r 12"]]:  # fmt: skip
    """Returns the surfaces at the ends of rays, and the pose rows of their solids.

    Args:
      solids: for the rays' frames.
      which, distance: as `nearest` gives them.
      origin, direction: of the rays.
    """
    solid = jnp.minimum(which, NUM_SOLIDS - 1)
    point = origin + direction * jnp.where(which == SKY, 0.0, distance)
    pose = take(pose_table(solids), solid)
    local = to_local(pose, point)
    half = take(solids.half[..., None], solid)[..., 0]
    thing = jnp.clip(which - NUM_LIMBS, 0, solids.shape.shape[1] - 1)
    shape = take(solids.shape[:, None, :, None], thing)[..., 0]
    normal = turn_normal(pose, local_normal(local, half, shape, which < NUM_LIMBS))
    flat = Vec(
        jnp.where(which == WALL_1, 1.0, 0.0),
        jnp.where(which == WALL_0, 1.0, 0.0),
        jnp.where((which == GROUND) | (which == SKY), 1.0, 0.0),
    )
    on_solid = which < NUM_SOLIDS
    normal = Vec(*[jnp.where(on_solid, n, f) for n, f in zip(normal, flat, strict=True)])
    normal = normal * jnp.where(normal.dot(direction) > 0, -1.0, 1.0)
    hit = Surface(
        which=which, solid=solid, distance=distance, point=point, normal=normal, local=local
    )
    return hit, pose
