"""Segmentation: instance masks as flat colours."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array, Bool, Float, Int, Shaped, UInt8

from unityvideo_jax import media
from unityvideo_jax.errors import UserError
from unityvideo_jax.metrics import segmentation as scoring
from unityvideo_jax.metrics.base import Arrays
from unityvideo_jax.modalities import checks, drawing, joining
from unityvideo_jax.modalities.base import Clip, Codec, Modality, Rows, Side, register
from unityvideo_jax.modalities.palette import instance_palette, nearest_colour

CAPACITY = len(instance_palette()) - 1
# Pixels farther than this from every colour are background: half the least distance of two colours.
REJECT = 0.5
# A colour counts as an instance if a square of this share of the diagonal lies inside it somewhere.
CORE = 0.012


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegmentationCodec:
    """Gives the k-th instance in the order of the picture the k-th colour of a fixed palette.

    The order is that of `picture_order`: numbers that nothing in the picture shows, such as the
    slots of a renderer or the order of a detector, could not be predicted from the video. An
    instance has one colour in all frames.

    Clip: segments i32[T, H, W], 0 background, 1..26 instances in any order. In `encode`, ids
    beyond the palette are drawn as background; `check` refuses them.
    Side: count f32[], instances in the clip; 0 = not known.
    """

    keys: ClassVar[tuple[str, ...]] = ("segments",)
    version: ClassVar[str] = "segmentation-lattice-2"
    # Share of pixels that change their id; noise below REJECT in RGB distance changes none.
    error_floor: ClassVar[Mapping[str, float]] = {"pixel_share": 0.0, "pixel_share_8bit": 0.0}

    @property
    def default_side(self) -> Side:
        """Count 0: the number of instances is not known."""
        return {"count": np.zeros((), np.float32)}

    def check(self, clip: Clip, source: str) -> None:
        """Raises UserError for ids outside 0..26 or arrays that are not integers [T, H, W]."""
        segments = checks.array(clip, "segments", source, integers=True)
        if segments.min() < 0 or segments.max() > CAPACITY:
            raise UserError(
                f"{source}: segments spans ids [{segments.min()}, {segments.max()}]; "
                f"renumber the instances to 1..{CAPACITY} (0 is background)"
            )

    def encode(self, clip: Clip) -> tuple[Float[Array, "t h w 3"], dict[str, Float[Array, "..."]]]:
        """Draws the instances as video in [-1, 1]; the side record holds their count."""
        segments = jnp.asarray(clip["segments"], jnp.int32)
        known = (segments >= 0) & (segments <= CAPACITY)
        rank = picture_order(jnp.where(known, segments, 0))
        video = jnp.asarray(instance_palette())[rank[jnp.where(known, segments, 0)]]
        return video, {"count": rank.max().astype(jnp.float32)}

    def decode(
        self,
        video: Float[Array, "t h w 3"] | Float[np.ndarray, "t h w 3"],
        side: Side,
        *,
        reject: float = REJECT,
        core: float = CORE,
        **_: Any,
    ) -> dict[str, np.ndarray]:
        """Reads segments i32[T, H, W]: the nearest colour, or background if none is near.

        Instances are numbered in the order of their colours, that of the picture.

        Pixels that border an instance go to it also when blurred beyond the threshold.

        Blurred borders run through other instances' colours. With a recorded count only the first
        `count` colours are looked for; without, a colour counts only if a solid square of it is
        found somewhere in the clip, and pixels of the others go to the nearest that does. Score
        generated or estimated video with `default_side`: a recorded count is ground truth.

        Args:
          reject: the largest RGB distance to the nearest colour, in units of [-1, 1].
          core: side of that square as a share of the frame diagonal; at least 3 pixels.
        """
        video = np.clip(np.asarray(video, np.float32), -1.0, 1.0)
        palette = instance_palette()
        count = int(np.asarray(side["count"]))
        size = max(3, round(core * math.hypot(*video.shape[1:3])))
        if count > 0:
            candidates = np.arange(min(count, CAPACITY) + 1)
        else:
            solid = np.zeros(len(palette), bool)
            for frame in video:
                solid |= _solid_colours(frame, palette, reject, size)
            solid[0] = True
            candidates = np.flatnonzero(solid)
        segments = np.empty(video.shape[:3], np.int32)
        for t, frame in enumerate(video):
            index, distance = nearest_colour(frame, palette[candidates])
            segments[t] = _settle(candidates[index], distance <= reject, size // 2)
        return {"segments": segments}


@jax.jit
def picture_order(segments: Int[Array, "t h w"]) -> Int[Array, " n"]:
    """The place of each id in an order that the picture shows; a function of the masks alone.

    First those that appear first; of those that appear in the same frame, from left to right by
    the centre of the mask there, then the larger first, then the one whose first pixel is higher.

    Args:
      segments: ids 0 (background) to `CAPACITY`.

    Returns:
      For every id 0 to `CAPACITY`, its place from 1; 0 for background and for ids not in the clip.
    """
    frames, height, width = segments.shape

    def look(number: Int[Array, ""]) -> tuple[Array, ...]:
        mask = segments == number
        shown = mask.any(axis=(1, 2))
        first = jnp.where(shown.any(), jnp.argmax(shown), frames)
        mask = mask[jnp.minimum(first, frames - 1)]
        columns = mask.sum(axis=0, dtype=jnp.float32)
        area = columns.sum()
        centre = (columns * jnp.arange(width)).sum() / jnp.maximum(area, 1.0)
        # Masks do not overlap, so their first pixels differ and no tie is left.
        return jnp.argmax(mask.reshape(height * width)), -area, centre, first

    # One id at a time, to bound memory.
    keys = jax.lax.map(look, jnp.arange(1, CAPACITY + 1))
    place = jnp.argsort(jnp.lexsort(keys)) + 1
    return jnp.concatenate([jnp.zeros(1, place.dtype), jnp.where(keys[-1] < frames, place, 0)])


def _settle(
    nearest: Int[np.ndarray, "h w"], sure: Bool[np.ndarray, "h w"], reach: int
) -> Int[np.ndarray, "h w"]:
    """Rejects unsure pixels, except where they border sure ones of the same instance.

    A blurred border is far from both of its colours; rejecting it would shrink every mask.
    """
    settled = np.where(sure, nearest, 0)
    for instance in np.unique(nearest[~sure]):
        near = scipy.ndimage.maximum_filter(settled == instance, 2 * reach + 1)
        settled = np.where(~sure & (nearest == instance) & near, instance, settled)
    return settled


def _solid_colours(
    frame: Float[np.ndarray, "h w 3"], palette: Float[np.ndarray, "n 3"], reject: float, size: int
) -> Bool[np.ndarray, " n"]:
    """Which colours fill a size x size square somewhere in the frame."""
    index, distance = nearest_colour(frame, palette)
    index = np.where(distance <= reject, index, 0)
    low = scipy.ndimage.minimum_filter(index, size, mode="constant", cval=-1)
    high = scipy.ndimage.maximum_filter(index, size, mode="constant", cval=-1)
    solid = np.zeros(len(palette), bool)
    solid[np.unique(index[low == high])] = True
    return solid


def trivial(truth: Arrays) -> dict[str, np.ndarray]:
    """Trivial prediction: one instance fills the frame."""
    return {"segments": np.ones_like(truth["segments"])}


def match_labels(
    prediction: Shaped[np.ndarray, "t h w"],
    truth: Shaped[np.ndarray, "t h w"],
) -> tuple[Int[np.ndarray, "t h w"], Int[np.ndarray, "t h w"]]:
    """Renumbers both so that matched instances share a number of the palette.

    Args:
      prediction, truth: instance numbers, 0 for background.

    Returns:
      Both in numbers 0 to `CAPACITY`.
    """
    partner = scoring.match(*scoring.overlaps(prediction, truth))
    predicted_ids, true_ids = (scoring.identities(a) for a in (prediction, truth))
    known, found = np.count_nonzero(true_ids), np.count_nonzero(predicted_ids)
    number = {m: n for n, m in partner.items()}
    free = itertools.count(int(known))
    numbers = [number[m] if m in number else next(free) for m in range(found)]

    def renumbered(labels: np.ndarray, ids: np.ndarray, numbers: Sequence[int]) -> np.ndarray:
        colours = np.zeros(len(ids), np.int64)
        colours[ids != 0] = np.asarray(numbers, np.int64) % CAPACITY + 1
        return colours[np.searchsorted(ids, labels)]

    return renumbered(prediction, predicted_ids, numbers), renumbered(truth, true_ids, range(known))


def compare(prediction: Arrays, truth: Arrays, height: int) -> Rows:
    """Draws both with matched instances in one colour, and where they differ.

    The codec does not draw them: it orders the instances of each picture separately.
    """
    step = drawing.stride(np.shape(truth["segments"])[1], height)
    thin = (drawing.every(a["segments"], step) for a in (prediction, truth))
    predicted, true = match_labels(*thin)
    palette = instance_palette()
    return {
        "truth": media.to_uint8(palette[true]),
        "prediction": media.to_uint8(palette[predicted]),
        drawing.LABEL_ERRORS: drawing.label_errors(predicted, true),
    }


class SegmentationJoiner(joining.Joiner):
    """Instances of a window take the numbers that they have in the frames before.

    They are matched by their masks in the shared frames; the others get numbers that no instance
    had so far, so a joined video may have more of them than the palette has colours.
    """

    def __init__(self, codec: Codec, overlap: int) -> None:
        super().__init__(codec, overlap)
        self._used = 0

    def add(self, window: Arrays) -> tuple[dict[str, np.ndarray], tuple[Arrays, Arrays] | None]:
        """Takes the next window as `Joiner.add` does, and records the numbers that are taken."""
        done = super().add(window)
        parts = [done[0]["segments"], self.end()["segments"]]
        self._used = max(self._used, *(int(part.max(initial=0)) for part in parts))
        return done

    def align(self, tail: Arrays, window: Arrays) -> tuple[Arrays, Arrays]:
        """Renumbers the window's instances by their masks in the shared frames."""
        found, before = np.asarray(window["segments"]), np.asarray(tail["segments"])
        head = found[: self.overlap]
        known, seen = ([i for i in scoring.identities(a) if i] for a in (before, head))
        partner = scoring.match(*scoring.overlaps(head, before))
        number = {int(seen[m]): int(known[n]) for n, m in partner.items()}
        fresh = itertools.count(self._used + 1)
        names = scoring.identities(found)
        taken = [number[i] if i in number else next(fresh) if i else 0 for i in map(int, names)]
        renamed = np.asarray(taken, np.int32)[np.searchsorted(names, found)]
        return tail, {**window, "segments": renamed}

    def draw(self, arrays: Arrays, size: tuple[int, int]) -> UInt8[np.ndarray, "t h w 3"]:
        """Draws by the colours of the numbers, which repeat after the last one."""
        segments = np.asarray(arrays["segments"])
        colour = np.where(segments > 0, (segments - 1) % CAPACITY + 1, 0)
        return media.to_uint8(instance_palette()[colour])


SEGMENTATION = register(
    Modality(
        name="segmentation",
        prompt="segment every person and object, one flat color each, on black",
        pixel_aligned=False,
        sampling_weight=2 / 7,
        codec=SegmentationCodec(),
        metric=scoring.SegmentationMetric,
        trivial=trivial,
        compare=compare,
        joiner=SegmentationJoiner,
    )
)
