"""FlashAttention's Hopper kernels (FlashAttention-3, arXiv 2407.08608), called from JAX.

The extra `flash` brings them: `flash-attn-4` has them in NVIDIA's CuTe DSL, whose JAX bridge
compiles them when the program that calls them is lowered. That and the imports take seconds, so
they are kept (`stored`).
"""

import functools
import hashlib
import importlib.metadata
import os
import pathlib
from collections.abc import Sequence

import jax
import jax.export
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from unityvideo_jax.errors import UserError
from unityvideo_jax.kernels import stored, target

# The size of a head that was checked and measured on a device, and that all presets have.
HEAD_DIM = 128
# What the kernels depend on besides: packages, and variables whose names begin so.
PACKAGES = ("flash-attn-4", "nvidia-cutlass-dsl", "quack-kernels")
VARIABLES = ("CUTE_DSL_", "FLASH_ATTENTION_")

Output = Float[Array, "b n h d"]
LogSumExp = Float[Array, "b h n"]


@functools.cache
def is_installed() -> bool:
    """Returns whether the packages of the extra `flash` are installed; imports none of them."""
    try:
        return all(map(importlib.metadata.version, PACKAGES))
    except importlib.metadata.PackageNotFoundError:
        return False


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def attention(
    q: Float[Array, "b n h d"],
    k: Float[Array, "b m h d"],
    v: Float[Array, "b m h d"],
    saved_name: str,
) -> Output:
    """Computes softmax attention scaled by 1/sqrt(d), of 16-bit types (arXiv 2407.08608).

    `saved_name` is given to the output and the log-sum-exp, for rematerialisation policies.
    """
    del saved_name
    return block_forward(q, k, v)[0]


def _fwd(q, k, v, saved_name):
    out, lse = (checkpoint_name(x, saved_name) for x in block_forward(q, k, v))
    return out, (q, k, v, out, lse)


def _bwd(saved_name, residuals, gradient):
    del saved_name
    return block_backward(*residuals, gradient)


attention.defvjp(_fwd, _bwd)


def block_forward(
    q: Float[Array, "b n h d"], k: Float[Array, "b m h d"], v: Float[Array, "b m h d"]
) -> tuple[Output, LogSumExp]:
    """Computes attention and its log-sum-exp: see `attention.block_forward`."""
    return _kept(_forward, q, k, v)


def _forward(q, k, v):
    b, n, h, d = q.shape
    outputs = (jax.ShapeDtypeStruct(q.shape, q.dtype), jax.ShapeDtypeStruct((b, h, n), jnp.float32))
    return _call(_forward_kernel(q.dtype.name, d), outputs, q, k, v)


def block_backward(
    q: Float[Array, "b n h d"],
    k: Float[Array, "b m h d"],
    v: Float[Array, "b m h d"],
    out: Output,
    lse: LogSumExp,
    out_gradient: Output,
) -> tuple[Output, Float[Array, "b m h d"], Float[Array, "b m h d"]]:
    """Computes the gradients through one block of keys.

    Arguments and results are those of `attention.block_backward`.
    """
    return _kept(_backward, q, k, v, out, lse, out_gradient)


def _backward(q, k, v, out, lse, out_gradient):
    b, n, h, d = q.shape
    kernel, tile = _backward_kernel(q.dtype.name, d)
    padded = n + -n % tile
    outputs = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (q, k, v)]
    # Scratch: a sum and the log-sum-exp of each query, and the gradient of q in float32.
    sizes = (padded, padded, padded * d)
    outputs += [jax.ShapeDtypeStruct((b, h, size), jnp.float32) for size in sizes]
    return tuple(_call(kernel, tuple(outputs), q, k, v, out, lse, out_gradient)[:3])


def _call(kernel, outputs, *inputs):
    from cutlass.jax import cutlass_call

    # By its own object: else what the kernel becomes is written twice, once to look it up.
    return cutlass_call(
        kernel, output_shape_dtype=outputs, use_static_tensors=True, compile_key=kernel
    )(*inputs)


def _kept(function, *inputs):
    """`function(*inputs)`, with the kernels of an earlier process if they are those of this one."""
    if not is_installed():
        return function(*inputs)
    version = _version(target.target_device())
    return stored.call(function, *inputs, platform="cuda", version=version, register=_register)


@functools.cache
def _version(device: tuple[str, str]) -> str:
    names = [*device, *(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)]
    names += [f"{k}={v}" for k, v in sorted(os.environ.items()) if k.startswith(VARIABLES)]
    return f"{names} {hashlib.sha256(pathlib.Path(__file__).read_bytes()).hexdigest()}"


