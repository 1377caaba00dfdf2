"""One low-rank adapter beside a linear layer (LoRA, Hu et al., arXiv 2106.09685).

An adapted layer gives `x @ kernel + bias + scale * (x @ down) @ up`. The layers are stacked, so
`down` is [layers, in, rank] and `up` [layers, rank, out] beside a kernel [layers, in, out]; the
scan over the layers slices them with the kernel. With an adapter per modality both have one more
axis, [layers, modality, ...], and each stream takes its own modality's.

A shared adapter without dropout is computed together with its layer, by `adapted_product`, which
on an H200 costs 0.2 to 0.4 of what adding the two products costs (`benchmarks/adapters.py`).
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from unityvideo_jax.models.layers import Linear, matmul_precision
from unityvideo_jax.models.quantised import restore
from unityvideo_jax.models.switcher import choose, select
from unityvideo_jax.parallel import rules

PARTS = 16  # of a sum over all tokens, so that more of a GPU works on it
# A frozen matrix: the kernel [i, o] in any float type, or codes and scales of `models.quantised`.
Base = Float[Array, "i o"] | tuple[Shaped[Array, "j o"], Float[Array, "k o"]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Use:
    """One call's choice of adapters and its dropout key.

    Attributes:
      choice: of each (sample, stream), one-hot among adapters per modality, or zeros for none; not
        read by shared adapters.
      key: of this layer's dropout; None drops nothing.
    """

    choice: Float[Array, "b s k"]
    key: Key[Array, ""] | None

    @classmethod
    def make(
        cls,
        modality: Int[Array, "b s"],
        timestep: Float[Array, "b s"],
        count: int,
        key: Key[Array, ""] | None,
    ) -> "Use":
        """Selects each stream's own adapter where the stream is a target, that is, not clean.

        Args:
          modality: id of each stream.
          timestep: of each stream, in [0, 1]; 0 is clean.
          count: adapters per modality; 0 is one that all streams share.
          key: of this call's dropout; None drops nothing.
        """
        is_target: Bool[Array, "b s 1"] = (timestep > 0)[..., None]
        return cls(choose(modality, max(1, count), grouped=False) * is_target, key)


class Adapter(nnx.Module):
    """The low-rank product beside one linear layer, or beside each of a stack of them.

    It starts as nothing: `down` is drawn uniformly as PEFT does, `up` is zero.

    Args:
      linear: the layer, whose kernel is [*layers, in, out].
      rank: inner size.
      count: adapters per modality; 0 is one that all streams share.
      scale: factor of the product.
      dropout: share of the inputs to drop where a call gives a key.
      number: of this adapter in the model, so that dropout differs between layers.
      rngs: source of the initial values.
    """

    def __init__(
        self,
        linear: Linear,
        rank: int,
        *,
        count: int = 0,
        scale: float = 1.0,
        dropout: float = 0.0,
        number: int = 0,
        rngs: nnx.Rngs,
    ) -> None:
        *layers, inputs, outputs = linear.kernel.shape
        *layer_axes, in_axis, out_axis = linear.kernel.get_metadata("logical_axes")
        groups, group_axes = ([count], ["modality"]) if count else ([], [])
        self.per_modality, self.scale, self.dropout = bool(count), scale, dropout
        self.number = number
        self.in_axis = in_axis
        bound = 1.0 / math.sqrt(inputs)
        down = jax.random.uniform(
            rngs.params(), (*layers, *groups, inputs, rank), jnp.float32, -bound, bound
        )
        self.down = nnx.Param(down, logical_axes=(*layer_axes, *group_axes, in_axis, None))
        self.up = nnx.Param(
            jnp.zeros((*layers, *groups, rank, outputs), jnp.float32),
            logical_axes=(*layer_axes, *group_axes, None, out_axis),
        )

    def __call__(
        self,
        x: Float[Array, "... i"],
        dtype: jnp.dtype,
        use: Use | None = None,
        offset: Float[Array, " i"] | None = None,
    ) -> Float[Array, "... o"]:
        """Returns the term that the adapter adds to the layer's product of `x + offset`.

        Args:
          x: inputs of the layer.
          dtype: to compute in, and of the result.
          use: choice of adapters per stream and dropout key; None is without dropout.
          offset: float32, still to be added to the inputs.
        """
        precision = matmul_precision(dtype)
        down, up = self.down[...], self.up[...] * self.scale
        if self.per_modality:
            # A context that all streams share is RGB's, the first.
            choice = use.choice[:, : x.shape[1]]
            down, up = select(down, choice), select(up, choice)
        if self.dropout and use is not None and use.key is not None:
            key = jax.random.fold_in(use.key, self.number)
            x = x if offset is None else x + offset.astype(x.dtype)
            mask = jax.random.bernoulli(key, 1.0 - self.dropout, x.shape)
            x, offset = jnp.where(mask, x / (1.0 - self.dropout), 0.0), None
        down = down.astype(dtype)
        inner = jnp.matmul(x.astype(dtype), down, precision=precision)
        if offset is not None:
            shift = jnp.matmul(offset.astype(dtype), down, precision=precision)
            inner = inner + (shift[..., None, :] if self.per_modality else shift)
        return jnp.matmul(inner, up.astype(dtype), precision=precision)

    def joins_base(self, use: Use | None) -> bool:
        """Whether `with_base` can compute the layer: one adapter for all inputs, none dropped."""
        drops = self.dropout and use is not None and use.key is not None
        return not (self.per_modality or drops)

    def with_base(
        self,
        x: Float[Array, "... i"],
        base: Base,
        dtype: jnp.dtype,
        offset: Float[Array, " i"] | None = None,
    ) -> Float[Array, "... o"]:
        """Returns `x @ base` and the adapter's product of `x + offset`, as one operation.

        Args:
          x: inputs of the layer.
          base: the layer's own matrix, or its codes and scales.
          dtype: to compute in, and of the result.
          offset: float32, still to be added to the adapter's inputs.
        """
        precision = matmul_precision(dtype)
        down, up = self.down[...], self.up[...] * self.scale
        shift = None
        if offset is not None:
            shift = jnp.matmul(offset.astype(dtype), down.astype(dtype), precision=precision)
        inputs, outputs = down.shape[-2], up.shape[-1]
        stacks = inputs <= outputs and not _is_split(self.in_axis)
        return adapted_product(stacks, x.astype(dtype), base, down, up, shift)


def _is_split(axis: str | None) -> bool:
    """Whether the ambient mesh, if any, splits a logical axis."""
    mesh = rules.ambient_mesh()
    return mesh is not None and bool(rules.split_axes(rules.AxisRules().spec((axis,))[0], mesh))


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
    end, so that a mesh may split them. A quantised base is restored here and again for
    the gradient, so that it is not saved in between.

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


def _forward_and_saved(stacks, *operands):
    """y, and what the backward pass needs; `operands` say whether they have a gradient."""
    x, base, down, up, shift = jax.tree.map(lambda operand: operand.value, operands)
    y, inner = _forward(stacks, x, base, down, up, shift)
    named = {"x": operands[0], "base": operands[1]}
    # Keys of empty values: a choice made while tracing, which is no array.
    wanted = {
        name: ()
        for name, operand in named.items()
        if any(leaf.perturbed for leaf in jax.tree.leaves(operand))
    }
    return y, (x, base, down, up, shift, inner, wanted)


def _backward(stacks, saved, dy):
    """The gradients of x, base, down, up and shift; None is zero."""
    x, base, down, up, shift, inner, wanted = saved
    precision = matmul_precision(x.dtype)
    narrow, wide = down.astype(x.dtype), up.astype(x.dtype)
    d_inner = jnp.matmul(dy, wide.T, precision=precision)
    dx = d_base = d_shift = None
    if "x" in wanted:
        product = jnp.matmul(narrow, wide, precision=precision, preferred_element_type=jnp.float32)
        merged = (_matrix(base, x.dtype) + product).astype(x.dtype)
        dx = jnp.matmul(dy, merged.T, precision=precision)
    if "base" in wanted and not isinstance(base, tuple):
        d_base = jnp.einsum("...i,...o->io", x, dy, precision=precision).astype(base.dtype)
    if shift is not None:
        d_shift = jnp.sum(d_inner, axis=range(d_inner.ndim - 1), dtype=jnp.float32)
        d_shift = d_shift.astype(shift.dtype)
    d_down = _over_tokens(x, d_inner).astype(down.dtype)
    return dx, d_base, d_down, _over_tokens(inner, dy).astype(up.dtype), d_shift


adapted_product.defvjp(_forward_and_saved, _backward, symbolic_zeros=True)


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
