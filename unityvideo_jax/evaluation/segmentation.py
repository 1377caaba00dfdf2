"""Instance segmentation scores, with instances matched over the whole clip.

Protocol `hungarian_clip`: predicted instances are assigned to true ones by the assignment that
maximises the sum of IoUs over the clip's pixels (one identity for all frames), whatever the numbers
or colours of the instances. Instances without a partner are scored against an empty mask.

  mean_iou  IoU over all pixels of the clip, averaged over objects, then over clips.
  j_mean    J = intersection / union in each frame, 1 where both are empty (DAVIS); averaged over
    frames, then over the objects of all clips.
"""

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment

from unityvideo_jax.evaluation.metric import Arrays, check_pair, mean


def overlaps(
    prediction: Int[np.ndarray, "t h w"], truth: Int[np.ndarray, "t h w"]
) -> tuple[Int[np.ndarray, "t m n"], Int[np.ndarray, "t m"], Int[np.ndarray, "t n"]]:
    """Pixel counts per frame of every pair of instances, and of every instance alone.

    Args:
      prediction, truth: instance numbers, 0 for background.

    Returns:
      Intersections [T, M, N] and areas [T, M], [T, N] of the M predicted and N true instances, in
      order of their numbers.
    """
    predicted_ids, p = np.unique(np.append(prediction.ravel(), 0), return_inverse=True)
    true_ids, q = np.unique(np.append(truth.ravel(), 0), return_inverse=True)
    frames, m, n = len(truth), len(predicted_ids), len(true_ids)
    # The appended zero made sure that background is there; it is not a pixel.
    p, q = p[:-1].reshape(frames, -1), q[:-1].reshape(frames, -1)
    flat = (np.arange(frames)[:, None] * m + p) * n + q
    joint = np.bincount(flat.ravel(), minlength=frames * m * n).reshape(frames, m, n)
    keep_p, keep_q = predicted_ids != 0, true_ids != 0
    return joint[:, keep_p][:, :, keep_q], joint.sum(2)[:, keep_p], joint.sum(1)[:, keep_q]


def match(
    intersection: Int[np.ndarray, "t m n"],
    predicted_area: Int[np.ndarray, "t m"],
    true_area: Int[np.ndarray, "t n"],
) -> dict[int, int]:
    """Hungarian assignment over the clip: index of the true instance -> of the predicted one.

    Pairs that never overlap are no match.
    """
    both = intersection.sum(0)
    iou = both / (predicted_area.sum(0)[:, None] + true_area.sum(0)[None] - both)
    rows, columns = linear_sum_assignment(iou, maximize=True)
    return {int(n): int(m) for m, n in zip(rows, columns, strict=True) if both[m, n] > 0}


def frame_j(
    intersection: Int[np.ndarray, "*s"], union: Int[np.ndarray, "*s"]
) -> Float[np.ndarray, "*s"]:
    """Intersection over union, 1 where both masks are empty."""
    return np.where(union > 0, intersection / np.maximum(union, 1), 1.0)


def score_clip(
    prediction: Int[np.ndarray, "t h w"], truth: Int[np.ndarray, "t h w"]
) -> tuple[list[float], list[float], int]:
    """Scores of every true instance of a clip.

    Returns:
      IoU over the clip and mean J over frames of each true instance, and how many predicted
      instances found no partner.
    """
    intersection, predicted_area, true_area = overlaps(prediction, truth)
    partner = match(intersection, predicted_area, true_area)
    ious, js = [], []
    for n in range(true_area.shape[1]):
        both = np.zeros(len(truth), np.int64)
        union = true_area[:, n]
        if n in partner:
            both = intersection[:, partner[n], n]
            union = predicted_area[:, partner[n]] + true_area[:, n] - both
        ious.append(float(both.sum() / union.sum()))
        js.append(float(frame_j(both, union).mean()))
    return ious, js, predicted_area.shape[1] - len(partner)


class SegmentationMetric:
    """Mean IoU and J under `hungarian_clip`.

    Keys: "segmentation/hungarian_clip/{mean_iou,j_mean}", and the counts "segmentation/objects",
    "segmentation/unmatched_predictions", "segmentation/clips" and
    "segmentation/clips_without_objects".
    Prediction and truth: segments i32[T,H,W], 0 = background.
    """

    modality = "segmentation"
    keys = ("segments",)

    def __init__(self) -> None:
        self._clip_ious: list[float] = []
        self._object_js: list[float] = []
        self._unmatched = 0
        self._empty = 0

    @property
    def scored(self) -> int:
        """Clips with an object."""
        return len(self._clip_ious)

    def update(self, prediction: Arrays, truth: Arrays, name: str) -> None:
        """Adds one clip; UserError if the shapes differ."""
        predicted, true = np.asarray(prediction["segments"]), np.asarray(truth["segments"])
        check_pair(predicted, true, "segments", name)
        ious, js, unmatched = score_clip(predicted, true)
        self._unmatched += unmatched
        if not ious:
            self._empty += 1
            return
        self._clip_ious.append(float(np.mean(ious)))
        self._object_js.extend(js)

    def compute(self) -> dict[str, float | int]:
        """Averages over objects and clips; UserError if no clip held an object."""
        prefix = "segmentation/hungarian_clip"
        return {
            f"{prefix}/mean_iou": mean(self._clip_ious, f"{prefix}/mean_iou"),
            f"{prefix}/j_mean": mean(self._object_js, f"{prefix}/j_mean"),
            "segmentation/objects": len(self._object_js),
            "segmentation/unmatched_predictions": self._unmatched,
            "segmentation/clips": self.scored,
            "segmentation/clips_without_objects": self._empty,
        }
