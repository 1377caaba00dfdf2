"""Skeleton scores.

Protocol `torso_hungarian`: PCK@0.2, the share of true joints whose prediction lies within 0.2 of
the person's torso, which is the longer of its two diagonals from a shoulder to the other hip in the
true frame. People are assigned over the whole clip by the assignment that maximises the sum of
OKS. `pck_0.2` counts visible and occluded joints, `pck_0.2_visible` the visible ones. A joint that
is not predicted is wrong; one of a person without a measurable torso in that frame is not scored
but counted.

Protocol `coco_oks_box53`: COCO's keypoint AP over frames, at most 20 people per frame, with
OKS = mean over true joints of exp(-d^2 / (2 area (2 sigma)^2)). Areas of people are not part of a
skeleton, so area = 0.53 of the box around the true joints.
"""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import scipy
from jaxtyping import Bool, Float

from unityvideo_jax.errors import UserError
from unityvideo_jax.metrics.average_precision import Detections, match_image
from unityvideo_jax.metrics.base import Arrays, Metric, check_finite
from unityvideo_jax.metrics.scores import ClipScore

# COCO's per-joint standard deviations, as shares of the root of a person's area.
SIGMAS = np.array([26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]) / 1000
AREA_SHARE = 0.53
PCK_SHARE = 0.2
MAX_DETECTIONS = 20
LEFT_SHOULDER, RIGHT_SHOULDER, LEFT_HIP, RIGHT_HIP = 5, 6, 11, 12


def box_area(
    keypoints: Float[np.ndarray, "t n 17 2"], seen: Bool[np.ndarray, "t n 17"]
) -> Float[np.ndarray, "t n"]:
    """0.53 of the area of the box around the joints seen, at least 1 pixel; 1 without joints."""
    low = np.where(seen[..., None], keypoints, np.inf).min(axis=2)
    high = np.where(seen[..., None], keypoints, -np.inf).max(axis=2)
    size = np.where(seen.any(axis=2)[..., None], high - low, 0.0)
    return np.maximum(AREA_SHARE * size.prod(axis=-1), 1.0)


def object_keypoint_similarity(
    predicted: Float[np.ndarray, "t m 17 2"],
    found: Bool[np.ndarray, "t m 17"],
    true: Float[np.ndarray, "t n 17 2"],
    seen: Bool[np.ndarray, "t n 17"],
    area: Float[np.ndarray, "t n"],
) -> Float[np.ndarray, "t m n"]:
    """Returns COCO's OKS of every pair of people in every frame.

    Args:
      predicted: keypoints in pixels.
      found: whether a keypoint was predicted.
      true: keypoints in pixels.
      seen: whether a true joint is there.
      area: of the true people, in square pixels.

    Returns:
      Similarities in [0, 1]; 0 where the true person has no joint.
    """
    squared = np.square(predicted[:, :, None] - true[:, None]).sum(axis=-1)
    scale = 2.0 * (area[..., None] + np.spacing(1.0)) * np.square(2.0 * SIGMAS)
    likeness = np.where(found[:, :, None], np.exp(-squared / scale[:, None]), 0.0)
    counted = seen[:, None]
    total = np.where(counted, likeness, 0.0).sum(axis=-1)
    return total / np.maximum(counted.sum(axis=-1), 1)


def torso(
    keypoints: Float[np.ndarray, "t n 17 2"], seen: Bool[np.ndarray, "t n 17"]
) -> Float[np.ndarray, "t n"]:
    """Returns the longer diagonal of the torso in pixels, NaN where neither can be measured.

    Args:
      keypoints: pixels.
      seen: whether a joint is there.
    """
    lengths = []
    for shoulder, hip in ((LEFT_SHOULDER, RIGHT_HIP), (RIGHT_SHOULDER, LEFT_HIP)):
        length = np.linalg.norm(keypoints[:, :, shoulder] - keypoints[:, :, hip], axis=-1)
        lengths.append(np.where(seen[:, :, shoulder] & seen[:, :, hip], length, -1.0))
    longest = np.maximum(*lengths)
    return np.where(longest > 0, longest, np.nan)


