"""The encoder of UMT5, Wan's text encoder: token ids to token embeddings.

A T5 encoder with gated GELU whose every layer has a relative position bias of its own. Queries are
not scaled, no linear layer has a bias, and the residual stream, norms and softmax are float32.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from unityvideo_jax.errors import UserError
from unityvideo_jax.models.layers import RMSNorm, matmul_precision


@dataclasses.dataclass(frozen=True, kw_only=True)
class UMT5Config:
    """Sizes of `UMT5`; the defaults are UMT5-XXL's (Wan 2.1 and 2.2): 5,680,910,336 parameters.

    Attributes:
      vocab_size: rows of the token embedding.
      dim: width of a token.
      ffn_dim: hidden width of the feed-forward layers.
      num_heads, head_dim: attention heads and the size of each.
      num_layers: transformer blocks.
      num_buckets: buckets of relative positions, half of them for each direction.
      max_distance: distances from here on share the last bucket.
      eps: epsilon of every norm.

    Raises:
      UserError: a size that cannot be used.
    """

    vocab_size: int = 256_384
    dim: int = 4096
    ffn_dim: int = 10_240
    num_heads: int = 64
    head_dim: int = 64
    num_layers: int = 24
    num_buckets: int = 32
    max_distance: int = 128
    eps: float | int = 1e-6

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            if field.name != "eps" and not (whole and value > 0):
                raise UserError(f"umt5.{field.name}={value!r} must be a positive whole number.")
        if self.num_buckets % 4 or self.max_distance <= self.num_buckets // 4:
            raise UserError(
                f"umt5.num_buckets={self.num_buckets} must be a multiple of 4, and "
                f"umt5.max_distance={self.max_distance} above a quarter of it."
            )


UMT5_XXL = UMT5Config()


def relative_buckets(length: int, num_buckets: int, max_distance: int) -> Int[np.ndarray, "n n"]:
    """The bucket of each (query, key) pair: exact for near keys, logarithmic for far ones (T5).

    Keys after the query have the upper half of the buckets.
    """
    half = num_buckets // 2
    exact = half // 2
    positions = np.arange(length)
    offset = positions[None, :] - positions[:, None]
    distance = np.abs(offset)
    # Float32, as the reference rounds it: distances at a boundary must fall on its side.
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
    growth = ratio / np.float32(math.log(max_distance / exact)) * np.float32(half - exact)
    far = np.minimum(exact + growth.astype(np.int64), half - 1)
    return np.where(distance < exact, distance, far) + half * (offset > 0)


class Projection(nnx.Module):
    """`x @ kernel`, computed in the kernel's own type."""

    def __init__(
        self, shape: tuple[int, int], axes: tuple[str, str], *, std: float, rngs: nnx.Rngs, dtype
    ) -> None:
        kernel = jax.random.normal(rngs.params(), shape, jnp.float32) * std
        self.kernel = nnx.Param(kernel.astype(dtype), logical_axes=axes)

    def __call__(self, x: Float[Array, "... i"]) -> Float[Array, "... o"]:
        """Returns `x @ kernel` in the kernel's type."""
        kernel = self.kernel[...]
        return jnp.matmul(x.astype(kernel.dtype), kernel, precision=matmul_precision(kernel.dtype))


