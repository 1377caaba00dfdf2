"""Timestep distributions against scipy's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from unityvideo_jax.flow_matching import sample_timesteps, shift_timesteps


def unshift(t, shift):
    return t / (shift - (shift - 1) * t)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-0.7, 1.6)])
@pytest.mark.parametrize("shift", [1.0, 5.0])
@pytest.mark.parametrize("distribution", ["uniform", "logit_normal"])
def test_distribution(distribution, shift, mean, std):
    t = sample_timesteps(
        jax.random.key(3),
        (20_000,),
        distribution=distribution,
        logit_mean=mean,
        logit_std=std,
        shift=shift,
    )
    t = np.asarray(t, np.float64)
    assert np.all((t >= 0) & (t <= 1))

    def cdf(x):
        base = np.clip(unshift(x, shift), 1e-12, 1 - 1e-7)
        if distribution == "uniform":
            return base
        return stats.norm.cdf((np.log(base / (1 - base)) - mean) / std)

    assert stats.kstest(t, cdf).pvalue > 1e-3
    # As many draws would detect a distribution that is only slightly off.
    assert stats.kstest(t, lambda x: cdf(x) ** 1.05).pvalue < 1e-3


def test_shift_keeps_the_ends_and_is_undone_by_its_inverse():
    t = jnp.linspace(0.0, 1.0, 11)
    shifted = shift_timesteps(t, 5.0)
    assert shifted[0] == 0 and shifted[-1] == 1
    np.testing.assert_allclose(shifted[5], 5 * 0.5 / 3, rtol=1e-6)
    np.testing.assert_allclose(shift_timesteps(shifted, 0.2), t, rtol=0, atol=1e-6)


def logit_normal_quantile(q, shift):
    """sigmoid(probit(q) + log(shift)): a shift adds its logarithm to the mean of the logits."""
    return special.expit(stats.norm.ppf(q) + np.log(shift))


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0])
def test_quantiles_up_to_noise(shift):
    q = np.array([0.1, 0.5, 0.9, 0.99])
    t = np.asarray(sample_timesteps(jax.random.key(0), (200_000,), shift=shift), np.float64)
    # In units of probability, where the error of an order statistic has a known size.
    reached = (t[None] <= logit_normal_quantile(q, shift)[:, None]).mean(axis=1)
    np.testing.assert_allclose(reached, q, atol=4 * np.sqrt(0.25 / t.size))
    uniform = np.asarray(
        sample_timesteps(jax.random.key(1), (200_000,), distribution="uniform", shift=shift)
    )
    reached = (uniform[None] <= (shift * q / (1 + (shift - 1) * q))[:, None]).mean(axis=1)
    np.testing.assert_allclose(reached, q, atol=4 * np.sqrt(0.25 / t.size))


def test_shares_of_uniform_and_of_pure_noise():
    options = dict(shift=5.0, uniform_share=0.3, noise_share=0.2)
    t = np.asarray(sample_timesteps(jax.random.key(2), (100_000,), **options), np.float64)
    is_noise = t == 1.0
    assert abs(is_noise.mean() - 0.2) < 4 * np.sqrt(0.16 / t.size)

    def cdf(x):
        logits = special.logit(np.clip(unshift(x, 5.0), 1e-12, 1 - 1e-7))
        return 0.3 * x + 0.7 * stats.norm.cdf(logits)

    assert stats.kstest(t[~is_noise], cdf).pvalue > 1e-3
    assert stats.kstest(t[~is_noise], lambda x: cdf(x) ** 1.05).pvalue < 1e-3
    # Without shares, the draws are those of versions that had none.
    plain = sample_timesteps(jax.random.key(2), (8,))
    expected = jax.nn.sigmoid(jax.random.normal(jax.random.key(2), (8,)))
    np.testing.assert_array_equal(plain, expected)
