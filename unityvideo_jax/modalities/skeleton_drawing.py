"""Drawing keypoints as joints and limbs, in two styles. Pure jnp."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

NUM_JOINTS = 17
# COCO order: nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles; left before right.
LIMBS = (
    (15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8),
    (7, 9), (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6),
)  # fmt: skip
# RGB in [0, 1], brightest channel 1, so that brightness is free to say something else. All 17 are
# at least 0.5 apart, and joints that a limb connects are opposite or a third of the wheel apart.
JOINT_COLOURS = np.asarray(
    [
        (1.0, 1.0, 1.0),  # nose
        (1.0, 1.0, 0.5), (0.5, 1.0, 1.0),  # eyes
        (1.0, 0.5, 0.5), (0.5, 0.5, 1.0),  # ears
        (1.0, 0.0, 0.0), (0.0, 1.0, 1.0),  # shoulders
        (0.0, 1.0, 0.0), (1.0, 0.0, 1.0),  # elbows
        (0.0, 0.0, 1.0), (1.0, 1.0, 0.0),  # wrists
        (0.0, 1.0, 0.5), (1.0, 0.0, 0.5),  # hips
        (0.5, 0.0, 1.0), (0.5, 1.0, 0.0),  # knees
        (1.0, 0.5, 0.0), (0.0, 0.5, 1.0),  # ankles
    ],
    np.float32,
)  # fmt: skip
# Brightness of a visible joint, an occluded joint, and a limb.
VISIBLE, OCCLUDED, LIMB = 1.0, 0.67, 0.35
FACE = 5  # the first five joints are on the head and drawn smaller


def joint_radius(extent: ArrayLike, height: int, width: int) -> Float[Array, "*people 17"]:
    """Returns the disc radius in pixels of each joint of a person.

    A share of the person's extent, so that the joints of small people do not hide each other, but
    no more than a share of the frame's diagonal and no less than survives: a radius of 1.25 covers
    at least one pixel wholly, wherever its centre falls.

    Args:
      extent: the diagonal of the box around the person's keypoints, in pixels, the clip's greatest.
      height, width: of the frame, in pixels.
    """
    most = max(1.75, 0.012 * math.hypot(height, width))
    body = jnp.clip(0.045 * jnp.asarray(extent, jnp.float32)[..., None], 1.75, most)
    return jnp.where(jnp.arange(NUM_JOINTS) < FACE, jnp.maximum(1.25, 0.6 * body), body)


def person_extent(
    keypoints: Float[Array, "t p 17 2"], visibility: Int[Array, "t p 17"]
) -> Float[Array, " p"]:
    """The greatest diagonal over the clip of the box around each person's keypoints, in pixels.

    Args:
      keypoints: pixels, centres at integers + 0.5.
      visibility: 0 for joints that are absent, which do not count.
    """
    present = (visibility > 0)[..., None]
    low = jnp.min(keypoints, axis=2, where=present, initial=jnp.inf)
    high = jnp.max(keypoints, axis=2, where=present, initial=-jnp.inf)
    diagonal = jnp.linalg.norm(jnp.maximum(high - low, 0.0), axis=-1)
    return jnp.where(present.any(axis=(2, 3)), diagonal, 0.0).max(axis=0)


def pixel_centres(height: int, width: int) -> Float[Array, "h w 2"]:
    """Returns (x, y) of each pixel's centre, at integers + 0.5."""
    y, x = jnp.meshgrid(jnp.arange(height) + 0.5, jnp.arange(width) + 0.5, indexing="ij")
    return jnp.stack([x, y], axis=-1)


def _segment_distance(
    pixels: Float[Array, "h w 2"], start: Float[Array, "t 2"], end: Float[Array, "t 2"]
) -> tuple[Float[Array, "t h w"], Float[Array, "t h w"]]:
    """Distance of each pixel to the segment, and the place (0..1) of the foot on it."""
    start, end = start[:, None, None], end[:, None, None]
    along = end - start
    length2 = jnp.maximum(jnp.sum(along**2, axis=-1), 1e-6)
    place = jnp.clip(jnp.sum((pixels - start) * along, axis=-1) / length2, 0.0, 1.0)
    return jnp.linalg.norm(pixels - start - place[..., None] * along, axis=-1), place


