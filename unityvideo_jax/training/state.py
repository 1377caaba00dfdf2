"""What training carries from step to step, born with its sharding."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from unityvideo_jax.models.dit import DiT, DiTConfig
from unityvideo_jax.parallel.rules import AxisRules, like_parameters, shardings


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainState:
    """Steps done, float32 parameters, their moving average, and the optimiser's state."""

    step: Any  # int32 [], or its sharding where the tree describes a layout
    params: Any
    ema: Any
    opt_state: Any


def create(
    config: DiTConfig,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    rules: AxisRules,
    seed: int,
) -> tuple[nnx.GraphDef, TrainState, Any]:
    """A new model's graph definition, its sharded state, and the state's shardings."""

    def build() -> tuple[nnx.GraphDef, Any]:
        return nnx.split(DiT(config, rngs=nnx.Rngs(seed)))

    graphdef, abstract = nnx.split(nnx.eval_shape(lambda: DiT(config, rngs=nnx.Rngs(seed))))
    layout = shardings(abstract, rules, mesh)

    def init() -> TrainState:
        params = build()[1]
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            # A copy: parameters and average are donated to the step as two buffers.
            ema=jax.tree.map(jnp.copy, params),
            opt_state=optimizer.init(params),
        )

    opt_layout = like_parameters(jax.eval_shape(optimizer.init, abstract), abstract, layout, mesh)
    state_layout = TrainState(
        step=NamedSharding(mesh, PartitionSpec()), params=layout, ema=layout, opt_state=opt_layout
    )
    return graphdef, jax.jit(init, out_shardings=state_layout)(), state_layout


def abstract_state(state: TrainState) -> TrainState:
    """Shapes, dtypes and shardings of a state: where a checkpoint is restored to."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
