"""Depth as grey, near is white, of unknown scale (UnityVideo's depth maps) or in metres."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from unityvideo_jax import media
from unityvideo_jax.errors import UserError
from unityvideo_jax.metrics import depth as scoring
from unityvideo_jax.metrics.agreement import DEPTH_EDGE_AUC
from unityvideo_jax.metrics.base import Arrays
from unityvideo_jax.metrics.depth_units import unit_of
from unityvideo_jax.modalities import checks, drawing, joining
from unityvideo_jax.modalities.base import Clip, Codec, Modality, Rows, Side, register
from unityvideo_jax.units import RELATIVE

# Share of the grey range between the sky (black) and the farthest surface, so that a VAE's error
# does not turn a far wall into sky.
SKY_GAP = 0.08
# Bounds in 1/m to read relative depth that has no record, such as sampled depth. They only have to
# be finite and ordered, since such numbers have no scale.
DEFAULT_BOUNDS = (1.0 / 50.0, 1.0)
# One of STRAYS surface pixels at either end (and one more per frame) may be a stray, if it
# lengthens the range by the share MARGIN: one pixel that is too near must not darken all others.
STRAYS, MARGIN = 1000, 1 / 4
# Nearest and farthest depth in metres that the metric codec distinguishes.
METRIC_RANGE = (0.1, 100.0)
# Least disparity of a joined surface, in the unit of `DEFAULT_BOUNDS`.
LEAST_DISPARITY = 1e-6
# Correlation of two windows' disparity of a key frame above which it is an anchor.
KEY_AGREEMENT = 0.5
# Relative error of the brightest colour of an error map.
WORST_ABS_REL = 0.5

Video = Float[Array, "t h w 3"] | Float[np.ndarray, "t h w 3"]


def _draw(share: Float[Array, "t h w"], surface: Bool[Array, "t h w"]) -> Float[Array, "t h w 3"]:
    """Grey video of a share of the range in [0, 1], black where there is no surface."""
    grey = jnp.where(surface, SKY_GAP + (1.0 - SKY_GAP) * share, 0.0)
    return jnp.broadcast_to((2.0 * grey - 1.0)[..., None], (*grey.shape, 3))


def _read(video: Video) -> tuple[Float[np.ndarray, "t h w"], Bool[np.ndarray, "t h w"]]:
    """The inverse of `_draw`: the share, and where grey is below half of `SKY_GAP`."""
    # The mean of three channels averages a VAE's colour noise away.
    grey = (np.clip(np.asarray(video, np.float32), -1.0, 1.0).mean(axis=-1) + 1.0) / 2.0
    return np.clip((grey - SKY_GAP) / (1.0 - SKY_GAP), 0.0, 1.0), grey < SKY_GAP / 2


def _bounds(
    disparity: Float[Array, "t h w"], surface: Bool[Array, "t h w"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Least and greatest disparity of the surfaces, strays apart; 1 and 1 if there are none.

    Strays lie beyond the range of all pixels but one of `STRAYS` (and one more per frame) at either
    end, by more than `MARGIN` of it.
    """
    ordered = jnp.sort(jnp.where(surface, disparity, jnp.inf).ravel())
    count = surface.sum()
    # Of few pixels none is a stray.
    skipped = jnp.minimum(count // STRAYS + len(disparity), count // 64)
    low = ordered[skipped]
    high = ordered[jnp.maximum(count - 1 - skipped, 0)]
    margin = MARGIN * (high - low)
    # Disparity cannot fall below 0: four times as far is a stray in any case.
    least = low - jnp.minimum(margin, (1.0 - MARGIN) * low)
    near = surface & (disparity <= high + margin)
    far = surface & (disparity >= least)
    low = jnp.min(disparity, where=far, initial=jnp.inf)
    high = jnp.max(disparity, where=near, initial=0.0)
    return jnp.where(count > 0, low, 1.0), jnp.where(count > 0, high, 1.0)


def _check(clip: Clip, source: str) -> np.ndarray:
    depth = checks.array(clip, "depth", source)
    checks.finite(depth, f"{source}: depth", allow_inf=True)
    if (depth <= 0).any():
        raise UserError(
            f"{source}: depth has values <= 0 m (least {depth.min():g}); "
            "set pixels without a surface to +inf"
        )
    return depth


@dataclasses.dataclass(frozen=True, kw_only=True)
class DepthCodec:
    """Disparity (1/depth) stretched to the clip's own range, grey in all three channels.

    One pair of bounds serves the whole clip, so that nothing flickers; near is white. Sky (+inf)
    is black, and the farthest surface lies `SKY_GAP` of the grey range above it. The grey level is
    linear in disparity: equal pixel errors are equal disparity errors, and the relative error of a
    depth d is the disparity error times d. Strays (`_bounds`) are drawn as the bound next to them.

    The picture says nothing of scale and offset in disparity, so a model that learned from it
    estimates relative depth.

    Clip: depth f32[T, H, W] along the camera's z axis, in metres or of unknown scale, > 0, +inf
    where nothing was hit.
    Side: bounds f32[2], the least and the greatest finite disparity, in 1/m if depth was in metres
    (equal for constant depth; (1, 1) if all is sky).
    """

    keys: ClassVar[tuple[str, ...]] = ("depth",)
    version: ClassVar[str] = "depth-disparity-2"
    # Version 1 had strays inside its bounds.
    earlier: ClassVar[tuple[str, ...]] = ("depth-disparity-1",)
    unit: ClassVar[str] = RELATIVE
    # As a share of the clip's disparity range.
    error_floor: ClassVar[Mapping[str, float]] = {
        "disparity_share": 1e-6,
        "disparity_share_8bit": 0.5 / 255 / (1 - SKY_GAP) + 1e-6,
    }

    @property
    def default_side(self) -> Side:
        """Bounds for depth without a record, whose scale is unknown."""
        return {"bounds": np.asarray(DEFAULT_BOUNDS, np.float32)}

    def check(self, clip: Clip, source: str) -> None:
        """Raises UserError for depth that is not [T, H, W], not above 0, or NaN."""
        _check(clip, source)

    def encode(self, clip: Clip) -> tuple[Float[Array, "t h w 3"], dict[str, Float[Array, "..."]]]:
        """Draws depth as video in [-1, 1], with its bounds as side record."""
        depth = jnp.asarray(clip["depth"], jnp.float32)
        surface = jnp.isfinite(depth)
        # Not nearer than 1e-30, whose inverse is still finite in float32.
        disparity = 1.0 / jnp.where(surface, jnp.maximum(depth, 1e-30), 1.0)
        low, high = _bounds(disparity, surface)
        span = high - low
        share = jnp.where(span > 0, (disparity - low) / jnp.where(span > 0, span, 1.0), 1.0)
        return _draw(jnp.clip(share, 0.0, 1.0), surface), {"bounds": jnp.stack([low, high])}

    def decode(self, video: Video, side: Side, **_: Any) -> dict[str, np.ndarray]:
        """Reads depth f32[T, H, W], +inf for grey below half of `SKY_GAP`.

        In the unit of the clip whose side record it is; of no known scale with the default.
        """
        low, high = np.asarray(side["bounds"], np.float32)
        share, sky = _read(video)
        disparity = np.maximum(low + (high - low) * share, 1e-6)
        return {"depth": np.where(sky, np.inf, 1.0 / disparity).astype(np.float32)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetricDepthCodec:
    """The logarithm of depth between fixed bounds, grey in all three channels.

    For clips in metres: equal greys are equal depths in every clip, so a model that learned from it
    estimates metres. Near is white; sky (+inf) is black, and `METRIC_RANGE`[1] lies `SKY_GAP` of
    the grey range above it. Equal pixel errors are equal relative errors. Surfaces outside of the
    range are drawn as its end next to them.

    Clip: depth f32[T, H, W] in metres along the camera's z axis, > 0, +inf where nothing was hit.
    Side: bounds f32[2], always 1 / `METRIC_RANGE` in 1/m, the least first.
    """

    keys: ClassVar[tuple[str, ...]] = ("depth",)
    version: ClassVar[str] = "depth-metric-log-1"
    unit: ClassVar[str] = "m"
    # |d - d*| / d* inside the range.
    error_floor: ClassVar[Mapping[str, float]] = {
        "relative": 1e-5,
        "relative_8bit": (METRIC_RANGE[1] / METRIC_RANGE[0]) ** (0.5 / 255 / (1 - SKY_GAP))
        - 1
        + 1e-5,
    }

    @property
    def default_side(self) -> Side:
        """The bounds of every clip: 1 / `METRIC_RANGE`."""
        near, far = METRIC_RANGE
        return {"bounds": np.asarray([1.0 / far, 1.0 / near], np.float32)}

    def check(self, clip: Clip, source: str) -> None:
        """Raises UserError for depth that is not in metres, or lies wholly outside the range."""
        depth = _check(clip, source)
        near, far = METRIC_RANGE
        surfaces = depth[np.isfinite(depth)]
        if unit_of(clip) == RELATIVE:
            raise UserError(
                f"{source}: depth of unknown scale, which the metric codec cannot draw; choose the "
                "codec 'relative' of depth, or give metres"
            )
        if surfaces.size and (surfaces.min() > far or surfaces.max() < near):
            raise UserError(
                f"{source}: depth is {surfaces.min():g} to {surfaces.max():g} m everywhere, "
                f"outside the {near:g} to {far:g} m of the metric codec; state its unit if it is "
                "not metres"
            )

    def encode(self, clip: Clip) -> tuple[Float[Array, "t h w 3"], dict[str, Float[Array, "..."]]]:
        """Draws depth as video in [-1, 1], with the fixed bounds as side record."""
        near, far = METRIC_RANGE
        depth = jnp.asarray(clip["depth"], jnp.float32)
        surface = jnp.isfinite(depth)
        within = jnp.clip(jnp.where(surface, depth, far), near, far)
        share = jnp.log(far / within) / math.log(far / near)
        side = {key: jnp.asarray(value) for key, value in self.default_side.items()}
        return _draw(share, surface), side

    def decode(self, video: Video, side: Side, **_: Any) -> dict[str, np.ndarray]:
        """Reads depth f32[T, H, W] in metres, +inf for grey below half of `SKY_GAP`."""
        low, high = np.asarray(side["bounds"], np.float64)
        share, sky = _read(video)
        return {"depth": np.where(sky, np.inf, (low / high) ** share / low).astype(np.float32)}


def trivial(truth: Arrays) -> dict[str, np.ndarray]:
    """Trivial prediction: constant depth."""
    return {"depth": np.ones_like(truth["depth"])}


def compare(prediction: Arrays, truth: Arrays, height: int) -> Rows:
    """Draws prediction and truth after the headline's alignment, and the relative error."""
    whole = scoring.in_protocol_units(truth)
    step = drawing.stride(whole.shape[1], height)
    predicted, true = drawing.every(prediction["depth"], step), drawing.every(whole, step)
    if any(scoring.valid_pixels(frame).any() for frame in true):
        aligned = scoring.aligner(predicted, true, scoring.ALIGNMENTS[0])
        predicted = np.stack([aligned(t) for t in range(len(true))])
    pairs = zip(predicted, true, strict=True)
    error = np.stack([np.abs(scoring.relative_error(p, t)) for p, t in pairs])
    return {
        "truth": drawing.draw(_RELATIVE, {"depth": true}),
        "prediction, aligned": drawing.draw(_RELATIVE, {"depth": predicted.astype(np.float32)}),
        f"relative error, 0 to {WORST_ABS_REL:g}": drawing.heat(error, WORST_ABS_REL),
    }


@dataclasses.dataclass(frozen=True)
class _Moments:
    mean: float
    deviation: float


def _moments(values: Float[np.ndarray, "*s"], weight: Float[np.ndarray, "*s"]) -> _Moments:
    """Weighted mean and standard deviation."""
    mean = float(np.average(values, weights=weight))
    return _Moments(mean, math.sqrt(np.average(np.square(values - mean), weights=weight)))


def _correlation(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> float:
    """Pearson's correlation; 0 if either is flat."""
    spread = x.std() * y.std()
    return float(np.mean((x - x.mean()) * (y - y.mean())) / spread) if spread > 0 else 0.0


class DepthJoiner(joining.Joiner):
    """Relative depth: the window's disparity is scaled and shifted to that of the frames before.

    The scale is the ratio of the deviations over the shared pixels, not the least-squares slope:
    noise in either window makes slopes too small, and a product of a hundred of them nothing.
    The key frames have half of the weight, so that errors of single windows do not multiply (as in
    Video Depth Anything, arXiv 2501.12375, section 3.3); windows that do not agree on the shape of
    the key frames are fitted to the last frames alone.
    Depth in metres is blended as it is. Blends are of disparity, and sky of the nearer window.
    """

    @classmethod
    def needs_keys(cls, codec: Codec) -> bool:
        return getattr(codec, "unit", "") == RELATIVE

    def align(self, tail: Arrays, window: Arrays) -> tuple[Arrays, Arrays]:
        """Scales and shifts the window's relative disparity to the tail's; metres are unchanged."""
        if unit_of(window) != RELATIVE:
            return tail, window
        disparity = 1.0 / np.asarray(window["depth"], np.float64)
        before = 1.0 / np.asarray(tail["depth"], np.float64)
        after = disparity[: self.overlap]
        weight = self._weights(before, after)
        if not weight.any():
            return tail, window
        x, y = (_moments(a, weight) for a in (after, before))
        # Something that is flat in either has no scale that could be compared.
        largest = max(after[weight > 0].max(), before[weight > 0].max())
        flat = min(x.deviation, y.deviation) < 1e-6 * largest
        scale = 1.0 if flat else y.deviation / x.deviation
        fitted = np.maximum(scale * (disparity - x.mean) + y.mean, LEAST_DISPARITY)
        depth = np.where(disparity > 0, 1.0 / fitted, np.inf)
        return tail, {**window, "depth": depth.astype(np.float32)}

    def _weights(
        self, before: Float[np.ndarray, "t h w"], after: Float[np.ndarray, "t h w"]
    ) -> Float[np.ndarray, "t h w"]:
        """How much every pixel counts in the fit: those that are surface in both."""
        weight = ((before > 0) & (after > 0)).astype(np.float64)
        key, last = weight[: self.keys], weight[self.keys :]
        if not last.any() or not key.any():
            return weight
        ours, theirs = (a[: self.keys][key > 0] for a in (before, after))
        key *= last.sum() / key.sum() if _correlation(ours, theirs) > KEY_AGREEMENT else 0.0
        return weight

    def blend(self, tail: Arrays, head: Arrays) -> dict[str, np.ndarray]:
        """Blends disparity; where one of the two has sky, the nearer window counts."""
        near = joining.nearer(tail["depth"], head["depth"])
        before, after = (1.0 / np.asarray(a["depth"]) for a in (tail, head))
        # Where one of them has sky, the nearer one decides.
        one = np.isinf(tail["depth"]) | np.isinf(head["depth"])
        with np.errstate(divide="ignore"):
            mixed = 1.0 / joining.blended(before, after)
        return {**head, "depth": np.where(one, near, mixed).astype(np.float32)}

    def draw(self, arrays: Arrays, size: tuple[int, int]) -> UInt8[np.ndarray, "t h w 3"]:
        """Draws relative depth with a sampled window's bounds: later ones are not known yet.

        Depth beyond them has the grey of the bound.
        """
        if unit_of(arrays) != RELATIVE:
            return super().draw(arrays, size)
        depth = np.asarray(arrays["depth"])
        low, high = DEFAULT_BOUNDS
        share = np.clip((1.0 / depth - low) / (high - low), 0.0, 1.0)
        return media.to_uint8(np.asarray(_draw(jnp.asarray(share), jnp.isfinite(depth))))


_RELATIVE = DepthCodec()
DEPTH = register(
    Modality(
        name="depth",
        prompt="a depth map: the distance of every pixel from the camera, bright is near",
        pixel_aligned=True,
        sampling_weight=1 / 7,
        codec=_RELATIVE,
        variants={"relative": _RELATIVE, "metric": MetricDepthCodec()},
        metric=scoring.DepthMetric,
        trivial=trivial,
        compare=compare,
        joiner=DepthJoiner,
        agreements={"segmentation": DEPTH_EDGE_AUC},
    )
)
