"""What a block does beside its matrix products: biases, norms, rotations, gates, GELU.

Their time is that of the memory they move. Left to itself, autodiff keeps float32 arrays as wide as
the activations (GELU's slope), and the compiler writes float32 arrays for the several sums of a
gradient to share. So the gradients here are written by hand: they keep the inputs, in the type
these came in, and at most a number a token, and compute the rest again wherever it is used. On
GPUs barriers before the sums over tokens keep the compiler from sharing it; a TPU's fuses more by
itself, and would take a quarter more time with them (its own estimate).
"""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unityvideo_jax.models.rope import RopeTable, apply_rope


@jax.custom_vjp
def add_bias(x: Float[Array, "*n d"], bias: Float[Array, " d"]) -> Float[Array, "*n d"]:
    """`x + bias` in the type of `x`, as the end of a matrix product; the gradient sums in float32.

    Args:
      x: a product with a kernel.
      bias: float32.
    """
    return x + bias.astype(x.dtype)


def _add_bias_backward(bias, gradient):
    # Behind a barrier the gradient is read in its own type; before it, what made it would be
    # written in float32 for the sum.
    return gradient, _sum_to(_apart(gradient).astype(jnp.float32), bias)


add_bias.defvjp(lambda x, bias: (add_bias(x, bias), bias), _add_bias_backward)


@jax.custom_vjp
def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """GELU by the tanh formula, as Wan 2.1 uses it; float32 inside, in the type of `x` outside."""
    return jax.nn.gelu(x.astype(jnp.float32), approximate=True).astype(x.dtype)


def _gelu_backward(x, gradient):
    wide = x.astype(jnp.float32)
    # (1 + tanh(u)) / 2 is the logistic function of 2u. Written so, no tanh is there to share with
    # a recomputed forward pass.
    factor = math.sqrt(8.0 / math.pi)
    share = jax.nn.sigmoid(factor * wide * (1.0 + 0.044715 * jnp.square(wide)))
    inner = factor * wide * (1.0 + 3 * 0.044715 * jnp.square(wide))
    slope = share * (1.0 + inner * (1.0 - share))
    return ((gradient.astype(jnp.float32) * slope).astype(x.dtype),)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(
    x: Float[Array, "*n d"],
    scale: Float[Array, "..."],
    shift: Float[Array, "..."],
    eps: float,
) -> Float[Array, "*n d"]:
    """Layer normalisation, times `scale`, plus `shift`; float32 inside, in the type of `x` outside.

    Args:
      x: activations.
      scale, shift: float32, of one shape, which broadcasts to that of `x`.
      eps: added to the variance.
    """
    return (_standardise(x, eps)[0] * scale + shift).astype(x.dtype)


def _standardise(x, eps):
    """Of mean 0 and variance 1 along the last axis, float32; and what it was multiplied by."""
    x = x.astype(jnp.float32)
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + eps)
    return centred * inverse, inverse


def _layer_norm_forward(x, scale, shift, eps):
    # Mean and variance are not kept: a kernel that also returns them would be several.
    return layer_norm(x, scale, shift, eps), (x, scale)


def _layer_norm_backward(eps, kept, gradient):
    x, scale = kept
    normal, inverse = _standardise(x, eps)
    inner = gradient.astype(jnp.float32) * scale
    inner = inner - jnp.mean(inner, axis=-1, keepdims=True)
    inner = inner - normal * jnp.mean(inner * normal, axis=-1, keepdims=True)
    x, gradient = _apart((x, gradient))
    normal, wide = _standardise(x, eps)[0], gradient.astype(jnp.float32)
    return (inverse * inner).astype(x.dtype), _sum_to(wide * normal, scale), _sum_to(wide, scale)


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def rms_norm(
    x: Float[Array, "*n d"], scale: Float[Array, " d"], rope: RopeTable | None, eps: float
) -> Float[Array, "*n d"]:
    """Root-mean-square normalisation over the last axis, times `scale`, then turned by `rope`.

    float32 inside, in the type of `x` outside.

    Args:
      x: activations.
      scale: float32.
      rope: angles of the tokens, of all heads alike; None turns nothing. It gets no gradient.
      eps: added to the mean square.
    """
    return _rms_norm_forward(x, scale, rope, eps)[0]


def _rms_norm_forward(x, scale, rope, eps):
    wide = x.astype(jnp.float32)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + eps)
    out = wide * scale if rope is None else apply_rope(x, rope, scale)
    return (out * inverse).astype(x.dtype), (x, scale, rope, inverse)


def _rms_norm_backward(eps, kept, gradient):
    del eps
    x, scale, rope, inverse = kept

    def turn_back(gradient):
        if rope is None:
            return gradient.astype(jnp.float32)
        return apply_rope(gradient, (rope[0], -rope[1]))

    normal = x.astype(jnp.float32) * inverse
    inner = turn_back(gradient) * scale
    inner = inner - normal * jnp.mean(inner * normal, axis=-1, keepdims=True)
    wide = turn_back(_apart(gradient))
    return (inverse * inner).astype(x.dtype), _sum_to(wide * normal, scale), None


rms_norm.defvjp(_rms_norm_forward, _rms_norm_backward)


@jax.custom_vjp
def gated_sum(
    x: Float[Array, "*n d"], y: Float[Array, "*n d"], gate: Float[Array, "..."]
) -> Float[Array, "*n d"]:
    """`x + y * gate`, float32 inside, in the type of `x` outside.

    Args:
      x, y: activations of one type.
      gate: float32, of a shape that broadcasts to theirs.
    """
    return (x + y * gate).astype(x.dtype)


def _gated_sum_backward(kept, gradient):
    y, gate = kept
    wide = gradient.astype(jnp.float32)
    return gradient, (wide * gate).astype(y.dtype), _sum_to(wide * y.astype(jnp.float32), gate)


gated_sum.defvjp(lambda x, y, gate: (gated_sum(x, y, gate), (y, gate)), _gated_sum_backward)


def _apart(arrays):
    """The arrays, of which no use is fused with another use of what they were made from."""
    return jax.lax.platform_dependent(
        arrays, tpu=lambda same: same, default=jax.lax.optimization_barrier
    )


def _sum_to(x, like):
    """The sum of `x` over the axes along which `like` was broadcast to its shape."""
    lead = x.ndim - like.ndim
    axes = [lead + i for i, size in enumerate(like.shape) if size != x.shape[lead + i]]
    return jnp.sum(x, axis=(*range(lead), *axes), keepdims=True).reshape(like.shape)
