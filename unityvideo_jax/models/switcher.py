"""Modality switcher (UnityVideo sec. 3.3): modulation, input and output layers per modality.

Every one of them is a stack of weights with the modality first, and a (sample, stream) picks its
row by a one-hot `choice`. The product with a one-hot is exact, gives the other rows a gradient of
exactly zero, and, unlike a gather, needs no scatter in the backward pass.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from unityvideo_jax.kernels.pointwise import input_and_norm
from unityvideo_jax.models.layers import Linear, identity, matmul_precision, xavier


def choose(modality: Int[Array, "b s"], count: int, *, grouped: bool) -> Float[Array, "b s count"]:
    """Returns one-hot rows that pick from `count` weights for each (sample, stream).

    Args:
      modality: modality ids, 0 = RGB.
      count: weights to choose from; 1 always picks it.
      grouped: True = RGB takes row 0 and every other modality row 1; False = row by id.
    """
    if count == 1:
        return jnp.ones((*modality.shape, 1), jnp.float32)
    rows = (modality != 0).astype(modality.dtype) if grouped else modality
    return jax.nn.one_hot(rows, count, dtype=jnp.float32)


def select(
    weights: Float[Array, "k ..."], choice: Float[Array, "b s k"]
) -> Float[Array, "b s ..."]:
    """Returns the chosen row of `weights` for each (sample, stream), exactly."""
    return jnp.tensordot(choice, weights, axes=1, precision=jax.lax.Precision.HIGHEST)


def _copies(row: Float[Array, "..."], count: int) -> Float[Array, "count ..."]:
    """The same initial row for every modality, so that none differs from the base model."""
    return jnp.broadcast_to(row, (count, *row.shape))


class Modulation(nnx.Module):
    """Tables of modulation vectors, [modality, vectors, dim], added to the timestep's.

    Wan 2.1 has one table; UnityVideo sec. 3.3 has one per modality, which starts as its copy.
    """

    def __init__(self, count: int, vectors: int, dim: int, *, rngs: nnx.Rngs) -> None:
        row = jax.random.normal(rngs.params(), (vectors, dim), jnp.float32) / math.sqrt(dim)
        self.table = nnx.Param(_copies(row, count), logical_axes=("modality", None, "embed"))

    def __call__(
        self,
        embedding: Float[Array, "b s u #v d"],
        choice: Float[Array, "b s k"],
        clean: Bool[Array, "b s n 1"] | None = None,
    ) -> list[Float[Array, "b s #n d"]]:
        """Returns the float32 vectors of each (sample, stream), ready to broadcast over its tokens.

        Args:
          embedding: of the stream's timestep (u = 1), or of it and of t = 0 (u = 2).
          choice: one-hot row of the tables.
          clean: with u = 2, the tokens that take the second.
        """
        vectors = select(self.table[...], choice)[:, :, None] + embedding
        vectors = [vectors[:, :, :, i] for i in range(vectors.shape[3])]
        if clean is None:
            return vectors
        # Select lazily: a float32 vector per token would use more memory than the activations
        # (Wan 2.2 at 121 frames: 1.9 GiB per sample).
        return [jnp.where(clean, one[:, :, 1:], one[:, :, :1]) for one in vectors]


class PatchEmbedding(nnx.Module):
    """Linear maps of patches to tokens, which start as copies of one.

    Args:
      count: number of maps.
      patch_dim, dim: features of a patch and of a token.
      grouped: with two maps, RGB takes the first and all others the second; otherwise each
        modality its own.
      rngs: source of the initial kernel.
    """

    def __init__(
        self, count: int, patch_dim: int, dim: int, *, grouped: bool, rngs: nnx.Rngs
    ) -> None:
        self.grouped = grouped
        kernel = xavier(rngs.params(), (patch_dim, dim), jnp.float32)
        self.count = count
        self.kernel = nnx.Param(_copies(kernel, count), logical_axes=("modality", "patch", "embed"))
        self.bias = nnx.Param(
            jnp.zeros((count, dim), jnp.float32), logical_axes=("modality", "embed")
        )

    def __call__(
        self, patches: Float[Array, "b s n p"], modality: Int[Array, "b s"], dtype: jnp.dtype
    ) -> Float[Array, "b s n d"]:
        """Maps each patch to a token in `dtype`.

        Args:
          patches: values of each patch, flattened.
          modality: id of each stream, 0 = RGB.
        """
        patches, precision = patches.astype(dtype), matmul_precision(dtype)
        if self.count == 1:
            kernel, bias = self.kernel[0].astype(dtype), self.bias[0].astype(dtype)
            return jnp.matmul(patches, kernel, precision=precision) + bias
        choice = choose(modality, self.count, grouped=self.grouped)
        kernel = select(self.kernel[...], choice).astype(dtype)
        bias = select(self.bias[...], choice).astype(dtype)
        return jnp.matmul(patches, kernel, precision=precision) + bias[:, :, None]


class AdditiveSwitch(nnx.Module):
    """The public release's switch: a linear map of tokens other than RGB, one vector per modality.

    The map starts as the identity and the vectors at zero, so that the tokens start as the base
    model's.
    """

    def __init__(self, count: int, dim: int, *, rngs: nnx.Rngs) -> None:
        self.vectors = nnx.Param(
            jnp.zeros((count, dim), jnp.float32), logical_axes=("modality", "embed")
        )
        self.projection = Linear(dim, dim, ("embed", None), rngs=rngs, init=identity)

    def __call__(
        self, tokens: Float[Array, "b s n d"], modality: Int[Array, "b s"], dtype: jnp.dtype
    ) -> Float[Array, "b s n d"]:
        """Returns the tokens, mapped unless they are RGB's, plus the vector of their modality."""
        is_rgb = (modality == 0)[:, :, None, None]
        tokens = jnp.where(is_rgb, tokens, self.projection(tokens, dtype))
        choice = choose(modality, self.vectors.shape[0], grouped=False)
        return tokens + select(self.vectors[...], choice)[:, :, None].astype(dtype)


