"""Tracking of things that a network finds frame by frame, by overlap."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy
from jaxtyping import Bool, Float

Overlap = Callable[[Any, Any], Float[np.ndarray, "a b"]]


def box_iou(a: Float[np.ndarray, "a 4"], b: Float[np.ndarray, "b 4"]) -> Float[np.ndarray, "a b"]:
    """Intersection over union of all pairs of boxes, in [0, 1].

    Args:
      a, b: (left, top, right, bottom), in any unit.
    """
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = np.prod(np.maximum(high - low, 0.0), axis=-1)
    areas = [np.prod(np.maximum(x[:, 2:] - x[:, :2], 0.0), axis=-1) for x in (a, b)]
    return common / np.maximum(areas[0][:, None] + areas[1][None] - common, 1e-9)


def mask_iou(
    a: Bool[np.ndarray, "a h w"], b: Bool[np.ndarray, "b h w"]
) -> Float[np.ndarray, "a b"]:
    """Intersection over union of all pairs of masks, in [0, 1]."""
    x, y = (m.reshape(len(m), -1).astype(np.float32) for m in (a, b))
    common = x @ y.T
    return common / np.maximum(x.sum(1)[:, None] + y.sum(1)[None] - common, 1e-9)


class Tracks:
    """Numbers of things: the best matching by overlap with the last sight of each.

    Args:
      overlap: of two stacks of things, [a, ...] and [b, ...].
      least: overlap below which two things are not the same.
      patience: frames for which something unseen is still looked for.
    """

    def __init__(self, overlap: Overlap, *, least: float = 0.3, patience: int = 8):
        self._overlap, self._least, self._patience = overlap, least, patience
        self._seen: dict[int, tuple[int, np.ndarray]] = {}
        self._frame = 0
        self.count = 0

    def update(self, things: Sequence[np.ndarray]) -> list[int]:
        """Returns the number, from 0, of each thing of the next frame.

        Args:
          things: of one shape, as `overlap` takes them when stacked.
        """
        known = [n for n, (t, _) in self._seen.items() if self._frame - t <= self._patience]
        numbers = [-1] * len(things)
        if known and len(things):
            overlap = self._overlap(np.stack([self._seen[n][1] for n in known]), np.stack(things))
            for row, column in zip(*scipy.optimize.linear_sum_assignment(-overlap), strict=True):
                if overlap[row, column] >= self._least:
                    numbers[column] = known[row]
        for n, thing in enumerate(things):
            if numbers[n] < 0:
                numbers[n] = self.count
                self.count += 1
            self._seen[numbers[n]] = (self._frame, thing)
        self._frame += 1
        return numbers
