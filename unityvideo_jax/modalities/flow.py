"""Optical flow: motion in pixels as colour around grey."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from unityvideo_jax.metrics import flow as scoring
from unityvideo_jax.metrics.agreement import MOVED_MASK_IOU
from unityvideo_jax.metrics.base import Arrays
from unityvideo_jax.modalities import checks, drawing
from unityvideo_jax.modalities.base import Clip, Modality, Rows, Side, register

# The fastest motion that is encoded: this share of the frame's diagonal per frame.
LIMIT = 0.2
# Companding: speed s in [0, 1] becomes log(1 + MU s) / log(1 + MU).
MU = 31.0
# End-point error of the brightest colour of an error map.
WORST_PIXELS = 5.0
# Three unit vectors 120 degrees apart, one per channel. They sum to zero and are a tight frame.
AXES = np.asarray(
    [[math.cos(a), math.sin(a)] for a in (0.0, 2 * math.pi / 3, 4 * math.pi / 3)], np.float32
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlowCodec:
    """Companded motion, projected on three axes 120 degrees apart, one per channel.

    Rest is mid grey; hue is direction and saturation is speed. The projection is inverted by least
    squares (2/3 of the transpose): brightness errors cancel altogether, and channel noise of
    deviation s leaves sqrt(2/3) s in each component. Speed is companded on its magnitude, so
    directions stay exact and small motions get most of the range: near rest one 8-bit step is
    1/9 of what a linear code would give. Motion faster than `LIMIT` of the frame diagonal keeps its
    direction and is shortened to the limit; the side record says how many pixels were.

    Clip: flow f32[T, H, W, 2], (dx, dy) in pixels to the next frame, x right, y down.
    Side: limit f32[] as a share of the diagonal; clipped f32[], the share of pixels shortened.
    """

    keys: ClassVar[tuple[str, ...]] = ("flow",)
    version: ClassVar[str] = "flow-triaxial-1"
    # Length of the error vector over the frame diagonal: in float32 up to the limit, and after 8
    # bits at rest and anywhere up to the limit (half a step in each channel is at most 4/3 of it in
    # the vector; times the slope of the companding there).
    error_floor: ClassVar[Mapping[str, float]] = {
        "diagonal_share": 1e-6,
        "diagonal_share_8bit_rest": 0.00013,
        "diagonal_share_8bit": 0.0039,
    }

    @property
    def default_side(self) -> Side:
        """The limit of every clip, and no shortened pixels."""
        return {"limit": np.asarray(LIMIT, np.float32), "clipped": np.zeros((), np.float32)}

    def check(self, clip: Clip, source: str) -> None:
        """Raises UserError for flow that is not [T, H, W, 2] or not finite."""
        checks.finite(checks.array(clip, "flow", source, (2,)), f"{source}: flow")

    def encode(self, clip: Clip) -> tuple[Float[Array, "t h w 3"], dict[str, Float[Array, "..."]]]:
        """Draws flow as video in [-1, 1]; the side record counts the shortened pixels."""
        flow = jnp.asarray(clip["flow"], jnp.float32)
        speed = jnp.linalg.norm(flow, axis=-1, keepdims=True)
        share = speed / (LIMIT * math.hypot(*flow.shape[1:3]))
        length = jnp.log1p(MU * jnp.minimum(share, 1.0)) / math.log1p(MU)
        video = flow / jnp.maximum(speed, 1e-12) * length @ AXES.T
        side = {"limit": jnp.float32(LIMIT), "clipped": jnp.mean(share > 1.0, dtype=jnp.float32)}
        return video, side

    def decode(
        self, video: Float[Array, "t h w 3"] | Float[np.ndarray, "t h w 3"], side: Side, **_: Any
    ) -> dict[str, np.ndarray]:
        """Reads flow f32[T, H, W, 2] in pixels of this video's size."""
        video = np.clip(np.asarray(video, np.float32), -1.0, 1.0)
        vector = video @ AXES * np.float32(2 / 3)
        length = np.linalg.norm(vector, axis=-1, keepdims=True)
        share = np.expm1(np.minimum(length, 1.0) * math.log1p(MU)) / MU
        limit = np.asarray(side["limit"], np.float32) * math.hypot(*video.shape[1:3])
        flow = vector / np.maximum(length, 1e-12) * share * limit
        return {"flow": flow.astype(np.float32)}


def trivial(truth: Arrays) -> dict[str, np.ndarray]:
    """Trivial prediction: no motion."""
    return {"flow": np.zeros_like(truth["flow"])}


def compare(prediction: Arrays, truth: Arrays, height: int) -> Rows:
    """Draws both and the end-point error; colours show motion as a share of the drawn frame."""
    step = drawing.stride(np.shape(truth["flow"])[1], height)
    predicted, true = (drawing.every(a["flow"], step) for a in (prediction, truth))
    return {
        "truth": drawing.draw(_CODEC, {"flow": true / step}),
        "prediction": drawing.draw(_CODEC, {"flow": predicted / step}),
        f"error, 0 to {WORST_PIXELS:g} px": drawing.heat(
            scoring.end_point_error(predicted, true), WORST_PIXELS
        ),
    }


_CODEC = FlowCodec()
FLOW = register(
    Modality(
        name="flow",
        prompt="optical flow: the motion of every pixel to the next frame, hue is direction, "
        "saturation is speed, grey is rest",
        pixel_aligned=True,
        sampling_weight=1 / 7,
        codec=_CODEC,
        metric=scoring.FlowMetric,
        trivial=trivial,
        compare=compare,
        agreements={"segmentation": MOVED_MASK_IOU},
    )
)
