"""Values and gradients of the pointwise parts against torch's, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional

from unityvideo_jax.models.pointwise import add_bias, gated_sum, gelu, layer_norm, rms_norm
from unityvideo_jax.models.rope import rope_table

B, S, N, D = 2, 2, 12, 48
TOKENS, STREAMS = (B, S, N, D), (B, S, 1, D)
ROPE = tuple(x.reshape(S, N, -1) for x in rope_table(24, S, (3, 2, 2)))


def torch_rms_norm(x, scale):
    return functional.rms_norm(x, [D], scale, 1e-6)


def torch_rotated_rms_norm(x, scale):
    angles = torch.complex(*(torch.tensor(np.asarray(part, np.float64)) for part in ROPE))
    pairs = torch_rms_norm(x, scale).reshape(B, S, N, 2, 12, 2).contiguous()
    turned = torch.view_as_complex(pairs) * angles[:, :, None]
    return torch.view_as_real(turned).reshape(x.shape)


def torch_layer_norm(x, scale, shift):
    return functional.layer_norm(x, [D], eps=1e-6) * scale + shift


def our_layer_norm(x, scale, shift):
    return layer_norm(x, scale, shift, 1e-6)


CASES = {
    "add_bias": (add_bias, torch.add, (TOKENS, (D,))),
    "gelu": (gelu, lambda x: functional.gelu(x, approximate="tanh"), (TOKENS,)),
    "layer_norm, affine": (
        our_layer_norm,
        torch_layer_norm,
        (TOKENS, (D,), (D,)),
    ),
    "layer_norm, a vector a stream": (
        our_layer_norm,
        torch_layer_norm,
        (TOKENS, STREAMS, STREAMS),
    ),
    "layer_norm, a vector a token": (
        our_layer_norm,
        torch_layer_norm,
        (TOKENS, TOKENS, TOKENS),
    ),
    "rms_norm": (lambda x, scale: rms_norm(x, scale, None, 1e-6), torch_rms_norm, (TOKENS, (D,))),
    "rms_norm, turned": (
        lambda x, scale: rms_norm(x, scale, ROPE, 1e-6),
        torch_rotated_rms_norm,
        (TOKENS, (D,)),
    ),
    "gated_sum": (
        gated_sum,
        lambda x, y, gate: x + y * gate,
        (TOKENS, TOKENS, STREAMS),
    ),
}
# Those arguments are activations; the others are float32 parameters.
ACTIVATIONS = {"gated_sum": 2}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_torchs(name, dtype):
    ours, theirs, shapes = CASES[name]
    rng = np.random.default_rng(0)
    types = [dtype if i < ACTIVATIONS.get(name, 1) else jnp.float32 for i in range(len(shapes))]
    arrays = [
        jnp.asarray(3.0 * rng.standard_normal(shape) + 1.0, kind)
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


def test_a_constant_row_and_large_values_stay_finite():
    x = jnp.asarray([[1e4] * D, [0.0] * D, [-80.0] * D, [80.0] * D], jnp.float32)
    one, zero = jnp.ones(D), jnp.zeros(D)
    for function in (gelu, lambda x: layer_norm(x, one, zero, 1e-6)):
        value, back = jax.vjp(function, x)
        (slope,) = back(jnp.ones_like(x))
        assert np.isfinite(value).all() and np.isfinite(slope).all()
    np.testing.assert_array_equal(jax.vjp(gelu, x)[1](jnp.ones_like(x))[0][0], 1.0)
