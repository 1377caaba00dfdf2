"""The networks: diffusion transformer, video autoencoder, text encoders."""

from unityvideo_jax.models.config import DEFAULT_MODALITIES, DiTConfig, model_flops
from unityvideo_jax.models.dit import DiT

__all__ = ["DEFAULT_MODALITIES", "DiT", "DiTConfig", "model_flops"]
