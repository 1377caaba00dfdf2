"""DensePose (Güler et al., arXiv 1802.00434): body part, U and V of every pixel in one colour."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from unityvideo_jax.errors import UserError
from unityvideo_jax.metrics.agreement import BODY_MASK_IOU
from unityvideo_jax.metrics.base import Arrays
from unityvideo_jax.metrics.densepose import DensePoseMetric
from unityvideo_jax.modalities import checks, drawing, joining
from unityvideo_jax.modalities.base import Clip, Modality, Rows, Side, register

NUM_PARTS = 24
TORSO_FRONT = 2
# Parts (DensePose numbering) in four chains of six, from the end of a limb to the trunk: right leg,
# left leg, right arm, left arm. Neighbours on the body are neighbours in their chain, so that the
# blur between two of them rarely reads as a third.
CHAINS = (
    (6, 11, 13, 7, 9, 1),
    (5, 12, 14, 8, 10, 2),
    (3, 20, 22, 16, 18, 23),
    (4, 19, 21, 15, 17, 24),
)
# Blue is the place in the chain, six levels; red and green choose the chain by their band.
LEVELS = np.linspace(-0.5, 1.0, 6, dtype=np.float32)
BANDS = ((-1.0, -0.2), (0.2, 1.0))


def _layout() -> Float[np.ndarray, "25 3"]:
    """Per part: where U starts in red, where V starts in green, and blue; row 0 is background."""
    table = np.full((NUM_PARTS + 1, 3), -1.0, np.float32)
    for chain, parts in enumerate(CHAINS):
        for place, part in enumerate(parts):
            table[part] = BANDS[chain // 2][0], BANDS[chain % 2][0], LEVELS[place]
    return table


LAYOUT = _layout()
BAND_WIDTH = BANDS[0][1] - BANDS[0][0]
# Red and green vary by up to BAND_WIDTH inside a part; the background's do not vary.
EXTENT = np.where(np.arange(NUM_PARTS + 1)[:, None] > 0, (BAND_WIDTH, BAND_WIDTH, 0.0), 0.0).astype(
    np.float32
)


def colour_distances(video: Float[np.ndarray, "t h w 3"]) -> Iterator[Float[np.ndarray, "t h w"]]:
    """Squared distances to each part's rectangle of colours, zero inside; the background first."""
    for low, extent in zip(LAYOUT, EXTENT, strict=True):
        yield np.square(video - np.clip(video, low, low + extent)).sum(axis=-1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DensePoseCodec:
    """An opaque palette of 24 parts on black, modulated by U in red and V in green.

    Each of red and green has two bands 0.8 wide, [-1, -0.2] and [0.2, 1]; the pair of bands picks
    one of four limb chains and the place inside the bands is U and V. Blue has six levels 0.3 apart
    for the place in the chain. A part survives an error of 0.15 in blue and 0.2 in red or green
    (units of [-1, 1]); an error e in red is an error e / 0.8 in U.

    Clip: part i32[T, H, W], 0 background, 1..24 DensePose parts; uv f32[T, H, W, 2] in [0, 1].
    Side: empty.
    """

    keys: ClassVar[tuple[str, ...]] = ("part", "uv")
    version: ClassVar[str] = "densepose-bands-1"
    error_floor: ClassVar[Mapping[str, float]] = {
        "part_share": 0.0,
        "part_share_8bit": 0.0,
        "uv": 1e-6,
        "uv_8bit": 1 / 255 / 0.8 + 1e-6,
    }

    @property
    def default_side(self) -> Side:
        """An empty record: the picture holds everything."""
        return {}

    def check(self, clip: Clip, source: str) -> None:
        """Raises UserError for parts outside 0..24, U or V outside [0, 1], or sizes that differ."""
        part = checks.array(clip, "part", source, integers=True)
        uv = checks.array(clip, "uv", source, (2,))
        checks.same_size(clip, ("part", "uv"), source)
        if part.min() < 0 or part.max() > NUM_PARTS:
            raise UserError(
                f"{source}: part spans [{part.min()}, {part.max()}]; "
                "use DensePose parts 1..24 and 0 for background"
            )
        checks.finite(uv, f"{source}: uv")
        checks.within(uv, 0.0, 1.0, f"{source}: uv")

    def encode(self, clip: Clip) -> tuple[Float[Array, "t h w 3"], dict[str, Array]]:
        """Draws parts and coordinates as video in [-1, 1]; the side record is empty."""
        part = jnp.clip(jnp.asarray(clip["part"], jnp.int32), 0, NUM_PARTS)
        uv = jnp.clip(jnp.asarray(clip["uv"], jnp.float32), 0.0, 1.0)
        base, extent = jnp.asarray(LAYOUT)[part], jnp.asarray(EXTENT)[part]
        uvw = jnp.concatenate([uv, jnp.zeros_like(uv[..., :1])], axis=-1)
        return base + extent * uvw, {}

    def decode(
        self, video: Float[Array, "t h w 3"] | Float[np.ndarray, "t h w 3"], side: Side, **_: Any
    ) -> dict[str, np.ndarray]:
        """Reads part i32[T, H, W] and uv f32[T, H, W, 2] (zero on background).

        Args:
          video: in [-1, 1].
          side: not used.
        """
        video = np.clip(np.asarray(video, np.float32), -1.0, 1.0)
        part = np.zeros(video.shape[:3], np.int32)
        best = np.full(video.shape[:3], np.inf, np.float32)
        for index, distance in enumerate(colour_distances(video)):
            closer = distance < best
            part[closer], best[closer] = index, distance[closer]
        uv = (video[..., :2] - LAYOUT[part][..., :2]) / BAND_WIDTH
        uv = np.where((part > 0)[..., None], np.clip(uv, 0.0, 1.0), 0.0)
        return {"part": part, "uv": uv.astype(np.float32)}


def trivial(truth: Arrays) -> dict[str, np.ndarray]:
    """Trivial prediction: one body part, the front of a torso, fills the frame."""
    uv = np.full_like(truth["uv"], 0.5)
    return {"part": np.full_like(truth["part"], TORSO_FRONT), "uv": uv}


def compare(prediction: Arrays, truth: Arrays, height: int) -> Rows:
    """Draws prediction and truth, and where their parts differ."""
    step = drawing.stride(np.shape(truth["part"])[1], height)
    parts = [drawing.every(a["part"], step).astype(np.int64) for a in (prediction, truth)]
    uvs = [np.clip(drawing.every(a["uv"], step), 0.0, 1.0) for a in (prediction, truth)]
    pairs = zip(parts, uvs, strict=True)
    predicted, true = [drawing.draw(_CODEC, {"part": p, "uv": u}) for p, u in pairs]
    return {
        "truth": true,
        "prediction": predicted,
        drawing.LABEL_ERRORS: drawing.label_errors(*parts),
    }


class DensePoseJoiner(joining.Joiner):
    """Coordinates are blended where both windows see the same part; elsewhere the nearer counts."""

    def blend(self, tail: Arrays, head: Arrays) -> dict[str, np.ndarray]:
        """Blends coordinates of equal parts; all else is the nearer window's."""
        same = (tail["part"] == head["part"])[..., None]
        mixed = joining.blended(tail["uv"], head["uv"])
        near = {key: joining.nearer(tail[key], head[key]) for key in head}
        return near | {"uv": np.where(same, mixed, near["uv"])}


_CODEC = DensePoseCodec()
DENSEPOSE = register(
    Modality(
        name="densepose",
        prompt="dense pose: body part and surface coordinates of every person, on black",
        pixel_aligned=True,
        sampling_weight=1 / 7,
        codec=_CODEC,
        metric=DensePoseMetric,
        trivial=trivial,
        compare=compare,
        joiner=DensePoseJoiner,
        agreements={"segmentation": BODY_MASK_IOU},
    )
)
