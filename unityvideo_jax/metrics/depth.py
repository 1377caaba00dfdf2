"""Depth scores under named alignments. A score without its alignment's name is a wrong number.

  disparity_scale_shift_video  least-squares scale and shift in disparity over the whole video
    (DepthCrafter's protocol, the headline); pixels are averaged in a frame, then frames in a video,
    then videos.
  depth_scale_video  one scale in depth per video by least absolute deviations: 10 of Weiszfeld's
    reweighted least-squares steps from the ratio of the means (Aether's protocol); videos are
    weighted by their valid pixels.
  depth_scale_frame  the same with one scale per frame; frames are weighted by their valid pixels.
  metric  no alignment: estimates in metres as they are, averaged as the headline. Only estimates
    whose unit is known have this score.

Aligned estimates are cut to 1e-3 to 70 m, the range of the truth that counts, as in DepthCrafter's
evaluation. AbsRel = mean |d - d*| / d*; delta_k = share of max(d / d*, d* / d) < 1.25^k, with d*
the truth; RMSE in metres is the root over the frame (headline, metric) or the video.
temporal_error = mean |e_t+1 - e_t| of the signed relative error e = (d - d*) / d* at a pixel that
counts in both frames: 0 for an error that does not flicker, whatever moves in the truth.

Pixels count where 1e-3 m < d* < 70 m: not where the truth is +inf (sky) or 0 (not measured). Truth
without a unit is taken for metres; truth of unknown scale is divided by its median first, so that
the range and the RMSE are in medians. No limit in metres touches an estimate before it is aligned,
so the three alignments give any multiple of it the same score.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float

from unityvideo_jax.errors import UserError
from unityvideo_jax.metrics.base import Arrays, Metric, check_pair
from unityvideo_jax.metrics.depth_units import UNIT, unit_of
from unityvideo_jax.metrics.scores import ClipScore
from unityvideo_jax.units import RELATIVE

ALIGNMENTS = ("disparity_scale_shift_video", "depth_scale_video", "depth_scale_frame")
METRIC = "metric"
MIN_DEPTH, MAX_DEPTH = 1e-3, 70.0
MIN_DISPARITY = 1e-3
WEISZFELD_STEPS = 10
NUMBERS = ("abs_rel", "delta_1", "delta_2", "delta_3", "rmse")  # the RMSE last
# Values per sum: few enough to stay in a core's cache, and for BLAS to add them on one core, so
# that processes do not wait for each other's threads and the order of the sum is always the same.
CHUNK = 8192

Values = Float[np.ndarray, "..."]
# The values of each frame that count: those of a video need not be in memory in float64 at once.
Frames = Sequence[Float[np.ndarray, " _"]]


def valid_pixels(truth: Float[np.ndarray, "*s"]) -> Bool[np.ndarray, "*s"]:
    """Returns the pixels that count: a surface between 1 mm and 70 m (sky is +inf)."""
    return (truth > MIN_DEPTH) & (truth < MAX_DEPTH)


def _total(frames: Frames, *others: Frames, of: Callable[..., Values]) -> float:
    """Sum of a function of corresponding values, in float64."""
    parts = zip(frames, *others, strict=True)
    return float(sum(of(*(np.asarray(v, np.float64) for v in values)).sum() for values in parts))


def fit_scale_shift(x: Frames, y: Frames) -> tuple[float, float]:
    """Returns (a, b) that minimise |a x + b - y|^2; a = 0 and b = mean y where x is constant."""
    count = sum(len(values) for values in x)
    x_mean, y_mean = (_total(values, of=lambda v: v) / count for values in (x, y))
    spread = _total(x, of=lambda v: np.square(v - x_mean)) / count
    # Relative to x itself: below this, the spread is rounding, and so would the slope be.
    if spread <= 1e-12 * _total(x, of=np.square) / count:
        return 0.0, y_mean
    shared = _total(x, y, of=lambda v, w: (v - x_mean) * (w - y_mean)) / count
    return shared / spread, y_mean - shared / spread * x_mean


def _chunks(x: Frames, y: Frames) -> Iterator[tuple[Values, Values]]:
    for v, w in zip(x, y, strict=True):
        for first in range(0, len(v), CHUNK):
            yield v[first : first + CHUNK], w[first : first + CHUNK]


def fit_scale_l1(x: Frames, y: Frames, steps: int = WEISZFELD_STEPS) -> float:
    """S that minimises sum |s x - y|, by `steps` reweighted least squares from mean y / mean x."""
    scale = _total(y, of=lambda v: v) / _total(x, of=lambda v: v)
    room = np.empty((3, CHUNK))
    for _ in range(steps):
        upper = lower = 0.0
        for v, w in _chunks(x, y):
            values, targets, weighted = room[:, : len(v)]
            values[:], targets[:] = v, w
            # values / (|scale values - targets| + 1e-8), without a new array per operation.
            np.multiply(values, scale, out=weighted)
            weighted -= targets
            np.abs(weighted, out=weighted)
            weighted += 1e-8
            np.divide(values, weighted, out=weighted)
            upper, lower = upper + float(weighted @ targets), lower + float(weighted @ values)
        scale = upper / lower
    return scale


def aligner(
    prediction: Float[np.ndarray, "t h w"], truth: Float[np.ndarray, "t h w"], alignment: str
) -> Callable[[int], Float[np.ndarray, "h w"]]:
    """Returns a function of t: frame t of the prediction at the truth's scale, float64.

    The alignment is fitted on valid pixels, and limits apply to what is aligned.

    Args:
      prediction: depth > 0, in any unit but for `METRIC`; +inf is disparity 0, and after any other
        alignment the farthest depth that counts.
      truth: metres, with a valid pixel.
      alignment: one of `ALIGNMENTS`, or `METRIC`.

    Raises:
      ValueError: an unknown alignment.
    """
    masks = [valid_pixels(frame) for frame in truth]
    if alignment == "disparity_scale_shift_video":

        def disparity(depth: Values) -> Values:
            return 1.0 / depth.astype(np.float64)

        scale, shift = fit_scale_shift(
            [disparity(frame[mask]) for frame, mask in zip(prediction, masks, strict=True)],
            [disparity(frame[mask]) for frame, mask in zip(truth, masks, strict=True)],
        )
        return lambda t: np.clip(
            1.0 / np.maximum(scale * disparity(prediction[t]) + shift, MIN_DISPARITY),
            MIN_DEPTH,
            MAX_DEPTH,
        )

    # A scale cannot be fitted to infinity.
    masks = [mask & np.isfinite(p) for mask, p in zip(masks, prediction, strict=True)]
    found, true = (
        [frame[mask] for frame, mask in zip(video, masks, strict=True)]
        for video in (prediction, truth)
    )
    if alignment == "depth_scale_video":
        scales = [fit_scale_l1(found, true) if any(map(len, found)) else 1.0] * len(truth)
    elif alignment == "depth_scale_frame":
        scales = [
            fit_scale_l1([p], [t]) if len(t) else 1.0 for p, t in zip(found, true, strict=True)
        ]
    elif alignment == METRIC:
        scales = [1.0] * len(truth)
    else:
        raise ValueError(f"unknown alignment {alignment!r}")
    return lambda t: np.clip(scales[t] * prediction[t].astype(np.float64), MIN_DEPTH, MAX_DEPTH)


def pixel_scores(aligned: Values, truth: Values) -> dict[str, Values]:
    """Returns the numbers of every pixel before any averaging; the square stands for the RMSE."""
    ratio = np.maximum(aligned / truth, truth / aligned)
    return (
        {"abs_rel": np.abs(aligned - truth) / truth}
        | {f"delta_{k}": (ratio < 1.25**k).astype(np.float64) for k in (1, 2, 3)}
        | {"rmse": np.square(aligned - truth)}
    )


def relative_error(
    aligned: Float[np.ndarray, "h w"], truth: Float[np.ndarray, "h w"]
) -> Float[np.ndarray, "h w"]:
    """Returns (d - d*) / d* in float64, NaN where the truth does not count."""
    valid = valid_pixels(truth)
    true = np.where(valid, truth, 1.0).astype(np.float64)
    return np.where(valid, (aligned - true) / true, np.nan)


def temporal_error(errors: Iterable[Float[np.ndarray, "h w"]]) -> tuple[float, int]:
    """The mean change of the signed relative error between frames, and the pixels counted.

    Args:
      errors: of each frame; NaN marks pixels that do not count.
    """
    total, pixels = 0.0, 0
    for before, after in itertools.pairwise(errors):
        change = np.abs(after - before)
        counted = ~np.isnan(change)
        total, pixels = total + float(change[counted].sum()), pixels + int(counted.sum())
    return (total / pixels if pixels else 0.0), pixels


def score_video(
    prediction: Float[np.ndarray, "t h w"], truth: Float[np.ndarray, "t h w"], alignment: str
) -> dict[str, tuple[float, float]]:
    """Returns each number of one video, and its weight among videos.

    The weight follows the alignment's averaging rule: 1 for the headline and `METRIC`, and the
    count of valid pixels (or pairs of pixels) for the others; 0 where no pixel counts, and for
    `temporal_error` of a single frame.

    Args:
      prediction: depth > 0; +inf for sky.
      truth: depth in metres (or the protocol's units), 0 or +inf where nothing counts.
      alignment: one of `ALIGNMENTS`, or `METRIC`.
    """
    counts = np.array([valid_pixels(frame).sum() for frame in truth])
    if not counts.any():
        return {name: (0.0, 0.0) for name in (*NUMBERS, "temporal_error")}
    aligned = aligner(prediction, truth, alignment)
    frames = []

    def errors() -> Iterator[Float[np.ndarray, "h w"]]:
        """Aligns every frame once and adds its numbers to `frames`."""
        for t, frame in enumerate(truth):
            values = aligned(t)
            if counts[t]:
                valid = valid_pixels(frame)
                scores = pixel_scores(values[valid], frame[valid].astype(np.float64))
                frames.append([scores[name].mean() for name in NUMBERS])
            yield relative_error(values, frame)

    flicker, pairs = temporal_error(errors())
    if alignment in (ALIGNMENTS[0], METRIC):
        frames = [[*numbers, square**0.5] for *numbers, square in frames]
        means, weight = np.mean(frames, axis=0), 1.0
        flicker_weight = float(pairs > 0)
    else:
        *means, square = np.average(frames, axis=0, weights=counts[counts > 0])
        means, weight, flicker_weight = [*means, square**0.5], float(counts.sum()), float(pairs)
    scores = {name: (float(v), weight) for name, v in zip(NUMBERS, means, strict=True)}
    return scores | {"temporal_error": (flicker, flicker_weight)}


def in_protocol_units(truth: Arrays) -> Float[np.ndarray, "t h w"]:
    """True depth as the range counts it: metres, or medians of surfaces of unknown scale."""
    true = np.asarray(truth["depth"])
    surfaces = true[np.isfinite(true) & (true > 0)] if unit_of(truth) == RELATIVE else true[:0]
    return true / np.median(surfaces) if surfaces.size else true


class DepthMetric(Metric):
    """AbsRel, the three deltas, RMSE and temporal error under every alignment of `ALIGNMENTS`.

    Keys: "depth/<alignment>/<number>", and "depth/videos", "depth/videos_without_valid_pixels",
    "depth/videos_of_one_frame" (which have no temporal error). Estimates in metres also have
    "depth/metric/<number>", and "depth/metric/videos" counts them.

    Prediction: depth f32[T,H,W], > 0, +inf for sky; `unit` "m" if it is in metres, else of unknown
    scale. Truth: depth f32[T,H,W], >= 0, +inf for sky and 0 where nothing was measured; metres,
    unless `unit` is "relative".
    """

    modality = "depth"
    keys = ("depth",)
    extra = (UNIT,)
    protocols: ClassVar[Mapping[str, str]] = {
        "disparity_scale_shift_video": "least-squares scale and shift in disparity over the video, "
        "then cut to 1e-3 to 70 m; 1e-3 < d* < 70 m; averaged over pixels, frames, videos "
        "(DepthCrafter)",
        "depth_scale_video": "one L1 scale in depth per video, 10 Weiszfeld steps; videos weighted "
        "by valid pixels (Aether)",
        "depth_scale_frame": "the same with one scale per frame",
        METRIC: "estimates in metres, not aligned, cut to 1e-3 to 70 m; 1e-3 < d* < 70 m; averaged "
        "over pixels, frames, videos; of estimates whose unit is known",
    }
    headline = "depth/disparity_scale_shift_video/abs_rel"
    lower_is_better = True

    def score(self, prediction: Arrays, truth: Arrays, name: str) -> ClipScore:
        """Scores one video.

        Raises:
          UserError: the shapes differ or are not [T, H, W], a value is NaN, the truth is negative,
            the prediction is <= 0, or no surface of the truth is in the range that counts.
        """
        predicted, true = np.asarray(prediction["depth"]), np.asarray(truth["depth"])
        if predicted.dtype == np.float64:
            # Values that float32 rounds to 0 or infinity have no finite inverse, or no finite sum.
            with np.errstate(over="ignore", under="ignore"):
                predicted = predicted.astype(np.float32)
        _check(predicted, true, name)
        known = unit_of(truth) != RELATIVE
        true = in_protocol_units(truth)
        valid = any(valid_pixels(frame).any() for frame in true)
        if not valid:
            _check_range(true, unit_of(truth), name)
        metric = known and unit_of(prediction) == "m"
        means = {
            f"depth/{alignment}/{number}": pair
            for alignment in (*ALIGNMENTS, *([METRIC] if metric else []))
            for number, pair in score_video(predicted, true, alignment).items()
        }
        counts = {
            "depth/videos": int(valid),
            "depth/videos_without_valid_pixels": int(not valid),
            "depth/videos_of_one_frame": int(len(true) == 1),
            "depth/metric/videos": int(valid and metric),
        }
        return ClipScore(means=means, counts=counts)


def _check(predicted: np.ndarray, true: np.ndarray, name: str) -> None:
    for role, array in (("predicted", predicted), ("true", true)):
        if array.dtype.kind not in "fiu" or array.ndim != 3 or not array.size:
            raise UserError(
                f"{name}: {role} depth has dtype {array.dtype} and shape {array.shape}; give "
                "float32 [T, H, W]"
            )
    check_pair(predicted, true, "depth", name, allow_inf=True)
    if (predicted <= 0).any():
        raise UserError(
            f"{name}: predicted depth has values <= 0 (least {predicted.min():g}) in "
            f"{int((predicted <= 0).sum())} pixels; give depth, not disparity, and +inf where "
            "there is no surface"
        )
    if (true < 0).any():
        raise UserError(
            f"{name}: true depth has values < 0 (least {true.min():g}); give +inf where there is "
            "no surface, and 0 where nothing was measured"
        )


def _check_range(true: Float[np.ndarray, "t h w"], unit: str, name: str) -> None:
    """Raises UserError if there are surfaces; called for truth of which no pixel counts."""
    surfaces = true[np.isfinite(true) & (true > 0)]
    if surfaces.size:
        assumed = "" if unit else " (metres, since no unit is stated)"
        raise UserError(
            f"{name}: true depth is {surfaces.min():g} to {surfaces.max():g} m everywhere"
            f"{assumed}, outside the {MIN_DEPTH:g} to {MAX_DEPTH:g} m that count; state its unit "
            "with --truth_unit, depth.json beside it, or `unit` in the npz"
        )
