"""Camera paths: position and axes for every frame."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from unityvideo_jax.worlds.config import WorldConfig
from unityvideo_jax.worlds.pytree import pytree
from unityvideo_jax.worlds.scene import CameraPath


@pytree
class Cameras:
    """One pinhole camera per frame.

    Attributes:
      position: metres, world axes (z up).
      axes: rows are the world directions of image right, image down and forward.
      focal: pixels; the principal point is the image centre.
    """

    position: Float[Array, "*b t 3"]
    axes: Float[Array, "*b t 3 3"]
    focal: Float[Array, "*b t"]


def cameras(config: WorldConfig, path: CameraPath, times: Float[Array, " t"]) -> Cameras:
    """Returns the cameras of one clip at these times.

    Args:
      config: gives the frame's size.
      path: of one clip.
      times: seconds from the first frame.
    """
    # A dolly stops where it would run into what it looks at.
    distance = jnp.maximum(path.distance + path.distance_rate * times, 1.8)
    azimuth = path.azimuth + path.azimuth_rate * times
    offset = jnp.stack(
        [
            distance * jnp.sin(azimuth),
            -distance * jnp.cos(azimuth),
            jnp.broadcast_to(path.height, times.shape) - path.target[2],
        ],
        axis=-1,
    )
    position = path.target + offset
    span = config.duration
    pan = path.pan_rate * (times - span / 2)
    forward = -offset / jnp.linalg.norm(offset, axis=-1, keepdims=True)
    c, s = jnp.cos(pan), jnp.sin(pan)
    forward = jnp.stack(
        [
            c * forward[:, 0] - s * forward[:, 1],
            s * forward[:, 0] + c * forward[:, 1],
            forward[:, 2],
        ],
        axis=-1,
    )
    up = jnp.asarray([0.0, 0.0, 1.0])
    right = jnp.cross(forward, jnp.broadcast_to(up, forward.shape))
    right = right / jnp.linalg.norm(right, axis=-1, keepdims=True)
    down = jnp.cross(forward, right)
    focal = jnp.broadcast_to(path.focal * min(config.height, config.width), times.shape)
    return Cameras(position=position, axes=jnp.stack([right, down, forward], axis=-2), focal=focal)


def project(
    cameras: Cameras, points: Float[Array, "*b t p 3"], height: int, width: int
) -> tuple[Float[Array, "*b t p 2"], Float[Array, "*b t p"]]:
    """Pixels (centres at integers + 0.5) and depth along z of world points, frame by frame.

    Args:
      cameras: one per frame.
      points: metres, in world axes.
      height, width: of the frame, in pixels.
    """
    relative = points - cameras.position[..., None, :]
    seen = jnp.sum(cameras.axes[..., None, :, :] * relative[..., None, :], axis=-1)
    depth = seen[..., 2]
    safe = jnp.maximum(depth, 0.05)
    scale = (cameras.focal[..., None] / safe)[..., None]
    centre = jnp.asarray([width / 2, height / 2], jnp.float32)
    return centre + seen[..., :2] * scale, depth
