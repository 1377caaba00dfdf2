"""The Pallas splash kernel (TPU) without a mask, on lengths that its blocks need not divide."""

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jaxtyping import Array, Float

LANES = 128
MAX_BLOCK = 512


def _block(length: int) -> int:
    """A block's length: the largest multiple of the lanes that pads `length` the least."""
    sizes = range(LANES, MAX_BLOCK + 1, LANES)
    return min(sizes, key=lambda size: (-(-length // size) * size, -size))


def _pad(x: Float[Array, "b n h d"], block: int) -> Float[Array, "b h n2 d"]:
    """Heads before tokens, and zeros up to a multiple of the block."""
    return jnp.pad(x.swapaxes(1, 2), ((0, 0), (0, 0), (0, -x.shape[1] % block), (0, 0)))


def _unpad(x: Float[Array, "b h n2 d"], length: int) -> Float[Array, "b n h d"]:
    return x[:, :, :length].swapaxes(1, 2)


def _make(q, k, *, saved_name: str | None, save_residuals: bool, interpret: bool):
    """The kernel for the padded sizes of q and k [b, n, h, d], and what hides the padded keys."""
    n, m, heads = q.shape[1], k.shape[1], q.shape[2]
    block_q, block_kv = _block(n), _block(m)
    padded_n, padded_m = n + -n % block_q, m + -m % block_kv
    blocks = kernels.BlockSizes(
        block_q=block_q,
        block_kv=block_kv,
        block_q_dkv=block_q,
        block_kv_dkv=block_kv,
        block_q_dq=block_q,
        block_kv_dq=block_kv,
    )
    kernel = kernels.make_splash_mha_single_device(
        masks.MultiHeadMask([masks.FullMask((padded_n, padded_m))] * heads),
        block_sizes=blocks,
        save_residuals=save_residuals,
        residual_checkpoint_name=saved_name,
        interpret=interpret,
    )
    segments = None
    if padded_m != m:
        hidden = (jnp.arange(padded_m) >= m).astype(jnp.int32)
        segments = kernels.SegmentIds(q=jnp.zeros(padded_n, jnp.int32), kv=hidden)
    return kernel, segments, (block_q, block_kv)


def _scaled(q: Float[Array, "b n h d"]) -> Float[Array, "b n h d"]:
    # The kernel does not scale. A head size that is a power of four scales without rounding.
    return q * q.dtype.type(q.shape[-1] ** -0.5)


def attention(
    q: Float[Array, "b n h d"],
    k: Float[Array, "b m h d"],
    v: Float[Array, "b m h d"],
    *,
    saved_name: str,
    interpret: bool,
) -> Float[Array, "b n h d"]:
    """Computes softmax attention scaled by 1/sqrt(d).

    Args:
      q, k, v: of one type.
      saved_name: given to the output and the log-sum-exp, for rematerialisation policies.
      interpret: emulate the kernel, where there is no TPU.
    """
    kernel, segments, (block_q, block_kv) = _make(
        q, k, saved_name=saved_name, save_residuals=False, interpret=interpret
    )
    padded = _pad(_scaled(q), block_q), _pad(k, block_kv), _pad(v, block_kv)
    out = jax.vmap(lambda *qkv: kernel(*qkv, segment_ids=segments))(*padded)
    return _unpad(out, q.shape[1])


def block_forward(
    q: Float[Array, "b n h d"],
    k: Float[Array, "b m h d"],
    v: Float[Array, "b m h d"],
    *,
    interpret: bool,
) -> tuple[Float[Array, "b n h d"], Float[Array, "b h n"]]:
    """Computes attention and its log-sum-exp.

    Arguments and results are those of `attention.block_forward`.
    """
    kernel, segments, (block_q, block_kv) = _make(
        q, k, saved_name=None, save_residuals=True, interpret=interpret
    )
    padded = _pad(_scaled(q), block_q), _pad(k, block_kv), _pad(v, block_kv)
    out, (lse,) = jax.vmap(lambda *qkv: kernel(*qkv, segment_ids=segments))(*padded)
    return _unpad(out, q.shape[1]), lse[:, :, : q.shape[1]]


def block_backward(
    q: Float[Array, "b n h d"],
    k: Float[Array, "b m h d"],
    v: Float[Array, "b m h d"],
    out: Float[Array, "b n h d"],
    lse: Float[Array, "b h n"],
    out_gradient: Float[Array, "b n h d"],
    *,
    interpret: bool,
) -> tuple[Float[Array, "b n h d"], Float[Array, "b m h d"], Float[Array, "b m h d"]]:
    """Computes the gradients through one block of keys.

    Arguments and results are those of `attention.block_backward`.
    """
    kernel, segments, (block_q, block_kv) = _make(
        q, k, saved_name=None, save_residuals=False, interpret=interpret
    )
    options = [
        kernel.kwargs[name]
        for name in (
            "save_residuals",
            "mask_value",
            "is_mqa",
            "block_sizes",
            "residual_checkpoint_name",
            "mask_function",
            "attn_logits_soft_cap",
            "interpret",
        )
    ]
    lse = jnp.pad(lse, ((0, 0), (0, 0), (0, -q.shape[1] % block_q)))

    def one(q, k, v, out, lse, gradient):
        # The public kernel joins this to its own forward, whose log-sum-exp would be the block's.
        residuals = (
            *(q, k, v, segments, None, out, lse),
            *(kernel.dq_mask_info, kernel.dkv_mask_info),
        )
        return kernels._splash_attention_bwd(*options, residuals, gradient)[3:6]

    dq, dk, dv = jax.vmap(one)(
        *(_pad(_scaled(q), block_q), _pad(k, block_kv), _pad(v, block_kv), _pad(out, block_q)),
        *(lse, _pad(out_gradient, block_q)),
    )
    return _unpad(_scaled(dq), q.shape[1]), _unpad(dk, k.shape[1]), _unpad(dv, k.shape[1])
