"""Rendering: a batch of scenes to clips with ground truth."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from unityvideo_jax.worlds import truth
from unityvideo_jax.worlds.camera import Cameras, project
from unityvideo_jax.worlds.config import WorldConfig
from unityvideo_jax.worlds.course import Course
from unityvideo_jax.worlds.geometry import SKY, nearest
from unityvideo_jax.worlds.scene import Scene
from unityvideo_jax.worlds.shading import radiance
from unityvideo_jax.worlds.stage import Stage, set_stage
from unityvideo_jax.worlds.surface import surface
from unityvideo_jax.worlds.vector import Vec

# Rays traced at a time: enough to fill an accelerator within a few GB, or to stay in a CPU's cache.
_RAYS = {"cpu": 1 << 17}
_RAYS_ACCELERATOR = 1 << 23
# A clip of more rays than this is traced a few frames at a time, which bounds memory.
_RAYS_OF_CLIP = 1 << 23


# Names of a rendered clip's arrays.
ARRAYS = (
    "rgb", "depth", "normals", "flow", "occluded", "instances", "segments", "keypoints",
    "visibility", "part", "uv",
)  # fmt: skip


def _pixels(height: int, width: int, supersample: int) -> Float[Array, "r 2"]:
    """(x, y) of rays, row by row: pixel centres, or `supersample`^2 rays on a grid per pixel."""
    y, x = jnp.meshgrid(
        (jnp.arange(height * supersample) + 0.5) / supersample,
        (jnp.arange(width * supersample) + 0.5) / supersample,
        indexing="ij",
    )
    return jnp.stack([x.ravel(), y.ravel()], axis=-1)


def _rays(
    views: Cameras, pixels: Float[Array, "*bt r 2"], height: int, width: int
) -> tuple[Vec, Vec]:
    """Rays whose t is the depth along the camera's z axis."""
    x = (pixels[..., 0] - width / 2) / views.focal[..., None]
    y = (pixels[..., 1] - height / 2) / views.focal[..., None]
    right, down, forward = (truth.over_rays(views.axes[:, :, i]) for i in range(3))
    return truth.over_rays(views.position), forward + right * x + down * y


def _trace(config: WorldConfig, stage: Stage, scenes: Scene) -> dict[str, Array]:
    height, width, frames = config.height, config.width, config.num_frames
    solids, views = stage.solids.frames(0, frames), _cut(stage.cameras, 0, frames)
    casters = stage.casters.frames(0, frames)
    around = scenes.surroundings
    pixels = _pixels(height, width, 1)
    # Rays through the keypoints are traced together with those through the pixels.
    keypoints = stage.keypoints[:, :frames]
    keypoints = keypoints.reshape(*keypoints.shape[:2], -1, 3)
    place, depth = project(views, keypoints, height, width)
    joint = jnp.broadcast_to(pixels, (*place.shape[:2], *pixels.shape))
    origin, direction = _rays(views, jnp.concatenate([joint, place], axis=2), height, width)
    if config.supersample == 1:
        spread = 1.0 / views.focal[..., None]
        rgb, distance, which = radiance(
            solids, casters, stage.skin, around, origin, direction, spread
        )
    else:
        rgb = _supersampled(config, stage, scenes)
        distance, which = nearest(solids, origin, direction)
    count = height * width
    keypoints, visibility = truth.keypoint_truth(
        place, depth, distance[..., count:], which[..., count:], stage.is_person, height, width
    )
    distance, which = distance[..., :count], which[..., :count]
    direction = Vec(*[d[..., :count] for d in direction])
    hit, _ = surface(solids, which, distance, origin, direction)

    next_solids, next_views = stage.solids.frames(1, frames + 1), _cut(stage.cameras, 1, frames + 1)
    flow, occluded = truth.surface_motion(
        next_views, next_solids, hit, direction, pixels, height, width
    )
    named = truth.names(stage.skin, hit)
    body = named["part"] > 0
    uv = jnp.stack([named["u"], truth.along_limb(solids.half, hit)], axis=-1)

    axes = [truth.over_rays(views.axes[:, :, i]) for i in range(3)]
    normals = jnp.stack([hit.normal.dot(axis) for axis in axes], axis=-1)

    def image(x: Array) -> Array:
        return x.reshape(*x.shape[:2], height, width, *x.shape[3:])

    return {
        "rgb": image(rgb[:, :, :count]) if config.supersample == 1 else rgb,
        "depth": image(jnp.where(which == SKY, jnp.inf, distance)),
        "normals": image(jnp.where((which == SKY)[..., None], 0.0, normals)),
        "flow": image(flow),
        "occluded": image(occluded),
        "instances": image(named["instances"]),
        "segments": image(named["segments"]),
        "keypoints": keypoints,
        "visibility": visibility,
        "part": image(named["part"]),
        "uv": image(jnp.where(body[..., None], jnp.clip(uv, 0.0, 1.0), 0.0)),
    }


