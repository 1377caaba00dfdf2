import collections

import numpy as np
import pytest

from unityvideo_jax.errors import UserError
from unityvideo_jax.inputs.mixing import MAX_PERIOD, Mixture, integer_proportions


@pytest.mark.parametrize(
    "weights, expected",
    [
        ((1 / 7, 1 / 7, 1 / 7, 2 / 7, 2 / 7), (1, 1, 1, 2, 2)),
        ((0.5, 0.3, 0.2), (5, 3, 2)),
        ((3.0,), (1,)),
        ((4, 6), (2, 3)),
        ((0.1 + 0.2, 0.7), (3, 7)),
    ],
)
def test_proportions_are_the_smallest_whole_numbers(weights, expected):
    assert integer_proportions(weights) == expected


def test_irrational_weights_are_rounded_to_the_longest_period():
    weights = np.array([1.0, np.pi, np.sqrt(2)])
    proportions = np.array(integer_proportions(weights.tolist()))
    assert abs(proportions.sum() - MAX_PERIOD) <= 2
    np.testing.assert_allclose(
        proportions / proportions.sum(), weights / weights.sum(), atol=1.5 / MAX_PERIOD
    )


def test_every_period_has_exactly_the_weights_and_windows_are_balanced():
    weights = (1 / 7, 2 / 7, 4 / 7)
    mixture = Mixture(weights)
    draws = np.array([mixture[k][0] for k in range(20 * mixture.period)])
    counts = np.stack([np.cumsum(draws == s) for s in range(3)], axis=1)
    exact = np.arange(1, len(draws) + 1)[:, None] * np.asarray(weights)
    np.testing.assert_allclose(counts[mixture.period - 1 :: mixture.period], exact[6::7], atol=1e-9)
    # Smooth: no prefix is a whole draw away from the exact mix.
    assert np.abs(counts - exact).max() < 1


def test_each_source_is_asked_for_its_items_in_order_without_gaps():
    mixture = Mixture([3 / 11, 8 / 11])
    seen = collections.defaultdict(list)
    for k in range(100):
        source, item = mixture[k]
        seen[source].append(item)
    assert all(items == list(range(len(items))) for items in seen.values())
    # Far along it still knows, without replaying.
    source, item = mixture[11 * 10**12]
    assert item == mixture.proportions[source] * 10**12 + mixture[0][1]


@pytest.mark.parametrize("weights", [(), (1.0, 0.0), (1.0, -1.0), (1.0, float("nan"))])
def test_impossible_weights_are_refused(weights):
    with pytest.raises(UserError, match="positive"):
        integer_proportions(weights)
