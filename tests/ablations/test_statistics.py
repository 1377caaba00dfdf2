"""The statistics of a grid against scipy and closed forms."""

import math

import numpy as np
import pytest
import scipy.stats

from unityvideo_jax.ablations import statistics


def test_paired_tests_are_those_of_scipy():
    rng = np.random.default_rng(0)
    for count in (2, 3, 6):
        ours, base = rng.normal(size=(2, count)) + np.array([[0.5], [0.0]])
        found = statistics.paired(ours, base)
        expected = scipy.stats.ttest_rel(ours, base)
        assert found.student == pytest.approx(expected.pvalue, rel=1e-9)
        assert found.mean == pytest.approx((ours - base).mean())
        assert found.std == pytest.approx(np.std(ours - base, ddof=1))
        flips = scipy.stats.permutation_test(
            (ours - base,), np.mean, permutation_type="samples", n_resamples=np.inf
        )
        assert found.flips == pytest.approx(flips.pvalue)
    # Three seeds that agree: the least that sign flips can say.
    assert statistics.paired([1, 2, 3], [0, 0, 0]).flips == 0.25
    one = statistics.paired([1.0], [0.0])
    assert math.isnan(one.student) and math.isnan(one.flips) and one.mean == 1.0


def test_nothing_is_claimed_below_the_noise():
    noise = statistics.noise_of_share(512)
    assert noise == pytest.approx(1.959964 * math.sqrt(0.25 / 512), rel=1e-6)
    assert 0.04 < noise < 0.045
    sure = statistics.paired([0.30, 0.31, 0.32], [0.50, 0.51, 0.521])
    assert statistics.verdict(sure, True, noise) == "better"
    assert statistics.verdict(sure, False, noise) == "worse"
    small = statistics.paired([0.47, 0.48, 0.49], [0.50, 0.51, 0.521])
    assert small.student < 0.05
    assert statistics.verdict(small, True, noise) == "no difference shown"
    noisy = statistics.paired([0.1, 0.9, 0.2], [0.5, 0.4, 0.6])
    assert statistics.verdict(noisy, True) == "no difference shown"
    assert statistics.verdict(statistics.paired([1.0], [0.0]), True) == statistics.UNTESTED


def test_the_bootstrap_has_the_width_of_a_binomial_and_keeps_pairs_together():
    rng = np.random.default_rng(1)
    outcomes = (rng.random((1, 512)) < 0.4).astype(float)
    share, low, high = statistics.bootstrap_share(outcomes)
    assert share == outcomes.mean()
    width = 2 * 1.96 * math.sqrt(share * (1 - share) / 512)
    assert high - low == pytest.approx(width, rel=0.1)
    # Against itself but for ten pairs, the interval is far narrower than that of either.
    other = outcomes.copy()
    other[0, :10] = 1 - other[0, :10]
    difference, low, high = statistics.bootstrap_share(outcomes, other)
    assert difference == pytest.approx((outcomes - other).mean()) and high - low < width / 3
