import dataclasses
from unittest import mock

import jax
import numpy as np
import pytest
from tiny_pipeline import (  # noqa: F401
    quick_compile,
    tiny_model,
    tiny_parts,
    tiny_pipeline,
    tiny_vae,
)

from unityvideo_jax.errors import UserError
from unityvideo_jax.pretrained.text import load_text_encoder
from unityvideo_jax.pretrained.vae import load_vae
from unityvideo_jax.runtime import capacity
from unityvideo_jax.sampling import arguments, arrays, files
from unityvideo_jax.sampling.pipeline import Pipeline
from unityvideo_jax.sampling.samples import Samples

RNG = np.random.default_rng(0)
VIDEO = RNG.integers(0, 256, (5, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def pipeline():
    return tiny_pipeline()


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ((), ("rgb", "depth")),
        (("depth",), ("rgb",)),
        (("rgb",), ("depth",)),
        (("skeleton", "rgb"), ("flow", "depth")),
    ],
)
def test_any_to_any(pipeline, given, wanted):
    samples = pipeline("a man walks", given={name: VIDEO for name in given}, wanted=wanted)
    order = [m for m in pipeline.modalities if m in (*given, *wanted)]
    assert list(samples.streams) == list(samples.videos) == list(samples.latents) == order
    for name in order:
        video = samples.videos[name]
        assert video.shape == (1, 5, 32, 32, 3) and video.dtype == np.float32
        assert np.abs(video).max() <= 1.0
        assert samples.latents[name].shape == (1, 2, 4, 4, 4)
    for name in given:
        np.testing.assert_allclose(samples.videos[name][0], VIDEO / 127.5 - 1.0, atol=1e-6)
        clean = tiny_vae().encode(samples.videos[name])
        np.testing.assert_array_equal(samples.latents[name], clean)
    if len(wanted) == 2:
        a, b = (samples.latents[name] for name in wanted)
        assert not np.allclose(a, b)


def test_what_is_given_and_said_matters(pipeline):
    def depth(prompt="", video=VIDEO, **kwargs):
        return pipeline(prompt, given={"rgb": video}, wanted=("depth",), **kwargs).latents["depth"]

    first = depth()
    np.testing.assert_array_equal(first, depth())
    for other in (
        depth(prompt="a red ball"),
        depth(video=255 - VIDEO),
        depth(seed=1),
        depth(modality_prompts={"depth": "something else"}),
        depth(sampler=dataclasses.replace(pipeline.sampler, condition_guidance=3.0)),
    ):
        assert not np.allclose(first, other, atol=1e-4)


def test_text_guidance_without_text_changes_nothing(pipeline):
    guided = dataclasses.replace(pipeline.sampler, text_guidance=4.0)

    def depth(prompt, sampler):
        samples = pipeline(prompt, given={"rgb": VIDEO}, wanted=("depth",), sampler=sampler)
        return samples.latents["depth"]

    np.testing.assert_array_equal(depth("", guided), depth("", pipeline.sampler))
    assert not np.allclose(depth("a ball", guided), depth("a ball", pipeline.sampler), atol=1e-4)


def test_contexts_follow_stream_and_drop_as_training_does(pipeline):
    encode = load_text_encoder("words", 16)
    prompts = {"depth": ["near", "far"]}
    context, null = pipeline.contexts(("rgb", "depth"), ["a man", "a ball"], prompts)
    np.testing.assert_array_equal(context[:, 0], encode(["a man", "a ball"]))
    np.testing.assert_array_equal(context[:, 1], encode(["near", "far"]))
    np.testing.assert_array_equal(null[:, 0], encode(["", ""]))
    # Without prompt dropout in training the model never saw a modality without its prompt.
    np.testing.assert_array_equal(null[:, 1], context[:, 1])
    dropping = Pipeline(**tiny_parts(prompt_dropout=0.1))
    _, null = dropping.contexts(("rgb", "depth"), ["a man", "a ball"], prompts)
    np.testing.assert_array_equal(null[:, 1], encode(["", ""]))


def test_batch_with_a_seed_each_equals_single_calls(pipeline):
    both = pipeline(["a man", "a ball"], given={"rgb": VIDEO}, wanted=("depth",), seed=[3, 4])
    for b, prompt in enumerate(["a man", "a ball"]):
        one = pipeline(prompt, given={"rgb": VIDEO}, wanted=("depth",), seed=[3 + b])
        np.testing.assert_allclose(
            both.latents["depth"][b], one.latents["depth"][0], rtol=1e-4, atol=1e-4
        )


