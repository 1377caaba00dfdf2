"""Attention: one entry for every kernel, and Wan's multi-head layer on top of it."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from unityvideo_jax.models.layers import Linear, RMSNorm
from unityvideo_jax.models.rope import RopeTable, apply_rope

SAVED_NAME = "attention_output"
# Start of the name of cuDNN's forward primitive, and of the wrapper that partitions it. Their
# outputs are the attention output and its log-sum-exp.
_CUDNN_PRIMITIVE = "dot_product_attention_fwd"


def pick_implementation(dtype: jnp.dtype, head_dim: int) -> str:
    """The fastest kernel that can run here: "cudnn" on NVIDIA for 16-bit types, else "xla"."""
    is_half = jnp.dtype(dtype) in (jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float16))
    fits = head_dim % 8 == 0 and head_dim <= 128
    is_nvidia = jax.default_backend() == "gpu" and "NVIDIA" in jax.devices()[0].device_kind
    return "cudnn" if is_half and fits and is_nvidia else "xla"


def dot_product_attention(
    q: Float[Array, "b n h d"],
    k: Float[Array, "b m h d"],
    v: Float[Array, "b m h d"],
    implementation: str = "auto",
) -> Float[Array, "b n h d"]:
    """Softmax attention over all keys, scaled by 1/sqrt(d); the softmax is float32 or wider.

    Args:
      q, k, v: [batch, length, heads, head size] of one type.
      implementation: "auto", "xla", or "cudnn" (NVIDIA, 16-bit types).
    """
    if implementation == "auto":
        implementation = pick_implementation(q.dtype, q.shape[-1])
    out = jax.nn.dot_product_attention(q, k, v, implementation=implementation)
    # cuDNN's output is recognised by its primitive, which also gives what its backward needs;
    # naming it too would keep it twice.
    return out if implementation == "cudnn" else checkpoint_name(out, SAVED_NAME)


def save_attention(primitive, *_, **params) -> bool:
    """Rematerialisation policy that keeps attention outputs and recomputes everything else."""
    return primitive.name.startswith(_CUDNN_PRIMITIVE) or params.get("name") == SAVED_NAME


class Attention(nnx.Module):
    """Multi-head attention with RMS-normalised queries and keys (Wan 2.1).

    The norm runs over all heads at once, before they are split.
    """

    def __init__(
        self, dim: int, num_heads: int, eps: float, implementation: str, *, rngs: nnx.Rngs
    ) -> None:
        self.num_heads = num_heads
        self.implementation = implementation
        into, out = ("embed", "heads"), ("heads", "embed")
        self.q = Linear(dim, dim, into, rngs=rngs)
        self.k = Linear(dim, dim, into, rngs=rngs)
        self.v = Linear(dim, dim, into, rngs=rngs)
        self.o = Linear(dim, dim, out, rngs=rngs)
        self.q_norm = RMSNorm(dim, eps, ("heads",))
        self.k_norm = RMSNorm(dim, eps, ("heads",))

    def __call__(
        self,
        x: Float[Array, "b n d"],
        context: Float[Array, "b m d"],
        dtype: jnp.dtype,
        rope: RopeTable | None = None,
    ) -> Float[Array, "b n d"]:
        """Attend from `x` to `context` (`x` itself for self-attention), in `dtype`."""
        q = self._split(self.q_norm(self.q(x, dtype)))
        k = self._split(self.k_norm(self.k(context, dtype)))
        v = self._split(self.v(context, dtype))
        if rope is not None:
            q, k = apply_rope(q, rope), apply_rope(k, rope)
        out = dot_product_attention(q.astype(dtype), k.astype(dtype), v, self.implementation)
        return self.o(out.reshape(x.shape), dtype)

    def _split(self, x: Float[Array, "b n d"]) -> Float[Array, "b n h k"]:
        return x.reshape(*x.shape[:-1], self.num_heads, -1)
