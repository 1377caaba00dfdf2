"""Known cells, weighted controls, intervals and rescaling, by closed forms and by diffusers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_generate import SHAPE, B, Recorder, S, inputs, run
from tiny_pipeline import quick_compile, tiny_model, tiny_parts, tiny_pipeline  # noqa: F401

from unityvideo_jax.errors import UserError
from unityvideo_jax.sampling import SamplerConfig
from unityvideo_jax.sampling.control import Control
from unityvideo_jax.sampling.generate import stream_noise
from unityvideo_jax.sampling.guidance import rescaled
from unityvideo_jax.sampling.known import ALWAYS, NEVER, Known, latent_share
from unityvideo_jax.sampling.pipeline import Pipeline

RNG = np.random.default_rng(0)
VIDEO, OTHER = RNG.integers(0, 256, (2, 5, 32, 32, 3), np.uint8)
JOINT = (True, True, True)
CONTROL = (True, False, False)


@pytest.fixture(scope="module")
def pipeline():
    return tiny_pipeline()


def known(until):
    return Known(jnp.broadcast_to(jnp.float32(until), (B, S, *SHAPE[:3])))


@pytest.mark.parametrize("solver", ["euler", "heun", "unipc", "dpm++"])
def test_known_cells_follow_their_path_with_every_solver(solver):
    """The model sees (1 - t) value + t noise in them, and they come out as they went in."""
    seen = []

    def velocity(latents, timestep, modality, context):
        jax.debug.callback(lambda x, t: seen.append((x, t)), latents, timestep)
        return Recorder()(latents, timestep, modality, context)

    until = np.full((B, S, *SHAPE[:3]), NEVER, np.float32)
    until[:, 0, :, 0] = ALWAYS
    config = SamplerConfig(steps=4, solver=solver, text_guidance=1.0)
    out = np.asarray(run(velocity, JOINT, config, known=Known(jnp.asarray(until))))
    jax.effects_barrier()
    given = np.asarray(inputs()["given"])
    np.testing.assert_array_equal(out[:, 0, :, 0], given[:, 0, :, 0])
    assert (out[:, 0, :, 1] != given[:, 0, :, 1]).all()
    noise = np.asarray(stream_noise(jax.random.key(1), given.shape, 0))
    assert len(seen) == (7 if solver == "heun" else 4)
    for latents, timestep in seen:
        t = timestep[0, 0]
        path = (1 - t) * given + t * noise
        np.testing.assert_allclose(latents[:, 0, :, 0], path[:, 0, :, 0], atol=2e-5)


@pytest.mark.parametrize("solver", ["euler", "unipc"])
def test_nothing_known_is_plain_sampling_and_everything_known_is_what_is_given(solver):
    config = SamplerConfig(steps=4, solver=solver, text_guidance=1.0)
    plain = run(Recorder(), JOINT, config)
    for nothing in (known(NEVER), known(1.0)):  # strength 1 starts from noise
        np.testing.assert_allclose(run(Recorder(), JOINT, config, known=nothing), plain, atol=1e-6)
    everything = run(Recorder(), JOINT, config, known=known(ALWAYS))
    np.testing.assert_array_equal(everything, inputs()["given"])


def test_a_skipped_start_equals_a_followed_one():
    """Euler from a level is Euler from noise along the known path down to that level."""
    config = SamplerConfig(steps=5, solver="euler", shift=3.0, text_guidance=1.0)
    skipped, level = config.skipped_steps(0.6)
    assert skipped == 2 and level == pytest.approx(3 * 0.6 / (1 + 2 * 0.6))
    followed = run(Recorder(), JOINT, config, known=known(level))
    from_there = run(Recorder(), JOINT, config, known=known(level), skipped=skipped)
    np.testing.assert_allclose(from_there, followed, atol=1e-5)
    assert np.abs(np.asarray(followed) - np.asarray(run(Recorder(), JOINT, config))).max() > 0.1


def one_step(counts, **scales):
    """Sampled minus noise of one Euler step from 1 to 0, which is minus the velocity there."""
    config = SamplerConfig(
        **{"text_guidance": 1.0, **scales}, steps=1, solver="euler", shift=1.0, grid="linear"
    )
    noise = stream_noise(jax.random.key(1), inputs()["given"].shape, 0)
    counts = {s: jnp.asarray(count) for s, count in counts.items()}
    out = run(Recorder(), CONTROL, config, counts=counts)
    return np.asarray(noise - out)[:, 0]


def test_controls_count_by_weight_and_place():
    """v(none) + a_1 (v(1) - v(none)) + a_2 (v(1, 2) - v(1)), cell by cell."""
    cells = (B, *SHAPE[:3])
    off, on = np.zeros(cells, np.float32), np.ones(cells, np.float32)
    none, first = one_step({1: off, 2: off}), one_step({1: on, 2: off})
    both = one_step({})
    np.testing.assert_allclose(one_step({1: on, 2: on}), both, atol=1e-5)
    assert np.abs(first - none).max() > 0.01 and np.abs(both - first).max() > 0.01
    a = RNG.uniform(0, 2, (2, *cells)).astype(np.float32)
    by_hand = none + a[0, ..., None] * (first - none) + a[1, ..., None] * (both - first)
    np.testing.assert_allclose(one_step({1: a[0], 2: a[1]}), by_hand, atol=1e-5)
    # A weight everywhere is guidance by the condition.
    guided = one_step({}, condition_guidance=1.5)
    np.testing.assert_allclose(one_step({1: 1.5 * on, 2: 1.5 * on}), guided, atol=1e-5)
    with pytest.raises(UserError, match=r"counts of streams \[0\]: only those of \[1, 2\]"):
        one_step({0: on})


def test_guidance_by_an_interval_of_t():
    def sampled(**settings):
        config = SamplerConfig(steps=4, solver="euler", shift=1.0, **settings)
        return np.asarray(run(Recorder(), CONTROL, config))

    guided = sampled(text_guidance=3.0)
    plain = sampled(text_guidance=1.0)
    # Evaluations are at t = 1, 0.75, 0.5 and 0.25.
    none = sampled(text_guidance=3.0, guidance_interval=(0.8, 0.9))
    np.testing.assert_allclose(none, plain, atol=1e-6)
    every = sampled(text_guidance=3.0, guidance_interval=(0.2, 1.0))
    np.testing.assert_allclose(every, guided, atol=1e-6)
    part = sampled(text_guidance=3.0, guidance_interval=(0.4, 0.8))
    assert np.abs(part - plain).max() > 0.01 and np.abs(part - guided).max() > 0.01


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_rescaling_is_that_of_diffusers(share, parity):
    torch = pytest.importorskip("torch")
    module = pytest.importorskip("diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion")
    shape = (2, 3, 2, 4, 4, 8)
    guided, plain = 2.5 * RNG.normal(size=shape), RNG.normal(size=shape)
    guided, plain = guided.astype(np.float32), plain.astype(np.float32)
    ours = rescaled(jnp.asarray(guided), jnp.asarray(plain), share)
    # diffusers knows no streams: each is a sample of its own.
    rows = [torch.tensor(a.reshape(6, *shape[2:])) for a in (guided, plain)]
    theirs = module.rescale_noise_cfg(*rows, share).numpy().reshape(shape)
    parity("guidance rescale", "diffusers rescale_noise_cfg", ours, theirs, bound=1e-6)


def test_a_latent_cell_is_kept_if_all_its_pixels_are():
    mask = np.zeros((1, 9, 16, 16), bool)
    mask[0, :6, :, :8] = True  # all of the latent frames 0 and 1, and one frame of the third
    share = latent_share(mask, 4, 8)
    np.testing.assert_array_equal(share[0, :, 0, 0], [1, 1, 0.25])
    np.testing.assert_array_equal(share[0, :, :, 1], 0)


def test_inpainting_keeps_the_pixels_of_the_mask(pipeline):
    mask = np.zeros((5, 32, 32), bool)
    mask[:, :, :16] = True
    call = dict(prompts="a man", given={"rgb": VIDEO}, wanted=("rgb", "depth"))
    out = pipeline(**call, masks={"rgb": mask})
    np.testing.assert_array_equal(out.video("rgb")[:, :, :16], VIDEO[:, :, :16])
    clean = pipeline.encode(out.videos["rgb"] * 0 + VIDEO / np.float32(127.5) - 1, "rgb")
    np.testing.assert_allclose(out.latents["rgb"][..., :2, :], clean[..., :2, :], atol=1e-5)
    assert np.abs(out.videos["rgb"][0, :, :, 16:] - (VIDEO[:, :, 16:] / 127.5 - 1)).max() > 0.1
    everything = pipeline(**call, masks={"rgb": np.ones((32, 32), bool)})
    np.testing.assert_array_equal(everything.video("rgb"), VIDEO)
    nothing = pipeline(**call, masks={"rgb": np.zeros((32, 32), bool)})
    plain = pipeline("a man", wanted=("rgb", "depth"))
    for name in ("rgb", "depth"):
        np.testing.assert_allclose(nothing.latents[name], plain.latents[name], atol=1e-5)


def test_video_to_video_by_strength(pipeline):
    def made(wanted=("rgb",), **settings):
        return pipeline("a man", given={"rgb": VIDEO}, wanted=wanted, steps=4, **settings)

    plain = pipeline("a man", wanted=("rgb",), steps=4).latents["rgb"]
    np.testing.assert_allclose(made(strength=1.0).latents["rgb"], plain, atol=1e-5)
    clean = np.asarray(pipeline.encode(VIDEO[None] / np.float32(127.5) - 1, "rgb"))
    away = [np.abs(made(strength=s).latents["rgb"] - clean).mean() for s in (0.25, 0.5, 1.0)]
    assert away[0] < away[1] < away[2]
    # A second wanted stream starts from noise and takes all of the steps.
    both = made(("rgb", "depth"), strength=0.5)
    assert both.streams == ("rgb", "depth") and both.records[0]["strength"] == 0.5
    assert np.abs(both.latents["rgb"] - clean).mean() < away[2]


def test_first_and_last_frame(pipeline):
    first, last = VIDEO[0], OTHER[0]
    out = pipeline("a man", wanted=("rgb",), first_frame=first, last_frame=last)
    ends = pipeline.encode(np.stack([first, last])[:, None] / np.float32(127.5) - 1, "rgb")
    np.testing.assert_allclose(out.latents["rgb"][0, 0], ends[0, 0], atol=1e-5)
    still = pipeline.encode(np.repeat(last[None, None], 5, 1) / np.float32(127.5) - 1, "rgb")
    np.testing.assert_allclose(out.latents["rgb"][0, -1], still[0, -1], atol=1e-5)
    with pytest.raises(UserError, match="last_frame: needs 5 frames or more, num_frames=1"):
        pipeline("", wanted=("rgb",), last_frame=last, num_frames=1)


def test_weights_and_masks_of_given_streams(pipeline):
    given = {"depth": VIDEO, "flow": OTHER}

    def rgb(**settings):
        return pipeline("a man", given=given, wanted=("rgb",), **settings).latents["rgb"]

    both = rgb()
    np.testing.assert_allclose(rgb(weights={"depth": 1.0}), both, atol=1e-6)
    half = np.zeros((32, 32), bool)
    half[:, :16] = True
    masked = rgb(masks={"depth": half}, weights={"depth": 0.5, "flow": 2.0})
    assert np.isfinite(masked).all() and not np.allclose(masked, both, atol=1e-3)


def test_a_negative_prompt_stands_in_the_place_of_no_text(pipeline):
    _, null = pipeline.contexts(("rgb", "depth"), ["a man", "a dog"], {}, ["a ball", ""])
    encode = pipeline.text_encoder
    np.testing.assert_array_equal(null[:, 0], encode(["a ball", ""]))
    call = dict(prompts="a man", wanted=("rgb",), text_guidance=4.0)
    plain = pipeline(**call).latents["rgb"]
    np.testing.assert_array_equal(pipeline(**call, negative_prompt="").latents["rgb"], plain)
    away = pipeline(**call, negative_prompt="a red ball")
    assert not np.allclose(away.latents["rgb"], plain, atol=1e-3)
    assert away.records[0]["negative_prompt"] == "a red ball"
    # Away from itself is no guidance.
    none = pipeline("a man", wanted=("rgb",), text_guidance=1.0).latents["rgb"]
    same = pipeline(**call, negative_prompt="a man").latents["rgb"]
    np.testing.assert_allclose(same, none, atol=1e-5)


RGB = {"rgb": VIDEO}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(given=RGB, wanted=("rgb",)), "unless strength or a mask"),
        (dict(given=RGB, wanted=("depth",), strength=0.5), "strength=0.5: is of the given video"),
        (dict(given=RGB, wanted=("rgb",), strength=0.0), "strength=0.0: give a number above 0"),
        (dict(wanted=("rgb",), masks={"rgb": VIDEO[0, ..., 0] > 9}), "no such given stream"),
        (dict(given=RGB, wanted=("rgb",), masks={"rgb": VIDEO}), r"uint8\[5, 32, 32, 3\] is not"),
        (dict(given=RGB, wanted=("rgb",), weights={"rgb": 1}, strength=0.5), "not sampled"),
        (dict(given=RGB, wanted=("depth",), weights={"rgb": -1}), "give a number, 0 or more"),
        (dict(wanted=("rgb",), negative_prompt="x"), "text guidance is off"),
        (dict(wanted=("depth",), negative_prompt="x", text_guidance=2.0), "neither given nor"),
        (
            dict(wanted=("rgb",), negative_prompt=["x", "y"], text_guidance=2.0),
            "negative_prompt: 2 prompts for 1 captions",
        ),
        (dict(given=RGB, wanted=("depth",), last_frame=VIDEO[0]), "last_frame: is of the rgb"),
        (dict(wanted=("rgb",), last_frame=VIDEO[0, :16]), "last_frame: shape"),
        (dict(wanted=("rgb",), guidance_interval=(0.5, 0.2)), "guidance_interval=.*LOW,HIGH"),
        (dict(wanted=("rgb",), guidance_interval=(0.1, 0.2, 0.3)), "give two times"),
        (dict(wanted=("rgb",), guidance_rescale=1.5), "guidance_rescale=1.5: give a share"),
        (dict(wanted=("rgb",), guidance_rescale=0.5), "guidance_rescale=0.5: nothing is guided"),
        (dict(wanted=("rgb",), condition_guidance=2.0), "condition_guidance=2.0: guides by given"),
        (dict(wanted=("rgb",), text_guidance=2.0), "text_guidance=2.0: there is no text"),
        (dict(wanted=("rgb",), overlap=1), "overlap=1: is of windows"),
        (dict(prompts="\ud800", wanted=("rgb",)), "prompts: character 0 is half of one"),
        (dict(wanted=("rgb",), shift=1e12, steps=3, solver="unipc"), "have no length; give a"),
        (dict(prompts="a dog", wanted=("depth",)), "prompt: is of rgb, which is neither"),
    ],
)
def test_what_cannot_be_is_named(pipeline, arguments, message):
    with pytest.raises(UserError, match=message):
        pipeline(**({"prompts": ""} | arguments))


def test_a_model_that_always_saw_its_condition_refuses_weights(pipeline):
    release = Pipeline(**tiny_parts(model=tiny_model(shared_timestep=True)))
    with pytest.raises(UserError, match="rgb: this model was never without its condition"):
        release("", given=RGB, wanted=("depth",), weights={"rgb": 0.5})


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"weights": 0.5}, "weights: of type float; give a dict by name of stream"),
        ({"masks": np.ones((2, 2), bool)}, "masks: of type ndarray; give a dict"),
        ({"strength": "0.5"}, "strength='0.5': give a finite number"),
        ({"strength": True}, "strength=True: give a finite number"),
        ({"negative_prompt": None}, "negative_prompt: NoneType instead of text"),
    ],
)
def test_controls_of_other_types_are_named(values, says):
    control = object.__new__(Control)  # whose types the tests' own checker would look at
    vars(control).update(vars(Control()) | values)
    with pytest.raises(UserError, match=f"^{says}"):
        control.__post_init__()
