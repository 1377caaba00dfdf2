"""UnityVideo in JAX: one video diffusion transformer for RGB and five modalities."""

__version__ = "0.1.0"