def _supersampled(config: WorldConfig, stage: Stage, scenes: Scene) -> Float[Array, "b t h w 3"]:
    height, width, s = config.height, config.width, config.supersample
    frames = config.num_frames
    solids, views = stage.solids.frames(0, frames), _cut(stage.cameras, 0, frames)
    casters = stage.casters.frames(0, frames)
    origin, direction = _rays(views, _pixels(height, width, s), height, width)
    spread = 1.0 / (s * views.focal[..., None])
    rgb, _, _ = radiance(
        solids, casters, stage.skin, scenes.surroundings, origin, direction, spread
    )
    rgb = rgb.reshape(*rgb.shape[:2], height, s, width, s, 3)
    # Averaged as displayed: linear averages would make thin bright edges jagged again.
    return rgb.mean(axis=(3, 5))


def _cut(views: Cameras, start: int, stop: int) -> Cameras:
    return jax.tree.map(lambda x: x[:, start:stop], views)


def _chunk(config: WorldConfig, batch: int) -> int:
    limit = _RAYS.get(jax.default_backend(), _RAYS_ACCELERATOR)
    rays = config.num_frames * config.height * config.width * config.supersample**2
    pieces = math.ceil(batch / max(1, limit // rays))
    return math.ceil(batch / pieces)


def _trace_in_pieces(config: WorldConfig, scenes: Scene, course: Course | None) -> dict[str, Array]:
    """Runs `_trace` on a few frames at a time if the clips are large."""
    stage, total = set_stage(config, scenes, course), config.num_frames
    rays = config.height * config.width * config.supersample**2
    step = max(1, _RAYS_OF_CLIP // rays)
    if step >= total:
        return _trace(config, stage, scenes)
    piece = dataclasses.replace(config, num_frames=step)
    # The last piece overlaps the one before it, so that all have one length.
    starts = np.minimum(np.arange(0, total, step), total - step)
    pieces = jax.lax.map(
        lambda start: _trace(piece, stage.cut(start, step + 1), scenes), jnp.asarray(starts)
    )
    number = np.arange(total) // step
    order = number * step + np.arange(total) - starts[number]

    def whole(x: Array) -> Array:
        x = jnp.moveaxis(x, 0, 1)
        return x.reshape(x.shape[0], -1, *x.shape[3:])[:, order]

    return jax.tree.map(whole, pieces)


@functools.partial(jax.jit, static_argnums=0)
def render(config: WorldConfig, scenes: Scene, course: Course | None = None) -> dict[str, Array]:
    """Renders scenes to clips with ground truth.

    Where several surfaces lie along a ray, ground truth is that of the first, glass included.

    Args:
      config: as for `sample_scenes`.
      scenes: B scenes.
      course: positions of their objects; None simulates them.

    Returns:
      rgb f32[B,T,H,W,3] in [0,1]; depth f32[B,T,H,W], metres along the camera's z axis, +inf for
      sky; normals f32[B,T,H,W,3], of unit length, towards the camera, in its axes (x right, y down,
      z forward), zero for sky; flow f32[B,T,H,W,2], pixels to the next frame (of frame T-1 to a
      frame T that is not shown); occluded bool[B,T,H,W], whether the target of flow is hidden or
      out of the frame;
      instances i32[B,T,H,W], 0 background; segments i32[B,T,H,W], those that the prompt asks for,
      numbered from 1; keypoints f32[B,T,P,17,2] in pixels, centres at integers + 0.5; visibility
      i32[B,T,P,17], 0 absent, 1 occluded, 2 visible; part i32[B,T,H,W], DensePose parts 1..24;
      uv f32[B,T,H,W,2] in [0,1], zero off bodies.
    """
    batch = scenes.words.shape[0]
    chunk = _chunk(config, batch)
    pieces = math.ceil(batch / chunk)

    def one(scenes: Scene, course: Course | None) -> dict[str, Array]:
        return _trace_in_pieces(config, scenes, course)

    if pieces == 1:
        return one(scenes, course)
    # The last piece is filled up with copies of the last scene.
    order = jnp.minimum(jnp.arange(pieces * chunk), batch - 1).reshape(pieces, chunk)
    clips = jax.lax.map(lambda rows: one(*jax.tree.map(lambda x: x[rows], (scenes, course))), order)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:batch], clips)
