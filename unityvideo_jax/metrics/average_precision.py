"""COCO's average precision for one class, from any similarity between detections and truths.

Within an image, detections in order of score each take the most similar free truth, if the
similarity reaches the threshold. Over all images, detections in order of score give precision and
recall; precision is made monotone and averaged at 101 recalls; AP averages the ten thresholds
0.50, 0.55, ... 0.95. (Equal to pycocotools with no crowd regions and the area range "all".)
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
# The reported numbers, as indices in THRESHOLDS.
REPORTED = {"ap": list(range(10)), "ap50": [0], "ap75": [5]}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Detections:
    """The detections of one or more images.

    Attributes:
      scores: confidence of each detection.
      matched: a number for each detection; bit k says whether it found a truth at threshold k.
      truths: how many true objects there are.
    """

    scores: list[float]
    matched: list[int]
    truths: int

    def __add__(self, other: "Detections") -> "Detections":
        return Detections(
            scores=self.scores + other.scores,
            matched=self.matched + other.matched,
            truths=self.truths + other.truths,
        )


def match_image(
    similarity: Float[np.ndarray, "m n"], scores: Float[np.ndarray, " m"], max_detections: int
) -> Detections:
    """Matches the detections of one image to its truths greedily, at every threshold.

    Args:
      similarity: of each detection with each truth, in [0, 1].
      scores: confidences of the detections; equal scores stay in order.
      max_detections: this many of the highest scores count.
    """
    order = np.argsort(-scores, kind="stable")[:max_detections]
    matched = np.zeros(len(order), int)
    for k, threshold in enumerate(THRESHOLDS):
        free = np.ones(similarity.shape[1], bool)
        for place, detection in enumerate(order):
            candidates = np.where(free, similarity[detection], -1.0)
            # Of equally similar truths, the last one: as COCO's loop has it.
            best = len(candidates) - 1 - int(candidates[::-1].argmax()) if len(candidates) else -1
            if best >= 0 and candidates[best] >= min(threshold, 1 - 1e-10):
                free[best] = False
                matched[place] |= 1 << k
    return Detections(
        scores=scores[order].tolist(), matched=matched.tolist(), truths=similarity.shape[1]
    )


def average_precision(
    clips: Sequence[Detections], weights: Float[np.ndarray, "s c"] | np.ndarray
) -> dict[str, Float[np.ndarray, " s"]]:
    """Returns AP, AP50 and AP75 of several weightings of the clips at once.

    Args:
      clips: in the order that breaks ties of score.
      weights: how often each of the C clips counts in each of the S sets.

    Returns:
      A value in [0, 1] for each set under "ap", "ap50" and "ap75"; NaN where a set has no truth.
    """
    weights = np.asarray(weights, np.float64)
    owner = np.repeat(np.arange(len(clips)), [len(c.scores) for c in clips])
    scores = np.array([s for clip in clips for s in clip.scores], np.float64)
    matched = np.array([m for clip in clips for m in clip.matched], int)
    order = np.argsort(-scores, kind="stable")
    owner, matched = owner[order], matched[order]
    truths = weights @ np.array([clip.truths for clip in clips], np.float64)
    right = (matched >> np.arange(len(THRESHOLDS))[:, None] & 1).astype(np.float64)
    values = np.full((len(weights), len(THRESHOLDS)), np.nan)
    for s, weight in enumerate(weights):
        if truths[s] <= 0:
            continue
        counted = weight[owner]
        hits = np.cumsum(counted * right, axis=1)
        precision = hits / np.maximum(np.cumsum(counted), np.spacing(1.0))
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        for k in range(len(THRESHOLDS)):
            place = np.searchsorted(hits[k] / truths[s], RECALLS, side="left")
            values[s, k] = precision[k, place[place < len(owner)]].sum() / len(RECALLS)
    return {name: values[:, places].mean(axis=1) for name, places in REPORTED.items()}
