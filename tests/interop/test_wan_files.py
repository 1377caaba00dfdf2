"""Files in and out: bits kept, diffusers reads them, and bad ones are named."""

import json
import pathlib
import re

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from diffusers import WanTransformer3DModel
from flax import nnx
from safetensors.torch import load_file, save_file
from wan_torch import call, channels_last, original_names, our_config, relative_error, torch_wan

from unityvideo_jax.errors import UserError
from unityvideo_jax.interop import shards, wan_keys
from unityvideo_jax.interop.wan import load_dit, save_dit

RGB_ONLY = dict(modalities=("rgb",), switcher="none")
TYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@pytest.fixture(scope="module")
def tensors():
    return {name: weight.clone() for name, weight in torch_wan().state_dict().items()}


def load_all(folder) -> dict[str, torch.Tensor]:
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found


@pytest.mark.parametrize("storage", sorted(TYPES))
@pytest.mark.parametrize("layout", ["diffusers", "wan"])
def test_round_trip_keeps_every_bit(tensors, tmp_path, storage, layout):
    stored = {name: weight.to(TYPES[storage]) for name, weight in tensors.items()}
    stored["proj_out.bias"][0] = -0.0
    if layout == "wan":
        names = original_names(stored)
        stored = {names[name]: weight for name, weight in stored.items()}
    save_file(stored, tmp_path / "in.safetensors")
    model = load_dit(tmp_path / "in.safetensors", our_config())
    save_dit(model, tmp_path / "out", layout=layout, storage=storage, max_shard_bytes=100_000)
    written = load_all(tmp_path / "out")
    assert set(written) == set(stored)
    for name, weight in stored.items():
        assert written[name].dtype == weight.dtype
        assert torch.equal(
            written[name].contiguous().view(torch.uint8), weight.contiguous().view(torch.uint8)
        ), name


@pytest.mark.parametrize("scaled", [True, False])
def test_8_bit_floats_of_comfyui_are_weights_times_their_scales(tensors, tmp_path, scaled):
    names = original_names(tensors)
    stored, expected = {}, {}
    for name, weight in tensors.items():
        key = f"model.diffusion_model.{names[name]}"
        expected[names[name]] = stored[key] = weight
        if weight.ndim == 2:
            scale = weight.abs().max() / 448 if scaled else torch.tensor(1.0)
            stored[key] = (weight / scale).to(torch.float8_e4m3fn)
            expected[names[name]] = stored[key].float() * scale
            if scaled:
                module = key.removesuffix(".weight")
                stored[f"{module}.scale_weight"] = scale.reshape(1)
                stored[f"{module}.scale_input"] = torch.ones(1)
    if scaled:
        stored["model.diffusion_model.scaled_fp8"] = torch.zeros(2).to(torch.float8_e4m3fn)
    save_file(stored, tmp_path / "comfy.safetensors")
    save_file(expected, tmp_path / "plain.safetensors")
    ours, plain = (
        dict(nnx.to_flat_state(nnx.state(load_dit(tmp_path / f"{name}.safetensors", our_config()))))
        for name in ("comfy", "plain")
    )
    for path, weight in plain.items():
        np.testing.assert_array_equal(ours[path][...], weight[...], err_msg=str(path))


