"""The blocks of Wan's autoencoders, the encoder and the decoder.

Wan 2.1 has its layers in one row. Wan 2.2 groups them in levels, adds to each level a shortcut
that has no weights, and turns squares of pixels into channels first.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from unityvideo_jax.models.layers import matmul_precision
from unityvideo_jax.models.vae.causal_conv import (
    Carry,
    CausalConv3d,
    ChannelNorm,
    Conv2d,
    Downsample,
    Upsample,
)
from unityvideo_jax.models.vae.config import VAEConfig


class ResidualBlock(nnx.Module):
    """Twice norm, SiLU and causal convolution, added to the input."""

    def __init__(self, in_channels: int, out_channels: int, *, rngs: nnx.Rngs) -> None:
        self.norm1 = ChannelNorm(in_channels)
        self.conv1 = CausalConv3d(in_channels, out_channels, rngs=rngs)
        self.norm2 = ChannelNorm(out_channels)
        self.conv2 = CausalConv3d(out_channels, out_channels, rngs=rngs)
        self.shortcut = (
            CausalConv3d(in_channels, out_channels, (1, 1, 1), rngs=rngs)
            if in_channels != out_channels
            else None
        )

    def __call__(self, x: Float[Array, "b t h w c"], carry: Carry) -> Float[Array, "b t h w o"]:
        """Returns the features after the block; `carry` holds the frames before this chunk."""
        residual = x if self.shortcut is None else self.shortcut(x, carry)
        x = self.conv1(jax.nn.silu(self.norm1(x)), carry)
        return residual + self.conv2(jax.nn.silu(self.norm2(x)), carry)


class FrameAttention(nnx.Module):
    """Single-head self-attention over the positions of each frame, added to the input."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs) -> None:
        self.norm = ChannelNorm(channels)
        self.to_qkv = Conv2d(channels, 3 * channels, 1, rngs=rngs)
        self.proj = Conv2d(channels, channels, 1, rngs=rngs, zero=True)

    def __call__(self, x: Float[Array, "b t h w c"], carry: Carry) -> Float[Array, "b t h w c"]:
        """The attended features; frames do not attend to each other, so `carry` is unused."""
        del carry
        b, t, h, w, c = x.shape
        q, k, v = jnp.split(self.to_qkv(self.norm(x)).reshape(b * t, h * w, 3 * c), 3, axis=-1)
        precision = matmul_precision(x.dtype)
        logits = jnp.einsum(
            "nqc,nkc->nqk", q, k, precision=precision, preferred_element_type=jnp.float32
        )
        weights = jax.nn.softmax(logits * c**-0.5, axis=-1).astype(x.dtype)
        y = jnp.einsum("nqk,nkc->nqc", weights, v, precision=precision)
        return x + self.proj(y.reshape(x.shape))


class Head(nnx.Module):
    """Norm, SiLU and the last causal convolution."""

    def __init__(self, in_channels: int, out_channels: int, *, rngs: nnx.Rngs) -> None:
        self.norm = ChannelNorm(in_channels)
        self.conv = CausalConv3d(in_channels, out_channels, rngs=rngs)

    def __call__(self, x: Float[Array, "b t h w c"], carry: Carry) -> Float[Array, "b t h w o"]:
        """Returns the output channels; `carry` holds the frames before this chunk."""
        return self.conv(jax.nn.silu(self.norm(x)), carry)


def _middle(channels: int, rngs: nnx.Rngs) -> nnx.List:
    return nnx.List(
        [
            ResidualBlock(channels, channels, rngs=rngs),
            FrameAttention(channels, rngs=rngs),
            ResidualBlock(channels, channels, rngs=rngs),
        ]
    )


