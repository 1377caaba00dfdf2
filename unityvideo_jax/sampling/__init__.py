"""ODE solvers, guidance and the one any-to-any sampling call."""

from unityvideo_jax.sampling.generate import SamplerConfig, generate

__all__ = ["SamplerConfig", "generate"]
