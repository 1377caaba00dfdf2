"""Attention against a softmax written out in float64."""

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.test_util import check_grads
from test_rope import rotate_by_complex_numbers

from unityvideo_jax.errors import UserError
from unityvideo_jax.kernels import attention, flash, stored, target
from unityvideo_jax.kernels.attention import pick_implementation
from unityvideo_jax.kernels.rope import rope_table
from unityvideo_jax.models.attention import Attention, dot_product_attention
from unityvideo_jax.models.remat import rematerialise


def softmax_attention(q, k, v):
    """[b, n, h, d] in float64."""
    scores = np.einsum("bnhd,bmhd->bhnm", q, k) / np.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("bhnm,bmhd->bnhd", weights, v)


def attend(q, k, v, implementation="auto"):
    """[b, n, h, d]: a single stream that attends to a single group of keys."""
    q, k, v = (jnp.asarray(x)[:, None] for x in (q, k, v))
    return dot_product_attention(q, k, v, implementation)[:, 0]


def qkv(n, m, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((2, length, 3, 8)) for length in (n, m, m)]


@pytest.mark.parametrize(("n", "m"), [(7, 7), (5, 11)])
@pytest.mark.parametrize("implementation", ["auto", "xla", "splash"])
def test_equals_plain_softmax(n, m, implementation):
    q, k, v = qkv(n, m)
    ours = attend(*(jnp.asarray(x, jnp.float32) for x in (q, k, v)), implementation)
    np.testing.assert_allclose(ours, softmax_attention(q, k, v), rtol=1e-5, atol=1e-6)


def test_large_bfloat16_scores_are_summed_in_float32():
    q, k, v = (jnp.asarray(x, jnp.bfloat16) for x in qkv(6, 300))
    ours = attend(q * 8, k, v)
    exact = softmax_attention(*(np.asarray(x, np.float64) for x in (q * 8, k, v)))
    assert ours.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(ours, np.float64), exact, rtol=0, atol=3e-2)


def test_gradient_equals_finite_differences():
    q, k, v = (jnp.asarray(x, jnp.float32) for x in qkv(3, 4))
    check_grads(jax.jit(attend), (q, k, v), order=1, modes=["rev"], rtol=2e-2)


@pytest.mark.parametrize(("n", "m"), [(7, 130), (256, 128)])
def test_splash_gradient_equals_that_of_plain_softmax(n, m):
    """Lengths of queries and keys that need padding to the kernel's blocks, and that do not."""
    q, k, v, weight = (jnp.asarray(x, jnp.float32) for x in (*qkv(n, m), qkv(n, 1, seed=1)[0]))

    def gradient(implementation):
        def loss(q, k, v):
            return jnp.sum(weight * attend(q, k, v, implementation))

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(q, k, v)

    for ours, plain in zip(gradient("splash"), gradient("xla"), strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-5)


