"""Conversion end to end: in, trained from, sampled from, killed, and out again."""

import math
import pathlib
import sys
import tracemalloc

import chex
import jax
import ml_collections
import numpy as np
import optax
import pytest
import torch
from flax import nnx
from safetensors.torch import load_file, save_file

sys.path += [str(pathlib.Path(__file__).parent / name) for name in ("interop", "training")]
from synthetic_run import Batches, tiny_config
from wan_torch import torch_wan

from unityvideo_jax import convert
from unityvideo_jax.checkpoints import arrays
from unityvideo_jax.checkpoints.inference import load_for_inference
from unityvideo_jax.errors import UserError
from unityvideo_jax.interop import shards, wan, wan_keys
from unityvideo_jax.models.dit import DiTConfig
from unityvideo_jax.parallel.mesh import MeshConfig, make_mesh
from unityvideo_jax.parallel.rules import AxisRules
from unityvideo_jax.training import loop
from unityvideo_jax.training import state as state_lib
from unityvideo_jax.training.start import start_from
from unityvideo_jax.training.workdir import open_workdir

SIZES = dict(num_heads=4, head_dim=8, layers=2, ffn=64, channels=4, text=8)


def run_config(**train) -> ml_collections.ConfigDict:
    config = tiny_config(**train)
    config.model.freq_dim = 256
    config.init_from = ""
    return config


@pytest.fixture(scope="module")
def tensors():
    return {name: weight.clone() for name, weight in torch_wan(**SIZES).state_dict().items()}


@pytest.fixture(scope="module")
def pretrained(tensors, tmp_path_factory):
    """The checkpoint in several shards."""
    path = tmp_path_factory.mktemp("pretrained")
    save_file(tensors, path / "whole.safetensors")
    model = wan.load_dit(path, DiTConfig(**run_config().model))
    wan.save_dit(model, path / "shards", max_shard_bytes=50_000)
    return path / "shards"


def arrays_of(workdir) -> dict[str, np.ndarray]:
    opened = arrays.open_arrays(pathlib.Path(workdir) / "checkpoints" / "0")
    return {name: np.asarray(array) for name, array in opened.items()}


def test_a_converted_run_is_what_loading_gives(pretrained, tensors, tmp_path):
    lines = []
    convert.convert_in(str(pretrained), str(tmp_path / "run"), run_config(), lines.append)
    config, params, step = load_for_inference(tmp_path / "run")
    assert step == 0
    model = wan.load_dit(pretrained, DiTConfig(**config.model.to_dict()))
    expected = nnx.to_pure_dict(nnx.state(model))
    chex.assert_trees_all_equal(nnx.to_pure_dict(params), expected)
    count = sum(weight.numel() for weight in tensors.values())
    rows = [line.split() for line in lines[0].splitlines()]
    assert rows[1] == ["matched", str(len(tensors)), f"{count:,}"]
    assert rows[2] == ["new", "1", "192", "modality_embedding.table"]
    assert not list((tmp_path / "run").glob(".convert*"))


def train(workdir, config) -> list[str]:
    lines = []
    with open_workdir(workdir, config) as path:
        loop.train(config, path, Batches, log=lines.append, devices=jax.devices()[:1])
    return lines


def test_a_run_starts_from_it_and_is_exported(pretrained, tmp_path):
    convert.convert_in(str(pretrained), str(tmp_path / "run"), run_config(), lambda line: None)
    config = run_config(steps=1)
    config.init_from = str(tmp_path / "run")
    config.optimizer.learning_rate = 1e-9
    assert f"starts from the weights of {tmp_path / 'run'}" in train(tmp_path / "trained", config)
    trained = load_for_inference(tmp_path / "trained")[1]
    start = load_for_inference(tmp_path / "run")[1]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), trained, start)
    # A run resumes from its own checkpoint, not from where it started.
    assert "resumed at step 1" in train(tmp_path / "trained", config)

    # The averaged weights are exported, straight from the format that training writes.
    out, lines = tmp_path / "exported", []
    convert.convert_out(str(tmp_path / "trained"), str(out), "diffusers", log=lines.append)
    written = load_file(out / "diffusion_pytorch_model.safetensors")
    bias = np.asarray(trained["blocks"]["ffn"]["up"]["bias"][...])
    np.testing.assert_array_equal(written["blocks.1.ffn.net.0.proj.bias"], bias[1])
    # Five modalities' tables, heads and embeddings; RGB's own are in the file.
    assert lines[0].splitlines()[-1].split()[2:4] == ["5", "5,040"]