def test_all_modalities_of_one_call_are_those_of_a_call_each(pipeline, monkeypatch):
    """Rows of one batch: the modality and its prompt choose, and none sees another's stream."""
    calls = []
    sample = pipeline.sample_latents

    def counted(*args, **kwargs):
        calls.append(args[1]["given"].shape[:2])
        return sample(*args, **kwargs)

    monkeypatch.setattr(pipeline, "sample_latents", counted)
    names = pipeline.modalities[1:]
    call = dict(
        given={"rgb": VIDEO},
        modality_prompts={"depth": "near and far"},
        sampler=dataclasses.replace(pipeline.sampler, separate=True),
        seed=[3],
    )
    found = pipeline("a man", wanted=names[::-1], **call)
    assert calls == [(5, 2)] and found.streams == ("rgb", *names)
    assert found.records[0]["prompts"]["depth"] == "near and far"
    for name in names:
        texts = call | {"modality_prompts": {n: t for n, t in call["modality_prompts"].items()
                                             if n == name}}  # fmt: skip
        alone = pipeline("a man", wanted=(name,), **texts)
        for kind in ("latents", "videos"):
            ours, theirs = (getattr(one, kind)[name] for one in (found, alone))
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    assert not np.allclose(found.latents["depth"], found.latents["flow"], atol=1e-2)
    with pytest.raises(UserError, match="separate: estimates modalities from rgb alone"):
        pipeline("a man", wanted=("rgb", "depth"), separate=True)


def test_many_devices_give_what_one_gives(pipeline):
    """Eight virtual devices, a batch that they do not divide, and the same clip alone."""
    assert len(jax.devices()) == 8
    spread = Pipeline(**tiny_parts())
    spread.spread(jax.devices())
    rgb = np.random.default_rng(0).uniform(-1, 1, (3, 5, 32, 32, 3)).astype(np.float32)
    one, many, alone = (
        which([""] * len(seeds), given={"rgb": video}, wanted=("depth",), seed=seeds)
        for which, video, seeds in (
            (pipeline, rgb, [4, 5, 6]),
            (spread, rgb, [4, 5, 6]),
            (spread, rgb[2:], [6]),
        )
    )
    one, many, alone = (samples.videos["depth"] for samples in (one, many, alone))
    assert np.abs(one).mean() > 0.05
    np.testing.assert_allclose(many, one, atol=1e-4)
    np.testing.assert_allclose(alone, one[2:], atol=1e-4)
    # The weights lie on every device.
    assert all(len(leaf.devices()) == 8 for leaf in jax.tree.leaves(spread.params))


def test_size_can_be_chosen_without_given_videos(pipeline):
    samples = pipeline("", wanted=("depth",), num_frames=1, height=16, width=48)
    assert samples.videos["depth"].shape == (1, 1, 16, 48, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(prompts=[], wanted=("rgb",)), "prompts: empty"),
        (dict(wanted="depth"), r"pass a tuple of names"),
        (dict(wanted=()), "wanted: empty"),
        (dict(wanted=("normals",)), "modality 'normals': this model knows rgb, depth"),
        (dict(given={"rgb": VIDEO}, wanted=("rgb",)), "either given or wanted"),
        (dict(given={"rgb": VIDEO[0]}, wanted=("depth",)), "given rgb: shape"),
        (dict(given={"rgb": VIDEO.astype(np.int64)}, wanted=("depth",)), "dtype int64"),
        (dict(given={"rgb": VIDEO.astype(np.float32)}, wanted=("depth",)), "values reach 25"),
        (dict(given={"rgb": np.full((5, 32, 32, 3), np.nan)}, wanted=("depth",)), "holds NaN"),
        (dict(given={"rgb": np.stack([VIDEO] * 3)}, wanted=("depth",)), "3 videos for 1 prompts"),
        (
            dict(given={"rgb": VIDEO, "flow": VIDEO[:1]}, wanted=("depth",)),
            r"differ in \(frames, height, width\): rgb \(5, 32, 32\), flow \(1, 32, 32\)",
        ),
        (dict(given={"rgb": VIDEO[:4]}, wanted=("depth",)), "num_frames=4: the VAE takes 4n"),
        (dict(given={"rgb": VIDEO[:, :24]}, wanted=("depth",)), "height=24: must be a multiple"),
        (dict(given={"rgb": VIDEO}, wanted=("depth",), num_frames=9), "was asked for"),
        (dict(wanted=("rgb", "depth"), width=20), "width=20: must be a multiple of 16"),
        (dict(wanted=("rgb",), modality_prompts={"depth": "x"}), "no such modality stream"),
        (dict(wanted=("depth",), modality_prompts={"depth": ["x", "y"]}), "2 prompts for 1"),
        (dict(wanted=("depth",), seed=[1, 2]), "2 seeds for 1 prompts"),
    ],
)
def test_bad_input_is_named(pipeline, arguments, message):
    with pytest.raises(UserError, match=message):
        pipeline(**({"prompts": ""} | arguments))


def test_guidance_by_a_condition_that_was_never_dropped_is_refused(pipeline):
    release = Pipeline(**tiny_parts(model=tiny_model(shared_timestep=True)))
    sampler = dataclasses.replace(pipeline.sampler, condition_guidance=2.0)
    with pytest.raises(UserError, match=r"condition_guidance=2: .* set it to 1"):
        release("", given={"rgb": VIDEO}, wanted=("depth",), sampler=sampler)


