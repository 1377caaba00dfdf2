"""A deterministic, evenly spread draw from several sources by weight."""

import functools
from collections.abc import Sequence

import grain
import numpy as np
from jaxtyping import Int

from unityvideo_jax.errors import UserError

# Weights are used as fractions of a period of at most this many draws.
MAX_PERIOD = 10_000


def integer_proportions(weights: Sequence[float | int]) -> tuple[int, ...]:
    """The smallest whole numbers in the ratio of `weights`.

    Exact if some common denominator up to MAX_PERIOD exists (1/7 and 2/7 give 1 and 2); else each
    share is rounded to 1/MAX_PERIOD, at least one draw each.

    Raises:
      UserError: a weight that is not positive and finite.
    """
    shares = np.asarray(weights, np.float64)
    if shares.size == 0 or not np.all(shares > 0) or not np.all(np.isfinite(shares)):
        raise UserError(f"weights {tuple(weights)}: give positive, finite numbers")
    shares = shares / shares.sum()
    periods = np.arange(1, MAX_PERIOD + 1)[:, None]
    scaled = periods * shares
    counts = np.round(scaled)
    exact = np.all((np.abs(scaled - counts) < 1e-7 * periods) & (counts > 0), axis=1)
    row = int(np.argmax(exact)) if exact.any() else MAX_PERIOD - 1
    return tuple(int(c) for c in np.maximum(counts[row], 1))


@functools.lru_cache(maxsize=64)
def _period(proportions: tuple[int, ...]) -> tuple[Int[np.ndarray, "p"], Int[np.ndarray, "p"]]:
    """Source of each draw of one period, and how often it was drawn before in the period.

    Smooth weighted round robin: every source gains its share at each draw, the one most behind is
    drawn. Any window is then within one or two draws of the exact mix, so batches are balanced.
    """
    shares, total = np.asarray(proportions), sum(proportions)
    credit = np.zeros_like(shares)
    drawn = np.zeros_like(shares)
    sources, ranks = np.empty(total, np.int64), np.empty(total, np.int64)
    for k in range(total):
        credit += shares
        source = int(np.argmax(credit))
        credit[source] -= total
        sources[k], ranks[k] = source, drawn[source]
        drawn[source] += 1
    return sources, ranks


class Mixture(grain.transforms.DatasetSelectionMap):
    """Draw k of an endless mix -> (source, how many draws that source had before).

    Stateless: draw k costs the same for any k, so a resumed run need not replay the draws before.
    After each whole period every source has had exactly its share.
    """

    def __init__(self, weights: Sequence[float | int]):
        self.proportions = integer_proportions(weights)
        self._sources, self._ranks = _period(self.proportions)

    @property
    def period(self) -> int:
        """Draws after which the pattern repeats."""
        return len(self._sources)

    def __len__(self) -> int:
        # Endless; short of sys.maxsize, so that Grain may round it up to whole batches.
        return 2**60

    def __getitem__(self, index: int) -> tuple[int, int]:
        rounds, position = divmod(index, self.period)
        source = int(self._sources[position])
        return source, rounds * self.proportions[source] + int(self._ranks[position])
