"""Attention against a softmax written out in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.test_util import check_grads
from test_rope import rotate_by_complex_numbers

from unityvideo_jax.models.attention import (
    Attention,
    dot_product_attention,
    pick_implementation,
    save_attention,
)
from unityvideo_jax.models.rope import rope_table


def softmax_attention(q, k, v):
    """[b, n, h, d] in float64."""
    scores = np.einsum("bnhd,bmhd->bhnm", q, k) / np.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("bhnm,bmhd->bnhd", weights, v)


def qkv(n, m, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((2, length, 3, 8)) for length in (n, m, m)]


@pytest.mark.parametrize(("n", "m"), [(7, 7), (5, 11)])
@pytest.mark.parametrize("implementation", ["auto", "xla"])
def test_equals_plain_softmax(n, m, implementation):
    q, k, v = qkv(n, m)
    ours = dot_product_attention(
        *(jnp.asarray(x, jnp.float32) for x in (q, k, v)), implementation=implementation
    )
    np.testing.assert_allclose(ours, softmax_attention(q, k, v), rtol=1e-5, atol=1e-6)


def test_large_bfloat16_scores_are_summed_in_float32():
    q, k, v = (jnp.asarray(x, jnp.bfloat16) for x in qkv(6, 300))
    ours = dot_product_attention(q * 8, k, v)
    exact = softmax_attention(*(np.asarray(x, np.float64) for x in (q * 8, k, v)))
    assert ours.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(ours, np.float64), exact, rtol=0, atol=3e-2)


def test_gradient_equals_finite_differences():
    q, k, v = (jnp.asarray(x, jnp.float32) for x in qkv(3, 4))
    check_grads(jax.jit(dot_product_attention), (q, k, v), order=1, modes=["rev"], rtol=2e-2)


def test_cudnn_is_left_alone_where_it_cannot_run():
    assert jax.default_backend() == "cpu"
    assert pick_implementation(jnp.dtype("bfloat16"), 64) == "xla"


def test_kernel_follows_device_type_and_head(monkeypatch):
    class Device:
        device_kind = "NVIDIA H200"

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "devices", lambda: [Device()])
    assert pick_implementation(jnp.dtype("bfloat16"), 128) == "cudnn"
    assert pick_implementation(jnp.dtype("float32"), 128) == "xla"
    assert pick_implementation(jnp.dtype("bfloat16"), 20) == "xla"
    Device.device_kind = "AMD Instinct MI300X"
    assert pick_implementation(jnp.dtype("bfloat16"), 128) == "xla"


def test_policy_keeps_the_output_of_the_cudnn_kernel(monkeypatch):
    """Traced only: the forward kernel appears once if its output is kept, twice if recomputed."""
    kernel = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    for check in ("check_cudnn_version", "check_compute_capability", "check_is_flash_attention"):
        monkeypatch.setattr(kernel, check, lambda *_, **__: 0)
    q = jax.ShapeDtypeStruct((2, 16, 2, 64), jnp.bfloat16)

    def forward_kernels(policy):
        def loss(q):
            return jnp.sum(dot_product_attention(2 * q, q, q, "cudnn"))

        loss = jax.checkpoint(loss, policy=policy, prevent_cse=False)
        return str(jax.make_jaxpr(jax.grad(loss))(q)).count("dot_product_attention_fwd")

    assert forward_kernels(None) == 2
    assert forward_kernels(save_attention) == 1


@pytest.mark.parametrize("rotated", [False, True])
def test_layer_normalises_before_the_heads_are_split(rotated):
    rng = np.random.default_rng(3)
    layer = nnx.eval_shape(lambda: Attention(24, 2, 1e-6, "auto", rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(layer)
    state = jax.tree.map(
        lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape) * 0.4, jnp.float32), state
    )
    layer = nnx.merge(graphdef, state)
    x, context = rng.standard_normal((2, 8, 24)), rng.standard_normal((2, 8, 24))
    w = jax.tree.map(lambda a: np.asarray(a, np.float64), nnx.to_pure_dict(state))

    def linear(name, x):
        return x @ w[name]["kernel"] + w[name]["bias"]

    def norm(name, x):
        return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-6) * w[name]["scale"]

    q = norm("q_norm", linear("q", x)).reshape(2, 8, 2, 12)
    k = norm("k_norm", linear("k", context)).reshape(2, 8, 2, 12)
    v = linear("v", context).reshape(2, 8, 2, 12)
    if rotated:
        q, k = (rotate_by_complex_numbers(a, 2, (1, 2, 2), 1e4) for a in (q, k))
    expected = linear("o", softmax_attention(q, k, v).reshape(2, 8, 24))
    rope = rope_table(12, 2, (1, 2, 2)) if rotated else None
    ours = layer(
        jnp.asarray(x, jnp.float32), jnp.asarray(context, jnp.float32), jnp.dtype("float32"), rope
    )
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)
