"""Exact ground truth of the surfaces that the rays through pixel centres hit."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from unityvideo_jax.worlds import people
from unityvideo_jax.worlds.bodies import PARTS
from unityvideo_jax.worlds.camera import Cameras, project
from unityvideo_jax.worlds.geometry import SKY, Solids, nearest
from unityvideo_jax.worlds.looks import MAX_ACTORS
from unityvideo_jax.worlds.stage import Skin
from unityvideo_jax.worlds.surface import Surface, pose_table, take, to_world
from unityvideo_jax.worlds.vector import Vec

# A keypoint is visible if what hides it is its own limb, at most this far in front of it.
_BEFORE = np.asarray([0.05] * 5 + [0.12] * 2 + [0.09] * 4 + [0.16] * 2 + [0.12] * 4, np.float32)


def over_rays(values: Float[Array, "b t 3"]) -> Vec:
    """Returns a vector for each frame, to broadcast over its rays."""
    return Vec(*[values[:, :, i, None] for i in range(3)])


def surface_motion(
    then: Cameras, then_solids: Solids, hit: Surface, direction: Vec,
    pixels: Float[Array, "r 2"], height: int, width: int,
) -> tuple[Float[Array, "b t r 2"], Bool[Array, "b t r"]]:  # fmt: skip
    """Flow to the next frame in pixels, and whether its target is hidden or out of the frame.

    The point of the surface moves with its solid; the sky is infinitely far, so that it turns with
    the camera only.

    Args:
      then, then_solids: cameras and solids of the next frames.
      hit: surfaces of these frames.
      direction: of the rays.
      pixels: centres of the rays' pixels.
      height, width: of the frame, in pixels.

    Returns:
      (dx, dy) in pixels, and a mask of targets that are hidden or outside the frame.
    """
    moved = to_world(take(pose_table(then_solids), hit.solid), hit.local)
    far = hit.which == SKY
    # A stand-in point for the sky: the direction from the next camera.
    sky = over_rays(then.position) + direction
    target = Vec(
        *[
            jnp.where(far, s, jnp.where(hit.on_solid, m, p))
            for s, m, p in zip(sky, moved, hit.point, strict=True)
        ]
    )
    place, depth = project(then, target.stack(), height, width)
    flow = place - pixels
    inside = (
        (place >= 0.0).all(-1) & (place < jnp.asarray([width, height])).all(-1) & (depth > 0.05)
    )
    way = target - over_rays(then.position)
    first, _ = nearest(then_solids, over_rays(then.position), way)
    # The ray is as long as the way to the point: anything met sooner hides it.
    length = jnp.sqrt(way.dot(way))
    hidden = jnp.where(far, jnp.isfinite(first), (1.0 - first) * length > 4e-3)
    return flow, hidden | ~inside


def names(skin: Skin, hit: Surface) -> dict[str, Array]:
    """Computes instances, segments and DensePose parts [b, t, r], and their U."""
    row = jnp.stack([skin.instance, skin.segment, skin.part[..., 0], skin.part[..., 1]], axis=-1)
    row = jnp.where(hit.on_solid[..., None], take(row[:, None], hit.solid), 0)
    across = skin.across[hit.solid] == 1
    p = hit.local
    front = jnp.where(across, p.y, p.x) > 0
    part = jnp.where(front, row[..., 3], row[..., 2])
    # U runs around the limb from one seam of the half to the other (around the whole limb for hands
    # and feet, which are one part each), V along it from end to end.
    whole = row[..., 2] == row[..., 3]
    ahead, aside = jnp.where(across, p.y, p.x), jnp.where(across, -p.x, p.y)
    angle = jnp.arctan2(aside, ahead)
    half_turn = jnp.arctan2(aside, jnp.abs(ahead)) / jnp.pi + 0.5
    u = jnp.where(whole, angle / (2 * jnp.pi) + 0.5, half_turn)
    return {"instances": row[..., 0], "segments": row[..., 1], "part": part, "u": u}


def along_limb(half: Float[Array, "b t s"], hit: Surface) -> Float[Array, "b t r"]:
    """Returns V: the place along the limb in [0, 1]."""
    h = take(half[..., None], hit.solid)[..., 0]
    return jnp.clip((hit.local.z + h + 1.0) / (2.0 * h + 2.0), 0.0, 1.0)


def keypoint_truth(
    place: Float[Array, "b t r 2"], depth: Float[Array, "b t r"], first: Float[Array, "b t r"],
    which: Int[Array, "b t r"], is_person: Bool[Array, "b p"], height: int, width: int,
) -> tuple[Float[Array, "b t p 17 2"], Int[Array, "b t p 17"]]:  # fmt: skip
    """Returns pixels and COCO visibility of keypoints; absent ones are (0, 0).

    Args:
      place, depth: of the keypoints, projected; r = 17 p.
      first, which: depth of the surface met by the ray through each, and what it is.
      is_person: which slots have keypoints.
      height, width: pixels.
    """
    inside = (place >= 0).all(-1) & (place < jnp.asarray([width, height])).all(-1) & (depth > 0.05)
    inside = inside & jnp.repeat(is_person, 17, axis=1)[:, None]
    gap = depth - jnp.where(jnp.isfinite(first), first, depth)
    before = jnp.asarray(np.tile(_BEFORE, MAX_ACTORS))
    seen = (gap < 2e-3) | (_own_limb(which) & (gap < before))
    visibility = jnp.where(inside, jnp.where(seen, 2, 1), 0).astype(jnp.int32)
    place = jnp.where(inside[..., None], place, 0.0)
    shape = (*place.shape[:2], MAX_ACTORS, 17)
    return place.reshape(*shape, 2), visibility.reshape(shape)


def _own_limb(which: Int[Array, "b t r"]) -> Bool[Array, "b t r"]:
    """Whether the limb that a ray to each keypoint met is one that the keypoint belongs to."""
    longest = max(len(limbs) for limbs in people.KEYPOINT_LIMBS)
    table: Any = np.full((MAX_ACTORS, 17, longest), -1)
    for actor in range(MAX_ACTORS):
        for k, limbs in enumerate(people.KEYPOINT_LIMBS):
            table[actor, k, : len(limbs)] = actor * PARTS + np.asarray(limbs)
    return (which[..., None] == jnp.asarray(table.reshape(-1, longest))).any(-1)
