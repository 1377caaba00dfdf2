"""Depth scores under named alignments. A score without its alignment's name is a wrong number.

  disparity_scale_shift_video  least-squares scale and shift in disparity over the whole video
    (DepthCrafter's protocol, the headline); pixels are averaged in a frame, then frames in a video,
    then videos.
  depth_scale_video  one scale in depth a video by least absolute deviations: 10 of Weiszfeld's
    reweighted least-squares steps from the ratio of the means (Aether's protocol); videos are
    weighted by their valid pixels.
  depth_scale_frame  the same with one scale a frame; frames are weighted by their valid pixels.

AbsRel = mean |d - d*| / d*; delta_k = share of max(d / d*, d* / d) < 1.25^k, with d* the truth;
RMSE in metres, with d cut at 70 m, is the root over the frame (headline) or the video.
temporal_error = mean |e_t+1 - e_t| of the signed relative error e = (d - d*) / d* at a pixel that
counts in both frames: 0 for an error that does not flicker, whatever moves in the truth.
Pixels count where 1e-3 m < d* < 70 m.
"""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float

from unityvideo_jax.errors import UserError
from unityvideo_jax.evaluation.metric import Arrays, Metric, check_pair
from unityvideo_jax.evaluation.scores import ClipScore

ALIGNMENTS = ("disparity_scale_shift_video", "depth_scale_video", "depth_scale_frame")
MIN_DEPTH, MAX_DEPTH = 1e-3, 70.0
MIN_DISPARITY = 1e-3
WEISZFELD_STEPS = 10
NUMBERS = ("abs_rel", "delta_1", "delta_2", "delta_3", "rmse")

Values = Float[np.ndarray, "..."]


def valid_pixels(truth: Float[np.ndarray, "t h w"]) -> Bool[np.ndarray, "t h w"]:
    """Pixels that count: a surface between 1 mm and 70 m (sky is +inf)."""
    return (truth > MIN_DEPTH) & (truth < MAX_DEPTH)


def fit_scale_shift(x: Values, y: Values) -> tuple[float, float]:
    """(a, b) that minimise |a x + b - y|^2; a = 0 and b = mean y where x is constant."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    x_mean, y_mean = x.mean(), y.mean()
    spread = np.square(x - x_mean).mean()
    # Relative to x itself: below this, the spread is rounding, and so would the slope be.
    if spread <= 1e-12 * max(np.square(x).mean(), 1e-30):
        return 0.0, float(y_mean)
    scale = ((x - x_mean) * (y - y_mean)).mean() / spread
    return float(scale), float(y_mean - scale * x_mean)


def fit_scale_l1(x: Values, y: Values, steps: int = WEISZFELD_STEPS) -> float:
    """s that minimises sum |s x - y|, by `steps` reweighted least squares from mean y / mean x."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    scale = y.mean() / x.mean()
    for _ in range(steps):
        weights = 1.0 / (np.abs(scale * x - y) + 1e-8)
        scale = (weights * x * y).sum() / (weights * x * x).sum()
    return float(scale)


def align(
    prediction: Float[np.ndarray, "t h w"], truth: Float[np.ndarray, "t h w"], alignment: str
) -> Float[np.ndarray, "t h w"]:
    """Predicted depth brought to the truth's scale, float64; fitted on valid pixels only.

    Args:
      prediction: depth > 0 in any unit; +inf is read as disparity 0, and as the farthest depth that
        counts by the alignments in depth (which know no infinity).
      truth: metres.
      alignment: one of `ALIGNMENTS`.
    """
    valid = valid_pixels(truth)
    prediction, truth = prediction.astype(np.float64), truth.astype(np.float64)
    if alignment == "disparity_scale_shift_video":
        disparity = 1.0 / np.maximum(prediction, 1e-6)
        scale, shift = fit_scale_shift(disparity[valid], 1.0 / truth[valid])
        return 1.0 / np.maximum(scale * disparity + shift, MIN_DISPARITY)
    depth = np.clip(prediction, MIN_DEPTH, MAX_DEPTH)
    if alignment == "depth_scale_video":
        return depth * fit_scale_l1(depth[valid], truth[valid])
    if alignment == "depth_scale_frame":
        scales = [
            fit_scale_l1(d[v], t[v]) if v.any() else 1.0
            for d, t, v in zip(depth, truth, valid, strict=True)
        ]
        return depth * np.array(scales)[:, None, None]
    raise ValueError(f"unknown alignment {alignment!r}")


