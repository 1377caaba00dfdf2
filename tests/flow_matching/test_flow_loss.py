"""The loss: what it sees, what it counts, and its minimum in cases that have a closed form."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

from unityvideo_jax.flow_matching import (
    TASKS,
    Noising,
    ObjectiveConfig,
    draw_noising,
    flow_matching_loss,
)
from unityvideo_jax.flow_matching.loss import BAND_EDGES
from unityvideo_jax.modalities import BUILT_IN

SHAPE = (2, 3, 2, 4)
COUNT = 32
CONFIG = ObjectiveConfig()


def make_batch(count=COUNT, streams=2, seed=0, scale=1.0, mean=0.0, shape=SHAPE):
    rng = np.random.default_rng(seed)
    latents = mean + scale * rng.standard_normal((count, streams, *shape), np.float32)
    modality = rng.integers(1, 6, (count, streams))
    modality[:, 0] = 0
    return {
        "latents": jnp.asarray(latents, jnp.float32),
        "modality": jnp.asarray(modality, jnp.int32),
        "context": jnp.zeros((count, streams, 1, 1)),
        "index": jnp.arange(count),
    }


class Observed(NamedTuple):
    """A loss, what its model was given, and the draw behind it."""

    loss: jax.Array
    metrics: dict
    latents: jax.Array
    timestep: jax.Array
    noising: Noising
    gradient: jax.Array


def observe(batch, key, config=CONFIG, value=0.0) -> Observed:
    """The loss of a model that predicts `value` everywhere; its gradient by the prediction."""
    return _observe(batch, key, config, value)


@functools.partial(jax.jit, static_argnums=2)
def _observe(batch, key, config, value) -> Observed:
    given = {}

    def loss_fn(prediction):
        def model(latents, timestep, modality, context):
            given.update(latents=latents, timestep=timestep)
            return prediction

        loss, metrics = flow_matching_loss(model, batch, key, config)
        return loss, (metrics, given["latents"], given["timestep"])

    prediction = jnp.full(batch["latents"].shape, value)
    (loss, aux), gradient = jax.value_and_grad(loss_fn, has_aux=True)(prediction)
    noising = draw_noising(jax.random.split(key)[0], *batch["modality"].shape, config)
    return Observed(loss, *aux, noising, gradient)


def test_clean_streams_are_given_untouched_at_time_zero():
    batch = make_batch()
    seen = observe(batch, jax.random.key(1), ObjectiveConfig(condition_dropout=0.0))
    noised = np.asarray(seen.noising.noised)
    assert 0 < noised.sum() < noised.size
    assert not np.any(np.asarray(seen.timestep)[~noised])
    latents, clean = np.asarray(seen.latents), np.asarray(batch["latents"])
    np.testing.assert_array_equal(latents[~noised], clean[~noised])
    assert np.all(np.any(latents != clean, axis=(2, 3, 4, 5))[noised])


def test_dropped_conditions_are_pure_noise_at_time_one_without_loss():
    config = ObjectiveConfig(p_cond=0.5, p_est=0.5, p_joint=0.0, condition_dropout=1.0)
    seen = observe(make_batch(mean=100.0), jax.random.key(2), config)
    clean = ~np.asarray(seen.noising.noised)
    assert np.all(np.asarray(seen.timestep)[clean] == 1.0)
    noise = np.asarray(seen.latents)[clean]
    assert abs(noise.mean()) < 0.1 and abs(noise.std() - 1.0) < 0.1
    assert not np.any(np.asarray(seen.gradient)[clean])
    assert sum(seen.metrics[f"loss/modality/{name}"][1] for name in BUILT_IN) == COUNT


def test_a_first_frame_stays_clean_and_has_no_loss():
    config = ObjectiveConfig(first_frame=0.5, condition_dropout=0.0)
    batch, key = make_batch(), jax.random.key(3)
    told = []

    def model(latents, timestep, modality, context, clean):
        told.append((np.asarray(latents), np.asarray(timestep), np.asarray(clean)))
        return jnp.where(clean[..., None, None, None], 1e6, 0.0) * jnp.ones_like(latents)

    loss, _ = flow_matching_loss(model, batch, key, config)
    ((latents, timestep, clean),) = told
    assert not clean[:, 1:].any() and not clean[:, :, 1:].any()
    held = clean[:, 0, 0]
    # Of samples whose RGB is noised, half.
    noised = timestep[:, 0] > 0
    assert not held[~noised].any()
    assert abs(held[noised].mean() - 0.5) < 4 * np.sqrt(0.25 / noised.sum())
    given = np.asarray(batch["latents"])
    np.testing.assert_array_equal(latents[held, 0, 0], given[held, 0, 0])
    assert (latents[held, 0, 1:] != given[held, 0, 1:]).any(axis=(1, 2, 3, 4)).all()
    # The prediction there, a million, is not looked at.
    assert loss < 10
    # A modality alone is no RGB, though it is stream 0.
    alone = {name: x[:, 1:] for name, x in batch.items() if name != "index"}
    flow_matching_loss(model, alone, key, config)
    assert not told[1][2].any()


def test_predictions_of_clean_streams_receive_no_gradient():
    seen = observe(make_batch(), jax.random.key(3))
    reached = np.any(np.asarray(seen.gradient) != 0, axis=(2, 3, 4, 5))
    np.testing.assert_array_equal(reached, seen.noising.noised)
    assert 0 < reached.sum() < reached.size


def test_a_sample_weighs_the_same_in_every_task():
    seen = observe(make_batch(), jax.random.key(4), value=100.0)
    pull = np.sum(seen.gradient, axis=(1, 2, 3, 4, 5))
    np.testing.assert_allclose(pull, 2 * 100.0 / COUNT, rtol=0.02)


def test_noise_differs_between_streams_samples_and_keys():
    config = ObjectiveConfig(p_cond=0, p_est=0, p_joint=1)
    batch = make_batch(scale=0.0)
    seen, again = (observe(batch, jax.random.key(i), config) for i in (5, 6))
    # With x_0 = 0 the model sees t * noise.
    t = np.asarray(seen.timestep)
    assert np.all(t[:, 0] == t[:, 1]) and len(np.unique(t)) == COUNT
    flat = np.asarray(seen.latents / t[..., None, None, None, None]).reshape(2 * COUNT, -1)
    assert np.max(np.abs(np.corrcoef(flat) - np.eye(2 * COUNT))) < 0.7
    assert not np.any(np.isclose(seen.latents, again.latents, atol=1e-7).all(axis=(2, 3, 4, 5)))


def test_exact_velocity_of_data_at_a_single_point_has_no_loss():
    """All mass at zero: x_t = t x_1, so the velocity is x_t / t."""

    def exact(x, t, modality, context):
        return x / jnp.maximum(t, 1e-6)[..., None, None, None, None]

    run = jax.jit(lambda batch, key: flow_matching_loss(exact, batch, key, CONFIG)[0])
    assert run(make_batch(scale=0.0), jax.random.key(7)) < 1e-10


def test_metrics_add_up():
    batch = make_batch()
    seen = observe(batch, jax.random.key(8))
    metrics, noising = seen.metrics, seen.noising
    total, count = metrics["loss"]
    assert count == COUNT and total / count == pytest.approx(float(seen.loss), rel=1e-6)
    tasks = np.array([metrics[f"loss/task/{name}"] for name in TASKS])
    np.testing.assert_allclose(tasks.sum(axis=0), metrics["loss"], rtol=1e-5)
    np.testing.assert_array_equal(tasks[:, 1], np.bincount(noising.task, minlength=3))
    modalities = np.array([metrics[f"loss/modality/{name}"] for name in BUILT_IN])
    bands = np.array([v for k, v in metrics.items() if k.startswith("loss/timestep/")])
    assert len(bands) == 6
    assert metrics["loss/streams/2"] == metrics["loss"]
    np.testing.assert_allclose(bands.sum(axis=0), modalities.sum(axis=0), rtol=1e-5)
    noised = np.asarray(noising.noised)
    ids, t = np.asarray(batch["modality"])[noised], np.asarray(noising.timestep)[noised]
    np.testing.assert_array_equal(modalities[:, 1], np.bincount(ids, minlength=6))
    np.testing.assert_array_equal(bands[:, 1], np.histogram(t, bins=BAND_EDGES)[0])


def test_loss_weights_scale_the_streams_of_a_modality_and_no_metric():
    batch, key = make_batch(), jax.random.key(8)
    plain = observe(batch, key)
    weighted = observe(batch, key, ObjectiveConfig(modality_loss_weights={"rgb": 0.5, "flow": 3}))
    assert jax.tree.all(jax.tree.map(jnp.array_equal, plain.metrics, weighted.metrics))
    factor = np.array([0.5, 1, 3, 1, 1, 1])[batch["modality"]]  # in the order of the names
    assert BUILT_IN[2] == "flow"
    np.testing.assert_allclose(
        weighted.gradient, plain.gradient * factor[..., None, None, None, None], rtol=1e-5
    )


def test_one_compiled_step_serves_every_mix_of_tasks():
    before = _observe._cache_size()
    batch = make_batch(seed=1)
    mixes = {
        tuple(np.bincount(observe(batch, key).noising.task, minlength=3))
        for key in jax.random.split(jax.random.key(9), 4)
    }
    assert len(mixes) > 1
    assert _observe._cache_size() - before <= 1


# Gaussian data: x_0 ~ N(MEAN, SCALE^2), where everything is known.
MEAN, SCALE = 1.5, 0.4


def gaussian_coefficients(t):
    """(slope, mean) of the optimal velocity E[x_1 - x_0 | x_t = x] = slope (x - (1-t) MEAN) - MEAN.

    x_t has variance (1-t)^2 SCALE^2 + t^2, and covariance t - (1-t) SCALE^2 with x_1 - x_0.
    """
    variance = (1 - t) ** 2 * SCALE**2 + t**2
    return (t - (1 - t) * SCALE**2) / variance, (1 - t) * MEAN


def optimal_velocity(x, t, modality, context):
    slope, mean = gaussian_coefficients(t[..., None, None, None, None])
    return slope * (x - mean) - MEAN


def gaussian_batch(count, seed=0):
    return make_batch(count, streams=1, seed=seed, scale=SCALE, mean=MEAN, shape=(1, 4, 4, 1))


@pytest.mark.parametrize("t", [0.2, 0.85])
def test_minimiser_over_gaussian_data_is_the_optimal_velocity(t):
    """The loss of v = a x + b is quadratic: one Newton step is its regression."""
    config = ObjectiveConfig(logit_mean=float(np.log(t / (1 - t))), logit_std=1e-6)
    batch, key = gaussian_batch(40_000), jax.random.key(10)

    def loss(parameters):
        a, b = parameters
        return flow_matching_loss(lambda x, *_: a * x + b, batch, key, config)[0]

    start = jnp.zeros(2)
    hessian, gradient = jax.jit(lambda p: (jax.hessian(loss)(p), jax.grad(loss)(p)))(start)
    a, b = -np.linalg.solve(hessian, gradient)
    slope, mean = gaussian_coefficients(t)
    # Half a million values: the regression's own error is a few thousandths.
    assert a == pytest.approx(slope, abs=0.02)
    assert b == pytest.approx(-MEAN - slope * mean, abs=0.03)


def test_loss_of_the_optimal_velocity_is_the_variance_that_remains():
    config, batch = ObjectiveConfig(timestep="uniform"), gaussian_batch(40_000)

    def remaining(t):
        slope, _ = gaussian_coefficients(t)
        return 1 + SCALE**2 - slope * (t - (1 - t) * SCALE**2)

    expected = integrate.quad(remaining, 0, 1)[0]

    @jax.jit
    def run(scale, offset, delay):
        def model(x, t, *rest):
            return scale * optimal_velocity(x, jnp.clip(t + delay, 0.0, 1.0), *rest) + offset

        return flow_matching_loss(model, batch, jax.random.key(11), config)[0]

    best = run(1.0, 0.0, 0.0)
    assert best == pytest.approx(expected, rel=0.01)
    assert run(1.05, 0.0, 0.0) > best
    assert run(1.0, 0.1, 0.0) > best
    assert run(1.0, 0.0, 0.05) > best


def test_integrating_the_optimal_velocity_turns_noise_into_the_data():
    """From t = 1 to 0 the flow is x_0 = MEAN + SCALE x_1; Euler's error falls with its step."""
    noise = jax.random.normal(jax.random.key(12), (1, 1, 1, 64, 64, 1))

    def euler(steps):
        def step(i, x):
            t = jnp.full((1, 1), 1.0 - i / steps)
            return x - optimal_velocity(x, t, None, None) / steps

        return jax.lax.fori_loop(0, steps, step, noise)

    errors = [float(jnp.max(jnp.abs(euler(n) - (MEAN + SCALE * noise)))) for n in (100, 1000)]
    assert errors[1] < 0.02 and errors[1] < errors[0] / 5
    result = np.asarray(euler(1000))
    assert result.mean() == pytest.approx(MEAN, abs=4 * SCALE / 64)
    assert result.std() == pytest.approx(SCALE, rel=0.05)
