"""Optical flow scores, pooled over pixels.

EPE = |f - f*|, in pixels of the scored size. Fl-all (KITTI) = 100 times the share of pixels with
EPE > 3 and EPE / |f*| > 0.05. Both are means over the pixels of all clips together, in three sets:

  pooled_all         every pixel whose truth is known.
  pooled_visible     those whose target is neither hidden nor out of the frame.
  pooled_foreground  those on an instance.
"""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float

from unityvideo_jax.errors import UserError
from unityvideo_jax.metrics.base import Arrays, Metric, check_pair
from unityvideo_jax.metrics.scores import ClipScore

OUTLIER_PIXELS, OUTLIER_SHARE = 3.0, 0.05


def _length(vectors: Float[np.ndarray, "*s 2"]) -> Float[np.ndarray, "*s"]:
    """Euclidean norm; `np.linalg.norm` is slow for two components."""
    x, y = vectors[..., 0], vectors[..., 1]
    return np.sqrt(x * x + y * y)


def end_point_error(
    prediction: Float[np.ndarray, "*s 2"], truth: Float[np.ndarray, "*s 2"]
) -> Float[np.ndarray, "*s"]:
    """Returns the length of the error vector, float64, in pixels."""
    return _length(prediction.astype(np.float64) - truth.astype(np.float64))


def is_outlier(
    error: Float[np.ndarray, "*s"], truth: Float[np.ndarray, "*s 2"]
) -> Bool[np.ndarray, "*s"]:
    """Returns a mask of flow that is wrong by more than 3 pixels and 5 % of the true motion.

    Args:
      error: end-point error in pixels.
      truth: (dx, dy) in pixels.
    """
    speed = _length(truth.astype(np.float64))
    return (error > OUTLIER_PIXELS) & (error > OUTLIER_SHARE * speed)


class FlowMetric(Metric):
    """EPE and Fl-all over all, visible and foreground pixels.

    Keys: "flow/pooled_{all,visible,foreground}/{epe,fl_all}", and the counts "flow/videos",
    "flow/videos_without_visibility" and "flow/videos_without_instances" (whose pixels are in
    pooled_all alone).
    Prediction: flow f32[T,H,W,2], (dx, dy) in pixels to the next frame. Truth: the same, and where
    known occluded bool[T,H,W], valid bool[T,H,W] and instances i32[T,H,W].
    """

    modality = "flow"
    keys = ("flow",)
    extra = ("occluded", "valid", "instances")
    protocols: ClassVar[Mapping[str, str]] = {
        "pooled_all": "mean over the valid pixels of all clips together; EPE in pixels, "
        "Fl-all = 100 x share with EPE > 3 and EPE / |f*| > 0.05 (KITTI)",
        "pooled_visible": "the same where the target is neither hidden nor out of the frame",
        "pooled_foreground": "the same on instances",
    }
    headline = "flow/pooled_all/epe"
    lower_is_better = True

    def score(self, prediction: Arrays, truth: Arrays, name: str) -> ClipScore:
        """Scores one clip; UserError if shapes differ or are of no flow, or a value is NaN."""
        predicted, true = np.asarray(prediction["flow"]), np.asarray(truth["flow"])
        check_pair(predicted, true, "flow", name, tail=(2,))
        for key in self.extra:
            if key in truth and np.shape(truth[key]) != true.shape[:-1]:
                raise UserError(
                    f"{name}: true {key} has shape {np.shape(truth[key])} but flow {true.shape}; "
                    "bring them to one size"
                )
        # Sums over pixels of error, outliers and pixels, frame by frame: a video in float64 is big.
        sums = {chosen: np.zeros(3) for chosen in ("all", "visible", "foreground")}
        for t in range(len(true)):
            error = end_point_error(predicted[t], true[t])
            outlier = is_outlier(error, true[t])
            masks = {"all": np.ones(error.shape, bool)}
            if "occluded" in truth:
                masks["visible"] = ~np.asarray(truth["occluded"][t], bool)
            if "instances" in truth:
                masks["foreground"] = np.asarray(truth["instances"][t]) > 0
            for chosen, mask in masks.items():
                if "valid" in truth:
                    mask = mask & np.asarray(truth["valid"][t], bool)
                sums[chosen] += error[mask].sum(), outlier[mask].sum(), mask.sum()
        means = {}
        for chosen, (epe, outliers, count) in sums.items():
            pixels = max(count, 1.0)
            means[f"flow/pooled_{chosen}/epe"] = (float(epe / pixels), float(count))
            means[f"flow/pooled_{chosen}/fl_all"] = (float(100.0 * outliers / pixels), float(count))
        counts = {
            "flow/videos": int(sums["all"][2] > 0),
            "flow/videos_without_visibility": int("occluded" not in truth),
            "flow/videos_without_instances": int("instances" not in truth),
        }
        return ClipScore(means=means, counts=counts)
