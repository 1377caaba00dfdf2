"""Skeleton: COCO-17 keypoints drawn as coloured joints and limbs."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array, Float

from unityvideo_jax.errors import UserError
from unityvideo_jax.metrics.agreement import KEYPOINTS_IN_MASKS
from unityvideo_jax.metrics.base import Arrays
from unityvideo_jax.metrics.skeleton import SkeletonMetric
from unityvideo_jax.modalities import checks, joining, skeleton_picture
from unityvideo_jax.modalities.base import Clip, Modality, Side, register
from unityvideo_jax.modalities.skeleton_drawing import NUM_JOINTS, draw_codec, draw_openpose
from unityvideo_jax.modalities.skeleton_reading import read_people

# People of two windows whose joints lie farther apart than this share of their size are different.
STRANGER = 0.5
# Least size of a person in pixels.
SMALL = 12.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class SkeletonCodec:
    """Draws joints as discs of one colour per joint, and dimmed limbs, in proportion to people.

    Hue says which joint, brightness says visible or occluded (limbs are dimmer still), limbs say
    which joints belong to one person. The frame's size is not among the keypoints, so `encode`
    takes it from the clip's rgb; only the shape is used.

    Clip: keypoints f32[T, P, 17, 2] in pixels (centres at integer + 0.5), visibility i32[T, P, 17]
    (0 absent, 1 occluded, 2 visible), and rgb [T, H, W, 3] for the size.
    Side: people f32[], how many have a keypoint; 0 = not known (or none).

    Joints that fall on others cannot all be read: of rendered clips with one to three people who
    pass each other, 99 % of the joints are read within 2 pixels at 128 x 128 and 94 % at 64 x 64.

    Attributes:
      style: 'codec', or 'openpose' for the drawing that other control models expect: it does not
        decode and is never used for evaluation.
    """

    style: Literal["codec", "openpose"] = "codec"

    keys: ClassVar[tuple[str, ...]] = ("keypoints", "visibility", "rgb")
    # Pixels, for joints of which a third of the disc or more is seen. Those of the face lie closer
    # than their discs are wide when a person is under about 40 pixels tall.
    error_floor: ClassVar[Mapping[str, float]] = {
        "joint_px": 0.25,
        "joint_px_8bit": 0.25,
        "face_px": 0.8,
    }

    @property
    def version(self) -> str:
        """The version of the style's drawing."""
        return f"skeleton-{self.style}-1"

    @property
    def default_side(self) -> Side:
        """People 0: their number is not known."""
        return {"people": np.zeros((), np.float32)}

    def check(self, clip: Clip, source: str) -> None:
        """Raises UserError for wrong shapes, visibility outside 0..2, or a present NaN."""
        keypoints, visibility = np.asarray(clip["keypoints"]), np.asarray(clip["visibility"])
        if keypoints.ndim != 4 or keypoints.shape[2:] != (NUM_JOINTS, 2):
            raise UserError(
                f"{source}: keypoints has shape {keypoints.shape}; give [T, P, 17, 2] (COCO order)"
            )
        if visibility.shape != keypoints.shape[:3]:
            raise UserError(
                f"{source}: visibility has shape {visibility.shape}; "
                f"give {keypoints.shape[:3]} like keypoints"
            )
        frames = np.shape(clip["rgb"])[0]
        if keypoints.shape[0] != frames:
            raise UserError(
                f"{source}: keypoints has {keypoints.shape[0]} frames and rgb has {frames}; "
                "bring them to one length"
            )
        if not np.issubdtype(visibility.dtype, np.integer):
            raise UserError(f"{source}: visibility has dtype {visibility.dtype}; use integers")
        if visibility.size and (visibility.min() < 0 or visibility.max() > 2):
            raise UserError(
                f"{source}: visibility spans [{visibility.min()}, {visibility.max()}]; "
                "use 0 absent, 1 occluded, 2 visible"
            )
        # Absent keypoints may hold anything, NaN too.
        checks.finite(np.where(visibility[..., None] > 0, keypoints, 0.0), f"{source}: keypoints")

    def encode(self, clip: Clip) -> tuple[Float[Array, "t h w 3"], dict[str, Float[Array, "..."]]]:
        """Draws the people as video in [-1, 1]; the side record holds their number."""
        height, width = np.shape(clip["rgb"])[1:3]
        keypoints = jnp.asarray(clip["keypoints"], jnp.float32)
        visibility = jnp.asarray(clip["visibility"], jnp.int32)
        if keypoints.shape[1] == 0:  # nobody, ever: a shape, hence known when tracing
            image = jnp.zeros((keypoints.shape[0], height, width, 3), jnp.float32)
        else:
            draw = draw_openpose if self.style == "openpose" else draw_codec
            image = draw(keypoints, visibility, height, width)
        people = (visibility > 0).any(axis=(0, 2)).sum().astype(jnp.float32)
        return 2.0 * image - 1.0, {"people": people}

    def decode(
        self,
        video: Float[Array, "t h w 3"] | Float[np.ndarray, "t h w 3"],
        side: Side,
        *,
        max_people: int | None = None,
        **_: Any,
    ) -> dict[str, np.ndarray]:
        """Reads keypoints f32[T, P, 17, 2] and visibility i32[T, P, 17], P as many as are found.

        A person keeps its place over the clip; the order is left to right at first sight, since the
        picture does not hold the order that was encoded. Keypoints not found are 0 with visibility
        0; one that is lost for a frame or two in a blend of colours lies between where it was seen
        before and after, with visibility 1. Score generated or estimated video with `default_side`.

        Raises:
          UserError: the style is 'openpose'.
        """
        if self.style == "openpose":
            raise UserError("the 'openpose' skeleton drawing has no decoder; use style='codec'")
        image = (np.clip(np.asarray(video, np.float32), -1.0, 1.0) + 1.0) / 2.0
        known = int(np.asarray(side["people"]))
        limit = max_people if max_people is not None else (known or None)
        keypoints, visibility = read_people(image, limit)
        return {"keypoints": keypoints, "visibility": visibility}


