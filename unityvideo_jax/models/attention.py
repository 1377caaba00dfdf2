"""Attention: one entry for every kernel and every mesh, and Wan's multi-head layer on top of it."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from unityvideo_jax.errors import UserError
from unityvideo_jax.kernels import attention
from unityvideo_jax.kernels.rope import ColumnTable, RopeTable, apply_rope
from unityvideo_jax.models.layers import Linear, RMSNorm
from unityvideo_jax.parallel import rules, sequence


def dot_product_attention(
    q: Float[Array, "b s n h d"],
    k: Float[Array, "b g m h d"],
    v: Float[Array, "b g m h d"],
    implementation: str = "auto",
    parallel: str = "ulysses",
    *,
    joint: bool = False,
) -> Float[Array, "b s n h d"]:
    """Softmax attention scaled by 1/sqrt(d), over the ambient mesh (`jax.set_mesh`) if any.

    On a mesh each device works on its own samples, tokens and heads (`parallel.rules.AxisRules`);
    only joint attention over split tokens communicates. Samples that the mesh does not divide are
    computed by every device.

    Args:
      q, k, v: queries and keys of one type. The s streams of queries divide evenly among the g
        groups of keys and attend to their own group's.
      implementation: "auto", "xla", "cudnn" (NVIDIA, 16-bit types), "flash" (Hopper, 16-bit types,
        the extra `flash`), or "splash" (TPU; emulated elsewhere).
      parallel: how joint attention runs over split tokens: "ulysses" or "ring".
      joint: keys are tokens of the same streams as the queries, and split as they are; all streams
        attend to all of them. Otherwise keys are not split over tokens.

    Raises:
      UserError: heads or tokens that the mesh does not divide.

    Returns:
      Attended values, in the type of `q`.
    """
    implementation = attention.resolve(implementation, q.dtype, q.shape[-1])
    attend = _attend_jointly if joint else _attend_to_groups
    attend = functools.partial(attend, implementation=implementation)
    mesh = rules.ambient_mesh()
    if mesh is None:
        return attend(q, k, v)
    batch, context, tensor = _mesh_axes(mesh, q.shape)
    if joint and context:
        size = mesh.shape[context]
        _check_divides("context", "tokens of a stream", q.shape[2], size)
        local_heads = q.shape[3] // (mesh.shape[tensor] if tensor else 1)
        if parallel == "ulysses" and local_heads % size:
            raise UserError(
                f"config.mesh.context={size} does not divide the {local_heads} attention heads "
                "that tensor parallelism leaves to a device, which Ulysses trades for tokens: set "
                "config.model.attention_parallel='ring' or a smaller config.mesh.context"
            )
        attend = functools.partial(attend, parallel=parallel, axis=context, size=size)
    elif context and q.shape[2] % mesh.shape[context]:
        context = None
    tokens = PartitionSpec(batch, None, context, tensor)
    keys = tokens if joint else PartitionSpec(batch, None, None, tensor)
    return jax.shard_map(attend, in_specs=(tokens, keys, keys), out_specs=tokens, check_vma=False)(
        q, k, v
    )


def _mesh_axes(mesh, shape) -> tuple:
    """Mesh axes, longer than one, of the batch, the tokens and the heads."""
    axes = rules.AxisRules()
    batch, context, tensor = (
        rules.split_axes(getattr(axes, name), mesh) for name in ("batch", "tokens", "heads")
    )
    if shape[0] % rules.num_parts(batch, mesh):
        batch = ()
    _check_divides("tensor", "attention heads", shape[3], rules.num_parts(tensor, mesh))
    return batch or None, context[0] if context else None, tensor[0] if tensor else None


def _check_divides(axis: str, what: str, count: int, parts: int) -> None:
    if count % parts:
        raise UserError(
            f"config.mesh.{axis}={parts} does not divide the {count} {what}: set it to a divisor "
            f"of {count}"
        )


def _attend_jointly(q, k, v, *, implementation, parallel="", axis="", size=1):
    """Local tokens [b, s, n, h, d] of all streams attend to all tokens of all streams."""
    shape = q.shape
    q, k, v = (x.reshape(shape[0], -1, *shape[3:]) for x in (q, k, v))
    kernel = functools.partial(attention.local_attention, implementation=implementation)
    if size == 1:
        out = kernel(q, k, v)
    elif parallel == "ulysses":
        out = sequence.ulysses(q, k, v, axis, kernel)
    else:
        forward = functools.partial(attention.block_forward, implementation=implementation)
        backward = functools.partial(attention.block_backward, implementation=implementation)
        out = sequence.ring(q, k, v, axis, size, forward, backward, attention.SELF_ATTENTION)
    return out.reshape(shape)


def _attend_to_groups(q, k, v, *, implementation):
    """Streams [b, s, n, h, d] attend to their group of keys [b, g, m, h, d]."""
    b, groups, m = k.shape[:3]
    rest = q.shape[3:]
    out = attention.local_attention(
        q.reshape(b * groups, -1, *rest),
        *(x.reshape(b * groups, m, *rest) for x in (k, v)),
        implementation,
    )
    return out.reshape(q.shape)


class Attention(nnx.Module):
    """Multi-head attention with RMS-normalised queries and keys (Wan 2.1).

    The norm runs over all heads at once, before they are split.

    Args:
      dim, num_heads: width of the tokens, and the heads that share it.
      eps: of the norms.
      implementation, parallel: see `dot_product_attention`.
      rngs: source of the initial weights.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        eps: float,
        implementation: str,
        parallel: str = "ulysses",
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.num_heads = num_heads
        self.implementation = implementation
        self.parallel = parallel
        into, out = ("embed", "heads"), ("heads", "embed")
        self.q = Linear(dim, dim, into, rngs=rngs)
        self.k = Linear(dim, dim, into, rngs=rngs)
        self.v = Linear(dim, dim, into, rngs=rngs)
        self.o = Linear(dim, dim, out, rngs=rngs)
        self.q_norm = RMSNorm(dim, eps, ("heads",))
        self.k_norm = RMSNorm(dim, eps, ("heads",))

    def product_and_bias(
        self,
        x: Float[Array, "b s n d"],
        context: Float[Array, "b g m d"] | None,
        dtype: jnp.dtype,
        rope: RopeTable | None = None,
        columns: ColumnTable | None = None,
        use: Any = None,
    ) -> tuple[Float[Array, "b s n d"], Float[Array, " d"]]:
        """Attends in `dtype` from the streams of `x` to their group of `context`.

        Without a context all streams attend to all of `x` (self-attention). `rope` holds the angles
        [s, n, half] of its tokens, `columns` further ones [b, s, 1, half] of their streams, `use`
        says how adapters are used (`models.adapter.Use`). Returns the output projection's product
        and its bias, which the caller adds (`docs/kernels.md`).
        """
        source = x if context is None else context
        q = self.q_norm(*self.q.product_and_bias(x, dtype, use), rope)
        k = self.k_norm(*self.k.product_and_bias(source, dtype, use), rope)
        if columns is not None:
            q, k = (apply_rope(part, columns).astype(dtype) for part in (q, k))
        v, v_bias = self.v.product_and_bias(source, dtype, use)
        out = dot_product_attention(
            *map(self._split, (q, k, v)),
            self.implementation,
            self.parallel,
            joint=context is None,
        )
        out, bias = self.o.product_and_bias(out.reshape(x.shape), dtype, use, v_bias)
        # The attention weights of a query sum to one, so a bias that all values share leaves
        # attention unchanged. It is projected and added as one vector, not to every value.
        return out, bias + jnp.sum(v_bias[:, None] * self.o.matrix(dtype), axis=0)

    def _split(self, x: Float[Array, "b s n d"]) -> Float[Array, "b s n h k"]:
        return x.reshape(*x.shape[:-1], self.num_heads, -1)
