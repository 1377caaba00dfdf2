"""The causal video autoencoder of Wan 2.1 with its width as configuration.

Video [B, 1 + 4n, H, W, 3] becomes latents [B, 1 + n, H/8, W/8, 16]. Submodules keep the order of
the original checkpoint's, so that loading one is a renaming and a transposition.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from unityvideo_jax.errors import UserError
from unityvideo_jax.models.causal_conv import (
    Carry,
    CausalConv3d,
    ChannelNorm,
    Conv2d,
    Downsample,
    Upsample,
)
from unityvideo_jax.models.layers import matmul_precision

LOGVAR_RANGE = (-30.0, 20.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """Configuration of `WanVAE`; the default sizes are Wan 2.1's (see also `WAN_2_1`).

    Attributes:
      base_dim: channels at full resolution.
      z_dim: channels of the latents.
      dim_mult: channels of each level as multiples of `base_dim`; each level but the last halves
        height and width.
      num_res_blocks: residual blocks a level of the encoder; the decoder has one more.
      temporal_downsample: whether each halving of space also halves time.
      latents_mean, latents_std: per latent channel; `encode` gives (mean - latents_mean) /
        latents_std. Empty: 0 and 1, that is, not measured yet.

    Raises:
      UserError: a size that cannot be used.
    """

    base_dim: int = 96
    z_dim: int = 16
    dim_mult: Sequence[int] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    temporal_downsample: Sequence[bool] = (False, True, True)
    latents_mean: Sequence[float] = ()
    latents_std: Sequence[float] = ()

    def __post_init__(self) -> None:
        # A configuration read back from JSON has lists; tuples can be hashed.
        for name in ("dim_mult", "temporal_downsample", "latents_mean", "latents_std"):
            value = getattr(self, name)
            if isinstance(value, str) or not isinstance(value, Sequence):
                raise UserError(f"vae.{name} must be a tuple, not {value!r}.")
            object.__setattr__(self, name, tuple(value))
        for name in ("base_dim", "z_dim", "num_res_blocks"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UserError(f"vae.{name}={value!r} must be a positive whole number.")
        if len(self.temporal_downsample) != len(self.dim_mult) - 1:
            raise UserError(
                f"vae.temporal_downsample={self.temporal_downsample} needs one entry fewer than "
                f"vae.dim_mult={self.dim_mult}."
            )
        if any(self.base_dim * m % 2 for m in self.dim_mult[1:]):
            raise UserError(
                f"vae.base_dim={self.base_dim} times vae.dim_mult={self.dim_mult} must be even."
            )
        for name, default in (("latents_mean", 0.0), ("latents_std", 1.0)):
            value = getattr(self, name) or (default,) * self.z_dim
            if len(value) != self.z_dim:
                raise UserError(
                    f"vae.{name} has {len(value)} numbers for vae.z_dim={self.z_dim} channels."
                )
            object.__setattr__(self, name, tuple(float(v) for v in value))
        if min(self.latents_std) <= 0:
            raise UserError(f"vae.latents_std={self.latents_std} must be positive.")

    @property
    def temporal_stride(self) -> int:
        """Frames that one latent frame stands for, but for the first, which stands for one."""
        return 2 ** sum(self.temporal_downsample)

    @property
    def spatial_stride(self) -> int:
        """Pixels along height and width that one latent cell stands for."""
        return 2 ** (len(self.dim_mult) - 1)

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Sizes (time, height, width, channel) of the latents of a video of these sizes.

        Raises:
          UserError: sizes that do not fit the strides.
        """
        if num_frames < 1 or (num_frames - 1) % self.temporal_stride:
            raise UserError(
                f"A video of {num_frames} frames does not fit: give {self.temporal_stride}n + 1 "
                f"frames, for example {1 + (num_frames - 1) // self.temporal_stride * 4}."
            )
        for name, size in (("height", height), ("width", width)):
            if size < 1 or size % self.spatial_stride:
                raise UserError(
                    f"A video of {name} {size} does not fit: make it a multiple of "
                    f"{self.spatial_stride} pixels."
                )
        stride = self.spatial_stride
        return (
            1 + (num_frames - 1) // self.temporal_stride,
            height // stride,
            width // stride,
            self.z_dim,
        )


# The statistics belong to the published weights ("Wan 2.1").
WAN_2_1 = VAEConfig(
    latents_mean=(
        *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
        *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
    ),
    latents_std=(
        *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
        *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160),
    ),
)


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
        del carry  # Frames do not see each other here.
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
        return self.conv(jax.nn.silu(self.norm(x)), carry)