def test_blocks_of_keys_add_up_to_all_keys():
    """Each kernel's two halves, joined by the log-sum-exp as the ring does."""
    q, k, v, weight = (jnp.asarray(x, jnp.float32) for x in (*qkv(6, 10), qkv(6, 1, seed=1)[0]))
    expected, pullback = jax.vjp(lambda *x: attend(*x, "xla"), q, k, v)
    gradients = pullback(weight)
    parts = [(k[:, :4], v[:, :4]), (k[:, 4:], v[:, 4:])]

    @functools.partial(jax.jit, static_argnums=0)
    def in_blocks(kernel):
        blocks = [attention.block_forward(q, *part, kernel) for part in parts]
        lse = jnp.logaddexp(*(lse for _, lse in blocks))
        out = sum(jnp.exp(part - lse).swapaxes(1, 2)[..., None] * out for out, part in blocks)
        return out, [attention.block_backward(q, *part, out, lse, weight, kernel) for part in parts]

    for kernel in ("xla", "splash"):
        out, back = in_blocks(kernel)
        np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(back[0][0] + back[1][0], gradients[0], rtol=1e-4, atol=1e-5)
        for index in (1, 2):
            ours = jnp.concatenate([part[index] for part in back], axis=1)
            np.testing.assert_allclose(ours, gradients[index], rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("kernel", ["cudnn", "flash"])
def test_kernels_of_gpus_in_blocks_equal_float32(kernel):
    if kernel == "flash" and not flash.is_installed():
        pytest.skip("the extra `flash` is not installed")
    rng = np.random.default_rng(0)
    q, k, v, weight = jnp.asarray(rng.standard_normal((4, 2, 512, 4, 128)), jnp.bfloat16)
    exact = [x.astype(jnp.float32) for x in (q, k, v, weight)]
    with jax.default_matmul_precision("highest"):
        expected, pullback = jax.vjp(lambda *x: attend(*x, "xla"), *exact[:3])
        gradients = pullback(exact[3])
    parts = [(k[:, :192], v[:, :192]), (k[:, 192:], v[:, 192:])]
    blocks = [attention.block_forward(q, *part, kernel) for part in parts]
    lse = jnp.logaddexp(*(lse for _, lse in blocks))
    out = sum(jnp.exp(part - lse).swapaxes(1, 2)[..., None] * out for out, part in blocks)
    out = out.astype(jnp.bfloat16)
    back = [attention.block_backward(q, *part, out, lse, weight, kernel) for part in parts]
    ours = [back[0][0] + back[1][0]]
    ours += [jnp.concatenate([part[n] for part in back], axis=1) for n in (1, 2)]
    for a, b in zip([out, *ours], [expected, *gradients], strict=True):
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        assert np.linalg.norm(a - b) < 1e-2 * np.linalg.norm(b)


def test_flash_kernels_compile_for_hopper(tmp_path):
    """The real compiler lowers each kernel once, forward and backward; it needs no GPU.

    A second process reads what the first kept, and its program is the same. They are processes
    without the tests' shape checks, whose rewriting the compiler cannot read.
    """
    if not flash.is_installed():
        pytest.skip("the extra `flash` is not installed")
    program = """
import hashlib, sys
import jax, jax.numpy as jnp
from unityvideo_jax.kernels import flash
q = jax.ShapeDtypeStruct((1, 300, 2, flash.HEAD_DIM), jnp.bfloat16)
k = jax.ShapeDtypeStruct((1, 200, 2, flash.HEAD_DIM), jnp.bfloat16)
loss = lambda *x: jnp.sum(flash.attention(*x, "out").astype(jnp.float32))
traced = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).trace(q, k, k)
text = traced.lower(lowering_platforms=("cuda",)).as_text()
print(text.count("custom_call @CuteDSL"), hashlib.sha256(text.encode()).hexdigest())
print("flash_attn" in sys.modules)
"""
    hopper = {"CUTE_DSL_ARCH": "sm_90a", "FLASH_ATTENTION_ARCH": "sm_90"}
    kept = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path)}
    programs = set()
    for wrote in ("True", "False"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            env=os.environ | hopper | kept,
        )
        assert done.returncode == 0, done.stderr
        count, program_hash, imported = done.stdout.split()
        assert (count, imported) == ("2", wrote)
        programs.add(program_hash)
    assert len(programs) == 1


@pytest.mark.skipif(flash.is_installed(), reason="the extra `flash` is installed")
def test_flash_that_is_not_installed_says_how_to_install_it():
    with pytest.raises(UserError, match=r"pip install 'unityvideo_jax\[flash\]'"):
        jax.eval_shape(lambda x: attend(x, x, x, "flash"), jnp.zeros((1, 8, 2, 128), jnp.bfloat16))


def test_cudnn_is_left_alone_where_it_cannot_run():
    assert jax.default_backend() == "cpu"
    assert pick_implementation(jnp.dtype("bfloat16"), 64) == "xla"


def test_kernel_follows_device_type_and_head(monkeypatch):
    def compile_for(platform, kind):
        monkeypatch.setattr(target, "target_device", lambda: (platform, kind))

    monkeypatch.setattr(flash, "is_installed", lambda: True)
    compile_for("gpu", "NVIDIA H200")
    assert pick_implementation(jnp.dtype("bfloat16"), 128) == "flash"
    assert pick_implementation(jnp.dtype("bfloat16"), 64) == "cudnn"
    compile_for("gpu", "NVIDIA A100")
    assert pick_implementation(jnp.dtype("bfloat16"), 128) == "cudnn"
    monkeypatch.setattr(flash, "is_installed", lambda: False)
    compile_for("gpu", "NVIDIA H200")
    assert pick_implementation(jnp.dtype("bfloat16"), 128) == "cudnn"
    assert pick_implementation(jnp.dtype("float32"), 128) == "xla"
    assert pick_implementation(jnp.dtype("bfloat16"), 20) == "xla"
    compile_for("gpu", "AMD Instinct MI300X")
    assert pick_implementation(jnp.dtype("bfloat16"), 128) == "xla"
    compile_for("tpu", "TPU v5p")
    assert pick_implementation(jnp.dtype("bfloat16"), 128) == "splash"
    assert pick_implementation(jnp.dtype("float32"), 128) == "xla"


def test_libraries_of_the_kernel_that_will_run_are_imported_beforehand(monkeypatch):
    imported = []
    monkeypatch.setattr(flash, "is_installed", lambda: True)
    monkeypatch.setattr(flash, "library", lambda: imported.append("flash"))
    bfloat16 = jnp.dtype("bfloat16")
    for kind, expected in (("NVIDIA A100", []), ("NVIDIA H200", ["flash"])):
        monkeypatch.setattr(target, "target_device", lambda kind=kind: ("gpu", kind))
        attention.import_libraries("auto", bfloat16, 128)
        assert imported == expected
    attention.import_libraries("cudnn", bfloat16, 128)
    attention.import_libraries("auto", bfloat16, 64)
    assert imported == ["flash"]


