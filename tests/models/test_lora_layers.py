"""Adapters: the closed form, which streams they act on, what is trained, and frozen bits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny_dit import call, inputs, quick_jit, random_model, tiny

from unityvideo_jax.errors import UserError
from unityvideo_jax.models import adapter, lora, quantised
from unityvideo_jax.models.lora import LoraConfig

FLOAT32 = jnp.dtype("float32")
MODALITY = [[0, 1], [0, 3]]


def adapted(model, config: LoraConfig, seed=7):
    """A copy of the model with adapters in which nothing is zero."""
    copy = nnx.clone(model)
    lora.add_adapters(copy, config, rngs=nnx.Rngs(seed))
    rng = np.random.default_rng(seed)
    for path, node in nnx.iter_graph(copy):
        if isinstance(node, nnx.Param) and lora.ADAPTER in path:
            node.set_value(jnp.asarray(0.3 * rng.standard_normal(node.shape), jnp.float32))
    return copy


@functools.partial(quick_jit, static_argnums=0)
def _compiled(graph, state, args, key):
    return nnx.merge(graph, state)(*args, dropout_key=key)


def run(model, *args, key=None):
    """The model's output, compiled once for all models of its structure."""
    return _compiled(*nnx.split(model), args, key)


def relative(ours, expected):
    ours, expected = np.asarray(ours), np.asarray(expected)
    return float(np.abs(ours - expected).max() / np.abs(expected).max())


@pytest.fixture(scope="module")
def model():
    return random_model(tiny())


def test_an_adapted_model_is_the_model_with_the_products_added_to_its_kernels(model):
    config = LoraConfig(rank=3, alpha=6.0, targets=("blocks.*", "text_embedding.up"))
    changed = adapted(model, config)
    args = inputs(model.config, MODALITY)
    flat = dict(nnx.to_flat_state(nnx.state(model)))
    for path, layer in lora.linears(changed).items():
        if layer.adapter is not None:
            down, up = (np.asarray(p[...]) for p in (layer.adapter.down, layer.adapter.up))
            kernel = (*path.split("."), "kernel")
            value = np.asarray(flat[kernel][...]) + 2.0 * np.einsum("...ir,...ro->...io", down, up)
            flat[kernel] = flat[kernel].replace(jnp.asarray(value))
    graph = nnx.graphdef(model)
    expected = call(nnx.merge(graph, nnx.from_flat_state(flat)), *args)
    got = run(changed, *args)
    assert relative(call(model, *args), expected) > 0.1
    assert relative(got, expected) < 1e-5
    merged = lora.merge(nnx.state(model), nnx.state(changed), config.scale)
    assert relative(call(nnx.merge(graph, merged), *args), expected) < 1e-5


def test_a_new_adapter_changes_nothing_and_all_default_targets_have_one(model):
    copy = nnx.clone(model)
    lora.add_adapters(copy, LoraConfig(rank=2), rngs=nnx.Rngs(0))
    args = inputs(model.config, MODALITY)
    np.testing.assert_array_equal(run(copy, *args), call(model, *args))
    found = [path for path, layer in lora.linears(copy).items() if layer.adapter is not None]
    kinds = [f"blocks.{a}_attention.{p}" for a in ("self", "cross") for p in "qkvo"]
    assert sorted(found) == sorted([*kinds, "blocks.ffn.up", "blocks.ffn.down"])


def test_an_adapter_per_modality_acts_where_that_modality_is_a_target(model):
    config = LoraConfig(rank=2, adapters="per_modality")
    changed = adapted(model, config)
    latents, timestep, modality, context = inputs(model.config, MODALITY)
    timestep = timestep.at[1].set(jnp.asarray([0.5, 0.0]))  # the second sample's depth is clean
    graph, state = nnx.split(changed)

    @quick_jit
    def gradients(state, row):
        def loss(state):
            velocity = nnx.merge(graph, state)(latents, timestep, modality, context)
            return jnp.sum(velocity[row] ** 2)

        return jax.grad(loss)(state)

    for row, active in ((0, {0, 1}), (1, {0})):
        found = gradients(state, row)
        for path, leaf in nnx.to_flat_state(found):
            if lora.ADAPTER in path:
                sums = np.abs(np.asarray(leaf[...])).sum(axis=(0, 2, 3))
                assert set(np.flatnonzero(sums)) == active, (path, row)

    # Where only RGB's acts, it is a shared adapter on the RGB stream alone.
    alone = (latents[1:, :1], timestep[1:, :1], modality[1:, :1], context[1:, :1])
    shared = adapted(model, LoraConfig(rank=2))
    for path, layer in lora.linears(changed).items():
        if layer.adapter is not None:
            other = lora.linears(shared)[path].adapter
            other.down.set_value(layer.adapter.down[:, 0])
            other.up.set_value(layer.adapter.up[:, 0])
    assert relative(run(changed, *alone), run(shared, *alone)) < 1e-5


