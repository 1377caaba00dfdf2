"""A modality of your own in one file: surface normals, with worlds' exact ones as ground truth.

Copy this file, and name it to any program as `--plugins=MODULE`; nothing else changes. What it
registers, in the order in which a clip meets it: the prompt, the codec (numbers to video and back),
the metric, the trivial prediction, and the picture of a report. `examples/normals_config.py` has
the commands that train and score it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from unityvideo_jax.errors import UserError
from unityvideo_jax.metrics.base import Arrays, Metric, check_pair
from unityvideo_jax.metrics.scores import ClipScore
from unityvideo_jax.modalities import Clip, Modality, Rows, Side, checks, drawing, joining, register

WITHIN = (11.25, 22.5, 30.0)  # degrees, the thresholds of the field since Fouhey et al. 2013
WORST_DEGREES = 60.0  # the brightest colour of an error map


@dataclasses.dataclass(frozen=True, kw_only=True)
class NormalsCodec:
    """The components of a normal are the channels, so that mid grey means no surface.

    Clip: normals f32[T, H, W, 3] of unit length (x right, y down, z forward), zero where there is
    no surface.
    Side: empty.
    """

    keys: ClassVar[tuple[str, ...]] = ("normals",)
    version: ClassVar[str] = "normals-1"
    error_floor: ClassVar[Mapping[str, float]] = {"degrees": 0.05, "degrees_8bit": 0.6}

    @property
    def default_side(self) -> Side:
        """An empty record: the picture holds everything."""
        return {}

    def check(self, clip: Clip, source: str) -> None:
        """Raises UserError for normals that are not [T, H, W, 3] of unit length."""
        normals = checks.array(clip, "normals", source, (3,))
        checks.finite(normals, f"{source}: normals")
        length = np.linalg.norm(normals, axis=-1)
        if ((np.abs(length - 1) > 1e-3) & (length > 1e-3)).any():
            raise UserError(f"{source}: normals are not of unit length; normalise them")

    def encode(self, clip: Clip) -> tuple[Float[Array, "t h w 3"], dict[str, Array]]:
        """Draws normals as video in [-1, 1]; the side record is empty."""
        return jnp.asarray(clip["normals"], jnp.float32), {}

    def decode(
        self, video: Float[Array, "t h w 3"] | Float[np.ndarray, "t h w 3"], side: Side, **_: Any
    ) -> dict[str, np.ndarray]:
        """Reads normals f32[T, H, W, 3] of unit length, zero where the picture is near grey."""
        video = np.clip(np.asarray(video, np.float32), -1.0, 1.0)
        length = np.linalg.norm(video, axis=-1, keepdims=True)
        return {"normals": np.where(length > 0.5, video / np.maximum(length, 1e-6), 0.0)}


def angles(
    prediction: Float[np.ndarray, "t h w 3"], truth: Float[np.ndarray, "t h w 3"]
) -> Float[np.ndarray, "t h w"]:
    """Degrees between unit normals; 90 where only the truth has one, NaN where it has none."""
    cosine = np.clip((prediction.astype(np.float64) * truth).sum(axis=-1), -1.0, 1.0)
    return np.where(np.square(truth).sum(axis=-1) > 0.5, np.degrees(np.arccos(cosine)), np.nan)


class NormalsMetric(Metric):
    """Angular error over the pixels of all clips that have a surface.

    Keys: "normals/pooled_surfaces/{degrees,within_11.25,within_22.5,within_30}".
    """

    modality = "normals"
    keys = ("normals",)
    protocols: ClassVar[Mapping[str, str]] = {
        "pooled_surfaces": "angle to the true normal, over all pixels that have a surface; "
        "within_<d>: share of them within d degrees"
    }
    headline = "normals/pooled_surfaces/degrees"
    lower_is_better = True

    def score(self, prediction: Arrays, truth: Arrays, name: str) -> ClipScore:
        """Scores one clip; raises UserError if the shapes differ or a value is NaN."""
        predicted, true = (np.asarray(a["normals"]) for a in (prediction, truth))
        check_pair(predicted, true, "normals", name, tail=(3,))
        found = angles(predicted, true)
        found = found[~np.isnan(found)]
        values = {"degrees": found} | {f"within_{d:g}": found <= d for d in WITHIN}
        return ClipScore(
            means={
                f"normals/pooled_surfaces/{number}": (
                    float(value.mean()) if found.size else 0.0,
                    float(found.size),
                )
                for number, value in values.items()
            },
            counts={"normals/videos": 1},
        )


def trivial(truth: Arrays) -> dict[str, np.ndarray]:
    """Trivial prediction: a wall that faces the camera."""
    return {"normals": np.zeros_like(truth["normals"]) + np.float32([0.0, 0.0, -1.0])}


def compare(prediction: Arrays, truth: Arrays, height: int) -> Rows:
    """Draws both in the codec's colours, and the angle between them."""
    step = drawing.stride(np.shape(truth["normals"])[1], height)
    predicted, true = (drawing.every(a["normals"], step) for a in (prediction, truth))
    return {
        "truth": drawing.draw(_CODEC, {"normals": true}),
        "prediction": drawing.draw(_CODEC, {"normals": predicted}),
        f"error, 0 to {WORST_DEGREES:g} degrees": drawing.heat(
            angles(predicted, true), WORST_DEGREES
        ),
    }


class NormalsJoiner(joining.Joiner):
    """Windows of a long video are blended, and then unit length is restored."""

    def blend(self, tail: Arrays, head: Arrays) -> dict[str, np.ndarray]:
        """Blends the components, and restores unit length."""
        mixed = super().blend(tail, head)["normals"]
        length = np.linalg.norm(mixed, axis=-1, keepdims=True)
        return {"normals": np.where(length > 0.5, mixed / np.maximum(length, 1e-6), 0.0)}


_CODEC = NormalsCodec()
NORMALS = register(
    Modality(
        name="normals",
        prompt="surface normals: the direction that every surface faces, as colour",
        pixel_aligned=True,
        sampling_weight=1 / 7,
        codec=_CODEC,
        metric=NormalsMetric,
        trivial=trivial,
        compare=compare,
        joiner=NormalsJoiner,
    )
)