def test_vae_of_other_channels_is_named():
    with pytest.raises(UserError, match="the VAE has 32 latent channels"):
        Pipeline(**tiny_parts(vae=load_vae()))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"prompts": None}, "prompts: NoneType instead of text; give a text or a list of texts"),
        ({"prompts": [1]}, "prompts: int instead of text"),
        ({"prompts": b"a"}, "prompts: bytes instead of text"),
        ({"given": ["depth"]}, "given: of type list; give a dict by name of stream"),
        ({"given": None}, "given: of type NoneType"),
        ({"wanted": (name for name in ("rgb",))}, "wanted: of type generator; give a tuple"),
        ({"wanted": None}, "wanted: of type NoneType"),
        ({"modality_prompts": {"depth": None}}, r"modality_prompts\['depth'\]: NoneType instead"),
        ({"modality_prompts": "a"}, "modality_prompts: of type str; give a dict"),
        ({"sampler": {"steps": 2}}, "sampler: of type dict; give a SamplerConfig, or its fields"),
        ({"num_frames": 5.7}, "num_frames=5.7: give a whole number"),
        ({"num_frames": "5"}, "num_frames='5': give a whole number"),
        ({"num_frames": True}, "num_frames=True: give a whole number"),
        ({"height": 32.9}, "height=32.9: give a whole number"),
    ],
)
def test_arguments_of_other_types_are_named(values, says):
    good = {"prompts": "a", "given": {}, "wanted": ("rgb",), "modality_prompts": {}}
    arguments.check(**good, sampler=None, num_frames=np.int64(5))
    with pytest.raises(UserError, match=f"^{says}"):
        arguments.check(**(good | {"sampler": None} | values))


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([VIDEO, VIDEO[:3]], "given depth: is no array .*; give one"),
        ("", "given depth: an empty path; name a file or folder"),
        (VIDEO[:0], r"given depth: shape \(0, 32, 32, 3\) is not"),
        (None, r"given depth: shape \(\) is not"),
    ],
)
def test_given_values_that_are_no_video_are_named(value, says):
    with pytest.raises(UserError, match=f"^{says}"):
        arrays.as_batch("given depth", files.as_given({"depth": value})["depth"].video, 1)


def test_memory_that_a_device_refuses_is_one_line(pipeline, monkeypatch):
    """Of sizes that pass the check beforehand, and need more than is free."""

    def refuse(message):
        error = jax.errors.JaxRuntimeError(message)
        monkeypatch.setattr(pipeline, "sample_latents", mock.Mock(side_effect=error))
        pipeline("", wanted=("rgb", "depth"))

    with pytest.raises(UserError, match=r"^1 samples of 2 streams, 16 tokens: .* for 23\.9 GiB"):
        refuse("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 25739010976 bytes.")
    with pytest.raises(UserError, match=r"has no room for 12\.88 GiB more; sample fewer frames"):
        refuse("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 12.88GiB.")
    with pytest.raises(UserError, match=r"a device \(cpu\) has no room; sample fewer frames"):
        refuse("INTERNAL: Ran out of memory in memory space hbm.")
    with pytest.raises(jax.errors.JaxRuntimeError, match="CUDA"):
        refuse("INTERNAL: CUDA error")


def test_videos_that_this_machine_cannot_hold_are_refused(pipeline, monkeypatch):
    monkeypatch.setattr(capacity, "host_bytes", lambda: 200_000)  # three videos of 61,440 bytes
    with pytest.raises(
        UserError, match=r"^2 videos of 2 wanted streams: needs at least 240\.0 KiB"
    ):
        pipeline(["", ""], wanted=("rgb", "depth"))


def test_a_seed_may_be_an_array_of_none_or_one_axis():
    keys = [jax.random.key_data(arrays.sample_keys(seed, 1)) for seed in (5, np.array(5))]
    np.testing.assert_array_equal(*keys)
    assert arrays.sample_keys(np.array([5]), 1).shape == (1,)


def test_a_result_is_saved_where_its_folder_says(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    film = np.zeros((1, 1, 16, 16, 3), np.float32)
    samples = Samples(videos={"rgb": film}, latents={}, streams=("rgb",))
    samples.save("~/out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    (tmp_path / "file").touch()
    for folder, says in (("", "folder: an empty path; name a"), ("file", "is a file; name a")):
        with pytest.raises(UserError, match=says):
            samples.save(folder)


def test_files_of_an_earlier_sample_are_named(tmp_path, capsys):
    film = np.zeros((1, 1, 16, 16, 3), np.float32)

    def save(*streams):
        Samples(videos=dict.fromkeys(streams, film), latents={}, streams=streams).save(tmp_path)

    save("rgb", "depth")
    save("rgb", "depth")
    assert "earlier" not in capsys.readouterr().out
    save("rgb")
    assert f"{tmp_path}: depth.mp4, depth.npz stay from an earlier" in capsys.readouterr().out