def _trace_cudnn_anywhere(monkeypatch):
    kernel = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    for check in ("check_cudnn_version", "check_compute_capability", "check_is_flash_attention"):
        monkeypatch.setattr(kernel, check, lambda *_, **__: 0)


def test_halves_of_the_cudnn_kernel_take_what_they_are_given(monkeypatch):
    """Traced only: shapes and types of both halves, whose backward JAX does not document."""
    _trace_cudnn_anywhere(monkeypatch)
    q = jax.ShapeDtypeStruct((2, 16, 3, 64), jnp.bfloat16)
    k = jax.ShapeDtypeStruct((2, 24, 3, 64), jnp.bfloat16)

    def both(q, k, v):
        out, lse = attention.block_forward(q, k, v, "cudnn")
        return out, lse, *attention.block_backward(q, k, v, out, lse, out, "cudnn")

    out, lse, dq, dk, dv = jax.eval_shape(both, q, k, k)
    assert (out.shape, lse.shape, lse.dtype) == (q.shape, (2, 3, 16), jnp.float32)
    assert [(g.shape, g.dtype) for g in (dq, dk, dv)] == [(x.shape, x.dtype) for x in (q, k, k)]


def _trace_flash_anywhere(monkeypatch):
    """Stands a call of the same shapes in for the kernels, which nothing here can compile."""
    monkeypatch.setattr(stored, "folder", lambda: None)
    monkeypatch.setattr(flash, "_forward_kernel", lambda *_: "flash_forward")
    monkeypatch.setattr(flash, "_backward_kernel", lambda *_: ("flash_backward", 80))
    monkeypatch.setattr(
        flash, "_call", lambda name, outputs, *x: jax.ffi.ffi_call(name, outputs)(*x)
    )


@pytest.mark.parametrize("kernel", ["cudnn", "flash"])
@pytest.mark.parametrize(
    ("remat", "self_attention", "cross_attention"),
    [("full", 2, 2), ("attention", 1, 2), ("attention_ffn", 1, 2), ("matmuls", 1, 1)],
)
def test_policies_keep_outputs_of_gpu_kernels(
    monkeypatch, kernel, remat, self_attention, cross_attention
):
    """Traced only: the forward kernel appears once if its output is kept, twice if recomputed."""
    _trace_cudnn_anywhere(monkeypatch)
    _trace_flash_anywhere(monkeypatch)
    name = {"cudnn": "dot_product_attention_fwd", "flash": "target_name=flash_forward"}[kernel]
    q = jax.ShapeDtypeStruct((2, 16, 2, 64), jnp.bfloat16)

    def forward_kernels(num_keys):
        def loss(q):
            return jnp.sum(attend(2 * q, q[:, :num_keys], q[:, :num_keys], kernel))

        loss = rematerialise(loss, remat)
        return str(jax.make_jaxpr(jax.grad(loss))(q)).count(name)

    assert forward_kernels(16) == self_attention
    assert forward_kernels(8) == cross_attention


@pytest.mark.parametrize("to_itself", [False, True])
def test_layer_normalises_before_the_heads_are_split(to_itself):
    rng = np.random.default_rng(3)
    layer = nnx.eval_shape(lambda: Attention(24, 2, 1e-6, "auto", rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(layer)
    state = jax.tree.map(
        lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape) * 0.4, jnp.float32), state
    )
    layer = nnx.merge(graphdef, state)
    x, context = rng.standard_normal((2, 8, 24)), rng.standard_normal((2, 8, 24))
    context = x if to_itself else context
    w = jax.tree.map(lambda a: np.asarray(a, np.float64), nnx.to_pure_dict(state))

    def linear(name, x):
        return x @ w[name]["kernel"] + w[name]["bias"]

    def norm(name, x):
        return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-6) * w[name]["scale"]

    q = norm("q_norm", linear("q", x)).reshape(2, 8, 2, 12)
    k = norm("k_norm", linear("k", context)).reshape(2, 8, 2, 12)
    v = linear("v", context).reshape(2, 8, 2, 12)
    if to_itself:
        q, k = (rotate_by_complex_numbers(a, 2, (1, 2, 2), 1e4) for a in (q, k))
    expected = linear("o", softmax_attention(q, k, v).reshape(2, 8, 24))
    streams = jnp.asarray(x.reshape(2, 2, 4, 24), jnp.float32)
    if to_itself:
        rope = tuple(part.reshape(2, 4, 6) for part in rope_table(12, 2, (1, 2, 2)))
        product, bias = layer.product_and_bias(streams, None, jnp.dtype("float32"), rope)
    else:
        context = jnp.asarray(context, jnp.float32)[:, None]
        product, bias = layer.product_and_bias(streams, context, jnp.dtype("float32"))
    ours = (product + bias).reshape(2, 8, 24)
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)
