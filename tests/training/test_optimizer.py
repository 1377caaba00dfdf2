"""AdamW against PyTorch's, and moments that are kept in half the bytes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from unityvideo_jax.errors import UserError
from unityvideo_jax.training.optimizer import OptimizerConfig, make_optimizer

STEPS = 60
SHAPES = {"kernel": (24, 16), "bias": (16,)}


def _config(moments):
    return OptimizerConfig(
        learning_rate=1e-2, warmup_steps=0, clip_norm=1e9, weight_decay=0.1, moments=moments
    )


def _gradient(params, inputs, xp):
    """Of the mean square of a linear map, by hand."""
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


def test_it_is_pytorchs_adamw(problem):
    params, _ = _ours(problem, "float32")
    for name, expected in _theirs(problem).items():
        np.testing.assert_allclose(params[name], expected, rtol=0, atol=2e-5)


def test_bfloat16_moments_follow_float32_in_half_the_bytes(problem):
    (start, _), expected = problem, _theirs(problem)
    params, state = _ours(problem, "bfloat16")
    for name in SHAPES:
        way = np.linalg.norm(expected[name] - start[name])
        assert 0 < np.linalg.norm(params[name] - expected[name]) < 0.01 * way
    moments = [x for x in jax.tree.leaves(state) if x.ndim]
    assert len(moments) == 4
    assert {x.dtype for x in moments} == {jnp.dtype("bfloat16")}


def test_bfloat16_moments_refuse_what_they_cannot_follow():
    with pytest.raises(UserError, match=r"set both to at most 0\.99, or moments to 'float32'"):
        OptimizerConfig(learning_rate=1e-3, b2=0.999, moments="bfloat16")
    with pytest.raises(UserError, match="moments='int8'"):
        OptimizerConfig(learning_rate=1e-3, moments="int8")