def test_dropout_needs_a_key_is_unbiased_and_differs_by_layer(model):
    dropped = adapted(model, LoraConfig(rank=2, dropout=0.5))
    plain = adapted(model, LoraConfig(rank=2))
    args = inputs(model.config, MODALITY)
    np.testing.assert_array_equal(run(dropped, *args), run(plain, *args))
    first, again, other = (run(dropped, *args, key=jax.random.key(n)) for n in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert relative(first, other) > 1e-3
    layer = lora.linears(dropped)["text_embedding.up"]
    layer.adapter = lora.Adapter(layer, 2, dropout=0.25, rngs=nnx.Rngs(0))
    layer.adapter.up.set_value(jnp.ones_like(layer.adapter.up[...]))
    x = jnp.ones((4000, layer.kernel.shape[0]))
    use = adapter.Use(jnp.ones((1, 1, 1)), jax.random.key(3))
    mean = layer.adapter(x, FLOAT32, use).mean(axis=0)
    np.testing.assert_allclose(mean, layer.adapter(x[:1], FLOAT32)[0], atol=0.02)


@pytest.mark.parametrize(("base", "largest"), [("bfloat16", 0.0), ("int8", 0.02), ("nf4", 0.2)])
def test_frozen_matrices_in_fewer_bits(base, largest):
    """In bfloat16 the model computes bit for bit what float32 masters do."""
    config = tiny(dim=64, ffn_dim=128, num_heads=4, dtype="bfloat16", modalities=("rgb", "depth"))
    whole = random_model(config)
    held = nnx.clone(whole)
    lora.hold_frozen(held, LoraConfig(rank=1, base=base))
    args = inputs(config, [[0, 1]])
    error = relative(run(held, *args), call(whole, *args))
    assert error <= largest and (base == "bfloat16" or error > largest / 20), error
    sizes = [x.nbytes for path, x in nnx.to_flat_state(nnx.state(held.blocks.ffn.up))]
    bits = {"bfloat16": 16, "int8": 8 + 32 / 64, "nf4": 4 + 32 / 64}[base]
    assert sum(sizes) == 2 * 128 * (64 * bits / 8 + 4)


def test_nf4_values_are_quantiles_of_a_normal_distribution():
    """QLoRA's construction: nine quantiles above zero, eight below, scaled to reach 1."""
    norm = pytest.importorskip("scipy.stats").norm
    offset = 0.9677083
    above = norm.ppf(np.linspace(offset, 0.5, 9)[:-1])
    below = -norm.ppf(np.linspace(offset, 0.5, 8)[:-1])
    expected = np.sort([*above, 0.0, *below])
    np.testing.assert_allclose(quantised.NF4, expected / expected.max(), atol=2e-7)
    # Every value is its own nearest code, in either half of a byte.
    kernel = jnp.asarray(np.tile(quantised.NF4, 4)[:, None] * [[1.0, 5.0]])
    restored = quantised.restore(*quantised.quantise(kernel, "nf4"), FLOAT32)
    np.testing.assert_allclose(restored, kernel, rtol=1e-6)


def test_what_trains_is_what_the_patterns_say():
    config = tiny()
    own = ("modality_embedding.*", "heads.*", "blocks.modulation.*")
    chosen = LoraConfig(rank=2, train=own)
    model = nnx.eval_shape(lambda: lora.make(config, chosen, rngs=nnx.Rngs(0)))
    _, trained, frozen = nnx.split(model, chosen.trains, ...)
    names = {".".join(map(str, path)) for path, _ in nnx.to_flat_state(trained)}
    ours = {name for name in names if ".adapter." not in name}
    assert ours == {
        "modality_embedding.table",
        "blocks.modulation.table",
        "heads.modulation.table",
        "heads.kernel",
        "heads.bias",
    }
    assert len(names) - len(ours) == 20
    held = {".".join(map(str, path)): str(leaf.dtype) for path, leaf in nnx.to_flat_state(frozen)}
    assert held["blocks.ffn.up.kernel"] == held["text_embedding.up.kernel"] == "bfloat16"
    # What makes the modulation stays float32, and so do vectors.
    assert held["time_projection.kernel"] == held["blocks.cross_norm.scale"] == "float32"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (dict(rank=-1), r"lora\.rank=-1"),
        (dict(rank=2, dropout=1.0), r"lora\.dropout=1\.0"),
        (dict(rank=2, base="fp8"), r"lora\.base='fp8': use one of"),
        (dict(rank=2, targets="blocks.*"), r"lora\.targets='blocks\.\*': give a tuple"),
        (dict(rank=2, train=5), r"lora\.train=5: give a tuple"),
        (dict(rank=2, targets=("blocks.qkv",)), "'blocks.qkv' matches none of blocks.cross"),
        (dict(rank=2, train=("head.*",)), r"'head\.\*' matches none of blocks"),
        (dict(rank=2, targets=("*.up",), adapters="per_modality"), "inside the blocks alone"),
        (dict(rank=2, base="nf4"), "lora.base='nf4': .* a layer has 48: use 'int8'"),
    ],
)
def test_impossible_adapter_settings_are_one_line(settings, says):
    with pytest.raises(UserError, match=says):
        chosen = LoraConfig.of({"lora": settings})
        nnx.eval_shape(lambda: lora.make(tiny(), chosen, rngs=nnx.Rngs(0)))