def import_packages() -> None:
    """Imports what the next program needs: all packages, or the bridge alone if kernels are kept.

    Raises:
      UserError: one of them is missing.
    """
    if stored.are_any():
        _register()
    else:
        library()


@functools.cache
def library():
    """Returns the packages, imported once, which takes seconds.

    Raises:
      UserError: one of them is missing.
    """
    try:
        import cutlass
        from cutlass import cute
        from flash_attn.cute import flash_bwd_sm90, flash_fwd_sm90, interface
    except ImportError as error:
        raise _missing(error) from error
    return cutlass, cute, interface, flash_fwd_sm90, flash_bwd_sm90


def _register() -> Sequence[jax.export.DisabledSafetyCheck]:
    """As `stored.Register`; imports a fifth of what `library` does."""
    try:
        from cutlass import jax as bridge
    except ImportError as error:
        raise _missing(error) from error
    bridge.register_ffi()
    return bridge.get_export_disabled_safety_checks()


def _missing(error: ImportError) -> UserError:
    fix = "pip install 'unityvideo_jax[flash]', or set it to 'auto'"
    return UserError(f"model.attention='flash': {error}; {fix}")


def _element(dtype: str):
    """The packages' name of a 16-bit type."""
    cutlass = library()[0]
    return {"bfloat16": cutlass.BFloat16, "float16": cutlass.Float16}[dtype]


@functools.cache
def _forward_kernel(dtype: str, d: int):
    """A CuTe function (stream, q, k, v, out, log-sum-exp), with its authors' tiles."""
    cutlass, cute, interface, hopper, _ = library()
    tiles = interface._tile_size_fwd_sm90(d, d, False, False)
    run = hopper.FlashAttentionForwardSm90(
        _element(dtype),
        d,
        d,
        is_causal=False,
        is_local=False,
        pack_gqa=False,
        tile_m=tiles.m_block_size,
        tile_n=tiles.n_block_size,
        num_stages=2,
        num_threads=384,
        Q_in_regs=False,
        intra_wg_overlap=tiles.intra_wg_overlap,
        mma_pv_is_rs=tiles.mma_pv_is_rs,
    )
    scale = d**-0.5

    @cute.jit
    def kernel(stream, q, k, v, out, lse):
        run(q, k, v, out, lse, cutlass.Float32(scale), stream=stream)

    return kernel


@functools.cache
def _backward_kernel(dtype: str, d: int):
    """A CuTe function of the backward pass's three kernels, and the queries in a tile of it.

    Its arguments are (stream, q, k, v, out, log-sum-exp, out's gradient) and then what
    `block_backward` lists as outputs.
    """
    cutlass, cute, interface, _, hopper = library()
    tiles = interface._tile_size_bwd_sm90(d, d, False, False)
    element = _element(dtype)
    tile, align = tiles.m_block_size, 64 if tiles.dKV_swapAB else 32
    prepare = interface.FlashAttentionBackwardPreprocess(
        element, d, d, tile, hdim_multiple_of=align
    )
    run = hopper.FlashAttentionBackwardSm90(
        element,
        d,
        d,
        tile_m=tile,
        tile_n=tiles.n_block_size,
        Q_stage=tiles.num_stages_Q,
        dO_stage=tiles.num_stages_dO,
        PdS_stage=tiles.num_stages_PdS,
        SdP_swapAB=tiles.SdP_swapAB,
        dKV_swapAB=tiles.dKV_swapAB,
        dQ_swapAB=tiles.dQ_swapAB,
        AtomLayoutMSdP=tiles.AtomLayoutMSdP,
        AtomLayoutNdKV=tiles.AtomLayoutNdKV,
        AtomLayoutMdQ=tiles.AtomLayoutMdQ,
        num_threads=128 * (tiles.num_wg + 1),
        dQ_single_wg=tiles.dQ_single_wg,
    )
    finish = interface.FlashAttentionBackwardPostprocess(
        element,
        d,
        90,
        tile,
        128 if tiles.dQ_single_wg else 128 * tiles.num_wg,
        tiles.AtomLayoutMdQ,
        tiles.dQ_swapAB,
        hdim_multiple_of=align,
    )
    scale, nothing = d**-0.5, (None,) * 5

    @cute.jit
    def kernel(stream, q, k, v, out, lse, gradient, dq, dk, dv, product, lse_log2, dq_sum):
        prepare(
            out, gradient, product, lse, lse_log2, dq_sum, *nothing, cutlass.Float32(1.0),
            stream=stream,
        )  # fmt: skip
        run(
            q, k, v, gradient, lse_log2, product, dq_sum, dk, dv, cutlass.Float32(scale),
            stream=stream,
        )  # fmt: skip
        finish(dq_sum, dq, cutlass.Float32(scale), None, None, None, stream=stream)

    return kernel, tile
