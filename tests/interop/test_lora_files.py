"""Adapters in and out, against diffusers and PEFT; and what is no adapter of the model."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from safetensors.torch import load_file, save_file
from wan_torch import SIZES, call, channels_last, original_names, our_config, quick_jit, torch_wan

from unityvideo_jax.errors import UserError
from unityvideo_jax.interop import lora as files
from unityvideo_jax.interop import lora_apply
from unityvideo_jax.interop.wan import load_dit
from unityvideo_jax.models import lora

peft = pytest.importorskip("peft")

LIBRARY = "diffusers + PEFT"
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "net.2"]
TIMESTEP = np.float32([0.137, 0.861])
CONFIG = our_config(modalities=("rgb",), switcher="none")


def arguments():
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((2, 4, 3, 4, 6), np.float32)
    return latents, rng.standard_normal((2, 7, 12), np.float32)


def run_torch(model):
    latents, context = arguments()
    with torch.no_grad():
        times = torch.from_numpy(1000.0 * TIMESTEP)
        inputs = (torch.from_numpy(latents), times, torch.from_numpy(context))
        return channels_last(model(*inputs, return_dict=False)[0].numpy())


def ours(model, run=call):
    latents, context = arguments()
    return run(
        model,
        jnp.asarray(channels_last(latents)),
        jnp.asarray(TIMESTEP)[:, None],
        jnp.zeros((2, 1), jnp.int32),
        jnp.asarray(context)[:, None],
    )


def compiled(model, *args):
    graph, state = nnx.split(model)
    return quick_jit(lambda s: nnx.merge(graph, s)(*args))(state)


def add_adapter(model, rank, alpha, seed, name="default"):
    """An adapter of PEFT with nothing zero in it."""
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=TARGETS)
    model.add_adapter(config, adapter_name=name)
    generator = torch.Generator().manual_seed(seed)
    for key, weight in model.named_parameters():
        if f".{name}." in key:
            weight.data = 0.2 * torch.randn(weight.shape, generator=generator)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """diffusers' files of the transformer, and ours of them."""
    folder = tmp_path_factory.mktemp("wan")
    torch_wan().save_pretrained(folder)
    return folder, load_dit(folder, CONFIG)


@pytest.fixture(scope="module")
def written(base, tmp_path_factory):
    """An adapter as diffusers writes it, and what the adapted model computes."""
    folder, plain = tmp_path_factory.mktemp("adapter"), ours(base[1])
    model = torch_wan()
    add_adapter(model, rank=3, alpha=6, seed=1)
    model.save_lora_adapter(folder)
    expected = run_torch(model)
    assert np.abs(expected - plain).max() > 0.2 * np.abs(expected).max()
    return folder, expected


def merged(base, *adapters):
    opened = [(files.open_adapter(path, CONFIG), weight) for path, weight in adapters]
    state = lora_apply.merge_into(nnx.state(base[1]), opened)
    return ours(nnx.merge(nnx.graphdef(base[1]), state))


def at_run_time(base, *adapters):
    opened = [(files.open_adapter(path, CONFIG), weight) for path, weight in adapters]
    model = lora_apply.apply(base[1], opened)
    with pytest.raises(UserError, match="has adapters of its own"):
        lora_apply.apply(model, opened)
    return ours(model, compiled)


@pytest.mark.parametrize("apply", [merged, at_run_time])
def test_diffusers_adapter_here(base, written, apply, parity):
    name = f"LoRA from diffusers, {apply.__name__.replace('_', ' ')}"
    parity(name, LIBRARY, apply(base, (written[0], 1.0)), written[1], bound=1e-5)


@pytest.mark.parametrize("apply", [merged, at_run_time])
def test_several_adapters_with_weights(base, written, tmp_path, apply, parity):
    model = torch_wan()
    add_adapter(model, 3, 6, seed=1, name="first")
    add_adapter(model, 2, 1, seed=2, name="second")
    model.save_lora_adapter(tmp_path, adapter_name="second")
    model.set_adapters(["first", "second"], weights=[0.7, -0.4])
    expected = run_torch(model)
    got = apply(base, (written[0], 0.7), (tmp_path, -0.4))
    parity("LoRA, two with weights", LIBRARY, got, expected, bound=1e-5)


