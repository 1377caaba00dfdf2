"""The causal video autoencoders of Wan 2.1 and 2.2 with their widths as configuration.

Video [B, 1 + 4n, H, W, 3] becomes latents [B, 1 + n, H/8, W/8, 16], or in Wan 2.2
[B, 1 + n, H/16, W/16, 48].
Submodules keep the order of the original checkpoint's, so that loading one is a renaming and a
transposition.
"""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from unityvideo_jax.errors import UserError
from unityvideo_jax.models.vae.blocks import Decoder, Encoder, patchify, unpatchify
from unityvideo_jax.models.vae.causal_conv import Carry, CausalConv3d
from unityvideo_jax.models.vae.config import WAN_2_1, WAN_2_2, VAEConfig

__all__ = ["WAN_2_1", "WAN_2_2", "VAEConfig", "WanVAE"]

LOGVAR_RANGE = (-30.0, 20.0)
# Longer or larger videos are better streamed, which is slower and bounds the memory.
STREAMED_PIXELS = 1 << 24


class WanVAE(nnx.Module):
    """Wan's autoencoder, 2.1's or 2.2's: `encode` to normalised latents and `decode` back.

    All four methods for users (`encode`, `decode` and their `_streamed` forms) compile themselves,
    and may also be called inside another `jax.jit` or `jax.grad`.

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
        self,
        video: Float[Array, "b t h w 3"] | Float[np.ndarray, "b t h w 3"],
        modality: str | None = None,
    ) -> Float[Array, "b s p q z"]:
        """Returns the normalised posterior means of whole videos.

        Args:
          video: float32 in [-1, 1]; 1 + 4n frames, height and width multiples of 8 (of 16 in
            Wan 2.2).
          modality: whose statistics normalise the latents; None takes the pooled ones.

        Returns:
          Latents float32 [B, 1 + n, H/8, W/8, z_dim] (H/16, W/16 in Wan 2.2), about zero
          mean and unit variance.

        Raises:
          UserError: sizes that do not fit the strides.
        """
        self.config.latent_shape(*video.shape[1:4])
        return self.normalize(_encode(*nnx.split(self), jnp.asarray(video)), modality)

    def decode(
        self,
        latents: Float[Array, "b t h w z"] | Float[np.ndarray, "b t h w z"],
        modality: str | None = None,
    ) -> Float[Array, "b s p q 3"]:
        """Videos in [-1, 1], float32, of latents [B, 1 + n, h, w, z_dim] as `encode` gives them.

        Raises:
          UserError: another number of channels than `z_dim`.
        """
        self._check_latents(latents.shape)
        return _decode(*nnx.split(self), self.denormalize(jnp.asarray(latents), modality))

    def encode_streamed(
        self,
        video: Float[Array, "b t h w 3"] | Float[np.ndarray, "b t h w 3"],
        modality: str | None = None,
    ) -> Float[Array, "b s p q z"]:
        """Encodes by chunks of 1, 4, 4, ... frames: memory does not grow with length."""
        self.config.latent_shape(*video.shape[1:4])
        latents = _encode_streamed(*nnx.split(self), jnp.asarray(video))
        return self.normalize(latents, modality)

    def decode_streamed(
        self,
        latents: Float[Array, "b t h w z"] | Float[np.ndarray, "b t h w z"],
        modality: str | None = None,
    ) -> Float[Array, "b s p q 3"]:
        """Decodes a latent frame at a time, and returns the whole video."""
        self._check_latents(latents.shape)
        return _decode_streamed(*nnx.split(self), self.denormalize(jnp.asarray(latents), modality))

    def decode_chunks(
        self,
        latents: Float[Array, "b t h w z"] | Float[np.ndarray, "b t h w z"],
        modality: str | None = None,
        *,
        clip: bool = True,
    ) -> Iterator[Float[Array, "b s p q 3"]]:
        """Yields the video of `decode` in chunks of 1, 4, 4, ... frames.

        Args:
          latents, modality: as `decode` takes them.
          clip: keep the video within [-1, 1]; tiles are blended before that.
        """
        self._check_latents(latents.shape)
        graph, state = nnx.split(self)
        z = self.denormalize(jnp.asarray(latents), modality)
        frames: tuple[Array, ...] | None = None
        for i in range(z.shape[1]):
            chunk, frames = _decode_chunk(graph, state, z[:, i : i + 1], frames)
            yield jnp.clip(chunk, -1.0, 1.0) if clip else chunk

    def posterior(
        self, video: Float[Array, "b t h w 3"], carry: Carry | None = None
    ) -> tuple[Float[Array, "b s p q z"], Float[Array, "b s p q z"]]:
        """Returns mean and log-variance of the posterior, not normalised; compiles nothing.

        Args:
          video: in [-1, 1]; a whole video, or a chunk of it.
          carry: frames before the chunk; None at the start of a video.
        """
        patches = patchify(video.astype(self.dtype), self.config.patch_size)
        features = self.encoder(patches, carry or Carry())
        features = self.conv1(features, Carry()).astype(jnp.float32)
        mean, logvar = jnp.split(features, 2, axis=-1)
        return mean, jnp.clip(logvar, *LOGVAR_RANGE)

    def reconstruct(
        self, z: Float[Array, "b t h w z"], carry: Carry | None = None
    ) -> Float[Array, "b s p q 3"]:
        """Returns video, not clipped, of latents that are not normalised; compiles nothing."""
        z = self.conv2(z.astype(self.dtype), Carry())
        patches = self.decoder(z, carry or Carry())
        return unpatchify(patches, self.config.patch_size).astype(jnp.float32)

    def normalize(
        self, z: Float[Array, "*b z"], modality: str | None = None
    ) -> Float[Array, "*b z"]:
        """Latents as the diffusion model sees them: minus their mean, over their deviation."""
        mean, std = self.config.statistics(modality)
        return (z - mean) / std

    def denormalize(
        self, latents: Float[Array, "*b z"], modality: str | None = None
    ) -> Float[Array, "*b z"]:
        """The inverse of `normalize`."""
        mean, std = self.config.statistics(modality)
        return latents * std + mean

    def _check_latents(self, shape: tuple[int, ...]) -> None:
        if len(shape) != 5 or shape[-1] != self.config.z_dim or min(shape) < 1:
            raise UserError(
                f"Latents of shape {shape} do not fit this autoencoder: give "
                f"[batch, time, height, width, {self.config.z_dim}]."
            )


# The module is split once per call: compiled functions see a hashable graph and plain arrays, hence
# they may be used inside other transformations, which `nnx.jit` on a closed-over module may not.
def _encode_chunk_impl(graph, state, video, frames):
    vae = nnx.merge(graph, state)
    carry = Carry(frames)
    mean, _ = vae.posterior(video, carry)
    return mean, tuple(carry.saved)


def _decode_chunk_impl(graph, state, latents, frames):
    vae = nnx.merge(graph, state)
    carry = Carry(frames)
    video = vae.reconstruct(latents, carry)
    return video, tuple(carry.saved)


_decode_chunk = jax.jit(_decode_chunk_impl, static_argnums=0, donate_argnums=3)


def _scan_chunks(step, x: Float[Array, "b t h w c"], size: int) -> Float[Array, "b s p q d"]:
    """`step(chunk, frames) -> (result, frames)` over chunks of 1, then `size` frames each."""
    first, frames = step(x[:, :1], None)
    count = (x.shape[1] - 1) // size
    if not count:
        return first
    chunks = jnp.moveaxis(x[:, 1:].reshape(x.shape[0], count, size, *x.shape[2:]), 1, 0)

    def body(frames, chunk):
        result, frames = step(chunk, frames)
        return frames, result

    _, rest = jax.lax.scan(body, frames, chunks)
    rest = jnp.moveaxis(rest, 0, 1)
    rest = rest.reshape(rest.shape[0], -1, *rest.shape[3:])
    return jnp.concatenate([first, rest], axis=1)


@functools.partial(jax.jit, static_argnums=0)
def _encode_streamed(graph, state, video):
    step = functools.partial(_encode_chunk_impl, graph, state)
    return _scan_chunks(step, video, nnx.merge(graph, state).config.temporal_stride)


@functools.partial(jax.jit, static_argnums=0)
def _decode_streamed(graph, state, latents):
    step = functools.partial(_decode_chunk_impl, graph, state)
    return jnp.clip(_scan_chunks(step, latents, 1), -1.0, 1.0)


@functools.partial(jax.jit, static_argnums=0)
def _encode(graph, state, video):
    return _encode_chunk_impl(graph, state, video, None)[0]


@functools.partial(jax.jit, static_argnums=0)
def _decode(graph, state, latents):
    video, _ = _decode_chunk_impl(graph, state, latents, None)
    return jnp.clip(video, -1.0, 1.0)