def pixel_scores(aligned: Values, truth: Values) -> dict[str, Values]:
    """The numbers of every pixel before any averaging; the square stands for the RMSE."""
    ratio = np.maximum(aligned / truth, truth / aligned)
    return (
        {"abs_rel": np.abs(aligned - truth) / truth}
        | {f"delta_{k}": (ratio < 1.25**k).astype(np.float64) for k in (1, 2, 3)}
        | {"rmse": np.square(np.minimum(aligned, MAX_DEPTH) - truth)}
    )


def _averages(aligned: Values, truth: Values) -> dict[str, float]:
    scores = {name: float(v.mean()) for name, v in pixel_scores(aligned, truth).items()}
    return scores | {"rmse": scores["rmse"] ** 0.5}


def temporal_error(
    aligned: Float[np.ndarray, "t h w"],
    truth: Float[np.ndarray, "t h w"],
    valid: Bool[np.ndarray, "t h w"],
) -> tuple[float, int]:
    """Mean change of the signed relative error from frame to frame, and over how many pixels."""
    error = (aligned - truth) / np.where(valid, truth, 1.0)
    both = valid[1:] & valid[:-1]
    change = np.abs(np.diff(np.where(valid, error, 0.0), axis=0))[both]
    return (float(change.mean()) if change.size else 0.0), int(change.size)


def score_video(
    prediction: Float[np.ndarray, "t h w"], truth: Float[np.ndarray, "t h w"], alignment: str
) -> dict[str, tuple[float, float]]:
    """Each number of one video and its weight among videos under the alignment's averaging rule.

    The weight is 1 for the headline and the count of valid pixels (or pairs of pixels) for the
    others; 0 where no pixel counts, and for `temporal_error` of a single frame.
    """
    valid = valid_pixels(truth)
    if not valid.any():
        return {name: (0.0, 0.0) for name in (*NUMBERS, "temporal_error")}
    aligned, true = align(prediction, truth, alignment), truth.astype(np.float64)
    flicker, pairs = temporal_error(aligned, true, valid)
    if alignment == "disparity_scale_shift_video":
        frames = [
            _averages(a[m], t[m]) for a, t, m in zip(aligned, true, valid, strict=True) if m.any()
        ]
        scores = {name: (float(np.mean([f[name] for f in frames])), 1.0) for name in NUMBERS}
        return scores | {"temporal_error": (flicker, float(pairs > 0))}
    weight = float(valid.sum())
    scores = {name: (v, weight) for name, v in _averages(aligned[valid], true[valid]).items()}
    return scores | {"temporal_error": (flicker, float(pairs))}


class DepthMetric(Metric):
    """AbsRel, the three deltas, RMSE and temporal error under every alignment of `ALIGNMENTS`.

    Keys: "depth/<alignment>/<number>", and "depth/videos", "depth/videos_without_valid_pixels",
    "depth/videos_of_one_frame" (which have no temporal error).
    Prediction and truth: depth f32[T,H,W], > 0, +inf for sky.
    """

    modality = "depth"
    keys = ("depth",)
    protocols: ClassVar[Mapping[str, str]] = {
        "disparity_scale_shift_video": "least-squares scale and shift in disparity over the video; "
        "1e-3 < d* < 70 m; averaged over pixels, frames, videos (DepthCrafter)",
        "depth_scale_video": "one L1 scale in depth a video, 10 Weiszfeld steps; videos weighted "
        "by valid pixels (Aether)",
        "depth_scale_frame": "the same with one scale a frame",
    }
    headline = "depth/disparity_scale_shift_video/abs_rel"
    lower_is_better = True

    def score(self, prediction: Arrays, truth: Arrays, name: str) -> ClipScore:
        """Scores one video; UserError if the shapes differ, a value is NaN or depth is <= 0."""
        predicted, true = np.asarray(prediction["depth"]), np.asarray(truth["depth"])
        check_pair(predicted, true, "depth", name, allow_inf=True)
        if (predicted <= 0).any():
            raise UserError(
                f"{name}: predicted depth has values <= 0 (least {predicted.min():g}); give depth, "
                "not disparity, and +inf where there is no surface"
            )
        means = {
            f"depth/{alignment}/{number}": pair
            for alignment in ALIGNMENTS
            for number, pair in score_video(predicted, true, alignment).items()
        }
        valid = bool(valid_pixels(true).any())
        counts = {
            "depth/videos": int(valid),
            "depth/videos_without_valid_pixels": int(not valid),
            "depth/videos_of_one_frame": int(len(true) == 1),
        }
        return ClipScore(means=means, counts=counts)
