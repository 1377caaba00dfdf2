"""The plain parts of the transformer: linear, norms, feed-forward, timestep features, patches.

Parameters are float32 and say in their `logical_axes` metadata what each dimension means.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from unityvideo_jax.kernels.pointwise import add_bias, input_and_norm, rms_norm
from unityvideo_jax.kernels.rope import RopeTable

Initializer = Callable[..., Array]
LogicalAxes = tuple[str | None, ...]

# Name by which rematerialisation policies find the product of a linear layer.
LINEAR = "linear_output"

xavier: Initializer = jax.nn.initializers.xavier_uniform()
small_normal: Initializer = jax.nn.initializers.normal(0.02)


def identity(key: Array, shape: tuple[int, int], dtype: type) -> Float[Array, "i o"]:
    """Initialises a kernel to the identity; it draws no random number."""
    del key
    return jnp.eye(*shape, dtype=dtype)


def matmul_precision(dtype: jnp.dtype) -> jax.lax.Precision:
    """Returns full precision for float32, whose products accelerators would otherwise round."""
    is_full = jnp.dtype(dtype) == jnp.float32
    return jax.lax.Precision.HIGHEST if is_full else jax.lax.Precision.DEFAULT


class Linear(nnx.Module):
    """`x @ kernel + bias`, computed in the type given at the call; named for rematerialisation.

    `models.lora` may put an `adapter` beside it, and hold its kernel in fewer bits as `quantised`.

    Args:
      in_features, out_features: sizes.
      axes: logical axes of the kernel; the bias takes the second.
      rngs: source of the initial kernel.
      init: initialiser of the kernel; the bias starts at zero.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        axes: LogicalAxes,
        *,
        rngs: nnx.Rngs,
        init: Initializer = xavier,
    ) -> None:
        self.adapter: nnx.Module | None = nnx.data(None)
        self.quantised: nnx.Module | None = nnx.data(None)
        kernel = init(rngs.params(), (in_features, out_features), jnp.float32)
        self.kernel = nnx.Param(kernel, logical_axes=axes)
        self.bias = nnx.Param(jnp.zeros((out_features,), jnp.float32), logical_axes=axes[1:])

    def __call__(self, x: Float[Array, "... i"], dtype: jnp.dtype) -> Float[Array, "... o"]:
        """Returns `x @ kernel + bias` in `dtype`, with the adapter if there is one."""
        return add_bias(*self.product_and_bias(x, dtype))

    def product_and_bias(
        self,
        x: Float[Array, "... i"],
        dtype: jnp.dtype,
        use: Any = None,
        offset: Float[Array, " i"] | None = None,
    ) -> tuple[Float[Array, "... o"], Float[Array, " o"]]:
        """Returns the matrix product, and the bias that the caller adds (`docs/kernels.md`).

        Args:
          x: inputs.
          dtype: to compute in.
          use: choice and dropout of the adapter, a `models.adapter.Use`.
          offset: still to be added to the inputs; the adapter sees it, the kernel does not.
        """
        precision = matmul_precision(dtype)
        if self.adapter is not None and self.adapter.joins_base(use):
            base = self.kernel[...] if self.quantised is None else self.quantised.parts()
            y = self.adapter.with_base(x, base, dtype, offset)
            return checkpoint_name(y, LINEAR), self.bias[...]
        if self.quantised is None:
            y = jnp.matmul(x.astype(dtype), self.matrix(dtype), precision=precision)
        else:
            y = self.quantised.product(x.astype(dtype), dtype, precision)
        if self.adapter is not None:
            y = y + self.adapter(x, dtype, use, offset)
        return checkpoint_name(y, LINEAR), self.bias[...]

    def matrix(self, dtype: jnp.dtype) -> Float[Array, "i o"]:
        """Returns the kernel in `dtype`, without the adapter."""
        return self.kernel[...].astype(dtype) if self.quantised is None else self.quantised(dtype)


def is_kernel(path: tuple) -> bool:
    """Whether the path of a parameter in a tree is that of a matrix that multiplies activations."""
    return any(getattr(key, "key", None) == "kernel" for key in path)


class LayerNorm(nnx.Module):
    """Layer normalisation with scale and bias."""

    def __init__(self, dim: int, eps: float) -> None:
        self.eps = eps
        self.scale = nnx.Param(jnp.ones((dim,), jnp.float32), logical_axes=("embed",))
        self.bias = nnx.Param(jnp.zeros((dim,), jnp.float32), logical_axes=("embed",))

    def input_and_norm(
        self, x: Float[Array, "... d"]
    ) -> tuple[Float[Array, "... d"], Float[Array, "... d"]]:
        """`x`, and `x` normalised: see `pointwise.input_and_norm`."""
        return input_and_norm(x, self.scale[...], self.bias[...], self.eps)


