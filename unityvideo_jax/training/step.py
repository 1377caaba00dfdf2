"""The training step (UnityVideo sec. 3.4): one pure function, read from top to bottom."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array

from unityvideo_jax.flow_matching import ObjectiveConfig, flow_matching_loss
from unityvideo_jax.kernels.target import target_device
from unityvideo_jax.models.config import DiTConfig
from unityvideo_jax.training.optimizer import OptimizerConfig
from unityvideo_jax.training.state import TrainState

# Folded into a step's key for the dropout of adapters, apart from the draws of the objective.
ADAPTER_DROPOUT = 1

StepFn = Callable[[TrainState, Mapping[str, Array], Array], tuple[TrainState, dict[str, Any]]]


def make_train_step(
    graphdef: nnx.GraphDef,
    objective: ObjectiveConfig,
    optimizer: optax.GradientTransformation,
    *,
    modalities: Sequence[str],
    ema_decay: float,
    accumulation: int = 1,
) -> StepFn:
    """Builds `train_step(state, batch, key) -> (state, metrics)`, to be jitted by the caller.

    Args:
      graphdef: the model's structure.
      objective: tasks, timesteps and dropout.
      optimizer: turns gradients into updates.
      modalities: names of the modality ids.
      ema_decay: of the averaged parameters.
      accumulation: micro-batches that the batch is cut into; metrics add up over them.

    Returns:
      A step whose metrics hold (sum, count) pairs of the loss and its parts, "grad_norm", "finite"
      and "samples" f32[B], each sample's loss. A step whose loss or gradient is not finite leaves
      the parameters, their average and the optimiser as they were, so that the state stays one
      worth saving.
    """

    def loss_fn(params, frozen, batch, key):
        model = nnx.merge(graphdef, params if frozen is None else nnx.merge_state(params, frozen))
        velocity = functools.partial(model, dropout_key=jax.random.fold_in(key, ADAPTER_DROPOUT))
        return flow_matching_loss(velocity, batch, key, objective, modalities=modalities)

    def gradients(params, frozen, batch, key):
        (_, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, frozen, batch, key)
        samples = metrics.pop("samples")
        return (grads, metrics), samples

    def accumulated(params, frozen, batch, key):
        if accumulation == 1:
            return gradients(params, frozen, batch, key)
        # Every n-th sample, not n-th part: so each device keeps its own samples.
        micro = jax.tree.map(
            lambda x: x.reshape(-1, accumulation, *x.shape[1:]).swapaxes(0, 1), dict(batch)
        )
        keys = jax.random.split(key, accumulation)
        first = jax.tree.map(lambda x: x[0], micro)
        shapes, _ = jax.eval_shape(gradients, params, frozen, first, keys[0])
        zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

        def body(total, part):
            sums, samples = gradients(params, frozen, *part)
            return jax.tree.map(jnp.add, total, sums), samples

        (grads, metrics), samples = jax.lax.scan(body, zero, (micro, keys))
        grads = jax.tree.map(lambda g: g / accumulation, grads)
        return (grads, metrics), samples.swapaxes(0, 1).reshape(-1)

    def train_step(state, batch, key):
        step_key = jax.random.fold_in(key, state.step)
        frozen, state = state.frozen, dataclasses.replace(state, frozen=None)
        (grads, metrics), samples = accumulated(state.params, frozen, batch, step_key)
        norm = optax.global_norm(grads)
        total, count = metrics["loss"]
        finite = jnp.isfinite(norm) & jnp.isfinite(total / count)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = None
        if state.ema is not None:
            # The first steps would hold the average near the initial weights: warm its decay up.
            decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
            ema = jax.tree.map(lambda e, p: e + (1.0 - decay) * (p - e), state.ema, params)
        fresh = TrainState(step=state.step + 1, params=params, ema=ema, opt_state=opt_state)
        following = jax.tree.map(lambda new, old: jnp.where(finite, new, old), fresh, state)
        following = dataclasses.replace(following, frozen=frozen)
        return following, {**metrics, "samples": samples, "grad_norm": norm, "finite": finite}

    return train_step


def jit_train_step(
    graphdef: nnx.GraphDef,
    layout: TrainState,
    model: DiTConfig,
    objective: ObjectiveConfig,
    optim: OptimizerConfig,
    optimizer: optax.GradientTransformation,
    max_traces: int | None = None,
) -> Callable:
    """Returns the step as it is trained: jitted, its state donated and laid out by `layout`.

    It may be traced `max_traces` times, once per shape of a batch; a further trace raises
    AssertionError, since something else than the shape differs. None is any number.
    """
    step = make_train_step(
        graphdef,
        objective,
        optimizer,
        modalities=model.modalities,
        ema_decay=optim.ema_decay,
        accumulation=optim.accumulation,
    )
    if max_traces is not None:
        # Chex counts by where a function is made, over all runs of a process.
        chex.clear_trace_counter()
        step = chex.assert_max_traces(step, max_traces)
    return jax.jit(
        step,
        donate_argnums=0,
        out_shardings=(layout, layout.step),  # every process reads the metrics
        compiler_options=_compiler_options(),
    )


def _compiler_options() -> dict[str, bool]:
    """What the step is compiled with beyond XLA's defaults.

    On GPUs XLA fuses a kernel with the copy of its output into the scan's stack, and runs it a
    second time for the output's other use: attention would be computed twice.
    """
    on_gpu = target_device()[0] == "gpu"
    return {"xla_gpu_enable_dynamic_slice_fusion": False} if on_gpu else {}
