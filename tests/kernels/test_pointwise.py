"""Values and gradients of the pointwise parts against torch's, in float64.

XLA's way, and the GPU kernel's as Pallas emulates it.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional

from unityvideo_jax.kernels import target
from unityvideo_jax.kernels.pointwise import (
    add_bias,
    gated_sum,
    gelu,
    input_and_norm,
    rms_norm,
    sum_and_norm,
)
from unityvideo_jax.kernels.rope import rope_table

B, S, N, D = 2, 2, 12, 48
TOKENS, STREAMS = (B, S, N, D), (B, S, 1, D)
ROPE = tuple(x.reshape(S, N, -1) for x in rope_table(24, S, (3, 2, 2)))


def torch_rms_norm(x, bias, scale):
    return functional.rms_norm(x + bias, [D], scale, 1e-6)


def torch_rotated_rms_norm(x, bias, scale):
    angles = torch.complex(*(torch.tensor(np.asarray(part, np.float64)) for part in ROPE))
    pairs = torch_rms_norm(x, bias, scale).reshape(B, S, N, 2, 12, 2).contiguous()
    turned = torch.view_as_complex(pairs) * angles[:, :, None]
    return torch.view_as_real(turned).reshape(x.shape)


def torch_branch(x, scale, shift):
    return x * (functional.layer_norm(x, [D], eps=1e-6) * scale + shift)


def our_branch(x, scale, shift):
    """Both results in one array, so that each has a gradient of its own."""
    x, y = input_and_norm(x, scale, shift, 1e-6)
    return x * y


def our_two_branches(x, y, bias, scale, shift):
    x, y = sum_and_norm(x, y, bias, scale, shift, 1e-6)
    return x * y


CASES = {
    "add_bias": (add_bias, torch.add, (TOKENS, (D,))),
    "gelu": (
        gelu,
        lambda x, bias: functional.gelu(x + bias, approximate="tanh"),
        (TOKENS, (D,)),
    ),
    "layer norm, affine": (our_branch, torch_branch, (TOKENS, (D,), (D,))),
    "layer norm, a vector per stream": (our_branch, torch_branch, (TOKENS, STREAMS, STREAMS)),
    "layer norm, a vector per token": (our_branch, torch_branch, (TOKENS, TOKENS, TOKENS)),
    "the next branch's layer norm": (
        our_two_branches,
        lambda x, y, bias, scale, shift: torch_branch(x + y + bias, scale, shift),
        (TOKENS, TOKENS, (D,), STREAMS, STREAMS),
    ),
    "rms_norm": (
        lambda x, bias, scale: rms_norm(x, bias, scale, None, 1e-6),
        torch_rms_norm,
        (TOKENS, (D,), (D,)),
    ),
    "rms_norm, turned": (
        lambda x, bias, scale: rms_norm(x, bias, scale, ROPE, 1e-6),
        torch_rotated_rms_norm,
        (TOKENS, (D,), (D,)),
    ),
    "gated_sum": (
        gated_sum,
        lambda x, y, bias, gate: x + (y + bias) * gate,
        (TOKENS, TOKENS, (D,), STREAMS),
    ),
}
# Those arguments are activations; the others are float32 parameters.
ACTIVATIONS = {"gated_sum": 2, "the next branch's layer norm": 2}


def check(name, dtype):
    ours, theirs, shapes = CASES[name]
    rng = np.random.default_rng(0)
    types = [dtype if i < ACTIVATIONS.get(name, 1) else jnp.float32 for i in range(len(shapes))]
    # In quarters, so that bfloat16 holds their sums as well: torch's are not rounded.
    arrays = [
        jnp.asarray(np.round(12.0 * rng.standard_normal(shape) + 4.0) / 4.0, kind)
        for shape, kind in zip(shapes, types, strict=True)
    ]
    weights = jnp.asarray(rng.standard_normal(TOKENS), dtype)
    value, back = jax.vjp(jax.jit(ours), *arrays)
    gradients = back(weights)

    tensors = [torch.tensor(np.asarray(x, np.float64), requires_grad=True) for x in arrays]
    expected = theirs(*tensors)
    expected.backward(torch.tensor(np.asarray(weights, np.float64)))
    assert value.dtype == dtype
    tolerance = 2e-6 if dtype == jnp.float32 else 6e-3
    for got, wanted, kind in zip(
        (value, *gradients), (expected, *(t.grad for t in tensors)), (dtype, *types), strict=True
    ):
        assert got.dtype == kind
        wanted = wanted.detach().numpy()
        error = np.abs(np.asarray(got, np.float64) - wanted)
        assert error.max() <= tolerance * np.abs(wanted).max()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_torchs(name, dtype):
    check(name, dtype)


# The number of kernels of a value and its gradients: 0 where XLA is to stay.
KERNELS = {
    "gelu": 2,
    "layer norm, affine": 2,
    "layer norm, a vector per stream": 2,
    "layer norm, a vector per token": 0,
    "the next branch's layer norm": 2,
    "rms_norm": 2,
    "rms_norm, turned": 2,
    "gated_sum": 1,
}


@pytest.mark.parametrize("name", KERNELS)
def test_the_kernels_are_torchs(name, row_kernels):
    check(name, jnp.bfloat16)
    assert len({formula for formula, _ in row_kernels}) == KERNELS[name]


# Widths of the 1.3B, the 5B, the 10B and the 14B.
@pytest.mark.skipif(jax.__version_info__ >= (0, 11), reason="would need an NVIDIA GPU")
@pytest.mark.parametrize("width", [1536, 3072, 4096, 5120])
def test_triton_takes_the_kernels(width, monkeypatch):
    monkeypatch.setattr(target, "target_device", lambda: ("gpu", "NVIDIA H200"))
    jax.clear_caches()
    rope = tuple(x.reshape(S, N, -1) for x in rope_table(128, S, (3, 2, 2)))

    def branch(x, vector, modulation):
        skip, y = input_and_norm(x, modulation, modulation, 1e-6)
        y = gelu(rms_norm(y, vector, vector, rope, 1e-6), vector)
        skip, y = sum_and_norm(skip, y, vector, modulation, modulation, 1e-6)
        return gated_sum(skip, y, vector, modulation).astype(jnp.float32).sum()

    operands = [
        jax.ShapeDtypeStruct((B, S, N, width), jnp.bfloat16),
        jax.ShapeDtypeStruct((width,), jnp.float32),
        jax.ShapeDtypeStruct((B, S, 1, width), jnp.float32),
    ]
    traced = jax.jit(jax.grad(branch, argnums=(0, 1, 2))).trace(*operands)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    jax.clear_caches()
    # Forward and backward of the norms and of GELU, backward of the gate.
    assert len(set(re.findall(r"func.func private @(_kernel\w*)", text))) == 9
    assert text.count("xla.gpu.triton") == 9


def test_a_constant_row_and_large_values_stay_finite():
    x = jnp.asarray([[1e4] * D, [0.0] * D, [-80.0] * D, [80.0] * D], jnp.float32)
    one, zero = jnp.ones(D), jnp.zeros(D)
    for function in (lambda x: gelu(x, zero), lambda x: input_and_norm(x, one, zero, 1e-6)[1]):
        value, back = jax.vjp(function, x)
        (slope,) = back(jnp.ones_like(x))
        assert np.isfinite(value).all() and np.isfinite(slope).all()
    np.testing.assert_array_equal(jax.vjp(gelu, x, zero)[1](jnp.ones_like(x))[0][0], 1.0)