def spelled(stored, family):
    """The tensors of diffusers' file under the names of another family, with alpha 6."""
    modules = {key.rsplit(".lora_", 1)[0] for key in stored}
    names = {m: original_names([f"{m}."])[f"{m}."].removesuffix(".") for m in modules}
    renamed = {}
    for key, tensor in stored.items():
        module, part = key.rsplit(".lora_", 1)
        side = {"A.weight": "down.weight", "B.weight": "up.weight"}[part]
        original = names[module]
        prefix, _, tail = family.partition("|")
        match tail:
            case "peft":
                renamed[f"{prefix}{module}.lora_{part}"] = tensor
            case "named":
                renamed[f"{prefix}{module}.lora_{part.replace('.', '.default.')}"] = tensor
            case "original":
                renamed[f"{prefix}{original}.lora_{part}"] = tensor
                renamed[f"{prefix}{original}.alpha"] = torch.tensor(6.0)
            case "comfy":
                renamed[f"{prefix}{original}.lora_{side}"] = tensor.half()
                renamed[f"{prefix}{original}.alpha"] = torch.tensor(6.0)
            case "kohya":
                flat = original.replace(".", "_")
                renamed[f"{prefix}{flat}.lora_{side}"] = tensor.bfloat16()
                renamed[f"{prefix}{flat}.alpha"] = torch.tensor(6.0)
    return renamed


@pytest.mark.parametrize(
    "family",
    [
        "transformer.|peft",
        "base_model.model.|peft",
        "base_model.model.transformer.|named",
        "diffusion_model.|original",
        "|original",
        "model.diffusion_model.|comfy",
        "diffusion_model.|comfy",
        "lora_unet_|kohya",
        "lora_unet__|kohya",
    ],
)
def test_names_of_every_family_mean_the_same(written, tmp_path, family):
    stored = load_file(written[0] / "pytorch_lora_weights.safetensors")
    expected = {c.entry.key: c.value() for c in files.open_adapter(written[0], CONFIG).changes}
    save_file(spelled(stored, family), tmp_path / "adapter_model.safetensors")
    if family.endswith(("peft", "named")):  # PEFT keeps alpha in a file of its own
        (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 6, "r": 3}))
    changes = files.open_adapter(tmp_path, CONFIG).changes
    ours_at = {(c.entry.ours, c.entry.places): c.value() for c in changes}
    first = files.open_adapter(written[0], CONFIG).changes
    assert len(changes) == len(expected) == 2 * 10
    tolerance = 0.02 if family.endswith(("comfy", "kohya")) else 1e-6
    for change in first:
        got = ours_at[change.entry.ours, change.entry.places]
        scale = np.abs(change.value()).max()
        np.testing.assert_allclose(got / scale, change.value() / scale, atol=tolerance)