def _middle(channels: int, rngs: nnx.Rngs) -> nnx.List:
    return nnx.List(
        [
            ResidualBlock(channels, channels, rngs=rngs),
            FrameAttention(channels, rngs=rngs),
            ResidualBlock(channels, channels, rngs=rngs),
        ]
    )


class Encoder(nnx.Module):
    """Video to the features of the posterior: mean and log-variance, not yet mixed."""

    def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs) -> None:
        widths = [config.base_dim * m for m in config.dim_mult]
        self.conv1 = CausalConv3d(3, config.base_dim, rngs=rngs)
        layers: list[nnx.Module] = []
        channels = config.base_dim
        for level, width in enumerate(widths):
            for _ in range(config.num_res_blocks):
                layers.append(ResidualBlock(channels, width, rngs=rngs))
                channels = width
            if level < len(widths) - 1:
                temporal = config.temporal_downsample[level]
                layers.append(Downsample(channels, temporal=temporal, rngs=rngs))
        self.downsamples = nnx.List(layers)
        self.middle = _middle(channels, rngs)
        self.head = Head(channels, 2 * config.z_dim, rngs=rngs)

    def __call__(self, x: Float[Array, "b t h w 3"], carry: Carry) -> Float[Array, "b s p q m"]:
        x = self.conv1(x, carry)
        for layer in (*self.downsamples, *self.middle):
            x = layer(x, carry)
        return self.head(x, carry)


class Decoder(nnx.Module):
    """Latents to video."""

    def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs) -> None:
        widths = [config.base_dim * m for m in reversed(config.dim_mult)]
        temporal = tuple(reversed(config.temporal_downsample))
        channels = widths[0]
        self.conv1 = CausalConv3d(config.z_dim, channels, rngs=rngs)
        self.middle = _middle(channels, rngs)
        layers: list[nnx.Module] = []
        for level, width in enumerate(widths):
            for _ in range(config.num_res_blocks + 1):
                layers.append(ResidualBlock(channels, width, rngs=rngs))
                channels = width
            if level < len(widths) - 1:
                layers.append(Upsample(channels, temporal=temporal[level], rngs=rngs))
                channels //= 2
        self.upsamples = nnx.List(layers)
        self.head = Head(channels, 3, rngs=rngs)

    def __call__(self, x: Float[Array, "b t h w z"], carry: Carry) -> Float[Array, "b s p q 3"]:
        x = self.conv1(x, carry)
        for layer in (*self.middle, *self.upsamples):
            x = layer(x, carry)
        return self.head(x, carry)


