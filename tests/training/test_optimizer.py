"""AdamW against PyTorch's, Muon against optax's, and moments that are kept in half the bytes."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from unityvideo_jax.errors import UserError
from unityvideo_jax.models.dit import DiT, DiTConfig
from unityvideo_jax.parallel.mesh import MeshConfig, make_mesh
from unityvideo_jax.parallel.rules import like_parameters
from unityvideo_jax.training.optimizer import OptimizerConfig, make_optimizer, make_schedule

STEPS = 60
SHAPES = {"kernel": (24, 16), "bias": (16,)}


def _config(moments):
    return OptimizerConfig(
        learning_rate=1e-2, warmup_steps=0, clip_norm=1e9, weight_decay=0.1, moments=moments
    )


def _gradient(params, inputs, xp):
    """Gradients of the mean square of a linear map, by hand."""
    error = inputs @ params["kernel"] + params["bias"] - xp.sin(inputs[:, :16])
    return {"kernel": inputs.T @ error / len(inputs), "bias": error.mean(0)}


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    start = {k: rng.standard_normal(s).astype(np.float32) for k, s in SHAPES.items()}
    return start, rng.standard_normal((STEPS, 32, 24)).astype(np.float32)


def _ours(problem, moments):
    start, inputs = problem
    optimizer = make_optimizer(_config(moments), STEPS)
    params = jax.tree.map(jnp.asarray, start)

    @jax.jit
    def step(params, state, inputs):
        updates, state = optimizer.update(_gradient(params, inputs, jnp), state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for batch in inputs:
        params, state = step(params, state, batch)
    return params, state


def _theirs(problem):
    start, inputs = problem
    params = {k: torch.tensor(v, requires_grad=True) for k, v in start.items()}
    groups = [
        {"params": [params["kernel"]], "weight_decay": 0.1},
        {"params": [params["bias"]], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95), eps=1e-8)
    for batch in torch.tensor(inputs):
        with torch.no_grad():
            for name, gradient in _gradient(params, batch, torch).items():
                params[name].grad = gradient
        optimizer.step()
    return {k: v.detach().numpy() for k, v in params.items()}


def test_adamw_is_pytorchs(problem):
    params, _ = _ours(problem, "float32")
    for name, expected in _theirs(problem).items():
        np.testing.assert_allclose(params[name], expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("switcher", ["additive", "adaln"])
def test_what_modalities_add_has_its_own_rate_as_in_two_groups_of_torch(switcher):
    """The rows of one array that RGB has, and those that it has not, are groups of their own."""
    config = DiTConfig(
        dim=24, ffn_dim=32, num_heads=2, num_layers=1, freq_dim=8, text_dim=4, switcher=switcher,
        inputs="shared", heads="shared", modalities=("rgb", "depth", "flow"),
    )  # fmt: skip
    params = nnx.state(DiT(config, rngs=nnx.Rngs(0)), nnx.Param)
    gradients = jax.tree.map(lambda x: jnp.linspace(-1, 1, x.size).reshape(x.shape), params)
    factors = {"inputs": 10.0, "switch": 10.0, "heads": 0.0, "tables": 3.0, "backbone": 0.5}

    def updates(**fields):
        settings = OptimizerConfig(
            learning_rate=1e-3, warmup_steps=0, clip_norm=1e9, weight_decay=0.1, **fields
        )
        optimizer = make_optimizer(settings, 10)
        found = optimizer.update(gradients, optimizer.init(params), params)[0]
        return {".".join(map(str, k)): v[...] for k, v in nnx.to_flat_state(found)}

    plain, scaled = updates(), updates(rate_factors=factors)
    for name, update in plain.items():
        factor = np.full(update.shape, 0.5)
        if name.startswith(("patch_embedding", "heads")):
            factor[1:] = 10.0 if name.startswith("patch") else 0.0
        elif name == "blocks.modulation.table":
            factor[:, 1:] = 3.0
        elif name.startswith(("modality_embedding", "additive_switch")):
            factor[:] = 10.0
        np.testing.assert_allclose(scaled[name], update * factor, rtol=1e-6, err_msg=name)
    with pytest.raises(UserError, match=r"rate_factors.head: .*did you mean 'heads'"):
        OptimizerConfig(learning_rate=1.0, rate_factors={"head": 1.0})
    with pytest.raises(UserError, match=r"rate_factors.heads=-1: give 0 or"):
        OptimizerConfig(learning_rate=1.0, rate_factors={"heads": -1})


def test_bfloat16_moments_follow_float32_in_half_the_bytes(problem):
    (start, _), expected = problem, _theirs(problem)
    params, state = _ours(problem, "bfloat16")
    for name in SHAPES:
        way = np.linalg.norm(expected[name] - start[name])
        assert 0 < np.linalg.norm(params[name] - expected[name]) < 0.01 * way
    moments = [x for x in jax.tree.leaves(state) if x.ndim]
    assert len(moments) == 4
    assert {x.dtype for x in moments} == {jnp.dtype("bfloat16")}


LAYERS = 3
# A stack of two kinds of matrices, and what Muon must leave to AdamW.
STACKED = {
    "blocks": {
        "up": {"kernel": (LAYERS, 8, 24), "bias": (LAYERS, 24)},
        "down": {"kernel": (LAYERS, 24, 8), "bias": (LAYERS, 8)},
        "table": (LAYERS, 6, 8),
    },
    "head": {"kernel": (8, 16)},
}


def _stacked(seed):
    leaves, structure = jax.tree.flatten(STACKED, is_leaf=lambda x: isinstance(x, tuple))
    rng = np.random.default_rng(seed)
    return jax.tree.unflatten(
        structure, [jnp.asarray(rng.standard_normal(s), jnp.float32) for s in leaves]
    )


def _train(optimizer, params, gradients):
    update = jax.jit(optimizer.update)
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def test_muon_is_optaxs_per_layer_and_the_rest_is_adamw():
    options = dict(learning_rate=1e-2, warmup_steps=2, clip_norm=1e9, weight_decay=0.1)
    start, gradients = _stacked(0), [_stacked(n) for n in range(1, 5)]
    config = OptimizerConfig(name="muon", **options)
    found, _ = _train(make_optimizer(config, STEPS), start, gradients)
    adamw = make_optimizer(OptimizerConfig(**options), STEPS)
    expected, _ = _train(adamw, start, gradients)
    theirs = optax.contrib.muon(make_schedule(config, STEPS), weight_decay=0.1, consistent_rms=0.2)
    for name in ("up", "down"):
        for layer in range(LAYERS):
            kernels = [tree["blocks"][name]["kernel"][layer] for tree in (start, *gradients)]
            alone, _ = _train(theirs, {"w": kernels[0]}, [{"w": g} for g in kernels[1:]])
            np.testing.assert_allclose(
                found["blocks"][name]["kernel"][layer], alone["w"], rtol=1e-4, atol=1e-5
            )
        assert not np.allclose(found["blocks"][name]["kernel"], expected["blocks"][name]["kernel"])
        found["blocks"][name].pop("kernel")
        expected["blocks"][name].pop("kernel")
    chex.assert_trees_all_equal(found, expected)


def test_muon_moves_weights_as_far_as_adamw_and_halves_its_momentum():
    options = dict(learning_rate=1e-2, warmup_steps=0, clip_norm=1e9, weight_decay=0.0)
    start, gradients = _stacked(0), [_stacked(1)]
    config = OptimizerConfig(name="muon", moments="bfloat16", **options)
    params, state = _train(make_optimizer(config, STEPS), start, gradients)
    for name in ("up", "down"):
        moved = params["blocks"][name]["kernel"] - start["blocks"][name]["kernel"]
        assert 0.6 < np.sqrt(np.mean(np.square(moved))) / (0.2 * 1e-2) < 1.4
    size = sum(x.size for x in jax.tree.leaves(start))
    kernels = sum(start["blocks"][n]["kernel"].size for n in ("up", "down"))
    moments = [x for x in jax.tree.leaves(state) if x.dtype == jnp.bfloat16]
    assert sum(x.size for x in moments) == 2 * size - kernels


def test_muon_states_are_laid_out_like_their_parameters_and_split_ones_train_alike():
    config = OptimizerConfig(name="muon", learning_rate=1e-2, warmup_steps=0)
    optimizer, params = make_optimizer(config, STEPS), _stacked(0)
    state = jax.eval_shape(optimizer.init, params)
    mesh = make_mesh(MeshConfig(data=1, fsdp=2), jax.devices()[:2])
    layout = jax.tree.map(
        lambda x: NamedSharding(mesh, PartitionSpec(*[None] * (x.ndim - 1), "fsdp")), params
    )
    split, gradient = (jax.device_put(tree, layout) for tree in (params, _stacked(1)))
    alone, _ = _train(optimizer, params, [_stacked(1)])
    together, _ = _train(optimizer, split, [gradient])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), alone, together)
    found = jax.tree.leaves(like_parameters(state, params, layout, mesh))
    for x, sharding in zip(jax.tree.leaves(state), found, strict=True):
        expected = PartitionSpec(*[None] * (x.ndim - 1), "fsdp") if x.ndim > 1 else PartitionSpec()
        assert sharding.spec == expected, x.shape


def test_an_unknown_optimizer_is_named():
    with pytest.raises(UserError, match=r"config.optimizer.name='sgd': use one of \('adamw'"):
        OptimizerConfig(learning_rate=1e-3, name="sgd")


def test_bfloat16_moments_refuse_what_they_cannot_follow():
    with pytest.raises(UserError, match=r"set all to at most 0\.99, or moments to 'float32'"):
        OptimizerConfig(learning_rate=1e-3, b2=0.999, moments="bfloat16")
    with pytest.raises(UserError, match="moments='int8'"):
        OptimizerConfig(learning_rate=1e-3, moments="int8")