class SkeletonJoiner(joining.Joiner):
    """People of a window take the places that they have in the frames before.

    They are matched by the joints that both windows see in the shared frames; the others get new
    places. Joints are blended where both see them; elsewhere the nearer window counts.
    """

    def align(self, tail: Arrays, window: Arrays) -> tuple[Arrays, Arrays]:
        """Moves the window's people to the places of the same people in the tail."""
        before, found = tail["keypoints"].shape[1], window["keypoints"].shape[1]
        place = {}
        if before and found:
            apart = self._apart(tail, joining.frames(window, slice(self.overlap)))
            pairs = zip(*scipy.optimize.linear_sum_assignment(apart), strict=True)
            place = {int(m): int(n) for m, n in pairs if apart[m, n] < STRANGER}
        # Nobody leaves a place, so that people who come back later are new ones.
        new = itertools.count(before)
        places = [place[m] if m in place else next(new) for m in range(found)]
        count = next(new)
        return (
            {key: _placed(array, range(before), count) for key, array in tail.items()},
            {key: _placed(array, places, count) for key, array in window.items()},
        )

    def _apart(self, tail: Arrays, head: Arrays) -> Float[np.ndarray, "m n"]:
        """Median distance of joints that both see, over the person's size; infinity becomes 1e6."""
        both = (head["visibility"][:, :, None] > 0) & (tail["visibility"][:, None] > 0)
        steps = np.linalg.norm(head["keypoints"][:, :, None] - tail["keypoints"][:, None], axis=-1)
        apart = np.full(both.shape[1:3], 1e6)
        for m, n in np.ndindex(apart.shape):
            chosen = both[:, m, n]
            if chosen.any():
                points = head["keypoints"][:, m][chosen]
                size = max(float(np.linalg.norm(np.ptp(points, axis=0))), SMALL)
                apart[m, n] = np.median(steps[:, m, n][chosen]) / size
        return apart

    def blend(self, tail: Arrays, head: Arrays) -> dict[str, np.ndarray]:
        """Blends joints that both windows see; elsewhere the nearer window counts."""
        both = ((tail["visibility"] > 0) & (head["visibility"] > 0))[..., None]
        near = {key: joining.nearer(tail[key], head[key]) for key in head}
        mixed = joining.blended(tail["keypoints"], head["keypoints"])
        return near | {"keypoints": np.where(both, mixed, near["keypoints"])}


def _placed(array: np.ndarray, places: Sequence[int], count: int) -> np.ndarray:
    """People of an array [T, P, ...] put at these places of so many; the others are absent."""
    wide = np.zeros((array.shape[0], count, *array.shape[2:]), array.dtype)
    wide[:, list(places)] = array
    return wide


def trivial(truth: Arrays) -> dict[str, np.ndarray]:
    """Trivial prediction: no person."""
    return {key: truth[key][:, :0] for key in ("keypoints", "visibility")}


SKELETON = register(
    Modality(
        name="skeleton",
        prompt="the skeleton of every person: colored joints and limbs on black",
        pixel_aligned=False,
        sampling_weight=2 / 7,
        codec=SkeletonCodec(),
        metric=SkeletonMetric,
        trivial=trivial,
        compare=skeleton_picture.compare,
        joiner=SkeletonJoiner,
        agreements={"segmentation": KEYPOINTS_IN_MASKS},
    )
)