@functools.partial(jax.jit, static_argnames=("height", "width"))
def draw_codec(
    keypoints: Float[Array, "t p 17 2"], visibility: Int[Array, "t p 17"], height: int, width: int
) -> Float[Array, "t h w 3"]:
    """Draws the decodable style, in [0, 1] on black.

    Each half of a limb has its joint's colour, dimmed; joints are discs over it, full for visible
    and dimmer for occluded ones. Where joints or limbs overlap, a pixel goes to the nearest, so
    that no joint hides another unless they share a pixel. Edges are anti-aliased, so that centroids
    are exact to a fraction of a pixel.

    Args:
      keypoints: pixels, centres at integers + 0.5.
      visibility: 0 absent, 1 occluded, 2 visible.
      height, width: of the frame, in pixels.
    """
    frames, people = keypoints.shape[:2]
    pixels = pixel_centres(height, width)
    shape = (frames, height, width)
    radius = joint_radius(person_extent(keypoints, visibility), height, width)
    half_width = jnp.maximum(0.75, 0.45 * radius[:, -1])
    # Absent joints may hold anything; far away they cover no pixel.
    points = jnp.where((visibility > 0)[..., None], keypoints, -1e4).astype(jnp.float32)
    points = points.transpose(1, 2, 0, 3)  # [p, 17, t, 2]
    present = (visibility > 0).transpose(1, 2, 0)
    brightness = jnp.where(visibility == 2, VISIBLE, OCCLUDED).transpose(1, 2, 0)

    limbs = np.asarray(LIMBS)
    person, limb = (a.ravel() for a in np.meshgrid(np.arange(people), np.arange(len(limbs))))

    def add_limb(carry, which):
        edge, colour = carry
        p, (a, b) = which[0], jnp.asarray(limbs)[which[1]]
        distance, place = _segment_distance(pixels, points[p, a], points[p, b])
        both = (present[p, a] & present[p, b])[:, None, None]
        inside = jnp.where(both, half_width[p] - distance, -jnp.inf)
        half = jnp.where(place < 0.5, a, b)
        return (jnp.maximum(inside, edge), jnp.where(inside > edge, half, colour)), None

    def add_joint(carry, which):
        nearest, colour, light, edge = carry
        p, k = which
        distance = jnp.linalg.norm(pixels - points[p, k][:, None, None], axis=-1)
        closer = distance / radius[p, k] < nearest
        return (
            jnp.where(closer, distance / radius[p, k], nearest),
            jnp.where(closer, k, colour),
            jnp.where(closer, brightness[p, k][:, None, None], light),
            jnp.where(closer, radius[p, k] - distance, edge),
        ), None

    far, none = jnp.full(shape, jnp.inf), jnp.zeros(shape, jnp.int32)
    (edge, colour), _ = jax.lax.scan(
        add_limb, (-far, none), (jnp.asarray(person), jnp.asarray(limb))
    )
    palette = jnp.asarray(JOINT_COLOURS)
    cover = jnp.clip(edge + 0.5, 0.0, 1.0)
    image = LIMB * cover[..., None] * palette[colour]

    person, joint = (a.ravel() for a in np.meshgrid(np.arange(people), np.arange(NUM_JOINTS)))
    start = (far, none, jnp.zeros(shape), -far)
    (_, colour, light, edge), _ = jax.lax.scan(
        add_joint, start, (jnp.asarray(person), jnp.asarray(joint))
    )
    cover = jnp.clip(edge + 0.5, 0.0, 1.0)[..., None]
    return (1.0 - cover) * image + cover * light[..., None] * palette[colour]


