import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unityvideo_jax.errors import UserError
from unityvideo_jax.evaluation.heldout import (
    HeldoutConfig,
    HeldoutLoss,
    heldout_errors,
    stream_sets,
)

CONFIG = HeldoutConfig(timesteps=4)
B, SHAPE = 3, (2, 2, 4, 4)


def errors(velocity, index=range(B), latents=None, modality=1, config=CONFIG):
    index = jnp.array(list(index), jnp.int32)
    if latents is None:
        latents = jax.random.normal(jax.random.key(0), (len(index), 2, *SHAPE))
    streams = latents.shape[1]
    ids = jnp.tile(jnp.array([0, modality], jnp.int32)[-streams:], (len(index), 1))
    context = jnp.zeros((len(index), streams, 1, 1))
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
    assert result.shape == (64, 3, 6, 2)
    noised = np.array([[1, 0], [0, 1], [1, 1]])[:, None]
    np.testing.assert_allclose(result.mean(axis=0), np.tile(5.0 * noised, (1, 6, 1)), atol=0.2)
    # A single stream, RGB or not, can only be generated.
    alone = errors(lambda x, *_: jnp.zeros_like(x), range(64), latents[:, :1])
    assert alone.shape == (64, 1, 6, 1)
    np.testing.assert_allclose(alone.mean(axis=0), 5.0, atol=0.2)


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
    noised = first > 0
    assert (first[0] != first[1])[noised[0]].all()
    assert (first != errors(velocity, latents=latents, modality=2))[noised].all()
    other = HeldoutConfig(timesteps=4, seed=1)
    assert (first != errors(velocity, latents=latents, config=other))[noised].all()
    # What is measured near noise leaves the noise of the others alone.
    plain = HeldoutConfig(timesteps=4, near_noise=())
    uniform = errors(velocity, latents=latents, config=plain)
    np.testing.assert_array_equal(uniform, first[:, :, :4])
    # Every case draws its own noise: with clean latents 0, the task does not repeat it.
    zero = errors(lambda x, *_: jnp.zeros_like(x), latents=jnp.zeros((B, 2, *SHAPE)))
    assert len(np.unique(zero[noised])) == noised.sum() == 4 * B * 6


def random_errors(count, streams):
    """Errors of clips, zero where a task does not noise a stream."""
    tasks = [[1]] if streams == 1 else [[1] + [0] * (streams - 1), [0] + [1] * (streams - 1)]
    noised = np.array(tasks if streams == 1 else [*tasks, [1] * streams])[:, None]
    rng = np.random.default_rng(streams)
    return noised * rng.uniform(1, 2, (count, len(noised), 6, streams)).astype(np.float32)


def test_averages_of_pairs():
    loss = HeldoutLoss(CONFIG)
    depth, flow = random_errors(2, 2), random_errors(1, 2)
    loss.update(("rgb", "depth"), depth[:1], "clip 0")
    loss.update(("rgb", "depth"), depth[1:], "clip 1")
    loss.update(("rgb", "flow"), flow, "clip 0")
    results = loss.compute()
    prefix, near = "heldout_loss/uniform_t4", "heldout_loss/near_noise"
    # A sample is the mean over its noised streams.
    whole = np.concatenate([depth, flow]).sum(axis=-1) / np.array([1, 1, 2])[:, None]
    assert results[f"{prefix}/all"] == pytest.approx(whole[..., :4].mean())
    assert results[f"{prefix}/estimation"] == pytest.approx(whole[:, 1, :4].mean())
    assert results[f"{prefix}/joint/flow"] == pytest.approx(whole[2, 2, :4].mean())
    assert results[f"{near}/t0.97/estimation"] == pytest.approx(whole[:, 1, 4].mean())
    assert results[f"{near}/t1.00/joint/flow"] == pytest.approx(whole[2, 2, 5].mean())
    assert results[f"{prefix}/timestep_0.25-0.50"] == pytest.approx(whole[:, :, 1].mean())
    assert results[f"{prefix}/timestep_0.75-0.90"] == pytest.approx(whole[:, :, 3].mean())
    assert results[f"{near}/timestep_0.97-1.00"] == pytest.approx(whole[:, :, 4:].mean())
    assert f"{prefix}/timestep_0.97-1.00" not in results
    # Each stream has a number of its own.
    rgb = np.concatenate([depth, flow])[..., 0]
    assert results[f"{prefix}/streams_2/joint/rgb"] == pytest.approx(rgb[:, 2, :4].mean())
    assert results[f"{prefix}/streams_2/joint/depth"] == pytest.approx(depth[:, 2, :4, 1].mean())
    assert results[f"{near}/t1.00/streams_2/conditional/rgb"] == pytest.approx(rgb[:, 0, 5].mean())
    assert f"{prefix}/streams_2/conditional/depth" not in results


def test_averages_by_the_number_of_streams():
    loss = HeldoutLoss(CONFIG)
    rgb, flow, three = random_errors(2, 1), random_errors(2, 1) + 1, random_errors(2, 3)
    loss.update(("rgb",), rgb, "clip 0")
    loss.update(("flow",), flow, "clip 0")
    loss.update(("rgb", "depth", "flow"), three, "clip 0")
    results = loss.compute()
    prefix = "heldout_loss/uniform_t4"
    assert results[f"{prefix}/streams_1/joint/rgb"] == pytest.approx(rgb[:, :, :4].mean())
    assert results[f"{prefix}/streams_1/joint/flow"] == pytest.approx(flow[:, :, :4].mean())
    assert f"{prefix}/streams_1/estimation" not in results
    estimation = three[:, 1, :4]
    assert results[f"{prefix}/streams_3/estimation"] == pytest.approx(estimation.sum(-1).mean() / 2)
    flow_in_three = results[f"{prefix}/streams_3/estimation/flow"]
    assert flow_in_three == pytest.approx(estimation[..., 2].mean())
    # Without pairs the headline is of the least streams.
    assert results[f"{prefix}/all"] == pytest.approx(np.concatenate([rgb, flow])[:, :, :4].mean())


def test_every_modality_is_in_as_many_sets_as_any_other():
    names = ("rgb", "a", "b", "c", "d")
    assert stream_sets(names, (1,)) == [(name,) for name in names]
    assert stream_sets(names, (2,)) == [("rgb", name) for name in names[1:]]
    three = stream_sets(names, (3,))
    assert three == [("rgb", "a", "b"), ("rgb", "b", "c"), ("rgb", "c", "d"), ("rgb", "a", "d")]
    assert stream_sets(names, (5, 6)) == [names] and stream_sets(("rgb",), (1, 2)) == [("rgb",)]


def test_bad_input_is_named():
    with pytest.raises(UserError, match="multiple of 4"):
        HeldoutConfig(timesteps=6)
    loss = HeldoutLoss(CONFIG)
    with pytest.raises(UserError, match="no clip"):
        loss.compute()
    with pytest.raises(UserError, match="clip 7: the rgb, depth loss is not finite"):
        loss.update(("rgb", "depth"), np.full((1, 3, 6, 2), np.nan, np.float32), "clip 7")
