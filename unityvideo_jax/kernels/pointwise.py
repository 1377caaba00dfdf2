"""Operations of a block between its matrix products: biases, norms, rotations, gates, GELU.

Memory traffic takes all of their time. Plain autodiff would save float32 arrays as wide as the
activations (GELU's slope). So the gradients here are written by hand: they save the inputs in
their own type and recompute the rest. Each is a formula over rows (`kernels.rows`).
`docs/kernels.md` explains why these functions add the biases of the products before them.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unityvideo_jax.kernels.rope import RopeTable
from unityvideo_jax.kernels.rows import has_kernel, over_rows

# The same formula with the same constants is the same object, and so compiled once.
_bind = functools.cache(functools.partial)

_GELU_FACTOR = math.sqrt(8.0 / math.pi)


@jax.custom_vjp
def add_bias(x: Float[Array, "*n d"], bias: Float[Array, " d"]) -> Float[Array, "*n d"]:
    """`x + bias` in the type of `x`, as the end of a matrix product; its gradient sums in float32.

    Args:
      x: a product with a kernel.
      bias: float32.
    """
    return x + bias.astype(x.dtype)


def _add_bias_backward(saved, gradient):
    del saved
    axes = tuple(range(gradient.ndim - 1))
    return gradient, jnp.sum(gradient.astype(jnp.float32), axis=axes)


add_bias.defvjp(lambda x, bias: (add_bias(x, bias), None), _add_bias_backward)


@jax.custom_vjp
def gelu(x: Float[Array, "*n d"], bias: Float[Array, " d"]) -> Float[Array, "*n d"]:
    """Returns GELU of `x + bias` by the tanh formula, as Wan 2.1 uses it; float32 inside.

    Args:
      x: a product with a kernel; the type that is returned.
      bias: float32.
    """
    return over_rows(_gelu, (x,), (bias,), whole=False, features="mlp")[0]


def _gelu_share(x):
    """GELU of x over x: (1 + tanh(u)) / 2, which is the logistic function of 2u."""
    return jax.nn.sigmoid(_GELU_FACTOR * x * (1.0 + 0.044715 * jnp.square(x)))


def _gelu(row, x, bias):
    del row
    x = x + bias
    return [x * _gelu_share(x)], []


def _gelu_gradient(row, x, gradient, bias):
    del row
    x = x + bias
    share = _gelu_share(x)
    inner = _GELU_FACTOR * x * (1.0 + 3 * 0.044715 * jnp.square(x))
    gradient = gradient * (share * (1.0 + inner * (1.0 - share)))
    return [gradient], [gradient]


def _gelu_backward(saved, gradient):
    x, bias = saved
    return tuple(
        over_rows(_gelu_gradient, (x, gradient), (bias,), sums=(bias,), whole=False, features="mlp")
    )


gelu.defvjp(lambda x, bias: (gelu(x, bias), (x, bias)), _gelu_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def input_and_norm(
    x: Float[Array, "*n d"],
    scale: Float[Array, "..."],
    shift: Float[Array, "..."],
    eps: float,
) -> tuple[Float[Array, "*n d"], Float[Array, "*n d"]]:
    """Returns `x`, and its layer normalisation times `scale` plus `shift`; float32 inside.

    Returning `x` too lets the gradient kernel add the gradients of both uses of `x`, in the
    residual sum and in the norm.

    Args:
      x: activations; their type is returned.
      scale, shift: float32, of one shape, which broadcasts to that of `x`.
      eps: added to the variance.
    """
    return x, *over_rows(_bind(_layer_norm, eps), (x,), (scale, shift))


def _standardise(eps, row, x):
    """`x` with mean 0 and variance 1, and the inverse of its standard deviation."""
    x = row.centre(x)
    inverse = jax.lax.rsqrt(row.mean(jnp.square(x)) + eps)
    return x * inverse, inverse


def _layer_norm(eps, row, x, scale, shift):
    return [_standardise(eps, row, x)[0] * scale + shift], []


def _layer_norm_gradient(eps, row, x, skip_gradient, gradient, scale):
    normal, inverse = _standardise(eps, row, x)
    inner = gradient * scale
    inner = inner - row.mean(inner) - normal * row.mean(inner * normal)
    return [skip_gradient + inverse * inner], [gradient * normal, gradient]


def _input_and_norm_backward(eps, saved, gradients):
    x, scale = saved
    formula = _bind(_layer_norm_gradient, eps)
    return tuple(over_rows(formula, (x, *gradients), (scale,), sums=(scale, scale)))


input_and_norm.defvjp(
    lambda x, scale, shift, eps: (input_and_norm(x, scale, shift, eps), (x, scale)),
    _input_and_norm_backward,
)


def sum_and_norm(
    x: Float[Array, "*n d"],
    y: Float[Array, "*n d"],
    bias: Float[Array, " d"],
    scale: Float[Array, "..."],
    shift: Float[Array, "..."],
    eps: float,
) -> tuple[Float[Array, "*n d"], Float[Array, "*n d"]]:
    """Returns `x + y + bias` and its modulated layer normalisation: see `input_and_norm`.

    One residual branch ends here and the next one starts, so both take one kernel.

    Args:
      x: activations; their type is returned.
      y: a product with a kernel, of the same type.
      bias: float32.
      scale, shift, eps: of `input_and_norm`.
    """
    if not has_kernel(x, (bias, scale, shift)):
        # XLA's own fusion of this is faster on a TPU (by the compiler's estimate).
        return input_and_norm(x + add_bias(y, bias), scale, shift, eps)
    return _fused_sum_and_norm(x, y, bias, scale, shift, eps)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _fused_sum_and_norm(x, y, bias, scale, shift, eps):
    formula = _bind(_sum_and_norm, eps)
    return tuple(over_rows(formula, (x, y), (bias, scale, shift), outputs=2))


def _sum_and_norm(eps, row, x, y, bias, scale, shift):
    x = x + y + bias
    return [x, *_layer_norm(eps, row, x, scale, shift)[0]], []


def _sum_and_norm_gradient(eps, row, x, skip_gradient, gradient, scale):
    rows, sums = _layer_norm_gradient(eps, row, x, skip_gradient, gradient, scale)
    return rows, [*rows, *sums]


def _sum_and_norm_forward(x, y, bias, scale, shift, eps):
    x, y = _fused_sum_and_norm(x, y, bias, scale, shift, eps)
    return (x, y), (x, bias, scale)


def _sum_and_norm_backward(eps, saved, gradients):
    x, bias, scale = saved
    formula = _bind(_sum_and_norm_gradient, eps)
    gradient, *sums = over_rows(formula, (x, *gradients), (scale,), sums=(bias, scale, scale))
    return gradient, gradient, *sums


_fused_sum_and_norm.defvjp(_sum_and_norm_forward, _sum_and_norm_backward)


def rms_norm(
    x: Float[Array, "*n d"],
    bias: Float[Array, " d"],
    scale: Float[Array, " d"],
    rope: RopeTable | None,
    eps: float,
) -> Float[Array, "*n d"]:
    """Returns the root-mean-square norm of `x + bias`, times `scale`, then rotated by `rope`.

    float32 inside.

    Args:
      x: a product with a kernel; the type that is returned.
      bias, scale: float32.
      rope: angles of the tokens, of all heads alike; None rotates nothing. It gets no gradient.
      eps: added to the mean square.
    """
    if not has_kernel(x, (bias, scale), features="heads"):
        # In the norm a TPU would move more bytes (by the compiler's estimate).
        x, bias = add_bias(x, bias), jnp.zeros_like(bias)
    return _rms_norm_of_sum(x, bias, scale, rope, eps)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _rms_norm_of_sum(x, bias, scale, rope, eps):
    formula = _bind(_rms_norm, eps)
    return over_rows(formula, (x,), (bias, scale), rope, features="heads")[0]


def _rms_norm(eps, row, x, bias, scale):
    x = x + bias
    inverse = jax.lax.rsqrt(row.mean(jnp.square(x)) + eps)
    return [row.turn(x * scale) * inverse], []


def _rms_norm_gradient(eps, row, x, gradient, bias, scale):
    x = x + bias
    inverse = jax.lax.rsqrt(row.mean(jnp.square(x)) + eps)
    normal, gradient = x * inverse, row.turn(gradient, -1)
    inner = gradient * scale
    inner = inverse * (inner - normal * row.mean(inner * normal))
    return [inner], [inner, gradient * normal]


def _rms_norm_backward(eps, saved, gradient):
    x, bias, scale, rope = saved
    return *over_rows(
        _bind(_rms_norm_gradient, eps),
        (x, gradient),
        (bias, scale),
        rope,
        sums=(bias, scale),
        features="heads",
    ), None


def _rms_norm_forward(x, bias, scale, rope, eps):
    return _rms_norm_of_sum(x, bias, scale, rope, eps), (x, bias, scale, rope)


_rms_norm_of_sum.defvjp(_rms_norm_forward, _rms_norm_backward)


@jax.custom_vjp
def gated_sum(
    x: Float[Array, "*n d"],
    y: Float[Array, "*n d"],
    bias: Float[Array, " d"],
    gate: Float[Array, "..."],
) -> Float[Array, "*n d"]:
    """Returns `x + (y + bias) * gate`, float32 inside, in the type of `x` outside.

    Args:
      x: activations.
      y: a product with a kernel, of the same type.
      bias: float32.
      gate: float32, of a shape that broadcasts to theirs.
    """
    return (x + (y + bias) * gate).astype(x.dtype)


def _gate_gradient(row, y, gradient, bias, gate):
    del row
    gated = gradient * gate
    return [gated], [gated, gradient * (y + bias)]


def _gated_sum_backward(saved, gradient):
    y, *vectors = saved
    return gradient, *over_rows(_gate_gradient, (y, gradient), vectors, sums=vectors, whole=False)


gated_sum.defvjp(
    lambda x, y, bias, gate: (gated_sum(x, y, bias, gate), (y, bias, gate)), _gated_sum_backward
)