class RMSNorm(nnx.Module):
    """Root-mean-square normalisation with a scale, see `pointwise.rms_norm`."""

    def __init__(self, dim: int, eps: float, axes: LogicalAxes) -> None:
        self.eps = eps
        self.scale = nnx.Param(jnp.ones((dim,), jnp.float32), logical_axes=axes)

    def __call__(
        self,
        x: Float[Array, "... d"],
        bias: Float[Array, " d"] | None = None,
        rope: RopeTable | None = None,
    ) -> Float[Array, "... d"]:
        """Normalises `x + bias` and rotates it by `rope`; see `pointwise.rms_norm`."""
        scale = self.scale[...]
        return rms_norm(x, jnp.zeros_like(scale) if bias is None else bias, scale, rope, self.eps)


class MLP(nnx.Module):
    """Linear, activation, linear.

    Args:
      sizes: features in, hidden, out.
      axes: logical axes of those three.
      activation: of the hidden features, which it gets as a product and its bias.
      rngs: source of the initial kernels.
      init: initialiser of both kernels.
    """

    def __init__(
        self,
        sizes: tuple[int, int, int],
        axes: tuple[str | None, str | None, str | None],
        activation: Callable[[Array, Array], Array],
        *,
        rngs: nnx.Rngs,
        init: Initializer = xavier,
    ) -> None:
        self.activation = activation
        self.up = Linear(sizes[0], sizes[1], axes[:2], rngs=rngs, init=init)
        self.down = Linear(sizes[1], sizes[2], axes[1:], rngs=rngs, init=init)

    def __call__(self, x: Float[Array, "... i"], dtype: jnp.dtype) -> Float[Array, "... o"]:
        """Returns the output features in `dtype`."""
        return add_bias(*self.product_and_bias(x, dtype))

    def product_and_bias(
        self, x: Float[Array, "... i"], dtype: jnp.dtype, use: Any = None
    ) -> tuple[Float[Array, "... o"], Float[Array, " o"]]:
        """The last matrix product, and the bias that the caller adds (`docs/kernels.md`).

        `use` is as `Linear` takes it.
        """
        hidden = self.activation(*self.up.product_and_bias(x, dtype, use))
        return self.down.product_and_bias(hidden, dtype, use)


def timestep_features(timestep: Float[Array, "..."], dim: int) -> Float[Array, "... {dim}"]:
    """Sinusoidal features of timesteps in [0, 1]: cos then sin of 1000*t times falling frequencies.

    Wan 2.1 counts time in [0, 1000] with frequencies 10000^(-i/half).
    """
    half = dim // 2
    frequencies = jnp.exp(-math.log(10_000.0) / half * jnp.arange(half, dtype=jnp.float32))
    angles = 1000.0 * timestep.astype(jnp.float32)[..., None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def patchify(
    latents: Float[Array, "b s t h w c"], patch: tuple[int, int, int]
) -> Float[Array, "b s n p"]:
    """Cuts latent videos into patches; features are ordered (time, height, width, channel).

    Args:
      latents: streams of any float type.
      patch: cells (time, height, width) of a patch; they divide the latents' sizes.
    """
    b, s, t, h, w, c = latents.shape
    pt, ph, pw = patch
    x = latents.reshape(b, s, t // pt, pt, h // ph, ph, w // pw, pw, c)
    x = x.transpose(0, 1, 2, 4, 6, 3, 5, 7, 8)
    return x.reshape(b, s, (t // pt) * (h // ph) * (w // pw), pt * ph * pw * c)


def unpatchify(
    patches: Float[Array, "b s n p"], patch: tuple[int, int, int], grid: tuple[int, int, int]
) -> Float[Array, "b s t h w c"]:
    """Joins patches to latent videos: the inverse of `patchify` for tokens on `grid`.

    Args:
      patches: features of each token.
      patch: cells (time, height, width) of a patch.
      grid: tokens of one stream along (time, height, width).
    """
    b, s, _, features = patches.shape
    (pt, ph, pw), (t, h, w) = patch, grid
    c = features // (pt * ph * pw)
    x = patches.reshape(b, s, t, h, w, pt, ph, pw, c).transpose(0, 1, 2, 5, 3, 6, 4, 7, 8)
    return x.reshape(b, s, t * pt, h * ph, w * pw, c)
