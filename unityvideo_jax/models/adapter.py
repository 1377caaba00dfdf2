"""One low-rank adapter beside a linear layer (LoRA, Hu et al., arXiv 2106.09685).

An adapted layer gives `x @ kernel + bias + scale * (x @ down) @ up`. The layers are stacked, so
`down` is [layers, in, rank] and `up` [layers, rank, out] beside a kernel [layers, in, out]; the
scan over the layers slices them with the kernel. With an adapter per modality both have one more
axis, [layers, modality, ...], and each stream takes its own modality's.

A shared adapter without dropout is computed together with its layer (`models/adapted_product.py`).
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from unityvideo_jax.models.adapted_product import Base, adapted_product
from unityvideo_jax.models.layers import Linear, matmul_precision
from unityvideo_jax.models.switcher import choose, select
from unityvideo_jax.parallel import rules


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
        mesh = rules.ambient_mesh()
        whole = mesh is None or rules.divisible_spec((inputs,), (self.in_axis,), mesh)[0] is None
        stacks = inputs <= outputs and whole
        return adapted_product(stacks, x.astype(dtype), base, down, up, shift)