class WanVAE(nnx.Module):
    """Wan 2.1's autoencoder: `encode` to normalised latents and `decode` back.

    All four methods for users (`encode`, `decode` and their `_streamed` forms) compile themselves;
    `encode` and `decode` may also be called inside another `jax.jit` or `jax.grad`.

    Args:
      config: sizes and latent statistics.
      rngs: source of the initial weights.
      dtype: compute type; "bfloat16" is fast on accelerators, and Wan recommends float32.
        Parameters, norms, attention weights and results stay float32.
    """

    def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs, dtype: str = "float32") -> None:
        self.config = config
        self.dtype = dtype
        self.encoder = Encoder(config, rngs=rngs)
        self.conv1 = CausalConv3d(2 * config.z_dim, 2 * config.z_dim, (1, 1, 1), rngs=rngs)
        self.conv2 = CausalConv3d(config.z_dim, config.z_dim, (1, 1, 1), rngs=rngs)
        self.decoder = Decoder(config, rngs=rngs)

    def encode(
        self, video: Float[Array, "b t h w 3"] | Float[np.ndarray, "b t h w 3"]
    ) -> Float[Array, "b s p q z"]:
        """Normalised posterior means of whole videos.

        Args:
          video: float32 in [-1, 1]; 1 + 4n frames, height and width multiples of 8.

        Returns:
          Latents float32 [B, 1 + n, H/8, W/8, z_dim], about zero mean and unit variance.

        Raises:
          UserError: sizes that do not fit the strides.
        """
        self.config.latent_shape(*video.shape[1:4])
        return _encode(*nnx.split(self), jnp.asarray(video))

    def decode(
        self, latents: Float[Array, "b t h w z"] | Float[np.ndarray, "b t h w z"]
    ) -> Float[Array, "b s p q 3"]:
        """Videos in [-1, 1], float32, of normalised latents [B, 1 + n, h, w, z_dim].

        Raises:
          UserError: another number of channels than `z_dim`.
        """
        self._check_latents(latents.shape)
        return _decode(*nnx.split(self), jnp.asarray(latents))

    def encode_streamed(
        self, video: Float[Array, "b t h w 3"] | Float[np.ndarray, "b t h w 3"]
    ) -> Float[Array, "b s p q z"]:
        """As `encode`, by chunks of 1, 4, 4, ... frames: memory does not grow with length."""
        latent_frames = self.config.latent_shape(*video.shape[1:4])[0]
        stride = self.config.temporal_stride
        graph, state = nnx.split(self)
        frames: tuple[Array, ...] | None = None
        out = []
        for i in range(latent_frames):
            chunk = video[:, max(0, 1 + stride * (i - 1)) : 1 + stride * i]
            latents, frames = _encode_chunk(graph, state, jnp.asarray(chunk), frames)
            out.append(latents)
        return jnp.concatenate(out, axis=1)

    def decode_streamed(
        self, latents: Float[Array, "b t h w z"] | Float[np.ndarray, "b t h w z"]
    ) -> Float[Array, "b s p q 3"]:
        """As `decode`, a latent frame at a time; see `decode_chunks` to keep no video at all."""
        return jnp.concatenate(list(self.decode_chunks(latents)), axis=1)

    def decode_chunks(
        self, latents: Float[Array, "b t h w z"] | Float[np.ndarray, "b t h w z"]
    ) -> Iterator[Float[Array, "b s p q 3"]]:
        """Yields the video of `decode` in chunks of 1, 4, 4, ... frames."""
        self._check_latents(latents.shape)
        graph, state = nnx.split(self)
        frames: tuple[Array, ...] | None = None
        for i in range(latents.shape[1]):
            chunk, frames = _decode_chunk(graph, state, jnp.asarray(latents[:, i : i + 1]), frames)
            yield chunk

    def posterior(
        self, video: Float[Array, "b t h w 3"], carry: Carry | None = None
    ) -> tuple[Float[Array, "b s p q z"], Float[Array, "b s p q z"]]:
        """Mean and log-variance of the posterior, not normalised; compiles nothing itself."""
        features = self.encoder(video.astype(self.dtype), carry or Carry())
        features = self.conv1(features, Carry()).astype(jnp.float32)
        mean, logvar = jnp.split(features, 2, axis=-1)
        return mean, jnp.clip(logvar, *LOGVAR_RANGE)

    def reconstruct(
        self, z: Float[Array, "b t h w z"], carry: Carry | None = None
    ) -> Float[Array, "b s p q 3"]:
        """Video, not clipped, of latents that are not normalised; compiles nothing itself."""
        z = self.conv2(z.astype(self.dtype), Carry())
        return self.decoder(z, carry or Carry()).astype(jnp.float32)

    def normalize(self, z: Float[Array, "*b z"]) -> Float[Array, "*b z"]:
        """Latents as the diffusion model sees them: (z - latents_mean) / latents_std."""
        return (z - jnp.array(self.config.latents_mean)) / jnp.array(self.config.latents_std)

    def denormalize(self, latents: Float[Array, "*b z"]) -> Float[Array, "*b z"]:
        """The inverse of `normalize`."""
        return latents * jnp.array(self.config.latents_std) + jnp.array(self.config.latents_mean)

    def _check_latents(self, shape: tuple[int, ...]) -> None:
        if len(shape) != 5 or shape[-1] != self.config.z_dim or min(shape) < 1:
            raise UserError(
                f"Latents of shape {shape} do not fit this autoencoder: give "
                f"[batch, time, height, width, {self.config.z_dim}]."
            )


# The module is split once a call: compiled functions see a hashable graph and plain arrays, hence
# they may be used inside other transformations, which `nnx.jit` on a closed-over module may not.
def _encode_chunk_impl(graph, state, video, frames):
    vae = nnx.merge(graph, state)
    carry = Carry(frames)
    mean, _ = vae.posterior(video, carry)
    return vae.normalize(mean), tuple(carry.saved)


def _decode_chunk_impl(graph, state, latents, frames):
    vae = nnx.merge(graph, state)
    carry = Carry(frames)
    video = vae.reconstruct(vae.denormalize(latents), carry)
    return jnp.clip(video, -1.0, 1.0), tuple(carry.saved)


_encode_chunk = jax.jit(_encode_chunk_impl, static_argnums=0, donate_argnums=3)
_decode_chunk = jax.jit(_decode_chunk_impl, static_argnums=0, donate_argnums=3)


@functools.partial(jax.jit, static_argnums=0)
def _encode(graph, state, video):
    return _encode_chunk_impl(graph, state, video, None)[0]


@functools.partial(jax.jit, static_argnums=0)
def _decode(graph, state, latents):
    return _decode_chunk_impl(graph, state, latents, None)[0]
