"""Instance segmentation scores.

Protocol `hungarian_clip`: predicted instances are assigned to true ones by the assignment that
maximises the sum of IoUs over the clip's pixels (one identity for all frames), whatever the numbers
or colours of the instances. Instances without a partner are scored against an empty mask.

  mean_iou  IoU over all pixels of the clip, averaged over objects, then over clips.
  j_mean    J = intersection / union in each frame, 1 where both are empty (DAVIS); averaged over
    frames, then over the objects of all clips.
  f_mean    boundary F in each frame (see `boundary`), averaged likewise; all frames count.
  j_and_f   (j_mean + f_mean) / 2.

Protocol `coco_frames`: COCO's AP over single frames, one class for all, at most 100 masks per
frame. A video of colours has no confidences, so every mask scores 1 and the order of numbers breaks
ties.
Protocol `coco_clip`: the same with a whole clip as one image, so that a mask is a tube (as in video
instance segmentation).
"""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import scipy
from jaxtyping import Float, Int, Shaped

from unityvideo_jax.metrics.average_precision import Detections, match_image
from unityvideo_jax.metrics.base import Arrays, Metric, check_pair, labels
from unityvideo_jax.metrics.boundary import boundary_f
from unityvideo_jax.metrics.scores import ClipScore

MAX_DETECTIONS = 100


def identities(labels: Shaped[np.ndarray, "t h w"]) -> Shaped[np.ndarray, " n"]:
    """Returns the different numbers, background included, in order."""
    flat = labels.ravel()
    # Labels come in runs: sorting the first of each run is much less than sorting all pixels.
    return np.unique(np.append(flat[:1], flat[1:][flat[1:] != flat[:-1]]))


def overlaps(
    prediction: Shaped[np.ndarray, "t h w"], truth: Shaped[np.ndarray, "t h w"]
) -> tuple[Int[np.ndarray, "t m n"], Int[np.ndarray, "t m"], Int[np.ndarray, "t n"]]:
    """Counts the pixels per frame of every pair of instances, and of every instance alone.

    Args:
      prediction, truth: instance numbers, 0 for background.

    Returns:
      Intersections [T, M, N] and areas [T, M], [T, N] of the M predicted and N true instances, in
      order of their numbers.
    """
    predicted_ids, true_ids = identities(prediction), identities(truth)
    m, n = len(predicted_ids), len(true_ids)
    joint = []
    for frame in zip(prediction, truth, strict=True):
        p, q = (
            np.searchsorted(ids, f) for ids, f in zip((predicted_ids, true_ids), frame, strict=True)
        )
        joint.append(np.bincount((p * n + q).ravel(), minlength=m * n).reshape(m, n))
    joint = np.stack(joint)
    keep_p, keep_q = predicted_ids != 0, true_ids != 0
    return joint[:, keep_p][:, :, keep_q], joint.sum(2)[:, keep_p], joint.sum(1)[:, keep_q]


def match(
    intersection: Int[np.ndarray, "t m n"],
    predicted_area: Int[np.ndarray, "t m"],
    true_area: Int[np.ndarray, "t n"],
) -> dict[int, int]:
    """The Hungarian assignment over the clip: index of true instance -> of predicted one.

    Pairs that never overlap are no match.

    Args:
      intersection, predicted_area, true_area: pixel counts, as `overlaps` gives them.
    """
    both = intersection.sum(0)
    iou = both / (predicted_area.sum(0)[:, None] + true_area.sum(0)[None] - both)
    rows, columns = scipy.optimize.linear_sum_assignment(iou, maximize=True)
    return {int(n): int(m) for m, n in zip(rows, columns, strict=True) if both[m, n] > 0}


def frame_j(
    intersection: Int[np.ndarray, "*s"], union: Int[np.ndarray, "*s"]
) -> Float[np.ndarray, "*s"]:
    """Returns intersection over union, 1 where both masks are empty."""
    return np.where(union > 0, intersection / np.maximum(union, 1), 1.0)


