"""A frozen layer and its low-rank adapter as one operation, with gradients of its own.

An adapter's products have few FLOPs, but each reads and writes whole activations. So y and the
gradient of x are one product each, and sums over tokens are taken in parts. For a layer of the 1.3B
at 40,560 tokens, forward and backward, an H200 then spends 0.2 to 0.4 of the time that adding the
two products takes (`benchmarks/adapters.py`).
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from unityvideo_jax.models.layers import matmul_precision
from unityvideo_jax.models.quantised import restore

PARTS = 16  # of a sum over all tokens, so that more of a GPU works on it
# A frozen matrix: the kernel [i, o] in any float type, or codes and scales of `models.quantised`.
Base = Float[Array, "i o"] | tuple[Shaped[Array, "j o"], Float[Array, "k o"]]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def adapted_product(
    stacks: bool,
    x: Float[Array, "... n i"] | Float[Array, " i"],
    base: Base,
    down: Float[Array, "i r"],
    up: Float[Array, "r o"],
    shift: Float[Array, " r"] | None,
) -> Float[Array, "... n o"] | Float[Array, " o"]:
    """Returns `x @ base + (x @ down + shift) @ up`, with gradients of its own.

    With `stacks`, y is one product, [x, inner] [n, i + r] times [base; up] [i + r, o], instead of
    two that each write y. This pays where x, which it copies, is no wider than y, and where no mesh
    splits the axis i, along which it concatenates.

    The gradient of x is one product, `dy @ (base + down @ up).T`. Those of `down` and `up` sum over
    all tokens in some `PARTS` parts, in float32; the axes before the tokens stay apart until the
    end, so that a mesh may split them. A quantised base is restored here and again for the
    gradient, so that it is not saved in between.

    Args:
      stacks: whether to compute y as one product.
      x: inputs; their type is the one to compute in.
      base: cast to the type of x. It has a gradient only if it is a kernel that is trained.
      down, up: float32, with the adapter's scale in `up`.
      shift: added to the inner features, in the type of x.
    """
    return _forward(stacks, x, base, down, up, shift)[0]


def _forward(stacks, x, base, down, up, shift):
    """y, and the inner features [..., n, r]."""
    precision = matmul_precision(x.dtype)
    kernel, wide = _matrix(base, x.dtype), up.astype(x.dtype)
    inner = jnp.matmul(x, down.astype(x.dtype), precision=precision)
    if shift is not None:
        inner = inner + shift
    if stacks:
        joined = jnp.concatenate([x, inner], axis=-1)
        y = jnp.matmul(joined, jnp.concatenate([kernel, wide], axis=0), precision=precision)
    else:
        y = jnp.matmul(x, kernel, precision=precision)
        y = y + jnp.matmul(inner, wide, precision=precision)
    return y, inner


def _forward_and_saved(stacks, x, base, down, up, shift):
    """y, and what the backward pass needs."""
    y, inner = _forward(stacks, x, base, down, up, shift)
    return y, (x, base, down, up, shift, inner)


def _backward(stacks, saved, dy):
    """The gradients of x, base, down, up and shift; None is zero."""
    x, base, down, up, shift, inner = saved
    precision = matmul_precision(x.dtype)
    narrow, wide = down.astype(x.dtype), up.astype(x.dtype)
    d_inner = jnp.matmul(dy, wide.T, precision=precision)
    product = jnp.matmul(narrow, wide, precision=precision, preferred_element_type=jnp.float32)
    merged = (_matrix(base, x.dtype) + product).astype(x.dtype)
    dx = jnp.matmul(dy, merged.T, precision=precision)
    d_base = d_shift = None
    if not isinstance(base, tuple):
        # Of a frozen kernel nothing uses it, and the compiler leaves it out.
        d_base = jnp.einsum("...i,...o->io", x, dy, precision=precision).astype(base.dtype)
    if shift is not None:
        d_shift = jnp.sum(d_inner, axis=range(d_inner.ndim - 1), dtype=jnp.float32)
        d_shift = d_shift.astype(shift.dtype)
    d_down = _over_tokens(x, d_inner).astype(down.dtype)
    return dx, d_base, d_down, _over_tokens(inner, dy).astype(up.dtype), d_shift


adapted_product.defvjp(_forward_and_saved, _backward)


def _matrix(base: Any, dtype: jnp.dtype) -> Float[Array, "i o"]:
    return restore(*base, dtype) if isinstance(base, tuple) else base.astype(dtype)


def _over_tokens(a: Float[Array, "... i"], b: Float[Array, "... o"]) -> Float[Array, "i o"]:
    """Returns the float32 sum over tokens of the products [i, o] of their features."""
    settings = dict(precision=matmul_precision(a.dtype), preferred_element_type=jnp.float32)
    count = max(1, PARTS // math.prod(a.shape[:-2]))
    if a.ndim < 2 or a.shape[-2] % count:
        return jnp.einsum("...i,...o->io", a, b, **settings)
    a, b = (x.reshape(*x.shape[:-2], count, -1, x.shape[-1]) for x in (a, b))
    parts = jnp.einsum("...pti,...pto->...pio", a, b, **settings)
    return parts.sum(axis=range(parts.ndim - 2))
