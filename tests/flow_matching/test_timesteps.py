"""Timestep distributions against scipy's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

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
    # A distribution only slightly off would be told apart by as many draws.
    assert stats.kstest(t, lambda x: cdf(x) ** 1.05).pvalue < 1e-3


def test_shift_keeps_the_ends_and_is_undone_by_its_inverse():
    t = jnp.linspace(0.0, 1.0, 11)
    shifted = shift_timesteps(t, 5.0)
    assert shifted[0] == 0 and shifted[-1] == 1
    np.testing.assert_allclose(shifted[5], 5 * 0.5 / 3, rtol=1e-6)
    np.testing.assert_allclose(shift_timesteps(shifted, 0.2), t, rtol=0, atol=1e-6)
