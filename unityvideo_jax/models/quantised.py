"""Frozen matrices in 8 bits, or in QLoRA's 4 bits (arXiv 2305.14314), restored where used.

A layer of the scan restores only its own matrix, in the forward pass and again in the backward
pass, so that at most one layer's is held in the compute type.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Shaped

from unityvideo_jax.errors import UserError

KINDS = ("int8", "nf4")
# Inputs that share a scale in nf4.
BLOCK = 64
# The 16 values of NF4 (Dettmers et al., "QLoRA", arXiv 2305.14314, appendix E).
NF4 = np.array(
    [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
        -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
        0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
        0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ],
    np.float32,
)  # fmt: skip


def quantise(
    kernel: Float[Array, "*l i o"], kind: str
) -> tuple[Shaped[Array, "*l j o"], Float[Array, "*l k o"]]:
    """Returns codes and float32 scales of matrices.

    Args:
      kernel: any floats.
      kind: "int8", codes int8 [*l, i, o] with one scale per output; or "nf4", codes uint8
        [*l, i/2, o] that hold two inputs each, with one scale per `BLOCK` inputs.

    Raises:
      UserError: inputs that `BLOCK` does not divide.
    """
    kernel = kernel.astype(jnp.float32)
    *layers, inputs, outputs = kernel.shape
    if kind == "int8":
        scales = jnp.max(jnp.abs(kernel), axis=-2, keepdims=True) / 127.0
        codes = jnp.round(kernel / jnp.where(scales > 0, scales, 1.0)).astype(jnp.int8)
        return codes, scales
    if inputs % BLOCK:
        raise UserError(
            f"nf4 quantises {BLOCK} inputs together, and a layer has {inputs}: use 'int8'"
        )
    blocks = kernel.reshape(*layers, inputs // BLOCK, BLOCK, outputs)
    scales = jnp.max(jnp.abs(blocks), axis=-2, keepdims=True)
    middles = (NF4[1:] + NF4[:-1]) / 2
    codes = jnp.searchsorted(
        middles, blocks / jnp.where(scales > 0, scales, 1.0), method="compare_all"
    )
    pairs = codes.astype(jnp.uint8).reshape(*layers, inputs // 2, 2, outputs)
    return pairs[..., 0, :] | (pairs[..., 1, :] << 4), scales[..., 0, :]


def restore(
    codes: Shaped[Array, "*l j o"], scales: Float[Array, "*l k o"], dtype: jnp.dtype
) -> Float[Array, "*l i o"]:
    """Returns the matrices that `quantise` took, rounded.

    Args:
      codes: their type says which kind they are: int8, or uint8 for nf4.
      scales: float32, one per output, or one per `BLOCK` inputs and output.
      dtype: of the result.
    """
    if codes.dtype == jnp.int8:
        return (codes.astype(jnp.float32) * scales).astype(dtype)
    *layers, half, outputs = codes.shape
    pairs = jnp.stack([codes & 15, codes >> 4], axis=-2)
    values = jnp.asarray(NF4)[pairs].reshape(*layers, scales.shape[-2], BLOCK, outputs)
    return (values * scales[..., None, :]).reshape(*layers, 2 * half, outputs).astype(dtype)


class Quantised(nnx.Module):
    """A frozen matrix, or a stack of them, in few bits.

    Args:
      kernel: to quantise, with its logical axes.
      kind: one of `KINDS`.
    """

    def __init__(self, kernel: nnx.Param, kind: str) -> None:
        # Compiled, so that no float32 copies lie beside the largest matrices.
        codes, scales = jax.jit(quantise, static_argnums=1)(kernel[...], kind)
        *layers, inputs, outputs = kernel.get_metadata("logical_axes")
        self.codes = nnx.Param(codes, logical_axes=(*layers, inputs, outputs))
        self.scales = nnx.Param(scales, logical_axes=(*layers, None, outputs))

    def __call__(self, dtype: jnp.dtype) -> Float[Array, "... i o"]:
        """The matrix in `dtype`."""
        return restore(*self.parts(), dtype)

    def parts(self) -> tuple[Shaped[Array, "... j o"], Float[Array, "... k o"]]:
        """The codes and the scales, as `restore` takes them."""
        return self.codes[...], self.scales[...]

    def product(
        self, x: Float[Array, "... i"], dtype: jnp.dtype, precision: jax.lax.Precision
    ) -> Float[Array, "... o"]:
        """Returns `x` times the matrix; the backward pass restores the matrix again."""

        def times(x: Array, codes: Array, scales: Array) -> Array:
            return jnp.matmul(x, restore(codes, scales, dtype), precision=precision)

        return jax.checkpoint(times)(x, *self.parts())
