"""The state that training carries from step to step, born with its sharding."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from unityvideo_jax.models import build
from unityvideo_jax.models.config import DiTConfig
from unityvideo_jax.models.lora import WHOLE, LoraConfig
from unityvideo_jax.parallel.rules import AxisRules, like_parameters, shardings


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainState:
    """Steps done, float32 parameters, their moving average if kept, and the optimiser's state.

    Where adapters are trained, `params` is what trains, and `frozen` the rest of the model.

    Attributes:
      opt_state: a pytree of optax, whose moments are shaped like `params`.
    """

    step: Any  # int32 [], or its sharding where the tree describes a layout
    params: Any
    ema: Any  # as `params`, or None
    opt_state: Any
    frozen: Any = None  # None if all weights are trained

    @property
    def weights(self) -> Any:
        """All weights of the model."""
        return _whole(self.params, self.frozen)

    @property
    def best(self) -> Any:
        """All weights to sample from: the average of what trains if there is one."""
        return _whole(self.params if self.ema is None else self.ema, self.frozen)


def _whole(params: Any, frozen: Any) -> Any:
    return params if frozen is None else nnx.merge_state(params, frozen)


def plan(
    config: DiTConfig,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    rules: AxisRules,
    *,
    keep_ema: bool,
    lora: LoraConfig = WHOLE,
) -> tuple[nnx.GraphDef, TrainState, TrainState]:
    """A model's graph definition, and the shapes and shardings of its state; computes nothing."""
    graphdef, whole = build.abstract_transformer(config, lora)
    params, frozen = nnx.split_state(whole, lora.trains, ...)
    opt_state = jax.eval_shape(optimizer.init, params)
    layout = shardings(params, rules, mesh)
    shapes = TrainState(
        step=jax.ShapeDtypeStruct((), jnp.int32),
        params=params,
        ema=params if keep_ema else None,
        opt_state=opt_state,
        frozen=frozen if lora.rank else None,
    )
    layouts = TrainState(
        step=NamedSharding(mesh, PartitionSpec()),
        params=layout,
        ema=layout if keep_ema else None,
        opt_state=like_parameters(opt_state, params, layout, mesh),
        frozen=shardings(frozen, rules, mesh) if lora.rank else None,
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
    lora: LoraConfig = WHOLE,
) -> tuple[nnx.GraphDef, TrainState, TrainState]:
    """Returns a new model's graph definition, its sharded state, and the state's shardings.

    Frozen weights are not drawn: their shapes and shardings stand there until
    `training.adapters.load_base` reads them.
    """
    graphdef, shapes, layouts = plan(config, optimizer, mesh, rules, keep_ema=keep_ema, lora=lora)

    def init() -> TrainState:
        _, whole = build.new_transformer(config, lora, seed)
        params = nnx.split_state(whole, lora.trains, ...)[0]
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            # A copy: parameters and average are donated to the step as two buffers.
            ema=jax.tree.map(jnp.copy, params) if keep_ema else None,
            opt_state=optimizer.init(params),
        )

    state = jax.jit(init, out_shardings=dataclasses.replace(layouts, frozen=None))()
    frozen = jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
        shapes.frozen,
        layouts.frozen,
    )
    return graphdef, dataclasses.replace(state, frozen=frozen), layouts


def abstract_state(state: TrainState) -> TrainState:
    """Returns shapes, dtypes and shardings of a state: the target to restore a checkpoint to."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
