"""DensePose scores over the pixels of a clip; GPS is that of Güler et al. (arXiv 1802.00434).

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
from jaxtyping import Float, Shaped

from unityvideo_jax.errors import UserError
from unityvideo_jax.metrics.base import Arrays, Metric, check_pair, labels
from unityvideo_jax.metrics.scores import ClipScore

NUM_PARTS = 24
ROUNDING = 1e-6  # by which U and V may leave [0, 1]
KAPPA = 0.255
METRES_A_CHART = 0.6


def part_ious(
    prediction: Shaped[np.ndarray, "t h w"], truth: Shaped[np.ndarray, "t h w"]
) -> Float[np.ndarray, "24"]:
    """Returns the IoU of parts 1..24 over the clip, NaN for parts that neither has.

    Args:
      prediction, truth: part numbers, 0 for background.
    """
    classes = NUM_PARTS + 1
    confusion = np.zeros(classes**2, np.int64)
    for p, t in zip(prediction, truth, strict=True):
        flat = t.ravel().astype(np.int64) * classes + p.ravel().astype(np.int64)
        confusion += np.bincount(flat, minlength=classes**2)
    confusion = confusion.reshape(classes, classes)
    both = np.diag(confusion)
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - both
    return np.where(union > 0, both / np.maximum(union, 1), np.nan)[1:]


def geodesic_point_similarity(distance: Float[np.ndarray, "*s"]) -> Float[np.ndarray, "*s"]:
    """Returns exp(-g^2 / (2 kappa^2)) of distances g in metres; 0 at infinity."""
    return np.exp(-np.square(distance) / (2.0 * KAPPA**2))


class DensePoseMetric(Metric):
    """Part mIoU, UV L1 and a proxy of GPS.

    Keys: "densepose/clip_mean/{part_miou,uv_l1}", "densepose/gps_chart_proxy/gps", and the counts
    "densepose/clips" (where truth or prediction has a body: those of part_miou),
    "densepose/clips_without_body" (in the truth: no GPS) and "densepose/clips_without_right_part"
    (no UV error).
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
        """Scores one clip.

        Raises:
          UserError: shapes that differ or are of no DensePose, NaN, or a value out of range.
        """
        part, true_part = (labels(a["part"], "part", name) for a in (prediction, truth))
        uv, true_uv = np.asarray(prediction["uv"]), np.asarray(truth["uv"])
        check_pair(part, true_part, "part", name)
        check_pair(uv, true_uv, "uv", name, tail=(2,))
        if uv.shape[:3] != part.shape:
            raise UserError(
                f"{name}: uv has shape {uv.shape} but part {part.shape}; bring them to one size"
            )
        for role, parts, values in (("predicted", part, uv), ("true", true_part, true_uv)):
            check_parts(parts, f"{name}: {role}")
            _check_uv(values[parts > 0], f"{name}: {role}")
        ious = part_ious(part, true_part)
        bodies = rights = 0
        gps = gap = 0.0
        for t in range(len(true_part)):
            body = true_part[t] > 0
            right = body & (part[t] == true_part[t])
            gaps = np.abs(uv[t][right].astype(np.float64) - true_uv[t][right].astype(np.float64))
            distance = METRES_A_CHART * np.linalg.norm(gaps, axis=-1)
            # A wrong part is infinitely far, where the similarity is 0.
            gps += float(geodesic_point_similarity(distance).sum())
            gap += float(gaps.sum())
            bodies, rights = bodies + int(body.sum()), rights + int(right.sum())
        anything = not np.isnan(ious).all()
        miou = float(np.nanmean(ious)) if anything else 0.0
        return ClipScore(
            means={
                "densepose/clip_mean/part_miou": (miou, float(anything)),
                "densepose/clip_mean/uv_l1": (gap / max(2 * rights, 1), float(rights > 0)),
                "densepose/gps_chart_proxy/gps": (gps / max(bodies, 1), float(bodies > 0)),
            },
            counts={
                "densepose/clips": int(anything),
                "densepose/clips_without_body": int(bodies == 0),
                "densepose/clips_without_right_part": int(bodies > 0 and rights == 0),
            },
        )


def check_parts(part: np.ndarray, where: str) -> None:
    """Raises UserError unless all parts are in 0..24."""
    if part.min() < 0 or part.max() > NUM_PARTS:
        raise UserError(
            f"{where} part spans [{part.min()}, {part.max()}]; use 1..24 and 0 for background"
        )


def _check_uv(uv: np.ndarray, where: str) -> None:
    """Raises UserError unless U and V of bodies, if there are any, are in [0, 1]."""
    if uv.size and (uv.min() < -ROUNDING or uv.max() > 1 + ROUNDING):
        raise UserError(
            f"{where} uv spans [{uv.min():g}, {uv.max():g}]; give [0, 1], bytes divided by 255"
        )
