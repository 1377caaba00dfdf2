import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unityvideo_jax.errors import UserError
from unityvideo_jax.evaluation.heldout import HeldoutConfig, HeldoutLoss, heldout_errors

CONFIG = HeldoutConfig(timesteps=4)
B, SHAPE = 3, (2, 2, 4, 4)


def errors(velocity, index=range(B), latents=None, modality=1, config=CONFIG):
    index = jnp.array(list(index), jnp.int32)
    if latents is None:
        latents = jax.random.normal(jax.random.key(0), (len(index), 2, *SHAPE))
    ids = jnp.tile(jnp.array([0, modality], jnp.int32), (len(index), 1))
    context = jnp.zeros((len(index), 2, 1, 1))
    return np.asarray(heldout_errors(velocity, latents, ids, context, index, config))


def test_perfect_velocity_of_constant_data_has_no_loss():
    """x0 = 2 everywhere: the noise, hence the velocity, can be read off x_t."""
    latents = jnp.full((B, 2, *SHAPE), 2.0)

    def velocity(x, t, modality, context):
        t = t[..., None, None, None, None]
        return jnp.where(t > 0, (x - 2.0) / jnp.maximum(t, 1e-6), jnp.nan)

    np.testing.assert_allclose(errors(velocity, latents=latents), 0.0, atol=1e-8)


def test_zero_velocity_scores_the_power_of_the_target():
    """E (x1 - x0)^2 = 1 + 2^2 for x0 = 2, whatever the timestep."""
    latents = jnp.full((64, 2, *SHAPE), 2.0)
    result = errors(lambda x, *_: jnp.zeros_like(x), index=range(64), latents=latents)
    assert result.shape == (64, 3, 6)
    np.testing.assert_allclose(result.mean(axis=0), 5.0, atol=0.15)


def test_tasks_noise_the_right_streams_at_fixed_timesteps():
    seen = []

    def velocity(x, t, modality, context):
        jax.debug.callback(lambda t: seen.append(np.asarray(t)), t, ordered=True)
        return x

    errors(velocity)
    jax.effects_barrier()
    levels = np.array([0.125, 0.375, 0.625, 0.875, 0.97, 1.0])
    assert len(seen) == 18
    for case, t in enumerate(seen):
        task, level = divmod(case, 6)
        expected = levels[level] * np.array([[1, 0], [0, 1], [1, 1]])[task]
        np.testing.assert_allclose(t, np.tile(expected, (B, 1)), rtol=1e-6)


def test_noise_is_fixed_by_clip_modality_and_seed_alone():
    def velocity(x, t, modality, context):
        return 0.3 * x

    latents = jnp.broadcast_to(jax.random.normal(jax.random.key(0), (1, 2, *SHAPE)), (B, 2, *SHAPE))
    first = errors(velocity, latents=latents)
    np.testing.assert_array_equal(first, errors(velocity, latents=latents))
    alone = errors(velocity, index=[2], latents=latents[:1])
    np.testing.assert_allclose(alone[0], first[2], rtol=1e-5)
    assert (first[0] != first[1]).all()
    assert (first != errors(velocity, latents=latents, modality=2)).all()
    other = HeldoutConfig(timesteps=4, seed=1)
    assert (first != errors(velocity, latents=latents, config=other)).all()
    # What is measured near noise leaves the noise of the others alone.
    plain = HeldoutConfig(timesteps=4, near_noise=())
    uniform = errors(velocity, latents=latents, config=plain)
    np.testing.assert_array_equal(uniform, first[..., :4])
    # Every case draws its own noise: with clean latents 0, the task does not repeat it.
    zero = errors(lambda x, *_: jnp.zeros_like(x), latents=jnp.zeros((B, 2, *SHAPE)))
    assert len(np.unique(zero)) == zero.size


def test_averages():
    loss = HeldoutLoss(CONFIG)
    depth = np.arange(2 * 3 * 6, dtype=np.float32).reshape(2, 3, 6)
    flow = depth[:1] + 100
    loss.update("depth", depth[:1], "clip 0")
    loss.update("depth", depth[1:], "clip 1")
    loss.update("flow", flow, "clip 0")
    results = loss.compute()
    prefix = "heldout_loss/uniform_t4"
    both = np.concatenate([depth, flow])
    assert results[f"{prefix}/all"] == pytest.approx(both[..., :4].mean())
    assert results[f"{prefix}/estimation"] == pytest.approx(both[:, 1, :4].mean())
    assert results[f"{prefix}/joint/flow"] == pytest.approx(flow[:, 2, :4].mean())
    near = "heldout_loss/near_noise"
    assert results[f"{near}/t0.97/estimation"] == pytest.approx(both[:, 1, 4].mean())
    assert results[f"{near}/t1.00/joint/flow"] == pytest.approx(flow[:, 2, 5].mean())
    assert results[f"{prefix}/timestep_0.25-0.50"] == pytest.approx(both[:, :, 1].mean())


def test_bad_input_is_named():
    with pytest.raises(UserError, match="multiple of 4"):
        HeldoutConfig(timesteps=6)
    loss = HeldoutLoss(CONFIG)
    with pytest.raises(UserError, match="no clip"):
        loss.compute()
    with pytest.raises(UserError, match="clip 7: the depth loss is not finite"):
        loss.update("depth", np.full((1, 3, 6), np.nan, np.float32), "clip 7")
