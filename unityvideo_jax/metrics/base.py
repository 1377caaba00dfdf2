"""The interface of every metric: clips go in one by one, named numbers come out."""

import abc
import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Shaped

from unityvideo_jax.errors import UserError
from unityvideo_jax.metrics.scores import ClipScore, aggregate

# Decoded arrays of one clip by the contract's names ("depth", "segments", ...), without a batch.
Arrays = Mapping[str, Shaped[np.ndarray, "..."]]


class Metric(abc.ABC):
    """Scores predictions of one modality against the truth.

    Attributes:
      modality: its registry name; results are keyed "<modality>/<protocol>/<number>".
      keys: arrays that it reads from prediction and truth.
      extra: arrays of the truth that it reads if they are there.
      protocols: definition of each protocol, by its name in the keys.
      headline: the key that a summary shows; `lower_is_better` says how to read it.
    """

    modality: ClassVar[str]
    keys: ClassVar[tuple[str, ...]]
    extra: ClassVar[tuple[str, ...]] = ()
    protocols: ClassVar[Mapping[str, str]]
    headline: ClassVar[str]
    lower_is_better: ClassVar[bool]

    def __init__(self) -> None:
        self.rows: list[ClipScore] = []

    @abc.abstractmethod
    def score(self, prediction: Arrays, truth: Arrays, name: str) -> ClipScore:
        """Scores one clip; `name` is what an error message calls it.

        Raises:
          UserError: shapes differ, or a value is NaN.
        """

    @property
    def scored(self) -> int:
        """The number of clips so far that had something to score."""
        return sum(row.scored for row in self.rows)

    def update(self, prediction: Arrays, truth: Arrays, name: str) -> None:
        """Adds one clip; raises UserError as `score` does."""
        self.rows.append(self.score(prediction, truth, name))

    def compute(self) -> dict[str, float | int]:
        """Returns all numbers over the clips so far, counts as int; UserError if there are none."""
        if not self.scored:
            raise UserError(f"{self.modality}: no clip has anything to score; add clips")
        return {key: value for key, value in aggregate(self.rows).items() if value is not None}


def check_pair(
    prediction: np.ndarray,
    truth: np.ndarray,
    what: str,
    name: str,
    *,
    tail: Sequence[int] = (),
    allow_inf: bool = False,
) -> None:
    """Raises UserError unless the two have one shape [T, H, W, *tail] and hold no NaN.

    Args:
      prediction, truth: numbers.
      what: name of the arrays, for messages.
      name: of the clip, for messages.
      tail: sizes of the axes after the width.
      allow_inf: whether infinities may stand for a value, as they do for sky.
    """
    if prediction.shape != truth.shape:
        raise UserError(
            f"{name}: {what} is predicted as {prediction.shape} but the truth is {truth.shape}; "
            "score both at one size and length"
        )
    if truth.ndim != 3 + len(tail) or truth.shape[3:] != tuple(tail) or not truth.size:
        wanted = ", ".join(["T", "H", "W", *map(str, tail)])
        raise UserError(f"{name}: {what} has shape {truth.shape}; give [{wanted}]")
    for role, array in (("predicted", prediction), ("true", truth)):
        check_finite(array, f"{role} {what}", name, allow_inf=allow_inf)


def check_finite(array: np.ndarray, what: str, name: str, *, allow_inf: bool = False) -> None:
    """Raises UserError that says where the first NaN (or infinity) of an array is."""
    if not np.issubdtype(array.dtype, np.floating):
        return
    bad = np.isnan(array) if allow_inf else ~np.isfinite(array)
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        kind = "NaN" if np.isnan(array[first]) else "an infinity"
        raise UserError(f"{name}: {what} holds {kind}, first at {first}; fix its source")


def labels(array: np.ndarray, what: str, name: str) -> Shaped[np.ndarray, "..."]:
    """Instance or part numbers as they are; UserError unless they are integers (or bool)."""
    array = np.asarray(array)
    if array.dtype.kind not in "iub":
        raise UserError(f"{name}: {what} has dtype {array.dtype}; give integers")
    return array


def mean(values: Float[np.ndarray, " n"] | list[float], what: str) -> float:
    """Returns the average of values; UserError if there are none, or one is not finite."""
    if len(values) == 0:
        raise UserError(f"{what}: no clip has anything to score; add clips")
    result = float(np.mean(np.asarray(values, np.float64)))
    if not math.isfinite(result):
        raise UserError(f"{what}: a score is not finite; look for infinities in the predictions")
    return result
