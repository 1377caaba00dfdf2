import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unityvideo_jax.errors import UserError
from unityvideo_jax.sampling import SamplerConfig, generate
from unityvideo_jax.sampling.guidance import pass_weights
from unityvideo_jax.sampling.known import ALWAYS, NEVER, Known

B, S, SHAPE = 2, 3, (2, 2, 2, 4)


def inputs(seed=0):
    keys = jax.random.split(jax.random.key(seed), 3)
    return dict(
        given=jax.random.normal(keys[0], (B, S, *SHAPE)),
        modality=jnp.tile(jnp.arange(S), (B, 1)),
        context=jax.random.normal(keys[1], (B, S, 3, 5)),
        null_context=jnp.zeros((B, S, 3, 5)),
    )


class Recorder:
    """A velocity that mixes all its inputs and keeps the shapes and timesteps it was asked for."""

    def __init__(self):
        self.calls = []

    def __call__(self, latents, timestep, modality, context):
        jax.debug.callback(
            lambda t, shape=latents.shape: self.calls.append((shape, np.asarray(t))), timestep
        )
        mixed = latents.mean(axis=1, keepdims=True)
        text = context.mean(axis=(2, 3))[..., None, None, None, None]
        time = timestep[..., None, None, None, None]
        kind = modality[..., None, None, None, None]
        return jnp.tanh(latents + 0.5 * mixed) + text * (1 + kind) - 0.3 * time


def run(velocity, wanted, config=None, key=None, **overrides):
    config = config or SamplerConfig(steps=4, text_guidance=1.0)
    arguments = inputs() | overrides
    key = jax.random.key(1) if key is None else key
    return generate(velocity, wanted=wanted, key=key, config=config, **arguments)


@pytest.mark.parametrize("solver", ["euler", "heun", "unipc"])
@pytest.mark.parametrize("scales", [(1.0, 1.0), (3.0, 2.0)])
def test_given_streams_stay_bit_identical_at_timestep_zero(solver, scales):
    recorder = Recorder()
    config = SamplerConfig(
        steps=3, solver=solver, text_guidance=scales[0], condition_guidance=scales[1]
    )
    out = run(recorder, (True, False, True), config)
    jax.effects_barrier()
    given = np.asarray(inputs()["given"])
    np.testing.assert_array_equal(np.asarray(out)[:, 1], given[:, 1])
    assert (np.asarray(out)[:, [0, 2]] != given[:, [0, 2]]).all()
    evaluations = 5 if solver == "heun" else 3
    passes = sum(scale != 1.0 for scale in scales) + 1
    assert len(recorder.calls) == evaluations  # one batched call for all passes
    for shape, timestep in recorder.calls:
        assert shape[0] == passes * B
        full = timestep[: passes * B if scales[1] == 1.0 else (passes - 1) * B]
        assert (full[:, 1] == 0).all()
        assert (timestep[:, [0, 2]] > 0).all() and (timestep[:, [0, 2]] == timestep[0, 0]).all()
        if scales[1] != 1.0:
            assert (timestep[(passes - 1) * B :, 1] == 1).all()


@pytest.mark.parametrize("batched", [True, False])
def test_a_first_frame_is_clean_in_every_pass_and_stays(batched):
    """Stream 0 starts with a given frame, stream 1 is given, stream 2 is sampled from noise."""
    seen = []
    recorder = Recorder()

    def velocity(latents, timestep, modality, context, clean):
        jax.debug.callback(lambda x, c: seen.append((x, c)), latents, clean)
        return recorder(latents, timestep, modality, context)

    config = SamplerConfig(
        steps=2, solver="heun", text_guidance=3.0, condition_guidance=2.0, batched_guidance=batched
    )
    until, clean = np.full((B, S, *SHAPE[:3]), NEVER, np.float32), np.zeros((B, S, SHAPE[0]), bool)
    until[:, 0, 0], clean[:, 0, 0] = ALWAYS, True
    known = Known(jnp.asarray(until), jnp.asarray(clean))
    out = np.asarray(run(velocity, (True, False, True), config, known=known))
    jax.effects_barrier()
    given = np.asarray(inputs()["given"])
    np.testing.assert_array_equal(out[:, 0, 0], given[:, 0, 0])
    assert (out[:, 0, 1:] != given[:, 0, 1:]).all() and (out[:, 2] != given[:, 2]).all()
    assert len(seen) == (3 if batched else 9)
    for latents, clean in seen:
        assert (latents[:, 0, 0].reshape(-1, *given[:, 0, 0].shape) == given[:, 0, 0]).all()
        assert clean[:, 0, 0].all() and clean.sum() == len(clean)


def test_wanted_streams_ignore_their_placeholders():
    other = inputs()["given"].at[:, 0].set(jnp.nan)
    np.testing.assert_array_equal(
        run(Recorder(), (True, False, True)), run(Recorder(), (True, False, True), given=other)
    )


