"""Convolutions that never look ahead in time, and what they carry from chunk to chunk.

Every temporal layer runs the same code on a whole video and on chunks of it: the frames it needs
from before the chunk come out of a `Carry`, and a carry that holds nothing means the video starts
here. A whole video is its own first chunk, hence the two ways give equal results.

Kernels are stored [kt, kh, kw, in, out] and [kh, kw, in, out]: a PyTorch checkpoint is transposed,
never reshaped.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from unityvideo_jax.models.layers import Initializer, matmul_precision

# Layers carry frames of different sizes.
Frames = Float[Array, "_ _ _ _ _"]
kernel_init = jax.nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
# |x| below this counts as zero length; as in `torch.nn.functional.normalize`.
NORM_FLOOR = 1e-12


def _bias(rngs: nnx.Rngs, shape: tuple[int, ...]) -> Float[Array, "o"]:
    """Uniform within 1/sqrt(fan in), as PyTorch starts: zero would leave no length to normalise."""
    bound = 1.0 / math.sqrt(math.prod(shape[:-1]))
    return jax.random.uniform(rngs.params(), shape[-1:], jnp.float32, -bound, bound)


class Carry:
    """Frames remembered by the temporal layers, in the order in which the layers run.

    Args:
      frames: what the previous chunk's carry `saved`; None at the start of a video.
    """

    def __init__(self, frames: Sequence[Frames] | None = None) -> None:
        self._frames = None if frames is None else list(frames)
        self.saved: list[Frames] = []

    @property
    def at_start(self) -> bool:
        """Whether the video starts here."""
        return self._frames is None

    def take(self) -> Frames | None:
        """The next layer's frames; None at the start of a video."""
        return None if self._frames is None else self._frames[len(self.saved)]

    def save(self, frames: Frames) -> None:
        """Keeps a layer's frames for the next chunk; follows each `take`."""
        self.saved.append(frames)


def _param(value: Float[Array, "..."]) -> nnx.Param:
    # The autoencoder is small and replicated: no dimension has a mesh axis.
    return nnx.Param(value, logical_axes=(None,) * value.ndim)


def _fold_time(x: Float[Array, "b t h w c"], kernel_time: int) -> Float[Array, "b s h w k"]:
    """Each frame with the `kernel_time - 1` frames before it, stacked on channels."""
    steps = x.shape[1] - kernel_time + 1
    return jnp.concatenate([x[:, i : i + steps] for i in range(kernel_time)], axis=-1)


def _conv2d(
    x: Float[Array, "b t h w c"],
    weight: Float[Array, "kh kw c o"],
    stride: int,
    padding: tuple[tuple[int, int], tuple[int, int]],
) -> Float[Array, "b t p q o"]:
    """The same 2-D convolution on every frame."""
    b, t, h, w, c = x.shape
    y = jax.lax.conv_general_dilated(
        x.reshape(b * t, h, w, c),
        weight,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=matmul_precision(x.dtype),
    )
    return y.reshape(b, t, *y.shape[1:])


