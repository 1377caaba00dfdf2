"""What training carries from step to step, born with its sharding."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from unityvideo_jax.models import build
from unityvideo_jax.models.dit import DiTConfig
from unityvideo_jax.parallel.rules import AxisRules, like_parameters, shardings


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainState:
    """Steps done, float32 parameters, their moving average if kept, and the optimiser's state."""

    step: Any  # int32 [], or its sharding where the tree describes a layout
    params: Any
    ema: Any  # as `params`, or None
    opt_state: Any

    @property
    def best(self) -> Any:
        """The parameters to sample from: the average if there is one."""
        return self.params if self.ema is None else self.ema


def plan(
    config: DiTConfig,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    rules: AxisRules,
    *,
    keep_ema: bool,
) -> tuple[nnx.GraphDef, TrainState, TrainState]:
    """A model's graph definition, and the shapes and shardings of its state; computes nothing."""
    graphdef, params = build.abstract_transformer(config)
    opt_state = jax.eval_shape(optimizer.init, params)
    layout = shardings(params, rules, mesh)
    shapes = TrainState(
        step=jax.ShapeDtypeStruct((), jnp.int32),
        params=params,
        ema=params if keep_ema else None,
        opt_state=opt_state,
    )
    layouts = TrainState(
        step=NamedSharding(mesh, PartitionSpec()),
        params=layout,
        ema=layout if keep_ema else None,
        opt_state=like_parameters(opt_state, params, layout, mesh),
    )
    return graphdef, shapes, layouts


def create(
    config: DiTConfig,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    rules: AxisRules,
    seed: int,
    *,
    keep_ema: bool,
) -> tuple[nnx.GraphDef, TrainState, TrainState]:
    """A new model's graph definition, its sharded state, and the state's shardings."""
    graphdef, _, layouts = plan(config, optimizer, mesh, rules, keep_ema=keep_ema)

    def init() -> TrainState:
        params = build.new_transformer(config, seed)[1]
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            # A copy: parameters and average are donated to the step as two buffers.
            ema=jax.tree.map(jnp.copy, params) if keep_ema else None,
            opt_state=optimizer.init(params),
        )

    return graphdef, jax.jit(init, out_shardings=layouts)(), layouts


def abstract_state(state: TrainState) -> TrainState:
    """Shapes, dtypes and shardings of a state: where a checkpoint is restored to."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