class SkeletonMetric(Metric):
    """PCK and OKS-AP.

    Keys: "skeleton/torso_hungarian/{pck_0.2,pck_0.2_visible}",
    "skeleton/coco_oks_box53/{ap,ap50,ap75}", and the counts "skeleton/clips",
    "skeleton/clips_without_people", "skeleton/people", "skeleton/unmatched_predictions" and
    "skeleton/joints_without_torso".
    Prediction and truth: keypoints f32[T,P,17,2] in pixels (COCO order) and visibility
    i32[T,P,17], 0 absent; P may differ. The prediction may hold scores f32[T,P], the confidence of
    each person; without, all are 1.
    """

    modality = "skeleton"
    keys = ("keypoints", "visibility")
    protocols: ClassVar[Mapping[str, str]] = {
        "torso_hungarian": "PCK@0.2 of the longer shoulder-to-hip diagonal; people matched over "
        "the clip by Hungarian assignment of OKS",
        "coco_oks_box53": "COCO keypoint AP@[.5:.05:.95] over frames; area = 0.53 x box of joints",
    }
    headline = "skeleton/torso_hungarian/pck_0.2"
    lower_is_better = False

    def score(self, prediction: Arrays, truth: Arrays, name: str) -> ClipScore:
        """Scores one clip; UserError on shapes that do not fit or NaN in a joint that is there."""
        predicted, found, scores = _read(prediction, f"{name}: predicted")
        true, seen, _ = _read(truth, f"{name}: true")
        visible = np.asarray(truth["visibility"]) == 2
        if len(predicted) != len(true):
            raise UserError(
                f"{name}: keypoints are predicted for {len(predicted)} frames but the truth has "
                f"{len(true)}; score both at one length"
            )
        oks = object_keypoint_similarity(predicted, found, true, seen, box_area(true, seen))
        detections = Detections(scores=[], matched=[], truths=0)
        for t in range(len(true)):
            here, there = found[t].any(axis=-1), seen[t].any(axis=-1)
            detections += match_image(oks[t][here][:, there], scores[t, here], MAX_DETECTIONS)
        people = seen.any(axis=(0, 2))
        right, lost, unmatched = _correct(oks, predicted, found, true, seen)
        means = {}
        for key, mask in (("pck_0.2", seen), ("pck_0.2_visible", seen & visible)):
            mask = mask & ~lost
            count = float(mask.sum())
            share = float(right[mask].mean()) if count else 0.0
            means[f"skeleton/torso_hungarian/{key}"] = (share, count)
        return ClipScore(
            means=means,
            detections={"skeleton/coco_oks_box53": detections},
            counts={
                "skeleton/clips": int(people.any()),
                "skeleton/clips_without_people": int(not people.any()),
                "skeleton/people": int(people.sum()),
                "skeleton/unmatched_predictions": unmatched,
                "skeleton/joints_without_torso": int((seen & lost).sum()),
            },
        )


def _read(
    arrays: Arrays, where: str
) -> tuple[Float[np.ndarray, "t p 17 2"], Bool[np.ndarray, "t p 17"], Float[np.ndarray, "t p"]]:
    """Joints (0 where absent), whether they are there, and confidences."""
    keypoints = np.asarray(arrays["keypoints"], np.float64)
    seen = np.asarray(arrays["visibility"]) > 0
    if keypoints.ndim != 4 or keypoints.shape[2:] != (17, 2) or seen.shape != keypoints.shape[:3]:
        raise UserError(
            f"{where} keypoints {keypoints.shape} and visibility {seen.shape} do not fit; "
            "give [T, P, 17, 2] and [T, P, 17]"
        )
    keypoints = np.where(seen[..., None], keypoints, 0.0)
    check_finite(keypoints, "keypoints of joints that are there", where)
    scores = np.asarray(arrays.get("scores", np.ones(seen.shape[:2])), np.float64)
    if scores.shape != seen.shape[:2]:
        raise UserError(f"{where} scores has shape {scores.shape}; give {seen.shape[:2]}")
    check_finite(scores, "scores", where)
    return keypoints, seen, scores


def _correct(
    oks: Float[np.ndarray, "t m n"],
    predicted: Float[np.ndarray, "t m 17 2"],
    found: Bool[np.ndarray, "t m 17"],
    true: Float[np.ndarray, "t n 17 2"],
    seen: Bool[np.ndarray, "t n 17"],
) -> tuple[Bool[np.ndarray, "t n 17"], Bool[np.ndarray, "t n 17"], int]:
    """Which true joints are within reach, which have no torso, and how many people are too many."""
    total = oks.sum(axis=0)
    rows, columns = scipy.optimize.linear_sum_assignment(total, maximize=True)
    size = torso(true, seen)
    right = np.zeros(seen.shape, bool)
    matched = 0
    for m, n in zip(rows, columns, strict=True):
        if total[m, n] <= 0:
            continue
        matched += 1
        distance = np.linalg.norm(predicted[:, m] - true[:, n], axis=-1)
        with np.errstate(invalid="ignore"):
            right[:, n] = found[:, m] & (distance <= PCK_SHARE * size[:, n, None])
    lost = np.broadcast_to(np.isnan(size)[..., None], seen.shape)
    return right, lost, int(found.any(axis=(0, 2)).sum()) - matched
