"""What every metric has in common: clips go in one by one, named numbers come out."""

import math
from collections.abc import Mapping
from typing import Protocol

import numpy as np
from jaxtyping import Float, Shaped

from unityvideo_jax.errors import UserError

# Decoded arrays of one clip by the contract's names ("depth", "segments", ...), without a batch.
Arrays = Mapping[str, Shaped[np.ndarray, "..."]]


class Metric(Protocol):
    """Scores predictions of one modality against the truth.

    Attributes:
      modality: registry name of what it scores; results are keyed "<modality>/<protocol>/<number>".
      keys: arrays that it reads from prediction and truth.
      scored: how many clips had something to score so far.
    """

    modality: str
    keys: tuple[str, ...]

    @property
    def scored(self) -> int: ...

    def update(self, prediction: Arrays, truth: Arrays, name: str) -> None:
        """Adds one clip; `name` is what an error message calls it."""
        ...

    def compute(self) -> dict[str, float | int]:
        """All numbers over the clips seen so far, counts as int; UserError if there are none."""
        ...


def check_pair(prediction: np.ndarray, truth: np.ndarray, what: str, name: str) -> None:
    """Raises UserError unless the two have one shape and hold no NaN."""
    if prediction.shape != truth.shape:
        raise UserError(
            f"{name}: {what} is predicted as {prediction.shape} but the truth is {truth.shape}; "
            "score both at one size and length"
        )
    for role, array in (("predicted", prediction), ("true", truth)):
        if np.issubdtype(array.dtype, np.floating) and np.isnan(array).any():
            first = tuple(int(i) for i in np.argwhere(np.isnan(array))[0])
            raise UserError(f"{name}: {role} {what} holds NaN, first at {first}; mend its source")


def mean(values: Float[np.ndarray, " n"] | list[float], what: str) -> float:
    """The average; UserError rather than NaN if there are none, or one is not finite."""
    if len(values) == 0:
        raise UserError(f"{what}: no clip has anything to score; add clips")
    result = float(np.mean(np.asarray(values, np.float64)))
    if not math.isfinite(result):
        raise UserError(f"{what}: a score is not finite; look for infinities in the predictions")
    return result
