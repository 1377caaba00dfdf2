"""Attention on one device: which kernel, and its two halves for attention that comes in blocks."""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from unityvideo_jax.kernels import flash, splash, target

# Names by which rematerialisation policies find an attention's output and its log-sum-exp.
SELF_ATTENTION = "self_attention_output"
CROSS_ATTENTION = "cross_attention_output"

# Parts of the names of devices that FlashAttention's kernels here are made for.
HOPPER = ("H100", "H20", "H800")  # H20, H200 and GH200

Output = Float[Array, "b n h d"]
LogSumExp = Float[Array, "b h n"]


def pick_implementation(dtype: jnp.dtype, head_dim: int) -> str:
    """Returns the fastest kernel for this type and head size on the target device.

    For 16-bit types: "splash" on TPU, "cudnn" on NVIDIA or, on Hopper and if installed, "flash";
    "xla" elsewhere, and for float32, whose precision the others do not preserve.
    """
    platform, kind = target.target_device()
    if jnp.dtype(dtype) not in (jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float16)):
        return "xla"
    if platform == "tpu":
        return "splash"
    if platform != "gpu" or "NVIDIA" not in kind:
        return "xla"
    is_hopper = any(name in kind for name in HOPPER)
    if is_hopper and head_dim == flash.HEAD_DIM and flash.is_installed():
        return "flash"
    return "cudnn" if head_dim % 8 == 0 and head_dim <= 128 else "xla"


def resolve(implementation: str, dtype: jnp.dtype, head_dim: int) -> str:
    """Returns the kernel that `config.model.attention` means; "auto" is `pick_implementation`'s."""
    return pick_implementation(dtype, head_dim) if implementation == "auto" else implementation


def import_libraries(implementation: str, dtype: jnp.dtype, head_dim: int) -> None:
    """Imports what a kernel needs, which otherwise its first call does, taking seconds.

    Args:
      implementation, dtype, head_dim: as `resolve` takes them.

    Raises:
      UserError: "flash", and its packages are not installed.
    """
    if resolve(implementation, dtype, head_dim) == "flash":
        flash.import_packages()


def output_name(num_queries: int, num_keys: int) -> str:
    """Returns the output's name for rematerialisation: two policies differ in whether they save it.

    If the numbers of keys and queries differ, the keys are those of a text. They are few, so that
    attending to them twice costs little beside the memory that the output takes.
    """
    return SELF_ATTENTION if num_queries == num_keys else CROSS_ATTENTION


def local_attention(
    q: Float[Array, "b n h d"],
    k: Float[Array, "b m h d"],
    v: Float[Array, "b m h d"],
    implementation: str,
) -> Output:
    """Computes softmax attention over all keys, scaled by 1/sqrt(d), in one kernel on one device.

    Args:
      q, k, v: of one type; "cudnn" and "flash" take 16-bit types.
      implementation: "xla", "cudnn", "flash" or "splash".

    Returns:
      Attended values, in the type of `q`.
    """
    name = output_name(q.shape[1], k.shape[1])
    if implementation == "splash":
        return splash.attention(q, k, v, saved_name=name, interpret=_interpreted())
    if implementation == "flash":
        return flash.attention(q, k, v, name)
    out = jax.nn.dot_product_attention(q, k, v, implementation=implementation)
    # cuDNN's output is recognised by its primitive, which also gives what its backward needs;
    # naming it too would keep it twice.
    return out if implementation == "cudnn" else checkpoint_name(out, name)


def block_forward(
    q: Float[Array, "b n h d"],
    k: Float[Array, "b m h d"],
    v: Float[Array, "b m h d"],
    implementation: str,
) -> tuple[Output, LogSumExp]:
    """Computes attention to one block of the keys, and the log-sum-exp (float32) that weighs it.

    Not to be differentiated: `block_backward` is its other half.

    Args:
      q, k, v: of one type; `k` and `v` are one block of the keys.
      implementation: as `local_attention` takes it.

    Returns:
      The output in the type of `q`, and the log-sum-exp in float32.
    """
    if implementation == "splash":
        return splash.block_forward(q, k, v, interpret=_interpreted())
    if implementation == "flash":
        return flash.block_forward(q, k, v)
    out, lse = jax.nn.dot_product_attention(
        q, k, v, implementation=implementation, return_residual=True
    )
    return out, jnp.swapaxes(lse, 1, 2).astype(jnp.float32)


def block_backward(
    q: Float[Array, "b n h d"],
    k: Float[Array, "b m h d"],
    v: Float[Array, "b m h d"],
    out: Output,
    lse: LogSumExp,
    out_gradient: Output,
    implementation: str,
) -> tuple[Output, Float[Array, "b m h d"], Float[Array, "b m h d"]]:
    """Computes the gradients of q, k and v through one block of the keys.

    Args:
      q, k, v: as in `block_forward`.
      out, lse: of the attention to all blocks together.
      out_gradient: gradient of that `out`.
      implementation: the kernel.
    """
    if implementation == "splash":
        return splash.block_backward(q, k, v, out, lse, out_gradient, interpret=_interpreted())
    if implementation == "flash":
        return flash.block_backward(q, k, v, out, lse, out_gradient)
    if implementation == "cudnn":
        return _cudnn_block_backward(q, k, v, out, lse, out_gradient)
    precise = dict(
        precision=jax.lax.Precision.HIGHEST if q.dtype == jnp.float32 else None,
        preferred_element_type=jnp.float32,
    )
    scale = q.shape[-1] ** -0.5
    scores = scale * jnp.einsum("bnhd,bmhd->bhnm", q, k, **precise)
    weights = jnp.exp(scores - lse[..., None])
    by_weight = jnp.einsum("bnhd,bmhd->bhnm", out_gradient, v, **precise)
    shared = jnp.einsum("bnhd,bnhd->bhn", out, out_gradient, **precise)
    by_score = (scale * weights * (by_weight - shared[..., None])).astype(q.dtype)
    return (
        jnp.einsum("bhnm,bmhd->bnhd", by_score, k, **precise).astype(q.dtype),
        jnp.einsum("bhnm,bnhd->bmhd", by_score, q, **precise).astype(k.dtype),
        jnp.einsum("bhnm,bnhd->bmhd", weights.astype(v.dtype), out_gradient, **precise).astype(
            v.dtype
        ),
    )


def _cudnn_block_backward(q, k, v, out, lse, out_gradient):
    # JAX offers cuDNN's backward only joined to its own forward, whose log-sum-exp would be the
    # block's; the rule that both share takes the one of all blocks.
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    unused = (jnp.zeros((0,), q.dtype),) * 7  # bias, lengths, offsets and pages
    return cudnn._dot_product_attention_bwd_rule(
        q.shape[-1] ** -0.5,  # scale
        42,  # seed of a dropout
        0.0,  # that drops nothing
        (False, False),  # neither a bias nor its gradient
        cudnn.MaskType.NO_MASK,
        cudnn.AttentionLayout.BTNH.value,
        None,  # no sliding window
        True,
        False,
        (q, k, v, *unused, lse, out),
        out_gradient,
    )[:3]


def _interpreted() -> bool:
    """Whether a Pallas TPU kernel must be emulated: slow, for tests."""
    return target.target_device()[0] != "tpu"
