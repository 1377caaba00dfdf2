"""A model as a folder: written and read back, exactly or in 8 bits, and refused when damaged."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import torch
from flax import nnx
from tiny_pipeline import quick_compile, tiny_parts, tiny_pipeline  # noqa: F401

from unityvideo_jax.errors import UserError
from unityvideo_jax.files import checksums
from unityvideo_jax.pretrained import model as pretrained
from unityvideo_jax.pretrained.vae import flatten
from unityvideo_jax.sampling.pipeline import Pipeline
from unityvideo_jax.training import state as state_lib
from unityvideo_jax.training.start import start_from


@pytest.fixture(scope="module", params=["float32", "int8"])
def saved(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / request.param
    tiny_pipeline().save_pretrained(folder, storage=request.param, card="Random weights.")
    return folder


@pytest.fixture(scope="module")
def exact(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "exact"
    tiny_pipeline().save_pretrained(folder, card="Random weights.")
    return folder


@pytest.fixture
def copy(exact, tmp_path):
    """A copy of the exact one, to damage."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in exact.iterdir():
        if file.is_file():
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


def weights(pipeline):
    return {name: np.asarray(value) for name, value in flatten(pipeline.params).items()}


def test_a_saved_model_loads_with_equal_settings_and_weights(saved):
    loaded, original = Pipeline.from_pretrained(saved), tiny_pipeline()
    for name in ("num_frames", "height", "width", "fps", "step", "sampler", "model_config"):
        assert getattr(loaded, name) == getattr(original, name), name
    ours, theirs = weights(loaded), weights(original)
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        if saved.name == "int8" and name.endswith("kernel"):
            # Rounded to the nearest of 255 levels of its output channel.
            step = np.abs(expected).max(axis=-2, keepdims=True) / 127
            assert (np.abs(ours[name] - expected) <= step / 2 + 1e-7).all(), name
            assert (ours[name] != expected).any(), name
        else:
            np.testing.assert_array_equal(ours[name], expected, name)
    # The autoencoder is not the shipped one, so it came along.
    for name, value in flatten(nnx.state(original.vae)).items():
        np.testing.assert_array_equal(flatten(nnx.state(loaded.vae))[name], value)
    card = (saved / "README.md").read_text()
    count = sum(value.size for value in theirs.values())
    assert f"| parameters | {count:,} |" in card and card.endswith("Random weights.\n")


def test_a_loaded_model_samples_as_its_parts_do(saved):
    sample = dict(wanted=("rgb", "depth"), steps=1)
    ours = Pipeline.from_pretrained(saved)("a man", **sample).latents
    expected = tiny_pipeline()("a man", **sample).latents
    for name, latents in expected.items():
        error = np.abs(ours[name] - latents).max() / np.abs(latents).max()
        assert error < (0.05 if saved.name == "int8" else 1e-6), (name, error)


def test_an_autoencoder_that_computes_in_bfloat16_decodes_alike(exact):
    whole, half = (Pipeline.from_pretrained(exact, vae_dtype=t) for t in ("float32", "bfloat16"))
    latents = np.random.default_rng(0).standard_normal(
        (1, *whole.vae.config.latent_shape(5, 16, 16))
    )
    wanted, found = (pipe.decode(jnp.float32(latents), "rgb") for pipe in (whole, half))
    assert found.dtype == np.float32
    difference = np.abs(found - wanted).max()
    assert 0 < difference < 0.1


def test_scales_are_those_of_torch():
    kernel = np.random.default_rng(0).standard_normal((2, 5, 3)).astype(np.float32)
    kernel[1, :, 2] = 0
    values, scale = pretrained.quantise(kernel)
    for i in range(2):
        columns = torch.from_numpy(np.where(scale[i] > 0, scale[i], 1.0))
        reference = torch.quantize_per_channel(
            torch.from_numpy(kernel[i]), columns, torch.zeros(3, dtype=torch.int64), 1, torch.qint8
        )
        np.testing.assert_array_equal(values[i], reference.int_repr().numpy())
    assert (np.abs(values).max(axis=1) == [[127] * 3, [127, 127, 0]]).all()


