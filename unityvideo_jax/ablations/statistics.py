"""Means, paired tests and intervals of the runs of a grid, and when a difference may be claimed.

Two arms share seeds, hence worlds and initial weights, so seeds are paired. Pairs of clips of the
physics benchmark are the same for every run, so pairs are paired too.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np
import scipy
from jaxtyping import Float

# Two-sided, of every test and interval.
LEVEL = 0.95
# More seeds than this have more than a million sign flips; their test is Student's alone.
MOST_FLIPS = 20
UNTESTED = "one seed, not tested"
Values = Sequence[float | int] | Float[np.ndarray, " n"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """An arm less its baseline over the seeds that both have.

    Attributes:
      seeds: how many.
      mean: of the differences.
      std: of the differences, with divisor n - 1; NaN of one seed.
      student: two-sided p of the paired t-test; NaN of one seed.
      flips: exact two-sided p of the sign-flip test, never below 2^(1 - seeds); NaN of one seed.
    """

    seeds: int
    mean: float
    std: float
    student: float
    flips: float


def mean_std(values: Values) -> tuple[float, float]:
    """Returns mean, and standard deviation with divisor n - 1, which is NaN of one value."""
    found = np.asarray(values, np.float64)
    return float(found.mean()), float(found.std(ddof=1)) if len(found) > 1 else math.nan


def paired(values: Values, baseline: Values) -> Difference:
    """Compares two arms, value by value of the same seed.

    Args:
      values, baseline: of the same seeds in the same order, at least one.
    """
    differences = np.asarray(values, np.float64) - np.asarray(baseline, np.float64)
    mean, std = mean_std(differences)
    count = len(differences)
    return Difference(
        seeds=count,
        mean=mean,
        std=std,
        student=_student(mean, std, count),
        flips=_flips(differences),
    )


def _student(mean: float, std: float, count: int) -> float:
    """p of a mean of `count` values whose expectation is 0."""
    if count < 2:
        return math.nan
    if std == 0:
        return 1.0 if mean == 0 else 0.0
    t = mean / (std / math.sqrt(count))
    return float(2 * scipy.special.stdtr(count - 1, -abs(t)))


def _flips(differences: Float[np.ndarray, " n"]) -> float:
    """Share of the sign flips whose mean is as far from 0 as that of the differences."""
    count = len(differences)
    if not 2 <= count <= MOST_FLIPS:
        return math.nan
    signs = np.array([*itertools.product((1.0, -1.0), repeat=count)])
    means = np.abs(signs @ differences)
    return float((means >= means[0] * (1 - 1e-12)).mean())


def noise_of_share(pairs: int) -> float:
    """Half of the 95 % interval of a share near 0.5 of so many pairs: 0.043 of 512.

    A smaller difference between two models is not claimed, whatever its own test says.
    """
    return float(scipy.special.ndtri((1 + LEVEL) / 2) * math.sqrt(0.25 / pairs))


def bootstrap_share(
    outcomes: Float[np.ndarray, "runs pairs"],
    baseline: Float[np.ndarray, "runs pairs"] | None = None,
    *,
    samples: int = 2000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """A share of pairs, or the difference of two, with its percentile interval over pairs.

    Args:
      outcomes: of every run and pair, 0, 0.5 or 1; runs of several seeds are averaged for each
        pair, since the pairs are the same.
      baseline: of the same pairs; None is nothing to compare with.
      samples, seed: of the bootstrap.

    Returns:
      The share (less that of the baseline), and the low and high end of its interval.
    """
    each = outcomes.mean(axis=0)
    if baseline is not None:
        each = each - baseline.mean(axis=0)
    rng = np.random.default_rng(seed)
    draws = rng.integers(len(each), size=(samples, len(each)))
    low, high = np.quantile(each[draws].mean(axis=1), ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return float(each.mean()), float(low), float(high)


def verdict(found: Difference, lower_is_better: bool, noise: float = 0.0) -> str:
    """Judges a difference: "better", "worse", "no difference shown", or `UNTESTED`.

    Args:
      found: the arm less its baseline.
      lower_is_better: of the metric.
      noise: smaller differences are not claimed.
    """
    if found.seeds < 2:
        return UNTESTED
    if not found.student < 1 - LEVEL or abs(found.mean) < noise:
        return "no difference shown"
    return "better" if (found.mean < 0) == lower_is_better else "worse"
