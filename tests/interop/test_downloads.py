"""A whole download of Wan, in diffusers' layout and in the original one, as users have it."""

import dataclasses
import os
import pathlib
import shutil
import subprocess
import sys

import chex
import in_process
import numpy as np
import pytest
import torch
from flax import nnx
from wan_download import VAE_SIZES, save_diffusers, save_original

from unityvideo_jax import convert, media
from unityvideo_jax.errors import UserError
from unityvideo_jax.inputs import shards
from unityvideo_jax.inputs.encode import load_encoder, vae_id_or_none
from unityvideo_jax.interop.tensors import TensorFiles
from unityvideo_jax.models.vae.wan_vae import WAN_2_1, WAN_2_2
from unityvideo_jax.pretrained.text import load_text_encoder
from unityvideo_jax.pretrained.vae import find_vae, load_vae, load_vae_config
from unityvideo_jax.sampling.pipeline import Pipeline
from unityvideo_jax.settings import presets

ROOT = pathlib.Path(__file__).parents[2]
VERSION = "2.2"
# One device, and programs that compile quickly rather than run quickly.
QUICK_COMPILE = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")


@pytest.fixture(scope="module")
def diffusers(tmp_path_factory):
    return save_diffusers(tmp_path_factory.mktemp("diffusers"), VERSION)


@pytest.fixture(scope="module")
def original(diffusers, tmp_path_factory):
    return save_original(tmp_path_factory.mktemp("original"), diffusers, VERSION)


def assert_equal(one: nnx.Module, two: nnx.Module) -> None:
    chex.assert_trees_all_equal(nnx.state(one), nnx.state(two))


def test_autoencoders_of_both_layouts_are_the_same(diffusers, original):
    one, two = load_vae(diffusers), load_vae(original / "own")
    assert_equal(one, two)
    assert one.config == two.config == load_vae_config(original / "own")
    file = original / "own" / f"Wan{VERSION}_VAE.pth"
    assert find_vae(original / "own") == find_vae(file) == file
    assert_equal(one, load_vae(file))
    assert find_vae(diffusers) == diffusers / "vae"
    assert vae_id_or_none(str(diffusers)) == vae_id_or_none(str(diffusers / "vae"))
    assert load_encoder(str(original / "own")).latent_shape(5, 32, 64) == (2, 2, 4, 4)


@pytest.mark.parametrize("config", [WAN_2_1, WAN_2_2], ids=["2.1", "2.2"])
def test_the_original_file_needs_no_config(config, tmp_path):
    """An autoencoder is known by its channels, also beside the transformer's config.json."""
    version = "2.2" if config.residual else "2.1"
    torch.save({"conv2.bias": torch.zeros(config.z_dim)}, tmp_path / f"Wan{version}_VAE.pth")
    (tmp_path / "config.json").write_text('{"_class_name": "WanModel"}')
    (tmp_path / "diffusion_pytorch_model.safetensors").touch()
    assert load_vae_config(tmp_path) == config
    with pytest.raises(UserError, match=r"_VAE\.pth: does not fit .*: lacks conv1\.bias"):
        load_vae(tmp_path)


def test_text_encoders_of_both_layouts_are_the_same(diffusers, original):
    one, two = (load_text_encoder(f"umt5:{folder}", 20) for folder in (diffusers, original))
    # Sizes that the weights alone do not tell are UMT5-XXL's.
    assert two.model.config == dataclasses.replace(one.model.config, max_distance=128)
    assert str(two.model.embedding[...].dtype) == "bfloat16"
    texts = ["the red ball rolls", ""]
    assert [one.tokens(text) for text in texts] == [two.tokens(text) for text in texts]
    a, b = one(texts), two(texts)
    assert np.abs(a - b).max() < 0.05 * np.abs(a).max()


def test_faulty_pickles_are_named(original, tmp_path, monkeypatch):
    file = tmp_path / "Wan2.2_VAE.pth"
    whole = (original / "own" / file.name).read_bytes()
    file.write_bytes(whole[:-100])
    with pytest.raises(UserError, match=r"Wan2\.2_VAE\.pth: truncated, or no plain checkpoint"):
        load_vae(tmp_path)
    torch.save({"model": {"conv1.bias": torch.zeros(1)}}, file)
    with pytest.raises(UserError, match="save its state_dict alone"):
        load_vae(tmp_path)
    # Code in a pickle is refused, not run.
    torch.save({"conv2.bias": pathlib.PurePosixPath("x")}, file)
    with pytest.raises(UserError, match="no plain checkpoint"):
        load_vae(tmp_path)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match="pip install torch"):
        load_vae(tmp_path)


def test_types_of_pickles(tmp_path):
    stored = {
        "half": torch.randn(3, 4).bfloat16(),
        "turned": torch.randn(3, 4).T,
        "f16": torch.randn(5).half(),
    }
    torch.save(stored, tmp_path / "w.pth")
    tensors = TensorFiles(tmp_path / "w.pth")
    assert [tensors.kind(name) for name in stored] == ["BF16", "F32", "F16"]
    for name, tensor in stored.items():
        assert tensors.shape(name) == tuple(tensor.shape)
        np.testing.assert_array_equal(tensors[name].astype(np.float32), tensor.float().numpy())