def test_training_starts_from_it(saved):
    pipeline = tiny_pipeline()
    fresh = pipeline.params
    state = state_lib.TrainState(
        step=jnp.int32(0), params=jax.tree.map(jnp.zeros_like, fresh), ema=None, opt_state=[]
    )
    started = start_from(state, pipeline.model_config, saved)
    expected = weights(Pipeline.from_pretrained(saved))
    for name, value in flatten(started.params).items():
        np.testing.assert_array_equal(value, expected[name], name)
    other = dataclasses.replace(pipeline.model_config, heads="shared")
    with pytest.raises(UserError, match=r"config\.init_from=.*heads\.bias has a row for each of"):
        start_from(started, other, saved)


def test_a_folder_comes_before_a_name(copy, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "ASSETS", tmp_path / "assets")
    (tmp_path / "assets").mkdir()
    assert pretrained.names() == ()
    with pytest.raises(UserError, match=r"mini: no such folder, and no model .*\(none ships\)"):
        pretrained.find("mini")
    shipped = copy.rename(tmp_path / "assets" / "mini")
    assert pretrained.names() == ("mini",) and pretrained.is_model("mini")
    assert pretrained.find("mini") == shipped
    monkeypatch.chdir(tmp_path)
    pathlib.Path("mini").mkdir()
    with pytest.raises(UserError, match=r"mini: no pretrained model, it lacks config\.json"):
        pretrained.find("mini")


def _damage_weights(folder):
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))


def _edit_config(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def _drop_format(folder):
    file = folder / "config.json"
    file.write_text(json.dumps({"z_dim": 16}))


def _edit_tensors(folder, edit):
    file = folder / "model.safetensors"
    tensors = safetensors.numpy.load_file(file)
    edit(tensors)
    safetensors.numpy.save_file(tensors, file)


def _sealed(act):
    """The damage with checksums that fit it, so that the next check has to find it."""

    def damage(folder):
        act(folder)
        checksums.list_files(folder, ("config.json", "model.safetensors", "README.md"))

    return damage


NAME = "blocks.ffn.up.kernel"


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_damage_weights, r"model\.safetensors: damaged or changed"),
        (lambda f: _edit_config(f, step=8), r"config\.json: damaged or changed"),
        (lambda f: (f / "SHA256SUMS").unlink(), "no pretrained model, it lacks SHA256SUMS"),
        (_sealed(lambda f: _edit_config(f, format=2)), "format 2, this version reads 1"),
        (_sealed(_drop_format), r"config\.json: not of a pretrained model"),
        (_sealed(lambda f: _edit_config(f, storage="int4")), "storage='int4': known are"),
        (_sealed(lambda f: _edit_config(f, storage="int8")), "lacks .*kernel_scale"),
        (
            _sealed(lambda f: _edit_tensors(f, lambda t: t.pop(NAME))),
            f"does not fit config.json: lacks {NAME}; copy",
        ),
        (
            _sealed(lambda f: _edit_tensors(f, lambda t: t.update({NAME: t[NAME][:, :-1]}))),
            rf"{NAME} is F32\[2, 31, 48\], not F32\[2, 32, 48\]",
        ),
        (
            _sealed(lambda f: _edit_tensors(f, lambda t: t.update(more=t[NAME]))),
            "has unknown more",
        ),
        (
            _sealed(lambda f: _edit_tensors(f, lambda t: t.update({NAME: t[NAME].astype("f2")}))),
            rf"{NAME} is F16",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(copy, damage, says):
    damage(copy)
    with pytest.raises(UserError, match=says) as error:
        folder = pretrained.find(copy)
        pretrained.load(folder, pretrained.read_config(folder))
    assert "\n" not in str(error.value)


def test_a_model_is_written_whole_or_not_at_all(tmp_path):
    parts = tiny_parts()
    target = tmp_path / "model"
    flat = flatten(Pipeline(**parts).params)
    broken = flat | {"heads.bias": jnp.full_like(flat["heads.bias"], jnp.nan)}
    sections = {"model": {}, "data": {}, "sampling": {}, "step": 0}
    with pytest.raises(UserError, match=r"heads\.bias is nan"):
        pretrained.save(target, sections, broken, vae=parts["vae"])
    assert list(tmp_path.iterdir()) == []
    target.mkdir()
    (target / "notes.txt").touch()
    with pytest.raises(UserError, match="holds something already"):
        pretrained.save(target, sections, flat, vae=parts["vae"])
    with pytest.raises(UserError, match="storage='int4': choose one of"):
        tiny_pipeline().save_pretrained(tmp_path / "other", storage="int4")
