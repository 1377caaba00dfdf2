"""A run that trains adapters: exact resume, meshes, what is saved, and what comes out of it."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from one_trace import one_trace_per_step  # noqa: F401
from synthetic_run import MODALITIES, Batches, tiny_config

from unityvideo_jax.checkpoints import arrays
from unityvideo_jax.checkpoints.inference import load_for_inference
from unityvideo_jax.convert import convert_out, convert_to_model
from unityvideo_jax.errors import UserError
from unityvideo_jax.interop import lora as files
from unityvideo_jax.interop.lora_apply import low_rank
from unityvideo_jax.models import DiTConfig, lora
from unityvideo_jax.pretrained import model as pretrained
from unityvideo_jax.settings import presets
from unityvideo_jax.training import loop
from unityvideo_jax.training.adapters import identity
from unityvideo_jax.training.workdir import open_workdir


def adapter_config(source, *, steps=4, **settings):
    config = tiny_config(steps=steps, checkpoint_every=2)
    config.optimizer.schedule_steps = 8
    config.init_from = str(source)
    config.lora = dict(
        dict(rank=2, alpha=4.0, dropout=0.25, train=("modality_embedding.*",), base="float32")
        | settings
    )
    return config


def run(config, workdir, devices=1):
    lines = []
    prints = identity(config.init_from) if "lora" in config else {}
    with open_workdir(workdir, config, identify=lambda: prints, log=lines.append):
        loop.train(config, workdir, Batches, log=lines.append, devices=jax.devices()[:devices])
    return lines


def add_what_sampling_needs(config):
    data = presets.load("worlds_tiny").data
    config.data.update({key: data[key] for key in data if key not in config.data})


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A trained run whose weights adapters stand beside."""
    folder = tmp_path_factory.mktemp("base") / "run"
    config = tiny_config(steps=2, checkpoint_every=1)
    add_what_sampling_needs(config)
    run(config, folder)
    return folder