def test_converted_weights_are_laid_out_over_a_mesh(pretrained, tmp_path):
    convert.convert_in(str(pretrained), str(tmp_path / "run"), run_config(), lambda line: None)
    model = DiTConfig(**run_config().model)
    mesh = make_mesh(MeshConfig(data=1, fsdp=4, tensor=2))
    with jax.set_mesh(mesh):
        _, state, layout = state_lib.create(
            model, optax.sgd(1e-3), mesh, AxisRules(), 0, keep_ema=True
        )
        state = start_from(state, model, tmp_path / "run")
    assert jax.tree.map(lambda x: x.sharding, state.params) == layout.params
    expected = load_for_inference(tmp_path / "run")[1]
    for one in (state.params, state.ema):
        chex.assert_trees_all_equal(one, expected)
    # Converted for RGB alone, the same weights start the same model: all modalities are as RGB.
    alone, lines = run_config(), []
    alone.model.modalities = ("rgb",)
    convert.convert_in(str(pretrained), str(tmp_path / "rgb"), alone, lambda line: None)
    state = start_from(state, model, tmp_path / "rgb", log=lines.append)
    assert lines == [f"new in this run, as RGB starts: {', '.join(model.modalities[1:])}"]
    assert jax.tree.map(lambda x: x.sharding, state.params) == layout.params
    chex.assert_trees_all_equal(state.params, expected)


def test_training_resumes_neither_from_weights_alone_nor_from_another_model(pretrained, tmp_path):
    convert.convert_in(str(pretrained), str(tmp_path / "run"), run_config(), lambda line: None)
    with pytest.raises(UserError, match=r"set config\.init_from="):
        train(tmp_path / "run", run_config())
    config = run_config()
    config.init_from = str(tmp_path / "run")
    config.model.heads = "shared"
    with pytest.raises(UserError, match=r"heads\.bias has a row for each of depth, .* there"):
        train(tmp_path / "trained", config)


def test_a_killed_conversion_resumes(pretrained, tmp_path, monkeypatch):
    convert.convert_in(str(pretrained), str(tmp_path / "whole"), run_config(), lambda line: None)
    files = shards.find_files(pretrained)
    assert len(files) > 3
    reads = []
    read = shards.StoredTensor.read

    def counted(tensor):
        if len(reads) == limit:
            raise KeyboardInterrupt
        reads.append(tensor.file.name)
        return read(tensor)

    monkeypatch.setattr(shards.StoredTensor, "read", counted)
    monkeypatch.setattr(wan, "check_values", lambda *_, **__: None)  # reads the same files first
    limit = 25
    with pytest.raises(KeyboardInterrupt):
        convert.convert_in(str(pretrained), str(tmp_path / "run"), run_config(), lambda line: None)
    begun = reads[-1]
    done = {name for name in reads if name != begun}
    assert done and not (tmp_path / "run" / "checkpoints").exists()
    with pytest.raises(UserError, match="no checkpoint yet"):
        load_for_inference(tmp_path / "run")

    reads.clear()
    limit = -1
    lines = []
    convert.convert_in(str(pretrained), str(tmp_path / "run"), run_config(), lines.append)
    assert set(reads) == {file.name for file in files} - done
    assert f"continuing after {len(done)} of {len(files)} files" in lines
    for name, array in arrays_of(tmp_path / "whole").items():
        np.testing.assert_array_equal(array, arrays_of(tmp_path / "run")[name])

    with pytest.raises(UserError, match="has checkpoints already"):
        convert.convert_in(str(pretrained), str(tmp_path / "run"), run_config(), lines.append)