def test_diffusers_reads_what_we_write(tensors, tmp_path, monkeypatch):
    # Everything is float32 here, and keeping some of it so would need another package.
    monkeypatch.setattr(WanTransformer3DModel, "_keep_in_fp32_modules", None)
    save_file(tensors, tmp_path / "in.safetensors")
    save_dit(load_dit(tmp_path / "in.safetensors", our_config()), tmp_path, max_shard_bytes=99_999)
    (tmp_path / "in.safetensors").unlink()
    assert len(list(tmp_path.glob("diffusion_pytorch_model-0000?-of-*.safetensors"))) > 2
    read, info = WanTransformer3DModel.from_pretrained(
        tmp_path, low_cpu_mem_usage=False, output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    for name, weight in read.state_dict().items():
        assert torch.equal(weight, tensors[name]), name
    for name, value in torch_wan().config.items():
        if not name.startswith("_"):
            assert np.array_equal(read.config[name], value), name


@pytest.mark.parametrize(("switcher", "heads"), [("adaln", "per_modality"), ("additive", "shared")])
def test_a_trained_rgb_stream_is_exported_whole(tensors, tmp_path, switcher, heads):
    """What training put into RGB's rows of our own weights moves into biases that Wan has."""
    save_file(tensors, tmp_path / "in.safetensors")
    model = load_dit(tmp_path / "in.safetensors", our_config(switcher=switcher, heads=heads))
    rng = np.random.default_rng(0)
    state = nnx.state(model)
    moved = {
        path: leaf.replace(leaf[...] + 0.1 * rng.standard_normal(leaf.shape).astype(np.float32))
        for path, leaf in nnx.to_flat_state(state)
    }
    nnx.update(model, nnx.from_flat_state(moved))
    lost = save_dit(model, tmp_path / "out")
    assert "heads.kernel" in lost and "text_embedding.up.kernel" not in lost
    reference = torch_wan()
    reference.load_state_dict(load_all(tmp_path / "out"))

    latents = rng.standard_normal((1, 4, 2, 4, 4), np.float32)
    context = rng.standard_normal((1, 7, 12), np.float32)
    with torch.no_grad():
        expected = reference(
            torch.from_numpy(latents), torch.tensor([300.0]), torch.from_numpy(context)
        ).sample
    ours = call(
        model,
        jnp.asarray(channels_last(latents)),
        jnp.full((1, 1), 0.3),
        jnp.zeros((1, 1), jnp.int32),
        jnp.asarray(context)[:, None],
    )
    assert relative_error(ours, channels_last(expected)) < 1e-4


def _without(tensors, name):
    return {key: value for key, value in tensors.items() if key != name}


FAULTS = {
    "a missing tensor": (
        lambda t: _without(t, "blocks.1.attn1.to_q.weight"),
        r"lacks blocks\.1\.attn1\.to_q\.weight \(40, 40\)",
    ),
    "a tensor too many": (
        lambda t: t | {"blocks.0.attn2.add_k_proj.weight": torch.zeros(3, 2)},
        r"has blocks\.0\.attn2\.add_k_proj\.weight \(3, 2\)",
    ),
    "another size": (
        lambda t: t | {"blocks.0.ffn.net.0.proj.weight": torch.zeros(80, 40)},
        r"blocks\.0\.ffn\.net\.0\.proj\.weight is \(80, 40\), not \(72, 40\)",
    ),
    "another patch": (
        lambda t: t | {"patch_embedding.weight": torch.zeros(40, 4, 1, 1, 4)},
        r"patch_embedding\.weight is \(40, 4, 1, 1, 4\), not \(40, 4, 1, 2, 2\)",
    ),
    "quantised": (
        lambda t: t | {"proj_out.bias": torch.zeros(16, dtype=torch.int8)},
        r"proj_out\.bias is of type I8",
    ),
    "another model": (lambda t: {"conv.weight": torch.zeros(1)}, r"no checkpoint of a Wan"),
}


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_what_does_not_fit_is_named(tensors, tmp_path, fault):
    change, message = FAULTS[fault]
    save_file(change(tensors), tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=message):
        load_dit(tmp_path, our_config(**RGB_ONLY))


def test_many_faults_are_counted(tensors, tmp_path):
    save_file(tensors, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"and \d+ more; choose the config"):
        load_dit(tmp_path, our_config(layers=3, **RGB_ONLY))


def test_damaged_and_missing_files_are_named(tensors, tmp_path):
    config = our_config(**RGB_ONLY)
    with pytest.raises(UserError, match="no such file or folder"):
        load_dit(tmp_path / "absent", config)
    with pytest.raises(UserError, match=r"holds no \*\.safetensors file"):
        load_dit(tmp_path, config)
    whole = tmp_path / "w.safetensors"
    save_file(tensors, whole)
    content = whole.read_bytes()
    for end in (4, 100, len(content) - 1):
        (tmp_path / "cut.safetensors").write_bytes(content[:end])
        with pytest.raises(UserError, match="truncated"):
            load_dit(tmp_path / "cut.safetensors", config)
    with pytest.raises(UserError, match="several checkpoints"):
        load_dit(tmp_path, config)


def test_a_shard_missing_from_an_index_is_named(tensors, tmp_path):
    save_file(tensors, tmp_path / "in.safetensors")
    config = our_config(**RGB_ONLY)
    out = tmp_path / "pipeline" / "transformer"  # a folder above it is searched too
    save_dit(load_dit(tmp_path / "in.safetensors", config), out, max_shard_bytes=100_000)
    load_dit(tmp_path / "pipeline", config)
    load_dit(next(out.glob("*.index.json")), config)
    sorted(out.glob("*.safetensors"))[1].unlink()
    with pytest.raises(UserError, match=r"model-00002-of-\d+\.safetensors is missing"):
        load_dit(tmp_path / "pipeline", config)
    next(out.glob("*.index.json")).write_text("{")
    with pytest.raises(UserError, match="not an index of shards"):
        load_dit(out, config)


def test_not_finite_is_refused_and_no_file_appears(tensors, tmp_path):
    save_file(tensors | {"proj_out.bias": torch.full((16,), 1e6)}, tmp_path / "in.safetensors")
    model = load_dit(tmp_path / "in.safetensors", our_config(**RGB_ONLY))
    with pytest.raises(UserError, match=r"proj_out\.bias is not finite as float16"):
        save_dit(model, tmp_path / "out", storage="float16")
    assert not list((tmp_path / "out").glob("*.safetensors"))


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_every_value_that_is_not_finite_is_named(dtype, monkeypatch):
    monkeypatch.setattr(shards, "FINITE_BLOCK", 2**16)
    bits = np.random.default_rng(0).integers(0, 2**16, 400_000, np.uint16)
    values = bits.view(np.dtype(dtype))
    finite = values[np.isfinite(values)][:150_000]
    file = pathlib.Path("w")
    for array in (finite, np.abs(finite), -np.abs(finite), finite[:0], finite[:6].reshape(2, 3)):
        shards.check_finite(file, "x", array)
    infinities = np.array([np.inf, -np.inf], dtype)
    least = (infinities.view(f"u{finite.itemsize}") + 1).view(infinities.dtype)  # NaNs too
    for bad in (*infinities, *least, np.nan, -np.nan):
        for place in (0, 70_000, finite.size - 1):
            array = finite.copy()
            array[place] = bad
            with pytest.raises(UserError, match=rf"^w: x is -?(inf|nan) at element {place} of"):
                shards.check_finite(file, "x", array)


def test_shards_hold_what_fits(tmp_path):
    shapes = {"a": (10,), "b": (10,), "c": (30,), "d": (1,)}
    plan = shards.plan_shards(shapes, "m", 4, 80)
    assert [list(shard.shapes) for shard in plan] == [["a", "b"], ["c"], ["d"]]
    assert plan[0].name == "m-00001-of-00003.safetensors"
    assert shards.plan_shards(shapes, "m", 4, 1000)[0].name == "m.safetensors"
    for shard in plan:
        shards.write_shard(tmp_path, shard, "float32", lambda n: np.zeros(shapes[n], np.float32))
    shards.write_index(tmp_path, "m", plan, 4)
    index = json.loads((tmp_path / "m.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 4 * 51
    assert index["weight_map"]["c"] == plan[1].name


def test_every_weight_of_ours_is_mapped_once_or_new():
    for switcher, heads, layout in [
        ("none", "shared", "diffusers"),
        ("adaln", "per_modality", "wan"),
        ("additive", "shared", "unityvideo"),
    ]:
        config = our_config(switcher=switcher, heads=heads)
        mapped = wan_keys.entries(config, layout)
        places = [(entry.ours, place) for entry in mapped for place in entry.places]
        assert len(set(places)) == len(places)
        assert len({entry.key for entry in mapped}) == len(mapped)
        new = wan_keys.new_weights(config, mapped)
        assert all(re.match("additive_switch|modality_embedding", name) for name in new), new