@pytest.fixture(scope="module")
def trained(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lora") / "run"
    config = adapter_config(base)
    return config, folder, run(config, folder)


def saved(folder, step, item="params"):
    stored = arrays.open_arrays(folder / "checkpoints" / str(step), item)
    return {name: np.asarray(x.read().result()) for name, x in stored.items()}


def test_only_what_trains_is_saved_and_the_base_stays(base, trained):
    _, folder, lines = trained
    names = set(saved(folder, 4))
    assert {n for n in names if ".adapter." not in n} == {"modality_embedding.table"}
    assert len(names) == 1 + 20 == len(saved(folder, 4, "ema"))
    size = sum(x.size for x in saved(folder, 4).values())
    moments = sum(x.size for x in saved(folder, 4, "optimizer").values())
    assert 2 * size <= moments < 2.1 * size  # and counters
    assert any("trained beside a base of" in line for line in lines)
    before = saved(base, 2, "ema")
    _, params, _ = load_for_inference(folder, use_ema=False)
    after = {".".join(map(str, p)): np.asarray(x[...]) for p, x in nnx.to_flat_state(params)}
    now = saved(folder, 4)
    for name, value in before.items():
        path = name.removesuffix(".kernel")
        if f"{path}.adapter.down" in now:
            down, up = now[f"{path}.adapter.down"], now[f"{path}.adapter.up"]
            assert np.abs(up).max() > 0
            value = value + 2.0 * down @ up
        elif name == "modality_embedding.table":
            assert np.abs(now[name] - value).max() > 0
            value = now[name]
        np.testing.assert_allclose(after[name], value, atol=1e-6, err_msg=name)


def test_a_run_that_was_killed_gives_the_same_adapters(base, trained, tmp_path):
    config, whole, _ = trained
    run(adapter_config(base, steps=2), tmp_path / "run")
    run(config, tmp_path / "run")
    for item in ("params", "ema", "optimizer"):
        ours, expected = saved(tmp_path / "run", 4, item), saved(whole, 4, item)
        for name, value in expected.items():
            np.testing.assert_array_equal(ours[name], value, err_msg=name)


def test_a_run_resumes_only_beside_the_same_weights(base, trained, tmp_path):
    config, folder, _ = trained
    other = tmp_path / "other"  # the same run, a step before
    shutil.copytree(base, other)
    shutil.rmtree(other / "checkpoints" / "2")
    config = adapter_config(other, steps=6)
    with pytest.raises(UserError, match=r"config\.init_from=.* holds .*, but the run used"):
        run(config, folder)
    (copy := tmp_path / "copy").mkdir()
    record = json.loads((folder / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(record | {"init_from": str(other)}))
    (copy / "run.json").write_text((folder / "run.json").read_text())
    (copy / "checkpoints").symlink_to(folder / "checkpoints")
    with pytest.raises(UserError, match="trained beside other weights"):
        load_for_inference(copy)
    config.init_from = ""
    with pytest.raises(UserError, match=r"lora\.rank=2 trains adapters beside frozen weights"):
        loop.train(config, folder, Batches, devices=jax.devices()[:1])


def test_adapters_stand_beside_a_pretrained_model(base, trained, tmp_path):
    _, whole, _ = trained
    model, eight_bits = tmp_path / "model", tmp_path / "int8"
    convert_to_model(str(base), str(model))
    run(adapter_config(model, steps=2), tmp_path / "run")
    ours, expected = saved(tmp_path / "run", 2), saved(whole, 2)
    for name, value in expected.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)
    # The model in other numbers is other weights, and adapters say so.
    convert_to_model(str(model), str(eight_bits), storage="int8")
    kernels = [pretrained.stored(f, pretrained.read_config(f)) for f in (model, eight_bits)]
    for name, kernel in kernels[0].items():
        error = np.abs(np.asarray(kernels[1][name]) - kernel[...]).max()
        assert error <= np.abs(kernel[...]).max() / 200, name
    shutil.rmtree(model)
    eight_bits.rename(model)
    with pytest.raises(UserError, match="trained beside other weights"):
        load_for_inference(tmp_path / "run")


def test_adapters_of_other_modalities_take_their_rows_by_name(base, tmp_path):
    names = ("rgb", "depth", "skeleton", "flow")
    config = adapter_config(base, steps=1)
    config.model.modalities = names
    config.curriculum = (dict(until=-1, modalities=("depth",)),)
    add_what_sampling_needs(config)
    lines = run(config, tmp_path / "run")
    assert any("also has segmentation, densepose, which" in line for line in lines)
    _, params, _ = load_for_inference(tmp_path / "run")
    weights = {".".join(map(str, p)): np.asarray(x[...]) for p, x in nnx.to_flat_state(params)}
    table = saved(base, 2, "ema")["blocks.modulation.table"]
    rows = [MODALITIES.index(name) for name in names]
    np.testing.assert_array_equal(weights["blocks.modulation.table"], table[:, rows])
    # As a model of its own it has the adapters merged into it.
    convert_to_model(str(tmp_path / "run"), str(tmp_path / "model"))
    config = pretrained.read_config(tmp_path / "model")
    stored = pretrained.stored(tmp_path / "model", config)
    assert stored.keys() == weights.keys()
    for name, weight in weights.items():
        np.testing.assert_allclose(stored[name], weight, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_a_sharded_mesh_trains_the_same_adapters(base, trained, tmp_path):
    _, whole, _ = trained
    config = adapter_config(base, steps=2)
    config.mesh.update(fsdp=2, tensor=2)
    run(config, tmp_path / "run", devices=4)
    expected = saved(whole, 2)
    for name, value in saved(tmp_path / "run", 2).items():
        np.testing.assert_allclose(value, expected[name], atol=2e-4, err_msg=name)


@pytest.mark.slow
def test_int8_and_adapters_per_modality_train_and_load(base, tmp_path):
    config = adapter_config(
        base, steps=2, base="int8", adapters="per_modality", dropout=0.0, train=()
    )
    config.curriculum = (dict(until=-1, modalities=("depth",)),)
    run(config, tmp_path / "run")
    now = saved(tmp_path / "run", 2)
    up = now["blocks.self_attention.q.adapter.up"]
    rows = np.flatnonzero(np.abs(up).sum(axis=(0, 2, 3)))
    assert [MODALITIES[row] for row in rows] == ["rgb", "depth"]
    stored, params, _ = load_for_inference(tmp_path / "run", use_ema=False)
    model = DiTConfig(**stored.model.to_dict())
    chosen = lora.LoraConfig.of(stored)
    graph = nnx.graphdef(
        nnx.eval_shape(lambda: lora.make_for_sampling(model, chosen, rngs=nnx.Rngs(0)))
    )
    x = jnp.ones((1, 2, 2, 4, 4, 4))
    ids, context = jnp.asarray([[0, 1]]), jnp.ones((1, 2, 4, 8))
    out = nnx.merge(graph, params)(x, jnp.asarray([[0.5, 0.5]]), ids, context)
    other = nnx.merge(graph, params)(x, jnp.asarray([[0.5, 0.0]]), ids, context)
    assert np.isfinite(out).all() and np.abs(out - other).max() > 0
    with pytest.raises(UserError, match="has an adapter per modality"):
        convert_out(str(tmp_path / "run"), str(tmp_path / "x"), "diffusers", merge=True)
    convert_out(str(tmp_path / "run"), str(tmp_path / "out"), "diffusers", log=lambda line: None)
    names = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert names[0] == "pytorch_lora_weights.safetensors" and len(names) == len(MODALITIES)
    adapter = files.open_adapter(tmp_path / "out" / "pytorch_lora_weights_depth.safetensors", model)
    layers, _ = low_rank([(adapter, 1.0)], model)
    up = saved(tmp_path / "run", 2, "ema")["blocks.self_attention.q.adapter.up"]
    np.testing.assert_allclose(
        layers["blocks.self_attention.q"][1], 2.0 * up[:, 1], rtol=1e-6, atol=1e-9
    )


def test_export_of_the_adapter_and_of_the_whole(trained, tmp_path):
    config, folder, _ = trained
    lines = []
    convert_out(str(folder), str(tmp_path / "lora"), "diffusers", log=lines.append)
    assert any("left over: modality_embedding.table" in line for line in lines)
    model = DiTConfig(**config.model.to_dict())
    adapter = files.open_adapter(tmp_path / "lora", model)
    now = saved(folder, 4, "ema")
    for change in adapter.changes:
        path, (place, *_) = change.entry.ours.removesuffix(".kernel"), change.entry.places
        down, up = now[f"{path}.adapter.down"][place], now[f"{path}.adapter.up"][place]
        np.testing.assert_allclose(change.value(), 2.0 * down @ up, atol=1e-6)
    convert_out(str(folder), str(tmp_path / "whole"), "wan", merge=True, log=lines.append)
    from safetensors.numpy import load_file

    whole = load_file(tmp_path / "whole" / "diffusion_pytorch_model.safetensors")
    _, params, _ = load_for_inference(folder)
    kernel = dict(nnx.to_flat_state(params))["blocks", "ffn", "down", "kernel"][1]
    np.testing.assert_allclose(whole["blocks.1.ffn.2.weight"], np.asarray(kernel).T, atol=1e-6)