class ModalityEmbedding(nnx.Module):
    """L_m of UnityVideo sec. 3.3: one vector per modality, added to the timestep embedding."""

    def __init__(self, count: int, dim: int) -> None:
        self.table = nnx.Param(
            jnp.zeros((count, dim), jnp.float32), logical_axes=("modality", "embed")
        )

    def __call__(self, modality: Int[Array, "b s"]) -> Float[Array, "b s d"]:
        """Returns L_m of each stream, float32; `modality` holds ids, 0 = RGB."""
        return select(self.table[...], choose(modality, self.table.shape[0], grouped=False))


class Heads(nnx.Module):
    """Final norm, modulation and projection to patches, one set of weights per head.

    The paper's appendix has one head per modality, the public release two.

    The projection starts at zero, so that an untrained model predicts zero velocity.
    """

    def __init__(
        self,
        count: int,
        dim: int,
        patch_dim: int,
        eps: float,
        *,
        grouped: bool,
        rngs: nnx.Rngs,
    ) -> None:
        self.count, self.eps, self.grouped = count, eps, grouped
        self.modulation = Modulation(count, 2, dim, rngs=rngs)
        self.kernel = nnx.Param(
            jnp.zeros((count, dim, patch_dim), jnp.float32),
            logical_axes=("modality", "embed", "patch"),
        )
        self.bias = nnx.Param(
            jnp.zeros((count, patch_dim), jnp.float32), logical_axes=("modality", "patch")
        )

    def __call__(
        self,
        x: Float[Array, "b s n d"],
        time_embedding: Float[Array, "b s u d"],
        modality: Int[Array, "b s"],
        dtype: jnp.dtype,
        clean: Bool[Array, "b s n 1"] | None = None,
    ) -> Float[Array, "b s n p"]:
        """Predicts the velocity of every patch in float32.

        Args:
          x: tokens of the last block.
          time_embedding: float32, of the stream's timestep (u = 1), or of it and of t = 0 (u = 2).
          modality: ids, 0 = RGB.
          dtype: of the matrix product.
          clean: with u = 2, the tokens at t = 0.
        """
        choice = choose(modality, self.count, grouped=self.grouped)
        shift, scale = self.modulation(time_embedding[:, :, :, None], choice, clean)
        _, x = input_and_norm(x, 1.0 + scale, shift, self.eps)
        kernel = select(self.kernel[...], choice).astype(dtype)
        out = jnp.matmul(
            x, kernel, precision=matmul_precision(dtype), preferred_element_type=jnp.float32
        )
        return out + select(self.bias[...], choice)[:, :, None]