def test_passes_batched_or_not_agree():
    scales = dict(steps=3, text_guidance=3.0, condition_guidance=2.0)
    one = run(Recorder(), (True, False, False), SamplerConfig(**scales))
    many = run(Recorder(), (True, False, False), SamplerConfig(**scales, batched_guidance=False))
    np.testing.assert_allclose(one, many, rtol=1e-5, atol=1e-5)


def test_guidance_is_the_named_combination():
    """One Euler step from sigma 1 to 0 shows the combined velocity itself: x0 = x1 - v."""
    scales = SamplerConfig(
        steps=1, solver="euler", shift=1.0, text_guidance=3.0, condition_guidance=1.75
    )
    plain = SamplerConfig(steps=1, solver="euler", shift=1.0, text_guidance=1.0)
    wanted = (True, False, False)
    seen = {}

    def velocity(latents, timestep, modality, context):
        v = Recorder()(latents, timestep, modality, context)
        if latents.shape[0] == 3 * B:
            jax.debug.callback(lambda a, b: seen.update(latents=a, v=b), latents, v)
        return v

    guided = run(velocity, wanted, scales)
    jax.effects_barrier()
    v_full, v_no_text, v_no_condition = np.split(np.asarray(seen["v"])[:, :1], 3)
    expected = v_full + 2.0 * (v_full - v_no_text) + 0.75 * (v_full - v_no_condition)
    noise = np.split(np.asarray(seen["latents"])[:, :1], 3)[0]
    np.testing.assert_allclose(np.asarray(guided)[:, :1], noise - expected, atol=1e-5)
    # The unguided run is the first pass alone, and its text dropped is the second.
    np.testing.assert_allclose(run(velocity, wanted, plain)[:, :1], noise - v_full, atol=1e-5)
    null = run(velocity, wanted, plain, context=inputs()["null_context"])
    np.testing.assert_allclose(null[:, :1], noise - v_no_text, atol=1e-5)
    # The dropped condition is standard noise, not the given latents and not the start.
    dropped = np.split(np.asarray(seen["latents"]), 3)[2][:, 1:]
    assert not np.isclose(dropped, np.asarray(inputs()["given"])[:, 1:]).any()
    assert not np.isclose(dropped[:, 0], dropped[:, 1]).any()
    assert not np.isclose(dropped[:, 0], noise[:, 0]).any()


@pytest.mark.parametrize(
    ("text", "condition", "given", "counts", "passes"),
    [
        (1.0, 1.0, (1, 2), {}, [((1, 2), True)]),
        (5.0, 1.0, (1, 2), {}, [((1, 2), True), ((1, 2), False)]),
        (1.0, 2.0, (1, 2), {}, [((1, 2), True), ((), True)]),
        (5.0, 2.0, (1,), {}, [((1,), True), ((1,), False), ((), True)]),
        (5.0, 2.0, (), {}, [((), True), ((), False)]),
        (0.0, 1.0, (1,), {}, [((1,), True), ((1,), False)]),
        # A stream that counts by degrees is the last to be shown.
        (1.0, 1.0, (1, 2), {1: 0.5}, [((2, 1), True), ((2,), True)]),
        (1.0, 1.0, (1, 2), {1: 0.5, 2: 2.0}, [((1, 2), True), ((), True), ((1,), True)]),
    ],
)
def test_a_scale_of_one_costs_no_pass(text, condition, given, counts, passes):
    counts = {s: jnp.full((B, *SHAPE[:3]), count) for s, count in counts.items()}
    weights = pass_weights(given, text_guidance=text, condition_guidance=condition, counts=counts)
    assert list(weights) == passes
    np.testing.assert_allclose(sum(weights.values()), 1.0, rtol=1e-6)


def test_seed_decides_and_batch_mates_do_not():
    wanted = (True, True, True)
    first = run(Recorder(), wanted)
    np.testing.assert_array_equal(first, run(Recorder(), wanted))
    assert not np.isclose(first, run(Recorder(), wanted, key=jax.random.key(2))).any()
    assert not np.isclose(first[0], first[1]).any()
    keys = jax.random.split(jax.random.key(7), B)
    both = run(Recorder(), wanted, key=keys)
    alone = run(
        Recorder(),
        wanted,
        key=keys[1:],
        **{name: value[1:] for name, value in inputs().items()},
    )
    np.testing.assert_allclose(both[1:], alone, rtol=1e-5, atol=1e-6)


