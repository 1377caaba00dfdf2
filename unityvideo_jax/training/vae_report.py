"""Statistics of an autoencoder's latents, pooled and per modality."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from unityvideo_jax.models.vae.wan_vae import WanVAE

# Renders clips (leading axis n) of the world indices given.
Render = Callable[[Int[np.ndarray, " n"]], Mapping[str, Shaped[Array, "..."]]]
# A channel that hardly varies in a modality is not scaled up by more than one over this.
LEAST_DEVIATION = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentStatistics:
    """Statistics of an autoencoder's latents.

    Attributes:
      mean, std: per channel, of latents before normalisation; every modality counts alike.
      modalities: by modality, mean and standard deviation per channel of latents that `mean` and
        `std` have normalised.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    modalities: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]]


def latent_statistics(
    vae: WanVAE, names: Sequence[str], batches: Iterable[Float[Array, "n m t h w 3"]]
) -> LatentStatistics:
    """Returns statistics over batches of clips, every modality of each; sums are in float64."""
    shape = (len(names), vae.config.z_dim)
    total, squares, count = np.zeros(shape), np.zeros(shape), 0
    for videos in batches:
        for clip in videos:
            z = np.asarray(vae.denormalize(vae.encode(clip)), np.float64)
            z = z.reshape(len(names), -1, vae.config.z_dim)
            total, squares = total + z.sum(axis=1), squares + np.square(z).sum(axis=1)
            count += z.shape[1]
    means, powers = total / count, squares / count
    mean, power = means.mean(axis=0), powers.mean(axis=0)
    std = np.sqrt(np.maximum(power - np.square(mean), 1e-12))
    own_mean = (means - mean) / std
    own_std = np.sqrt(np.maximum(powers - np.square(means), 0.0)) / std
    return LatentStatistics(
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        modalities={
            name: (tuple(m.tolist()), tuple(np.maximum(s, LEAST_DEVIATION).tolist()))
            for name, m, s in zip(names, own_mean, own_std, strict=True)
        },
    )


def reconstruct(vae: WanVAE, videos: Float[Array, "n m t h w 3"]) -> Float[Array, "n m t h w 3"]:
    """Encodes and decodes, a clip's modalities at a time, so that memory stays small."""
    return jnp.stack([vae.decode(vae.encode(clip)) for clip in videos])


def device_name() -> str:
    """Returns the accelerator that JAX computes on, with its count."""
    devices = jax.devices()
    return f"{len(devices)} x {devices[0].device_kind}"
