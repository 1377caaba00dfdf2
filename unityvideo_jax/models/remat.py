"""Rematerialisation: activations of a block that the backward pass recomputes."""

from collections.abc import Callable

import jax

from unityvideo_jax.kernels import attention
from unityvideo_jax.models.layers import LINEAR

# The name of a block's feed-forward output. Only the gradient of its gate needs it, so saving
# this one narrow array saves the widest matrix product of the recomputation.
FFN_OUTPUT = "ffn_output"

# Start of the name of cuDNN's forward primitive, and of the wrapper that partitions it. Their
# outputs are the attention output and its log-sum-exp.
_CUDNN_PRIMITIVE = "dot_product_attention_fwd"

Policy = Callable[..., bool]


def _name(primitive, operands, params) -> str | None:
    """The name that a primitive gives to what it returns.

    With a fused kernel that is also the log-sum-exp, which is all that its backward needs besides
    the queries, keys and values.
    """
    if primitive.name.startswith(_CUDNN_PRIMITIVE):
        queries, keys, *_ = operands
        return attention.output_name(queries.shape[1], keys.shape[1])
    return params.get("name")


def _keep(*names: str) -> Policy:
    """Keeps what has one of the names."""
    return lambda primitive, *operands, **params: _name(primitive, operands, params) in names


_POLICIES = {
    "full": None,
    "attention": _keep(attention.SELF_ATTENTION),
    "attention_ffn": _keep(attention.SELF_ATTENTION, FFN_OUTPUT),
    "matmuls": _keep(attention.SELF_ATTENTION, attention.CROSS_ATTENTION, LINEAR),
}


def rematerialise(body: Callable, remat: str, *, unrolled: bool = False) -> Callable:
    """Wraps the body of a scan over layers in a policy of `DiTConfig.remat`."""
    if remat == "none":
        return body
    # In a loop the compiler does not merge the two computations; unrolled, it would merge them and
    # save everything, whatever the policy.
    return jax.checkpoint(body, policy=_POLICIES[remat], prevent_cse=unrolled)