# OpenPose's 18 keypoints as COCO-17 indices; 17 stands for the neck, midway between the shoulders.
_OPENPOSE = (0, 17, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
_OPENPOSE_LIMBS = (
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12),
    (12, 13), (1, 0), (0, 14), (14, 16), (0, 15), (15, 17),
)  # fmt: skip
# The rainbow in RGB (files drawn through OpenCV often have red and blue swapped; this has not).
_RAINBOW = np.asarray(
    [
        (255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0),
        (0, 255, 0), (0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255),
        (0, 0, 255), (85, 0, 255), (170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85),
    ],
    np.float32,
) / 255.0  # fmt: skip


@functools.partial(jax.jit, static_argnames=("height", "width"))
def draw_openpose(
    keypoints: Float[Array, "t p 17 2"], visibility: Int[Array, "t p 17"], height: int, width: int
) -> Float[Array, "t h w 3"]:
    """Draws the OpenPose style that other control models expect, in [0, 1] on black.

    18 keypoints (the neck between the shoulders), rainbow limbs as ellipses of half-width 4 pixels
    at 512 x 512 and in proportion elsewhere, at 0.6 brightness under full-brightness discs; later
    people and later limbs on top. Occluded joints look like visible ones. It has no decoder.

    Args:
      keypoints: pixels, centres at integers + 0.5.
      visibility: 0 for joints that are absent.
      height, width: of the frame, in pixels.
    """
    unit = max(1.0, 4.0 * math.hypot(height, width) / math.hypot(512, 512))
    pixels = pixel_centres(height, width)
    present = visibility > 0
    points = jnp.where(present[..., None], keypoints, -1e4).astype(jnp.float32)
    neck = (points[:, :, 5] + points[:, :, 6]) / 2
    points = jnp.concatenate([points, neck[:, :, None]], axis=2)[:, :, list(_OPENPOSE)]
    neck_present = present[:, :, 5] & present[:, :, 6]
    present = jnp.concatenate([present, neck_present[..., None]], 2)[:, :, list(_OPENPOSE)]
    points, present = points.transpose(1, 2, 0, 3), present.transpose(1, 2, 0)
    image = jnp.zeros((keypoints.shape[0], height, width, 3), jnp.float32)

    def paint(image, distance, radius, shown, colour):
        cover = jnp.clip(radius + 0.5 - distance, 0.0, 1.0) * shown[:, None, None]
        return image + cover[..., None] * (colour - image)

    def add_limb(image, which):
        p, i = which
        a, b = jnp.asarray(_OPENPOSE_LIMBS)[i]
        start, end = points[p, a], points[p, b]
        centre = ((start + end) / 2)[:, None, None]
        along = (end - start)[:, None, None]
        half = jnp.maximum(jnp.linalg.norm(along, axis=-1) / 2, 1e-3)
        offset = pixels - centre
        x = jnp.sum(offset * along, axis=-1) / (2 * half)
        y = (offset[..., 0] * along[..., 1] - offset[..., 1] * along[..., 0]) / (2 * half)
        # Signed distance to the ellipse to first order, in pixels.
        level = jnp.sqrt((x / half) ** 2 + (y / unit) ** 2)
        slope = jnp.sqrt((x / half**2) ** 2 + (y / unit**2) ** 2) / jnp.maximum(level, 1e-6)
        distance = (level - 1.0) / jnp.maximum(slope, 1e-6)
        shown = present[p, a] & present[p, b]
        return paint(image, distance, 0.0, shown, 0.6 * jnp.asarray(_RAINBOW)[i]), None

    def add_joint(image, which):
        p, k = which
        distance = jnp.linalg.norm(pixels - points[p, k][:, None, None], axis=-1)
        return paint(image, distance, unit, present[p, k], jnp.asarray(_RAINBOW)[k]), None

    people = keypoints.shape[1]
    for step, count in ((add_limb, len(_OPENPOSE_LIMBS)), (add_joint, len(_OPENPOSE))):
        which, person = (a.ravel() for a in np.meshgrid(np.arange(count), np.arange(people)))
        image, _ = jax.lax.scan(step, image, (jnp.asarray(person), jnp.asarray(which)))
    return image
