"""Pixels to latents: the VAE as a pure function, with a fingerprint that shards record."""

import dataclasses
import functools
import hashlib
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from unityvideo_jax.errors import UserError
from unityvideo_jax.models.vae.wan_vae import STREAMED_PIXELS
from unityvideo_jax.pretrained.vae import CONFIG_FILE, find_vae, load_vae, weight_files

# Bytes of a fingerprint in hex: enough to tell VAEs apart, short enough to read.
ID_LENGTH = 12


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LatentEncoder:
    """Anything that maps video to latents.

    Attributes:
      apply: (params, video f32[B,T,H,W,3] in [-1,1]) -> latents f32[B,t,h,w,C]; pure and jittable.
      params: its weights, passed as an argument so that compiled programs do not embed them.
      id: fingerprint of the weights.
      statistics: by modality, mean and standard deviation per channel of the output of `apply`.
    """

    apply: Callable[[Any, Array], Array]
    params: Any
    id: str
    statistics: Mapping[str, tuple[np.ndarray, np.ndarray]] = dataclasses.field(
        default_factory=dict
    )

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, ...]:
        """(t, h, w, C) for video of this size, without computing anything."""
        video = jax.ShapeDtypeStruct((1, num_frames, height, width, 3), jnp.float32)
        return tuple(int(n) for n in jax.eval_shape(self.apply, self.params, video).shape[1:])

    @functools.cached_property
    def _jitted(self) -> Callable[[Any, Array], Array]:
        return jax.jit(self.apply)

    def __call__(
        self, video: Float[Array, "b T H W 3"] | Float[np.ndarray, "b T H W 3"], modality: str
    ) -> Float[Array, "b t h w c"]:
        """Encodes one batch of a modality's videos; compiled once per shape."""
        mean, std = self.statistics.get(modality, (0.0, 1.0))
        return (self._jitted(self.params, video) - mean) / std

    def table(
        self, modalities: Sequence[str], channels: int
    ) -> tuple[Float[np.ndarray, "m c"], Float[np.ndarray, "m c"]]:
        """Means and standard deviations of these modalities, 0 and 1 where there are none."""
        none = (np.zeros(channels, np.float32), np.ones(channels, np.float32))
        rows = [self.statistics.get(name, none) for name in modalities]
        return tuple(np.stack(column) for column in zip(*rows, strict=True))


def vae_id_or_none(vae: str) -> str | None:
    """Fingerprint of an autoencoder's weights and config; None if its weights are not there."""
    try:
        source = find_vae(vae)
    except UserError:
        return None
    files = weight_files(source)
    if not files:
        return None
    config = source / CONFIG_FILE
    digest = hashlib.sha256()
    for file in (*files, config) if config.is_file() else files:
        with open(file, "rb") as handle:
            while block := handle.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:ID_LENGTH]


def load_encoder(vae: str = "", dtype: str = "float32") -> LatentEncoder:
    """The encoder half of an autoencoder as a pure function.

    Large or long videos go through it chunk by chunk, which bounds the memory.

    Args:
      vae: as `models.vae_weights.find_vae` takes it; '' is the shipped one.
      dtype: compute type; latents are float32 whatever it is.

    Raises:
      UserError: the folder lacks one.
    """
    source = find_vae(vae).resolve()
    return _load(source, vae_id_or_none(vae) or "", dtype)


@functools.lru_cache(maxsize=2)
def _load(directory: pathlib.Path, identity: str, dtype: str) -> LatentEncoder:
    # Cached, so that a new iterator for the next curriculum stage compiles nothing anew.
    from flax import nnx

    vae = load_vae(directory, dtype=dtype)
    graph, params = nnx.split(vae)

    def apply(params: Any, video: Array) -> Array:
        encoder = nnx.merge(graph, params)
        large = math.prod(video.shape[:4]) > STREAMED_PIXELS
        latents = (encoder.encode_streamed if large else encoder.encode)(video)
        return latents.astype(jnp.float32)

    statistics = {
        name: (np.array(mean, np.float32), np.array(std, np.float32))
        for name, mean, std in vae.config.modality_statistics
    }
    return LatentEncoder(apply=apply, params=params, id=identity, statistics=statistics)