def test_differences_and_edges_are_added_too(base, tmp_path):
    """Distilled adapters also change biases, norms, patches and heads."""
    width = SIZES["num_heads"] * SIZES["head_dim"]
    rng = np.random.default_rng(0)
    random = lambda *shape: torch.from_numpy(rng.standard_normal(shape, np.float32))  # noqa: E731
    tensors = {
        "diffusion_model.blocks.1.self_attn.q.diff_b": random(width),
        "diffusion_model.blocks.0.cross_attn.norm_k.diff": random(width),
        "diffusion_model.blocks.1.modulation.diff": random(1, 6, width),
        "diffusion_model.patch_embedding.lora_down.weight": random(2, 4, 1, 2, 2),
        "diffusion_model.patch_embedding.lora_up.weight": random(width, 2, 1, 1, 1),
        "diffusion_model.head.head.lora_down.weight": random(2, width),
        "diffusion_model.head.head.lora_up.weight": random(16, 2),
    }
    save_file(tensors, tmp_path / "distilled.safetensors")
    adapter = files.open_adapter(tmp_path / "distilled.safetensors", CONFIG)
    got = ours(
        nnx.merge(
            nnx.graphdef(base[1]), lora_apply.merge_into(nnx.state(base[1]), [(adapter, 0.5)])
        )
    )
    model = torch_wan()
    weights = model.state_dict()
    names = {new: old for old, new in original_names(weights).items()}
    for key, value in tensors.items():
        key = key.removeprefix("diffusion_model.")
        if key.endswith(".lora_down.weight"):
            module = key.removesuffix(".lora_down.weight")
            up = tensors[f"diffusion_model.{module}.lora_up.weight"].flatten(1)
            weight = weights[names[f"{module}.weight"]]
            weight += 0.5 * (up @ value.flatten(1)).reshape(weight.shape)
        elif key.endswith(".diff_b"):
            weights[names[key.replace(".diff_b", ".bias")]] += 0.5 * value
        elif key.endswith(".diff"):
            module = key.removesuffix(".diff")
            weights[names.get(f"{module}.weight") or names[module]] += 0.5 * value
    model.load_state_dict(weights)
    expected = run_torch(model)
    assert np.abs(got - expected).max() < 1e-5 * np.abs(expected).max()
    beside = ours(lora_apply.apply(base[1], [(adapter, 0.5)]), compiled)
    assert np.abs(beside - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("layout", ["diffusers", "wan"])
def test_adapter_from_here_in_diffusers(base, tmp_path, layout, parity):
    """The pipeline's loader reads both; alpha is part of what is written."""
    from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline

    adapted = nnx.clone(base[1])
    config = lora.LoraConfig(rank=3, alpha=1.5)
    lora.add_adapters(adapted, config, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(5)
    layers = {}
    for path, layer in lora.linears(adapted).items():
        if layer.adapter is not None:
            up = rng.standard_normal(layer.adapter.up.shape).astype(np.float32)
            layer.adapter.up.set_value(jnp.asarray(up))
            layers[path] = np.asarray(layer.adapter.down[...]), config.scale * up
    file = tmp_path / "pytorch_lora_weights.safetensors"
    count = files.write_adapter(file, layers, CONFIG, layout=layout, storage="float32")
    assert count == 2 * 2 * 10
    model = torch_wan()
    pipeline = WanPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=None,
        transformer=model,
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )
    pipeline.load_lora_weights(tmp_path)
    expected = run_torch(pipeline.transformer)
    got = ours(adapted, compiled)
    assert np.abs(got - ours(base[1])).max() > 0.1 * np.abs(expected).max()
    parity(f"LoRA to diffusers, names of {layout}", LIBRARY, got, expected, bound=1e-5)
    again = files.open_adapter(tmp_path, CONFIG)
    np.testing.assert_array_equal(
        lora_apply.low_rank([(again, 1.0)], CONFIG)[0]["blocks.ffn.up"][1],
        layers["blocks.ffn.up"][1],
    )


Q = "diffusion_model.blocks.0.self_attn.q"
DOWN, UP = f"{Q}.lora_A.weight", f"{Q}.lora_B.weight"
TURNED = (("A", (4, 72)), ("B", (40, 4)))  # of a layer that maps 40 features to 72


@pytest.mark.parametrize(
    ("shapes", "says"),
    [
        ({f"{Q}.weight": (40, 40)}, "is a Wan transformer; give an adapter"),
        ({DOWN: (4, 40)}, "rank 4 that lacks the up .B. of diffusion_model.blocks.0.self_attn.q"),
        ({DOWN: (4, 40), UP: (40, 5)}, "goes down to rank 4 and up from rank 5"),
        ({DOWN: (4, 64), UP: (64, 4)}, "for another size of model: .* maps 64 features to 64"),
        (
            {f"diffusion_model.blocks.0.ffn.0.lora_{s}.weight": shape for s, shape in TURNED},
            "maps 72 features to 40, and this model's weight is .72, 40.",
        ),
        (
            {DOWN: (4, 40), UP: (40, 4), **{k.replace("0", "9"): (4, 4) for k in (DOWN, UP)}},
            "for a Wan transformer of 10 layers, and this model has 2",
        ),
        (
            {k.replace(".q", ".k_img"): (4, 4) for k in (DOWN, UP)},
            "for a Wan image-to-video transformer of CLIP images",
        ),
        (
            {
                f"transformer.single_transformer_blocks.0.attn.to_q.lora_{s}.weight": (4, 4)
                for s in "AB"
            },
            "for a transformer of another architecture|for another model",
        ),
        (
            {f"lora_unet_double_blocks_0_img_attn_qkv.lora_{s}.weight": (4, 4) for s in UPDOWN}
            if (UPDOWN := ("up", "down"))
            else {},
            "for another model: 1 of its 1 modules",
        ),
        (
            {DOWN: (4, 40), UP: (40, 4), f"{Q}.lora_magnitude_vector": (40,)},
            "tensors .DoRA. that are not understood",
        ),
        ({f"{Q}.hada_w1_a": (4, 40)}, "a LoHa adapter"),
        ({"x.weight": (4, 4)}, "is no adapter that is known"),
    ],
)
def test_what_is_no_adapter_of_the_model_is_one_line(tmp_path, shapes, says):
    file = tmp_path / "adapter.safetensors"
    save_file({name: torch.ones(shape) for name, shape in shapes.items()}, file)
    with pytest.raises(UserError, match=says) as caught:
        files.open_adapter(file, CONFIG)
    assert "\n" not in str(caught.value) and str(file) in str(caught.value)