def patchify(video: Float[Array, "b t h w c"], side: int) -> Float[Array, "b t p q k"]:
    """Moves squares of pixels to channels, ordered (channel, column, row) as Wan 2.2 has them."""
    b, t, h, w, c = video.shape
    x = video.reshape(b, t, h // side, side, w // side, side, c).transpose(0, 1, 2, 4, 6, 5, 3)
    return x.reshape(b, t, h // side, w // side, c * side**2)


def unpatchify(patches: Float[Array, "b t p q k"], side: int) -> Float[Array, "b t h w c"]:
    """The inverse of `patchify`."""
    b, t, p, q, k = patches.shape
    x = patches.reshape(b, t, p, q, k // side**2, side, side).transpose(0, 1, 2, 6, 3, 5, 4)
    return x.reshape(b, t, p * side, q * side, k // side**2)


def average_cells(
    x: Float[Array, "b t h w c"], time: int, space: int, channels: int
) -> Float[Array, "b s p q o"]:
    """Moves cells of time x space x space to channels, and averages channels (Wan 2.2).

    Zeros precede the first frame where `time` does not divide the number of frames, as at the
    start of a video.
    """
    x = jnp.pad(x, ((0, 0), (-x.shape[1] % time, 0), (0, 0), (0, 0), (0, 0)))
    b, t, h, w, c = x.shape
    x = x.reshape(b, t // time, time, h // space, space, w // space, space, c)
    x = x.transpose(0, 1, 3, 5, 7, 2, 4, 6)
    return x.reshape(b, t // time, h // space, w // space, channels, -1).mean(axis=-1)


def copy_cells(
    x: Float[Array, "b t h w c"], time: int, space: int, channels: int, *, at_start: bool
) -> Float[Array, "b s p q o"]:
    """Moves repeated channels to cells of time x space x space (Wan 2.2), the way back.

    The first frame of a video becomes one frame, not `time`.
    """
    b, t, h, w, c = x.shape
    x = x.repeat(channels * time * space**2 // c, axis=-1)
    x = x.reshape(b, t, h, w, channels, time, space, space).transpose(0, 1, 5, 2, 6, 3, 7, 4)
    x = x.reshape(b, t * time, h * space, w * space, channels)
    return x[:, time - 1 :] if at_start else x


class ResidualDown(nnx.Module):
    """A level of Wan 2.2's encoder: blocks, then half the size, plus averages of the input.

    Args:
      in_channels, out_channels: channels.
      blocks: residual blocks.
      halves: whether height and width halve; the last level keeps them.
      temporal: whether time halves too.
      rngs: source of the initial weights.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        blocks: int,
        halves: bool,
        temporal: bool,
        rngs: nnx.Rngs,
    ) -> None:
        self.out_channels = out_channels
        self.time, self.space = 1 + temporal, 1 + halves
        layers: list[nnx.Module] = []
        for i in range(blocks):
            width = out_channels if i else in_channels
            layers.append(ResidualBlock(width, out_channels, rngs=rngs))
        if halves:
            layers.append(Downsample(out_channels, temporal=temporal, rngs=rngs))
        self.downsamples = nnx.List(layers)

    def __call__(self, x: Float[Array, "b t h w c"], carry: Carry) -> Float[Array, "b s p q o"]:
        """Returns the features of the next level; `carry` holds the frames before this chunk."""
        shortcut = average_cells(x, self.time, self.space, self.out_channels)
        for layer in self.downsamples:
            x = layer(x, carry)
        return x + shortcut


class ResidualUp(nnx.Module):
    """A level of Wan 2.2's decoder: blocks, then twice the size, plus copies of the input.

    Args:
      in_channels, out_channels: channels.
      blocks: residual blocks.
      doubles: whether height and width double; the last level keeps them and has no shortcut.
      temporal: whether time doubles too.
      rngs: source of the initial weights.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        blocks: int,
        doubles: bool,
        temporal: bool,
        rngs: nnx.Rngs,
    ) -> None:
        self.out_channels = out_channels
        self.doubles, self.time = doubles, 1 + temporal
        layers: list[nnx.Module] = []
        for i in range(blocks):
            width = out_channels if i else in_channels
            layers.append(ResidualBlock(width, out_channels, rngs=rngs))
        if doubles:
            layers.append(Upsample(out_channels, out_channels, temporal=temporal, rngs=rngs))
        self.upsamples = nnx.List(layers)

    def __call__(self, x: Float[Array, "b t h w c"], carry: Carry) -> Float[Array, "b s p q o"]:
        """Returns the features of the next level; `carry` holds the frames before this chunk."""
        given = x
        for layer in self.upsamples:
            x = layer(x, carry)
        if not self.doubles:
            return x
        return x + copy_cells(given, self.time, 2, self.out_channels, at_start=carry.at_start)


class Encoder(nnx.Module):
    """Video to the features of the posterior: mean and log-variance, not yet mixed."""

    def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs) -> None:
        widths = [config.base_dim * m for m in config.dim_mult]
        self.conv1 = CausalConv3d(config.pixel_channels, config.base_dim, rngs=rngs)
        layers: list[nnx.Module] = []
        channels = config.base_dim
        for width, temporal in zip(widths, (*config.temporal_downsample, None), strict=True):
            layers += _down(config, channels, width, temporal, rngs)
            channels = width
        self.downsamples = nnx.List(layers)
        self.middle = _middle(channels, rngs)
        self.head = Head(channels, 2 * config.z_dim, rngs=rngs)

    def __call__(self, x: Float[Array, "b t h w c"], carry: Carry) -> Float[Array, "b s p q m"]:
        """Encodes a chunk of video; `carry` holds the frames before it."""
        x = self.conv1(x, carry)
        for layer in (*self.downsamples, *self.middle):
            x = layer(x, carry)
        return self.head(x, carry)


def _down(
    config: VAEConfig, channels: int, width: int, temporal: bool | None, rngs: nnx.Rngs
) -> list[nnx.Module]:
    """The layers of a level; `temporal` is None on the last one, which keeps the size."""
    if config.residual:
        sizes = dict(halves=temporal is not None, temporal=bool(temporal))
        return [ResidualDown(channels, width, blocks=config.num_res_blocks, **sizes, rngs=rngs)]
    layers: list[nnx.Module] = []
    for i in range(config.num_res_blocks):
        layers.append(ResidualBlock(width if i else channels, width, rngs=rngs))
    if temporal is not None:
        layers.append(Downsample(width, temporal=temporal, rngs=rngs))
    return layers


class Decoder(nnx.Module):
    """Latents to video."""

    def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs) -> None:
        widths = [config.decoder_base_dim * m for m in reversed(config.dim_mult)]
        channels = widths[0]
        self.conv1 = CausalConv3d(config.z_dim, channels, rngs=rngs)
        self.middle = _middle(channels, rngs)
        layers: list[nnx.Module] = []
        strides = (*reversed(config.temporal_downsample), None)
        for width, temporal in zip(widths, strides, strict=True):
            layers += _up(config, channels, width, temporal, rngs)
            channels = width if config.residual else width // 2
        self.upsamples = nnx.List(layers)
        self.head = Head(widths[-1], config.pixel_channels, rngs=rngs)

    def __call__(self, x: Float[Array, "b t h w z"], carry: Carry) -> Float[Array, "b s p q c"]:
        """Decodes a chunk of latents; `carry` holds the frames before it."""
        x = self.conv1(x, carry)
        for layer in (*self.middle, *self.upsamples):
            x = layer(x, carry)
        return self.head(x, carry)


def _up(
    config: VAEConfig, channels: int, width: int, temporal: bool | None, rngs: nnx.Rngs
) -> list[nnx.Module]:
    """The layers of a level; `temporal` is None on the last one, which keeps the size."""
    blocks = config.num_res_blocks + 1
    if config.residual:
        sizes = dict(doubles=temporal is not None, temporal=bool(temporal))
        return [ResidualUp(channels, width, blocks=blocks, **sizes, rngs=rngs)]
    layers: list[nnx.Module] = []
    for i in range(blocks):
        layers.append(ResidualBlock(width if i else channels, width, rngs=rngs))
    if temporal is not None:
        layers.append(Upsample(width, width // 2, temporal=temporal, rngs=rngs))
    return layers
