"""The networks: diffusion transformer, video autoencoder, text encoders."""

from unityvideo_jax.models.config import DiTConfig, model_flops
from unityvideo_jax.models.dit import DiT

__all__ = ["DiT", "DiTConfig", "model_flops"]