class Conv2d(nnx.Module):
    """A 2-D convolution on every frame.

    Args:
      in_channels, out_channels: channels.
      kernel: side of the square kernel; odd.
      stride: spatial stride.
      asymmetric: pad one row below and one column at the right only (Wan's downsampling),
        rather than both sides.
      rngs: source of the initial weight.
      zero: start the weight at zero.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        rngs: nnx.Rngs,
        stride: int = 1,
        asymmetric: bool = False,
        zero: bool = False,
    ) -> None:
        self.stride = stride
        side = (0, 1) if asymmetric else (kernel // 2, kernel // 2)
        self.padding = (side, side)
        shape = (kernel, kernel, in_channels, out_channels)
        init = jax.nn.initializers.zeros if zero else kernel_init
        self.weight = _param(init(rngs.params(), shape, jnp.float32))
        self.bias = _param(_bias(rngs, shape))

    def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b t p q o"]:
        """Returns the convolved frames, in the type of `x`."""
        weight = self.weight[...].astype(x.dtype)
        if weight.shape[:2] == (1, 1):
            y = jnp.matmul(x, weight[0, 0], precision=matmul_precision(x.dtype))
        else:
            y = _conv2d(x, weight, self.stride, self.padding)
        return y + self.bias[...].astype(x.dtype)


class CausalConv3d(nnx.Module):
    """A 3-D convolution that sees this frame and the two before it; zeros stand before frame 0.

    It runs as one 2-D convolution over frames stacked on channels, which every backend does well
    (3-D convolutions of few channels are several times slower on CPUs).

    Args:
      in_channels, out_channels: channels.
      kernel: sides (time, height, width), each 1 or 3; a space of 1 costs a matrix product only.
      rngs: source of the initial weight.
      init: called with key, shape and type for the initial weight; the bias starts at zero.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: tuple[int, int, int] = (3, 3, 3),
        *,
        rngs: nnx.Rngs,
        init: Initializer = kernel_init,
    ) -> None:
        shape = (*kernel, in_channels, out_channels)
        self.weight = _param(init(rngs.params(), shape, jnp.float32))
        self.bias = _param(_bias(rngs, shape))

    def __call__(self, x: Float[Array, "b t h w c"], carry: Carry) -> Float[Array, "b t h w o"]:
        """Returns as many frames as `x` has; `carry` holds those before this chunk."""
        kernel_time = self.weight.shape[0]
        if kernel_time > 1:
            before = carry.take()
            if before is None:
                before = jnp.zeros((x.shape[0], kernel_time - 1, *x.shape[2:]), x.dtype)
            x = jnp.concatenate([before, x], axis=1)
            carry.save(x[:, 1 - kernel_time :])
        return self.valid(x)

    def valid(
        self, x: Float[Array, "b t h w c"], time_stride: int = 1
    ) -> Float[Array, "b s h w o"]:
        """Convolves without any padding in time: two frames fewer with a kernel of three."""
        weight = self.weight[...].astype(x.dtype)
        kt, kh, kw, i, o = weight.shape
        x = _fold_time(x, kt)[:, ::time_stride]
        weight = weight.transpose(1, 2, 0, 3, 4).reshape(kh, kw, kt * i, o)
        if (kh, kw) == (1, 1):
            y = jnp.matmul(x, weight[0, 0], precision=matmul_precision(x.dtype))
        else:
            y = _conv2d(x, weight, 1, ((kh // 2, kh // 2), (kw // 2, kw // 2)))
        return y + self.bias[...].astype(x.dtype)


class ChannelNorm(nnx.Module):
    """Each position's channels scaled to length sqrt(C), times gamma (Wan 2.1's "RMS" norm).

    Float32 inside, whatever the compute type.
    """

    def __init__(self, channels: int) -> None:
        self.gamma = _param(jnp.ones((channels,), jnp.float32))

    def __call__(self, x: Float[Array, "... c"]) -> Float[Array, "... c"]:
        """Returns the scaled channels, in the type of `x`."""
        y = x.astype(jnp.float32)
        power = jnp.sum(jnp.square(y), axis=-1, keepdims=True)
        # A position without length stays zero and passes no gradient: a factor 1e12 overflows.
        inverse = jax.lax.rsqrt(jnp.maximum(power, NORM_FLOOR**2))
        y = y * jnp.where(power > NORM_FLOOR**2, inverse, 0.0)
        return (y * (math.sqrt(x.shape[-1]) * self.gamma[...])).astype(x.dtype)


def _mean_of_two(key: Array, shape: tuple[int, ...], dtype: Any) -> Float[Array, "..."]:
    """Weight that gives the mean of the two frames that become one."""
    del key
    return jnp.zeros(shape, dtype).at[1:, 0, 0].set(0.5 * jnp.eye(shape[-2]))


def _copy_to_two(key: Array, shape: tuple[int, ...], dtype: Any) -> Float[Array, "..."]:
    """Weight that copies each frame to the two that it becomes."""
    del key
    return jnp.zeros(shape, dtype).at[-1, 0, 0].set(jnp.tile(jnp.eye(shape[-2]), (1, 2)))


class Downsample(nnx.Module):
    """Halves height and width, then, if asked to, time: 1 + 2n frames become 1 + n.

    The first frame of a video skips the temporal convolution; every later output sees the two
    frames that it stands for and the one before them.

    Args:
      channels: in and out.
      temporal: also halve time.
      rngs: source of the initial weights.
    """

    def __init__(self, channels: int, *, temporal: bool, rngs: nnx.Rngs) -> None:
        self.resample = Conv2d(channels, channels, 3, stride=2, asymmetric=True, rngs=rngs)
        self.time_conv = (
            CausalConv3d(channels, channels, (3, 1, 1), rngs=rngs, init=_mean_of_two)
            if temporal
            else None
        )

    def __call__(self, x: Float[Array, "b t h w c"], carry: Carry) -> Float[Array, "b s p q c"]:
        """Returns the halved features; `carry` holds the frames before this chunk."""
        x = self.resample(x)
        if self.time_conv is None:
            return x
        before = carry.take()
        carry.save(x[:, -1:])
        if before is not None:
            return self.time_conv.valid(jnp.concatenate([before, x], axis=1), time_stride=2)
        if x.shape[1] == 1:
            return x
        return jnp.concatenate([x[:, :1], self.time_conv.valid(x, time_stride=2)], axis=1)


class Upsample(nnx.Module):
    """Doubles, if asked to, time: 1 + n frames become 1 + 2n; then height and width (nearest).

    The first frame of a video skips the temporal convolution, and the convolution of the frames
    after it sees zeros in its place.

    Args:
      in_channels, out_channels: channels; Wan 2.1 halves them, Wan 2.2 keeps them.
      temporal: also double time.
      rngs: source of the initial weights.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, temporal: bool, rngs: nnx.Rngs
    ) -> None:
        self.time_conv = (
            CausalConv3d(in_channels, 2 * in_channels, (3, 1, 1), rngs=rngs, init=_copy_to_two)
            if temporal
            else None
        )
        self.resample = Conv2d(in_channels, out_channels, 3, rngs=rngs)

    def __call__(self, x: Float[Array, "b t h w c"], carry: Carry) -> Float[Array, "b s p q o"]:
        """Returns the doubled features; `carry` holds the frames before this chunk."""
        if self.time_conv is not None:
            x = self._double_time(self.time_conv, x, carry)
        x = x.repeat(2, axis=2).repeat(2, axis=3)
        return self.resample(x)

    @staticmethod
    def _double_time(
        conv: CausalConv3d, x: Float[Array, "b t h w c"], carry: Carry
    ) -> Float[Array, "b s h w c"]:
        before = carry.take()
        first = x[:, :0]
        if before is None:
            first, x = x[:, :1], x[:, 1:]
            before = jnp.zeros((x.shape[0], 2, *x.shape[2:]), x.dtype)
        x = jnp.concatenate([before, x], axis=1)
        carry.save(x[:, -2:])
        if x.shape[1] == 2:
            return first
        y = conv.valid(x)
        b, t, h, w, doubled = y.shape
        # Channels hold (which of the two frames, channel).
        y = y.reshape(b, t, h, w, 2, doubled // 2).transpose(0, 1, 4, 2, 3, 5)
        return jnp.concatenate([first, y.reshape(b, 2 * t, h, w, doubled // 2)], axis=1)
