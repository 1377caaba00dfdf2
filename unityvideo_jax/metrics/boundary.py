"""Boundary F of masks (DAVIS, Perazzi et al. 2016): agreement of outlines within a distance."""

import math

import numpy as np
import scipy
from jaxtyping import Bool

# Share of the frame's diagonal within which two outlines agree.
TOLERANCE = 0.008


def outline(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The pixels that differ from their neighbour to the right, below, or to the lower right."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    right, below, corner = padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    return (mask != right) | (mask != below) | (mask != corner)


def boundary_f(prediction: Bool[np.ndarray, "h w"], truth: Bool[np.ndarray, "h w"]) -> float:
    """Returns the harmonic mean of the outlines' precision and recall, in [0, 1].

    A point of one outline is found if the other passes within ceil(0.008 diagonal) pixels. 1 if
    neither mask has an outline, 0 if one of them alone has.
    """
    first, second = outline(prediction), outline(truth)
    if not first.any() or not second.any():
        return float(first.any() == second.any())
    radius = math.ceil(TOLERANCE * math.hypot(*truth.shape))
    precision = _found(first, second, radius)
    recall = _found(second, first, radius)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _found(points: Bool[np.ndarray, "h w"], near: Bool[np.ndarray, "h w"], radius: int) -> float:
    """Share of `points` within `radius` pixels of one of `near`."""
    # Distances are only needed near the points: crop to them.
    y, x = np.nonzero(points)
    rows = slice(max(y.min() - radius, 0), y.max() + radius + 1)
    columns = slice(max(x.min() - radius, 0), x.max() + radius + 1)
    near = near[rows, columns]
    if not near.any():
        return 0.0
    distance = scipy.ndimage.distance_transform_edt(~near)
    return float((distance[points[rows, columns]] <= radius).mean())
