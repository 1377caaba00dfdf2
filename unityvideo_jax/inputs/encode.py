"""Pixels to latents: the VAE as a pure function, with a fingerprint that shards record."""

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from unityvideo_jax.errors import UserError

SHIPPED_VAE = pathlib.Path(__file__).resolve().parents[1] / "assets" / "vae_worlds"
# Bytes of a fingerprint in hex: enough to tell VAEs apart, short enough to read.
ID_LENGTH = 12


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentEncoder:
    """Anything that maps video to latents.

    Attributes:
      apply: (params, video f32[B,T,H,W,3] in [-1,1]) -> latents f32[B,t,h,w,C]; pure and jittable.
      params: its weights, passed as an argument so that compiled programs do not embed them.
      id: fingerprint of the weights.
    """

    apply: Callable[[Any, Array], Array]
    params: Any
    id: str

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, ...]:
        """(t, h, w, C) for video of this size, without computing anything."""
        video = jax.ShapeDtypeStruct((1, num_frames, height, width, 3), jnp.float32)
        return tuple(int(n) for n in jax.eval_shape(self.apply, self.params, video).shape[1:])

    @functools.cached_property
    def _jitted(self) -> Callable[[Any, Array], Array]:
        return jax.jit(self.apply)

    def __call__(
        self, video: Float[Array, "b T H W 3"] | Float[np.ndarray, "b T H W 3"]
    ) -> Float[Array, "b t h w c"]:
        """Encodes one batch; compiled once a shape."""
        return self._jitted(self.params, video)


def vae_directory(vae: str) -> pathlib.Path:
    """The folder of a `--vae` or `config.data.vae` value; '' is the shipped one."""
    return pathlib.Path(vae) if vae else SHIPPED_VAE


def vae_id_or_none(vae: str) -> str | None:
    """Fingerprint of a VAE folder's weights and config; None if its weights are not there."""
    files = sorted(vae_directory(vae).glob("*.safetensors"))
    config = vae_directory(vae) / "config.json"
    if not files or not config.exists():
        return None
    digest = hashlib.sha256()
    for file in (*files, config):
        with open(file, "rb") as handle:
            while block := handle.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:ID_LENGTH]


def load_encoder(vae: str = "", dtype: str = "float32") -> LatentEncoder:
    """The encoder half of a VAE folder as a pure function.

    Args:
      vae: folder with model.safetensors and config.json; '' is the shipped VAE.
      dtype: compute type; latents are float32 whatever it is.

    Raises:
      UserError: the folder lacks them.
    """
    identity = vae_id_or_none(vae)
    if identity is None:
        raise UserError(
            f"{vae_directory(vae)}: holds no VAE (model.safetensors and config.json); give --vae="
            "FOLDER, or make one with `python -m unityvideo_jax.train_vae`"
        )
    return _load(vae_directory(vae).resolve(), identity, dtype)


@functools.lru_cache(maxsize=2)
def _load(directory: pathlib.Path, identity: str, dtype: str) -> LatentEncoder:
    # Cached, so that a new iterator for the next curriculum stage compiles nothing anew.
    from flax import nnx

    from unityvideo_jax.models.vae_weights import load_vae

    graph, params = nnx.split(load_vae(directory, dtype=dtype))

    def apply(params: Any, video: Array) -> Array:
        return nnx.merge(graph, params).encode(video).astype(jnp.float32)

    return LatentEncoder(apply=apply, params=params, id=identity)