@pytest.mark.parametrize("name", ["umt5", "umt5:nowhere", "umt5:EMPTY"])
def test_a_missing_text_encoder_names_the_key_and_the_fix(name, tmp_path):
    with pytest.raises(UserError, match=r"--config\.data\.text_encoder=umt5:FOLDER"):
        load_text_encoder(name.replace("EMPTY", str(tmp_path)))


def program(name, *flags):
    done = subprocess.run(
        [sys.executable, "-m", f"unityvideo_jax.{name}", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": QUICK_COMPILE},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


SMALL = {
    "model": dict(
        dim=40, ffn_dim=72, num_heads=2, num_layers=2, in_channels=4, text_dim=32, text_len=20,
        remat="none",
    ),
    "data": dict(num_frames=5, height=32, width=64, text_length=20),
    "data.modality_weights": dict(flow=0.0, densepose=0.0, segmentation=0.0, skeleton=0.0),
    "train": dict(steps=2, batch_size=2),
}  # fmt: skip


@pytest.mark.slow
def test_prepare_convert_train_and_sample_from_a_download(diffusers, tmp_path):
    """The preset of Wan 2.2 through the programs, but for its sizes."""
    clips, download = tmp_path / "clips", tmp_path / "Wan2.2-TI2V-5B"
    shutil.copytree(diffusers, download)
    clips.mkdir()
    rng = np.random.default_rng(0)
    for key in ("one", "two"):
        frames = rng.integers(0, 255, (5, 32, 64, 3), np.uint8)
        media.write_video(clips / f"{key}.mp4", frames, 15.0)
        np.savez(clips / f"{key}.depth.npz", depth=1 + rng.random((5, 32, 64), np.float32))
        (clips / f"{key}.txt").write_text("the red ball rolls")
    data = tmp_path / "data"
    program(
        "prepare",
        *(f"--source={clips}", f"--workdir={data}", "--modalities=rgb,depth", "--batch_size=1"),
        *("--num_frames=5", "--height=32", "--width=64", "--text_length=20"),
        *(f"--vae={download}", f"--text_encoder=umt5:{download}"),
    )
    card = shards.read_card(data)
    assert card.latent_shape == (2, 2, 4, VAE_SIZES[VERSION]["z_dim"])
    assert (card.text_encoder, card.text_dim) == ("umt5", 32)

    small = {f"{part}.{key}": value for part in SMALL for key, value in SMALL[part].items()}
    small |= {"data.dirs": (str(data),), "curriculum": ()}
    small |= {"data.vae": str(download), "data.text_encoder": f"umt5:{download}"}
    config = presets.load("wan22_5b")
    config.update_from_flattened_dict(small)
    start, lines = tmp_path / "start", []
    convert.convert_in(str(download), str(start), config, lines.append)
    assert lines[0].splitlines()[1].startswith("matched")
    run = tmp_path / "run"
    flags = ["--config=configs/wan22_5b.py", f"--config.init_from={start}"]
    flags += [f"--config.{key}={value}" for key, value in small.items()]
    out = program("train", *flags, f"--workdir={run}")
    assert f"starts from the weights of {start}" in out

    # What was downloaded has moved since.
    moved = download.rename(tmp_path / "elsewhere")
    media.contact_sheet([("", frames[:1])], tmp_path / "photo.png")
    with pytest.raises(UserError, match=r"holds no autoencoder; set --config\.data\.vae="):
        Pipeline.from_workdir(run)
    with pytest.raises(UserError, match=r"no such folder; set --config\.data\.text_encoder=umt5:"):
        Pipeline.from_workdir(run, vae=str(moved))
    program(
        "sample",
        *(f"--workdir={run}", "--wanted=rgb,depth", "--prompt=the red ball rolls", "--steps=2"),
        *(f"--first_frame={tmp_path / 'photo.png'}", f"--output={tmp_path / 'made'}"),
        *(f"--vae={moved}", f"--text_encoder=umt5:{moved}"),
    )
    frames, fps = media.read_video(tmp_path / "made" / "rgb.mp4")
    assert frames.shape == (5, 32, 64, 3) and fps == 15.0
    assert np.load(tmp_path / "made" / "depth.npz")["depth"].shape == (5, 32, 64)


def test_prepare_refuses_sizes_that_the_model_cannot_take(diffusers, tmp_path):
    size = ("--height=48", "--width=64")
    done = in_process.run(
        "prepare", "--source=worlds", f"--workdir={tmp_path / 'new'}", *size, f"--vae={diffusers}"
    )
    assert done.returncode == 2
    assert "error: --height=48: must be a multiple of 32 pixels; use 32 or 64" in done.stderr
    assert not (tmp_path / "new").exists()
