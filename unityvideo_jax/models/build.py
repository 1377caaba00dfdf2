"""Networks from their configs: as shapes alone, or with their first weights.

Here alone the class of the diffusion transformer is chosen; all others ask for its config's.
"""

from typing import Any

from flax import nnx

from unityvideo_jax.models.config import DiTConfig
from unityvideo_jax.models.dit import DiT


def abstract(
    network: type[nnx.Module], config: Any, **options: Any
) -> tuple[nnx.GraphDef, nnx.State]:
    """The graph of a network and its weights as shapes; no weight is drawn.

    Args:
      network: a class that takes a config, `rngs` and options.
      config: its config.
      options: such as its dtype.

    Returns:
      What `nnx.split` gives, with `jax.ShapeDtypeStruct` in place of arrays.
    """
    return nnx.split(nnx.eval_shape(lambda: network(config, rngs=nnx.Rngs(0), **options)))


def abstract_transformer(config: DiTConfig) -> tuple[nnx.GraphDef, nnx.State]:
    """The diffusion transformer's graph and its weights as shapes."""
    return abstract(DiT, config)


def new_transformer(config: DiTConfig, seed: int) -> tuple[nnx.GraphDef, nnx.State]:
    """The diffusion transformer's graph and its first weights, float32; may be jitted."""
    return nnx.split(DiT(config, rngs=nnx.Rngs(seed)))
