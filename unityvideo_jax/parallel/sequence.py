"""Self-attention when every device holds a part of the tokens: Ulysses and ring.

Both run inside `jax.shard_map`. Attention without a mask does not care about the order of its
tokens, so any split of them will do.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

Tokens = Float[Array, "b n h d"]
LogSumExp = Float[Array, "b h n"]
# (q, k, v) -> out
Kernel = Callable[[Array, Array, Array], Array]
# (q, k, v) -> (out, log-sum-exp) of one block of keys
BlockForward = Callable[[Array, Array, Array], tuple[Array, Array]]
# (q, k, v, out, log-sum-exp, out's gradient) -> gradients of q, k, v
BlockBackward = Callable[..., tuple[Array, Array, Array]]


def ulysses(q: Tokens, k: Tokens, v: Tokens, axis: str, kernel: Kernel) -> Tokens:
    """Trades tokens for heads by all-to-all, attends to all tokens, and trades back.

    DeepSpeed-Ulysses (arXiv 2309.14509). Moves four times the local tokens, whatever the number of
    devices; the local heads must divide by it.

    Args:
      q, k, v: the local tokens of all local heads.
      axis: the mesh axis that splits the tokens.
      kernel: attention on one device.
    """
    trade = functools.partial(jax.lax.all_to_all, axis_name=axis, tiled=True)
    q, k, v = (trade(x, split_axis=2, concat_axis=1) for x in (q, k, v))
    return trade(kernel(q, k, v), split_axis=1, concat_axis=2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5, 6, 7))
def ring(
    q: Tokens,
    k: Tokens,
    v: Tokens,
    axis: str,
    size: int,
    forward: BlockForward,
    backward: BlockBackward,
    saved_name: str,
) -> Tokens:
    """Sends keys and values round the ring of devices, each attending to them as they pass.

    Ring Attention (arXiv 2310.01889). Any number of heads; what the backward pass keeps does not
    grow with the number of devices, since keys and values go round once more.

    Args:
      q, k, v: the local tokens.
      axis, size: the mesh axis that splits the tokens, and its size.
      forward, backward: the two halves of attention to one block of keys.
      saved_name: given to the output and the log-sum-exp, for rematerialisation policies.
    """
    return _ring_forward(q, k, v, axis, size, forward)[0]


def _send_on(values, axis: str, size: int):
    """Each device's values go to the next one."""
    return jax.lax.ppermute(values, axis, [(n, (n + 1) % size) for n in range(size)])


def _ring_forward(q, k, v, axis, size, forward):
    def merge(total, block):
        (out, lse), (block_out, block_lse) = total, block
        merged = jnp.logaddexp(lse, block_lse)
        old, new = (jnp.exp(x - merged).swapaxes(1, 2)[..., None] for x in (lse, block_lse))
        return out * old + block_out * new, merged

    def step(carry, _):
        k, v, total = carry
        # Neither waits for the other, so that the links work while the block is computed.
        following = _send_on((k, v), axis, size)
        return (*following, merge(total, forward(q, k, v))), None

    b, n, h, _ = q.shape
    nothing = jnp.zeros(q.shape, jnp.float32), jnp.full((b, h, n), -jnp.inf, jnp.float32)
    (k, v, total), _ = jax.lax.scan(step, (k, v, nothing), length=size - 1)
    out, lse = merge(total, forward(q, k, v))
    return out.astype(q.dtype), lse


def _ring_fwd(q, k, v, axis, size, forward, backward, saved_name):
    del backward
    out, lse = _ring_forward(q, k, v, axis, size, forward)
    out, lse = checkpoint_name(out, saved_name), checkpoint_name(lse, saved_name)
    return out, (q, k, v, out, lse)


def _ring_bwd(axis, size, forward, backward, saved_name, residuals, gradient):
    del forward, saved_name
    q, k, v, out, lse = residuals

    def add(totals, parts):
        return tuple(total + part for total, part in zip(totals, parts, strict=True))

    def step(carry, _):
        k, v, dq, passing = carry
        following = _send_on((k, v), axis, size)
        dq_part, *parts = backward(q, k, v, out, lse, gradient)
        # The gradients of keys and values travel with them.
        passing = _send_on(add(passing, parts), axis, size)
        return (*following, dq + dq_part, passing), None

    zero = tuple(jnp.zeros(x.shape, jnp.float32) for x in (q, k, v))
    (k_last, v_last, dq, passing), _ = jax.lax.scan(
        step, (k, v, zero[0], zero[1:]), length=size - 1
    )
    dq_part, *parts = backward(q, k_last, v_last, out, lse, gradient)
    dk, dv = _send_on(add(passing, parts), axis, size)  # the last step brings them home
    return (dq + dq_part).astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype)


ring.defvjp(_ring_fwd, _ring_bwd)
