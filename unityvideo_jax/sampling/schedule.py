"""Schedules of the evaluations that run the model and of those that reuse its outputs.

Calibration measures how fast the output of each kind of pass changes along the noise level. Then,
as MagCache does (Ma et al., arXiv 2506.09045), the error of an output that is used again adds up
from evaluation to evaluation, and the pass runs where the sum would exceed a threshold. Two things
differ. MagCache takes the change for one of magnitude; here the change itself is measured,
direction and all. And the threshold follows from the share of passes to be skipped, so that the
dial says what is saved.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from unityvideo_jax.errors import UserError

# Kinds of passes: of everything, without the text, with fewer given streams.
EVERYTHING, TEXT, GIVEN = ("everything", "text", "given")
# A pass is reused at most `LONGEST` times in a row, and all passes run in the first `RETAINED` of
# the evaluations, where errors grow most: MagCache's K and retention ratio.
LONGEST, RETAINED = 6, 0.2
BISECTIONS = 50


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    """Speed at which a pass's output changes along the noise level.

    Attributes:
      sigma: noise levels of the evaluations, strictly decreasing.
      change: of each evaluation since the one before, root mean square relative to the velocity
        of everything; 0 of the first.
    """

    sigma: Float[np.ndarray, " n"]
    change: Float[np.ndarray, " n"]

    def at(self, sigma: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
        """The change between other noise levels: the curve's length from each to the next."""
        length = np.interp(-sigma, -self.sigma, np.cumsum(self.change))
        return np.diff(length, prepend=length[0])


class Schedule(NamedTuple):
    """A row per evaluation of the solver, a column per pass; the first pass is that of everything.

    Attributes:
      run: whether the pass runs.
      ahead: how far the noise level has moved since the pass ran last, in units of what lies
        between its last two runs; 0 where it ran less than twice.
    """

    run: Bool[np.ndarray, "rows p"]
    ahead: Float[np.ndarray, "rows p"]

    @property
    def count(self) -> int:
        """The number of passes that run."""
        return int(self.run.sum())


def of_runs(run: Bool[np.ndarray, "rows p"], sigma: Float[np.ndarray, " rows"]) -> Schedule:
    """Returns the schedule in which these passes run.

    Args:
      run: whether each pass runs in each evaluation.
      sigma: noise levels of the evaluations.

    Raises:
      ValueError: a pass runs without that of everything, or the first row has none.
    """
    if not run[0, 0] or (run.any(axis=1) & ~run[:, 0]).any():
        raise ValueError("the pass of everything runs first, and wherever another one does")
    ahead = np.zeros(run.shape, np.float32)
    for column in range(run.shape[1]):
        last: list[float] = []
        for row, level in enumerate(sigma):
            if run[row, column]:
                last = [*last[-1:], level]
            elif len(last) == 2 and last[0] != last[1]:
                ahead[row, column] = (level - last[1]) / (last[1] - last[0])
    return Schedule(run, ahead)


def derive(
    changes: Float[np.ndarray, "rows p"],
    needed: Bool[np.ndarray, "rows p"],
    sigma: Float[np.ndarray, " rows"],
    share: float,
) -> Schedule:
    """Returns the schedule that skips a share of the passes where that adds the least error.

    Args:
      changes: of each pass's output since the evaluation before, times the pass's weight.
      needed: which passes count at all; where guidance is off only that of everything does.
      sigma: noise levels of the evaluations.
      share: of the needed passes that are skipped, or a little more; 0 skips none.

    Raises:
      UserError: more than can be skipped.
    """

    def skipped(threshold: float) -> tuple[Bool[np.ndarray, "rows p"], float]:
        run = _runs(changes, needed, threshold)
        return run, 1.0 - run.sum() / needed.sum()

    if share <= 0:
        return of_runs(needed, sigma)
    low, high = 0.0, 2.0 * float(np.abs(changes).sum() * len(changes)) + 1.0
    run, most = skipped(high)
    if most < share:
        raise UserError(
            f"cache={share:g}: at most {int(100 * most) / 100:g} of {int(needed.sum())} passes can "
            "be skipped; give less"
        )
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        found, reached = skipped(middle)
        if reached >= share:
            run, high = found, middle
        else:
            low = middle
    return of_runs(run, sigma)


def _runs(
    changes: Float[np.ndarray, "rows p"], needed: Bool[np.ndarray, "rows p"], threshold: float
) -> Bool[np.ndarray, "rows p"]:
    """Passes that run if the error of none may add up to more than a threshold."""
    count = changes.shape[1]
    run, retained = np.zeros_like(needed), RETAINED * len(needed)
    moved, error, age = np.zeros(count), np.full(count, np.inf), np.zeros(count, int)
    for row, change in enumerate(changes):
        moved += change
        error += moved
        age += 1
        run[row] = needed[row] & ((row < retained) | (error > threshold) | (age > LONGEST))
        run[row, 0] |= run[row].any()
        for state in (moved, error, age):
            state[run[row]] = 0
    return run
