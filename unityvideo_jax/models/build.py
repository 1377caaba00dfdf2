"""Networks from their configs: as shapes alone, or with their first weights.

Here alone the class of the diffusion transformer is chosen; all others ask for its config's.
"""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jax.sharding import SingleDeviceSharding
from jaxtyping import Array

from unityvideo_jax.models.config import DiTConfig
from unityvideo_jax.models.lora import WHOLE, LoraConfig, make, make_for_sampling


class SameKey(nnx.Rngs):
    """One key for all weights: their shapes do not depend on it.

    `nnx.Rngs` counts keys in a traced variable, which takes most of the time of `abstract`.
    """

    def params(self) -> Array:
        """Returns the key."""
        return jax.random.key(0)


def abstract(
    network: Callable[..., nnx.Module], config: Any, **options: Any
) -> tuple[nnx.GraphDef, nnx.State]:
    """Returns the graph of a network and its weights as shapes; no weight is drawn.

    Args:
      network: a class, or a function that makes a module, of a config, `rngs` and options.
      config: its config.
      options: such as its dtype.

    Returns:
      What `nnx.split` gives, with `jax.ShapeDtypeStruct` in place of arrays.
    """
    return nnx.split(nnx.eval_shape(lambda: network(config, rngs=SameKey(), **options)))


def abstract_transformer(
    config: DiTConfig, lora: LoraConfig = WHOLE
) -> tuple[nnx.GraphDef, nnx.State]:
    """Returns the graph of the diffusion transformer that trains, and its weights as shapes.

    Raises:
      UserError: a pattern of `lora` that nothing matches.
    """
    return abstract(make, config, lora=lora)


def sampler_graph(config: DiTConfig, lora: LoraConfig) -> nnx.GraphDef:
    """Returns the graph of the transformer that samples after a run with `lora`."""
    return abstract(make_for_sampling, config, lora=lora)[0]


def on_one_device(state: nnx.State) -> nnx.State:
    """Returns weights as shapes, laid out on the first device."""
    device = SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), state)


def new_transformer(
    config: DiTConfig, lora: LoraConfig, seed: int
) -> tuple[nnx.GraphDef, nnx.State]:
    """Returns the graph of the transformer that trains, and its first weights; may be jitted."""
    return nnx.split(make(config, lora=lora, rngs=nnx.Rngs(seed)))
