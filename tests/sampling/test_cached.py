"""Sampling on a schedule of passes, beside the dense sampler and beside loops written here."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unityvideo_jax.sampling import SamplerConfig, generate
from unityvideo_jax.sampling.generate import jit_generate
from unityvideo_jax.sampling.schedule import of_runs

B, S, SHAPE = 2, 2, (2, 2, 2, 4)
WANTED = (True, False)
KEY = jax.random.key(1)


def inputs():
    keys = jax.random.split(jax.random.key(0), 3)
    return dict(
        given=jax.random.normal(keys[0], (B, S, *SHAPE)),
        modality=jnp.tile(jnp.arange(S), (B, 1)),
        context=jax.random.normal(keys[1], (B, S, 3, 5)),
        null_context=jnp.zeros((B, S, 3, 5)),
    )


class Counted:
    """A velocity that mixes its inputs, and counts how often the compiled program calls it."""

    def __init__(self):
        self.calls = self.traces = 0

    def __call__(self, latents, timestep, modality, context):
        self.traces += 1
        jax.debug.callback(self._count)
        text = context.mean(axis=(2, 3))[..., None, None, None, None]
        time = timestep[..., None, None, None, None]
        mixed = latents.mean(axis=1, keepdims=True)
        return jnp.tanh(latents + 0.5 * mixed + text) * (1.5 - time) - jnp.cos(3.0 * time)

    def _count(self):
        self.calls += 1


def sample(velocity, config, schedule=None, **more):
    out = generate(
        velocity, wanted=WANTED, key=KEY, config=config, schedule=schedule, **inputs() | more
    )
    jax.effects_barrier()
    return out


def scheduled(config, run):
    return of_runs(np.asarray(run, bool), config.table().sigma)


@pytest.mark.parametrize(("solver", "scales"), [("heun", (1.0, 1.0)), ("unipc", (3.0, 2.0))])
def test_a_schedule_that_skips_nothing_is_the_dense_sampler(solver, scales):
    """Bit for bit without guidance; with it XLA joins the sum over the passes otherwise."""
    config = SamplerConfig(
        steps=3,
        solver=solver,
        text_guidance=scales[0],
        condition_guidance=scales[1],
        batched_guidance=False,
        guidance_rescale=0.3,
    )
    rows, passes = len(config.table().sigma), len(config.all_passes((1,)))
    assert passes == 1 + sum(scale != 1 for scale in scales)
    found = sample(Counted(), config, scheduled(config, np.ones((rows, passes))))
    expected = sample(Counted(), config)
    np.testing.assert_allclose(found, expected, rtol=0, atol=0 if passes == 1 else 2e-6)


def host_loop(config, run):
    """UniPC in NumPy, where a skipped pass extrapolates its last two outputs."""
    velocity, arrays = Counted(), inputs()
    table, scale = config.table(), config.text_guidance
    noise = np.asarray(generate_noise())
    trial, anchor, d1, d2 = noise, noise, 0.0, 0.0
    kept = {name: [] for name in ("text", "difference")}

    def call(x, sigma, text):
        latents = np.stack([x, np.asarray(arrays["given"])[:, 1]], axis=1)
        times = np.tile(np.float32([sigma, 0.0]), (B, 1))
        return np.asarray(velocity(latents, times, arrays["modality"], arrays[text]))[:, 0]

    def reused(name, sigma):
        (s1, v1), *before = reversed(kept[name])
        if not before:
            return v1
        s0, v0 = before[0]
        return v1 + (v1 - v0) * (sigma - s1) / (s1 - s0)

    for row, sigma in enumerate(table.sigma):
        if run[row][0]:
            kept["text"].append((sigma, call(trial, sigma, "context")))
        with_text = reused("text", sigma)
        if run[row][1]:
            difference = call(trial, sigma, "null_context") - with_text
            kept["difference"].append((sigma, difference))
        without = with_text + reused("difference", sigma)
        v = without + scale * (with_text - without)
        d = table.output[row, 0] * trial + table.output[row, 1] * v
        a, b = table.accept[row], table.advance[row]
        accepted = a[0] * trial + a[1] * anchor + a[2] * d + a[3] * d1 + a[4] * d2
        trial, anchor, d1, d2 = b[0] * accepted + b[1] * d + b[2] * d1, accepted, d, d1
    return trial


def generate_noise():
    from unityvideo_jax.sampling.generate import stream_noise

    return stream_noise(KEY, (B, S, *SHAPE), 0)[:, 0]


@pytest.mark.parametrize("apart", [(2, 2), (2, 4)])
def test_skipped_passes_follow_a_plain_loop(apart):
    """Every other evaluation skipped, and the pass without text half as often again."""
    config = SamplerConfig(steps=9, shift=3.0, text_guidance=4.0)
    run = [[row % every == 0 for every in apart] for row in range(config.steps)]
    velocity = Counted()
    found = sample(velocity, config, scheduled(config, run))
    assert velocity.calls == np.sum(run)
    np.testing.assert_allclose(found[:, 0], host_loop(config, run), rtol=2e-4, atol=2e-4)
    dense = sample(Counted(), config)
    assert 1e-3 < np.abs(found - dense).max() < 1.0


def test_another_schedule_compiles_nothing_and_the_model_is_traced_once():
    velocity = Counted()
    config = SamplerConfig(steps=6, text_guidance=3.0)
    run = jit_generate(lambda params: velocity)
    for every in (1, 2, 3):
        velocity.calls = 0
        rows = np.arange(6) % every == 0
        schedule = scheduled(config, np.stack([rows, rows], axis=1))
        arguments = dict(wanted=WANTED, sampler=config, schedule=schedule)
        jax.block_until_ready(run(None, inputs() | {"key": KEY}, **arguments))
        jax.effects_barrier()
        assert velocity.calls == schedule.count == 2 * rows.sum()
    # Once to find the shapes of the loop's state, once in the loop; none for another schedule.
    assert run._cache_size() == 1