def test_streams_reach_their_gaussians_given_a_clean_one():
    """A joint Gaussian, x_wanted | x_given = c being N(0.5 c, 0.4^2), at its exact velocity."""
    std = 0.4

    def velocity(latents, timestep, modality, context):
        mean = 0.5 * latents[:, 1:]
        t = timestep[:, :1, None, None, None, None]
        slope = (t - (1 - t) * std**2) / ((1 - t) ** 2 * std**2 + t**2)
        v = slope * (latents[:, :1] - (1 - t) * mean) - mean
        return jnp.concatenate([v, jnp.full_like(v, jnp.nan)], axis=1)

    shape = (64, 2, 4, 4, 4, 4)
    given = jax.random.normal(jax.random.key(0), shape)
    out = generate(
        velocity,
        given=given,
        wanted=(True, False),
        modality=jnp.zeros((64, 2), jnp.int32),
        context=jnp.zeros((64, 2, 1, 1)),
        null_context=jnp.zeros((64, 2, 1, 1)),
        key=jax.random.key(5),
        config=SamplerConfig(steps=40, text_guidance=1.0, shift=1.0),
    )
    residual = np.asarray(out[:, 0] - 0.5 * given[:, 1])
    assert abs(residual.mean()) < 0.01
    assert abs(residual.std() - std) < 0.01
    slope = (np.asarray(out[:, 0]) * np.asarray(given[:, 1])).mean() / np.square(given[:, 1]).mean()
    assert abs(slope - 0.5) < 0.01


def test_sampling_compiles_as_one_program():
    arguments = inputs()
    config = SamplerConfig(steps=3, text_guidance=2.0, condition_guidance=2.0)

    @jax.jit
    def sample(key, arguments):
        return generate(Recorder(), wanted=(False, True, True), key=key, config=config, **arguments)

    eager = generate(
        Recorder(), wanted=(False, True, True), key=jax.random.key(1), config=config, **arguments
    )
    np.testing.assert_allclose(sample(jax.random.key(1), arguments), eager, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [((True, False), "names 2 streams, given holds 3"), ((False,) * 3, "no stream is wanted")],
)
def test_bad_wanted_is_named(wanted, message):
    with pytest.raises(UserError, match=message):
        run(Recorder(), wanted)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (dict(steps=0), "steps=0"),
        (dict(solver="rk4"), "solver='rk4'"),
        (dict(shift=-1.0), "shift=-1.0"),
        (dict(grid="karras"), "grid='karras'"),
        (dict(text_guidance=float("nan")), "text_guidance=nan"),
        (dict(condition_guidance=float("inf")), "condition_guidance=inf"),
    ],
)
def test_bad_sampler_settings_are_named(field, message):
    with pytest.raises(UserError, match=message):
        SamplerConfig(**field)


@pytest.mark.parametrize(("solver", "limit"), [
    ("euler", 1e-5), ("heun", 1e-5), ("dpm++", 1e-5), ("unipc", 2e-3),
])  # fmt: skip
def test_a_stream_that_joins_at_a_level_is_sampled_as_if_it_started_there(solver, limit):
    """Strength beside a stream that needs all steps; the velocity of normal data is exact."""
    config = SamplerConfig(steps=10, solver=solver, text_guidance=1.0, shift=1.0)
    skipped, level = config.skipped_steps(0.6)

    def exact(x, timestep, modality, context):
        t = timestep[..., None, None, None, None]
        return x * (2 * t - 1) / ((1 - t) ** 2 + t**2)

    def made(levels, **options):
        until = np.asarray(levels, np.float32)[None, :, None, None, None]
        count = len(levels)
        texts = jnp.zeros((1, count, 1, 1))
        return generate(
            exact,
            given=jnp.full((1, count, 1, 1, 1, 1), 2.0),
            wanted=(True,) * count,
            modality=jnp.zeros((1, count), int),
            context=texts,
            null_context=texts,
            key=jax.random.key(1),
            config=config,
            known=Known(until=jnp.asarray(until)),
            **options,
        )[0, 0].item()

    assert made([level, NEVER]) == pytest.approx(made([level], skipped=skipped), abs=limit)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"steps": "4"}, "steps='4': give a whole number"),
        ({"steps": 4.0}, "steps=4.0: give a whole number"),
        ({"text_guidance": "5"}, "text_guidance='5': give a finite number"),
        ({"cache": "0.5"}, "cache='0.5': give a finite number"),
        ({"guidance_rescale": None}, "guidance_rescale=None: give a finite number"),
        ({"condition_guidance": np.nan}, "condition_guidance=nan: give a finite number"),
        ({"separate": 1}, "separate=1: give True or False"),
        ({"solver": 2}, "solver=2: give a text in quotes"),
    ],
)
def test_settings_of_other_types_are_one_line(settings, says):
    config = object.__new__(SamplerConfig)  # whose types the tests' own checker would look at
    vars(config).update(vars(SamplerConfig()) | settings)
    with pytest.raises(UserError, match=f"^{says}$"):
        config.__post_init__()
