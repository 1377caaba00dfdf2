"""DensePose scores over the pixels of a clip.

Protocol `clip_mean`: each clip's number, averaged over clips.
  part_miou  IoU of each of the 24 parts over the clip's pixels, averaged over the parts that the
    truth or the prediction has there.
  uv_l1      mean of |U - U*| and |V - V*| over pixels where the part is right, in [0, 1].
Protocol `gps_chart_proxy`: geodesic point similarity, mean over true body pixels of
  exp(-g^2 / (2 kappa^2)) with kappa = 0.255 m. The true g is a distance along the surface of the
  SMPL body, whose model is not part of a clip. Here g is the distance in the part's (U, V) chart,
  with half a chart taken as 0.3 m (the average half-size of a body segment, at which GPS is 0.5 by
  the choice of kappa), and infinite where the part is wrong. It is a proxy: a point put on a
  neighbouring part scores 0 however near it lies.
"""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Int

from unityvideo_jax.errors import UserError
from unityvideo_jax.evaluation.metric import Arrays, Metric, check_pair, labels
from unityvideo_jax.evaluation.scores import ClipScore

NUM_PARTS = 24
KAPPA = 0.255
METRES_A_CHART = 0.6


def part_ious(
    prediction: Int[np.ndarray, "t h w"], truth: Int[np.ndarray, "t h w"]
) -> Float[np.ndarray, "24"]:
    """IoU of parts 1..24 over the clip, NaN for parts that neither has."""
    classes = NUM_PARTS + 1
    flat = truth.ravel().astype(np.int64) * classes + prediction.ravel()
    confusion = np.bincount(flat, minlength=classes**2).reshape(classes, classes)
    both = np.diag(confusion)
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - both
    return np.where(union > 0, both / np.maximum(union, 1), np.nan)[1:]


def geodesic_point_similarity(distance: Float[np.ndarray, "*s"]) -> Float[np.ndarray, "*s"]:
    """exp(-g^2 / (2 kappa^2)) of distances in metres; 0 at infinity."""
    return np.exp(-np.square(distance) / (2.0 * KAPPA**2))


class DensePoseMetric(Metric):
    """Part mIoU, UV L1 and a proxy of GPS.

    Keys: "densepose/clip_mean/{part_miou,uv_l1}", "densepose/gps_chart_proxy/gps", and the counts
    "densepose/clips", "densepose/clips_without_body" and "densepose/clips_without_right_part"
    (which have no UV error).
    Prediction and truth: part i32[T,H,W] (0 background, 1..24) and uv f32[T,H,W,2] in [0, 1].
    """

    modality = "densepose"
    keys = ("part", "uv")
    protocols: ClassVar[Mapping[str, str]] = {
        "clip_mean": "part_miou: IoU of each part over the clip, mean over parts present, then "
        "clips; uv_l1: over pixels of the right part",
        "gps_chart_proxy": "GPS with distances in the part's UV chart instead of along the body's "
        "surface (half a chart = 0.3 m, kappa = 0.255 m); a proxy",
    }
    headline = "densepose/clip_mean/part_miou"
    lower_is_better = False

    def score(self, prediction: Arrays, truth: Arrays, name: str) -> ClipScore:
        """Scores one clip; UserError if shapes differ, a value is NaN or a part is out of range."""
        part, true_part = (labels(a["part"], "part", name) for a in (prediction, truth))
        uv, true_uv = np.asarray(prediction["uv"]), np.asarray(truth["uv"])
        check_pair(part, true_part, "part", name)
        check_pair(uv, true_uv, "uv", name)
        for role, values in (("predicted", part), ("true", true_part)):
            check_parts(values, f"{name}: {role}")
        body = true_part > 0
        right = body & (part == true_part)
        gap = np.abs(uv.astype(np.float64) - true_uv.astype(np.float64))
        ious = part_ious(part, true_part)
        distance = np.where(right, METRES_A_CHART * np.linalg.norm(gap, axis=-1), np.inf)
        anything, some = not np.isnan(ious).all(), float(body.any())
        gps = float(geodesic_point_similarity(distance[body]).mean()) if body.any() else 0.0
        miou = float(np.nanmean(ious)) if anything else 0.0
        l1 = float(gap[right].mean()) if right.any() else 0.0
        return ClipScore(
            means={
                "densepose/clip_mean/part_miou": (miou, float(anything)),
                "densepose/clip_mean/uv_l1": (l1, float(right.any())),
                "densepose/gps_chart_proxy/gps": (gps, some),
            },
            counts={
                "densepose/clips": int(body.any()),
                "densepose/clips_without_body": int(not body.any()),
                "densepose/clips_without_right_part": int(body.any() and not right.any()),
            },
        )


def check_parts(part: np.ndarray, where: str) -> None:
    """Raises UserError unless all parts are in 0..24."""
    if part.min() < 0 or part.max() > NUM_PARTS:
        raise UserError(
            f"{where} part spans [{part.min()}, {part.max()}]; use 1..24 and 0 for background"
        )