def test_other_files_start_a_conversion_anew(pretrained, tmp_path, tensors):
    workdir = tmp_path / "run"
    file = tmp_path / "w.safetensors"
    save_file(tensors, file)
    identity = {"files": [("else", 1, 2)], "model": {}}
    with open_workdir(workdir, run_config()):
        convert.Journal(workdir / convert.STAGING / "journal.json", identity).save()
    stray = workdir / convert.STAGING / "checkpoints" / "0"
    stray.mkdir(parents=True)
    convert.convert_in(str(file), str(workdir), run_config(), lambda line: None)
    np.testing.assert_array_equal(
        arrays_of(workdir)["heads.bias"], np.tile(tensors["proj_out.bias"], (6, 1))
    )


@pytest.mark.parametrize("storage", ["float32", "bfloat16"])
def test_out_again_keeps_every_bit(tensors, pretrained, tmp_path, storage):
    dtype = getattr(torch, storage)
    stored = {name: weight.to(dtype) for name, weight in tensors.items()}
    save_file(stored, tmp_path / "w.safetensors")
    quiet = dict(log=lambda line: None)
    convert.convert_in(
        str(tmp_path / "w.safetensors"), str(tmp_path / "run"), run_config(), **quiet
    )
    out = tmp_path / "out"
    # Killed after two files: the first export leaves its journal, and only the same continues.
    arguments = (str(tmp_path / "run"), str(out), "diffusers")
    options = dict(storage=storage, max_shard_bytes=40_000)

    class Killed(Exception):
        pass

    def kill(line):
        if line.startswith("[2"):
            raise Killed

    with pytest.raises(Killed):
        convert.convert_out(*arguments, **options, log=kill)
    first = sorted(out.glob("*.safetensors"))[0]
    before = first.stat().st_mtime_ns
    with pytest.raises(UserError, match="is not empty"):
        convert.convert_out(*arguments[:2], "wan", **options, **quiet)
    convert.convert_out(*arguments, **options, **quiet)
    assert first.stat().st_mtime_ns == before
    written = {}
    for file in out.glob("*.safetensors"):
        written |= load_file(file)
    assert set(written) == set(stored)
    for name, weight in stored.items():
        assert torch.equal(written[name].view(torch.uint8), weight.view(torch.uint8)), name
    assert sorted(f.name for f in out.iterdir() if f.suffix == ".json") == [
        "config.json",
        "diffusion_pytorch_model.safetensors.index.json",
    ]


def test_chunks_hold_one_layer_and_stay_small():
    weight = wan_keys.Weight(shape=(40, 5120, 13824), axes=("layers", "embed", "mlp"))
    chunk = arrays.chunk_shape(weight)
    assert chunk[0] == 1
    assert 2**22 < np.prod(chunk) * 4 <= arrays.CHUNK_BYTES
    small = wan_keys.Weight(shape=(6, 2, 64), axes=("modality", None, "embed"))
    assert arrays.chunk_shape(small) == [1, 2, 64]


def test_memory_holds_a_few_tensors_whatever_the_model(tmp_path):
    model = DiTConfig(dim=256, ffn_dim=1024, num_heads=2, num_layers=12, text_dim=32, text_len=4)
    shapes = {entry.key: entry.shape for entry in wan_keys.entries(model, "diffusers")}
    largest = 4 * max(map(math.prod, shapes.values()))
    plan = shards.plan_shards(shapes, "m", 4, 10**7)
    for shard in plan:
        shards.write_shard(tmp_path, shard, "float32", lambda n: np.ones(shapes[n], np.float32))
    shards.write_index(tmp_path, "m", plan, 4)
    arrays.create(tmp_path / "checkpoints", wan_keys.weights(model), {})
    stored = arrays.open_arrays(tmp_path / "checkpoints" / "0")
    checkpoint = wan.open_checkpoint(tmp_path, model)
    tracemalloc.start()
    wan.fill(stored, checkpoint)
    wan.write(stored, model, tmp_path / "out", layout="wan", storage="float32")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    total = 4 * sum(map(math.prod, shapes.values()))
    assert peak < 4 * largest < total / 8