class UMT5Attention(nnx.Module):
    """Self-attention without scaling, with a bias for each head and relative position."""

    def __init__(self, config: UMT5Config, *, rngs: nnx.Rngs, dtype) -> None:
        self.config = config
        inner = config.num_heads * config.head_dim
        into, out = ("embed", "heads"), ("heads", "embed")
        make = functools.partial(Projection, rngs=rngs, dtype=dtype)
        self.q = make((config.dim, inner), into, std=(config.dim * config.head_dim) ** -0.5)
        self.k = make((config.dim, inner), into, std=config.dim**-0.5)
        self.v = make((config.dim, inner), into, std=config.dim**-0.5)
        self.o = make((inner, config.dim), out, std=inner**-0.5)
        bias = jax.random.normal(rngs.params(), (config.num_buckets, config.num_heads), jnp.float32)
        self.position_bias = nnx.Param(bias * config.dim**-0.5, logical_axes=(None, "heads"))

    def __call__(self, x: Float[Array, "b n d"], mask: Bool[Array, "b n"]) -> Float[Array, "b n d"]:
        """Returns the attended tokens; no token attends to those where `mask` is False."""
        b, n, _ = x.shape
        split = (b, n, self.config.num_heads, self.config.head_dim)
        q, k, v = (layer(x).reshape(split) for layer in (self.q, self.k, self.v))
        precision = matmul_precision(v.dtype)
        scores = jnp.einsum(
            "bnhd,bmhd->bhnm", q, k, precision=precision, preferred_element_type=jnp.float32
        )
        buckets = relative_buckets(n, self.config.num_buckets, self.config.max_distance)
        scores += self.position_bias[...][buckets].transpose(2, 0, 1)
        scores = jnp.where(mask[:, None, None, :], scores, jnp.finfo(jnp.float32).min)
        weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
        mixed = jnp.einsum("bhnm,bmhd->bnhd", weights, v, precision=precision)
        return self.o(mixed.reshape(b, n, -1))


class UMT5Block(nnx.Module):
    """Self-attention and a gated feed-forward layer, each after a norm and added to its input."""

    def __init__(self, config: UMT5Config, *, rngs: nnx.Rngs, dtype) -> None:
        make = functools.partial(Projection, rngs=rngs, dtype=dtype)
        into, out = ("embed", "mlp"), ("mlp", "embed")
        self.norm1 = RMSNorm(config.dim, config.eps, ("embed",))
        self.attention = UMT5Attention(config, rngs=rngs, dtype=dtype)
        self.norm2 = RMSNorm(config.dim, config.eps, ("embed",))
        self.gate = make((config.dim, config.ffn_dim), into, std=config.dim**-0.5)
        self.up = make((config.dim, config.ffn_dim), into, std=config.dim**-0.5)
        self.down = make((config.ffn_dim, config.dim), out, std=config.ffn_dim**-0.5)

    def __call__(self, x: Float[Array, "b n d"], mask: Bool[Array, "b n"]) -> Float[Array, "b n d"]:
        """Returns the tokens after both layers, float32; `mask` is as `UMT5` takes it."""
        x = x + self.attention(self.norm1(x), mask).astype(jnp.float32)
        hidden = self.norm2(x)
        gate = self.gate(hidden)
        gate = jax.nn.gelu(gate.astype(jnp.float32), approximate=True).astype(gate.dtype)
        return x + self.down(gate * self.up(hidden)).astype(jnp.float32)


class UMT5(nnx.Module):
    """UMT5's encoder (Chung et al., arXiv 2304.09151).

    Args:
      config: sizes.
      rngs: source of the initial weights.
      dtype: of the projections' and the embedding's weights, and so of their products. "bfloat16"
        is what Wan uses; norms and position biases are always float32.
    """

    def __init__(self, config: UMT5Config, *, rngs: nnx.Rngs, dtype: str = "bfloat16") -> None:
        self.config = config
        table = jax.random.normal(rngs.params(), (config.vocab_size, config.dim), jnp.float32)
        self.embedding = nnx.Param(table.astype(dtype), logical_axes=(None, "embed"))
        self.blocks = nnx.List(
            [UMT5Block(config, rngs=rngs, dtype=dtype) for _ in range(config.num_layers)]
        )
        self.norm = RMSNorm(config.dim, config.eps, ("embed",))

    def __call__(self, ids: Int[Array, "b n"], mask: Bool[Array, "b n"]) -> Float[Array, "b n d"]:
        """Embeds token ids; returns float32.

        Args:
          ids: tokens.
          mask: which of them are text; no token attends to the others. Outputs in their places
            mean nothing.
        """
        x = self.embedding[...][ids].astype(jnp.float32)
        graph = nnx.graphdef(self.blocks[0])
        run = jax.jit(lambda state, x: nnx.merge(graph, state)(x, mask))  # traced for one block
        for block in self.blocks:
            x = run(nnx.state(block), x)
        return self.norm(x)
