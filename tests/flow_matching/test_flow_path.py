"""Path and velocity against finite differences and their own inverses."""

import jax
import jax.numpy as jnp
import numpy as np

from unityvideo_jax.flow_matching import interpolate, predict_clean, predict_noise, velocity


def example():
    keys = jax.random.split(jax.random.key(0), 3)
    clean, noise = (jax.random.normal(key, (2, 3, 2, 4, 4, 5)) for key in keys[:2])
    return clean, noise, jax.random.uniform(keys[2], (2, 3))


def test_ends_are_exact():
    clean, noise, _ = example()
    np.testing.assert_array_equal(interpolate(clean, noise, jnp.zeros((2, 3))), clean)
    np.testing.assert_array_equal(interpolate(clean, noise, jnp.ones((2, 3))), noise)


def test_velocity_is_the_derivative_of_the_path():
    clean, noise, t = example()
    h = 1e-2
    difference = (interpolate(clean, noise, t + h) - interpolate(clean, noise, t - h)) / (2 * h)
    np.testing.assert_allclose(velocity(clean, noise), difference, rtol=0, atol=1e-4)


def test_each_stream_moves_by_its_own_timestep():
    clean, noise, t = example()
    expected = (1 - t[1, 2]) * clean[1, 2] + t[1, 2] * noise[1, 2]
    np.testing.assert_allclose(interpolate(clean, noise, t)[1, 2], expected, rtol=0, atol=1e-6)


def test_velocity_gives_back_both_ends():
    clean, noise, t = example()
    noised, v = interpolate(clean, noise, t), velocity(clean, noise)
    np.testing.assert_allclose(predict_clean(noised, v, t), clean, rtol=0, atol=1e-5)
    np.testing.assert_allclose(predict_noise(noised, v, t), noise, rtol=0, atol=1e-5)