def object_scores(
    prediction: Shaped[np.ndarray, "t h w"],
    truth: Shaped[np.ndarray, "t h w"],
    intersection: Int[np.ndarray, "t m n"],
    predicted_area: Int[np.ndarray, "t m"],
    true_area: Int[np.ndarray, "t n"],
) -> tuple[dict[str, list[float]], int]:
    """Scores every true instance of a clip.

    Args:
      prediction, truth: instance numbers, 0 for background.
      intersection, predicted_area, true_area: their pixel counts, as `overlaps` gives them.

    Returns:
      IoU over the clip ("iou"), mean J ("j") and mean F ("f") over frames of each true instance,
      and how many predicted instances found no partner.
    """
    partner = match(intersection, predicted_area, true_area)
    predicted_ids, true_ids = ([i for i in identities(a) if i] for a in (prediction, truth))
    scores: dict[str, list[float]] = {"iou": [], "j": [], "f": []}
    for n, true_id in enumerate(true_ids):
        both = np.zeros(len(truth), np.int64)
        union = true_area[:, n]
        masks = (np.zeros(frame.shape, bool) for frame in truth)
        if n in partner:
            both = intersection[:, partner[n], n]
            union = predicted_area[:, partner[n]] + true_area[:, n] - both
            masks = (frame == predicted_ids[partner[n]] for frame in prediction)
        scores["iou"].append(float(both.sum() / union.sum()))
        scores["j"].append(float(frame_j(both, union).mean()))
        outlines = [boundary_f(p, t == true_id) for p, t in zip(masks, truth, strict=True)]
        scores["f"].append(float(np.mean(outlines)))
    return scores, predicted_area.shape[1] - len(partner)


def detections(
    intersection: Int[np.ndarray, "t m n"],
    predicted_area: Int[np.ndarray, "t m"],
    true_area: Int[np.ndarray, "t n"],
) -> Detections:
    """Matches the masks of every frame by IoU; an instance is there in frames where it has area.

    Args:
      intersection, predicted_area, true_area: pixel counts, as `overlaps` gives them.
    """
    found = Detections(scores=[], matched=[], truths=0)
    for both, p, t in zip(intersection, predicted_area, true_area, strict=True):
        both, p, t = both[p > 0][:, t > 0], p[p > 0], t[t > 0]
        iou = both / (p[:, None] + t[None] - both)
        found = found + match_image(iou, np.ones(len(p)), MAX_DETECTIONS)
    return found


class SegmentationMetric(Metric):
    """Mean IoU, J, F and AP.

    Keys: "segmentation/hungarian_clip/{mean_iou,j_mean,f_mean,j_and_f}",
    "segmentation/{coco_frames,coco_clip}/{ap,ap50,ap75}", all in [0, 1], and the counts
    "segmentation/objects", "segmentation/unmatched_predictions", "segmentation/clips" and
    "segmentation/clips_without_objects" (whose predictions, if any, lower the AP alone).
    Prediction and truth: segments i32[T,H,W], 0 = background.
    """

    modality = "segmentation"
    keys = ("segments",)
    protocols: ClassVar[Mapping[str, str]] = {
        "hungarian_clip": "instances matched over the clip by Hungarian assignment of IoU; "
        "mean_iou pools a clip's pixels, j_mean and f_mean average all frames (empty/empty = 1)",
        "coco_frames": "COCO AP@[.5:.05:.95] over frames, class-agnostic, constant score 1",
        "coco_clip": "the same over whole clips: IoU of tubes",
    }
    headline = "segmentation/hungarian_clip/j_and_f"
    lower_is_better = False

    def score(self, prediction: Arrays, truth: Arrays, name: str) -> ClipScore:
        """Scores one clip; UserError if shapes differ or are not [T,H,W], or for no integers."""
        predicted = labels(prediction["segments"], "predicted segments", name)
        true = labels(truth["segments"], "true segments", name)
        check_pair(predicted, true, "segments", name)
        areas = overlaps(predicted, true)
        scores, unmatched = object_scores(predicted, true, *areas)
        objects = len(scores["iou"])
        iou, j, f = (float(np.mean(v)) if objects else 0.0 for v in scores.values())
        prefix = "segmentation/hungarian_clip"
        return ClipScore(
            means={
                f"{prefix}/mean_iou": (iou, float(objects > 0)),
                f"{prefix}/j_mean": (j, float(objects)),
                f"{prefix}/f_mean": (f, float(objects)),
                f"{prefix}/j_and_f": ((j + f) / 2, float(objects)),
            },
            detections={
                "segmentation/coco_frames": detections(*areas),
                "segmentation/coco_clip": detections(*[a.sum(0, keepdims=True) for a in areas]),
            },
            counts={
                "segmentation/objects": objects,
                "segmentation/unmatched_predictions": unmatched,
                "segmentation/clips": int(objects > 0),
                "segmentation/clips_without_objects": int(objects == 0),
            },
        )
