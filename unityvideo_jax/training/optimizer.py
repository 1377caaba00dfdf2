"""AdamW, or Muon for the blocks' matrices, with warm-up, a schedule and clipping by global norm."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from unityvideo_jax.errors import UserError
from unityvideo_jax.models.layers import is_kernel
from unityvideo_jax.settings.sections import check_keys
from unityvideo_jax.training import rates

OPTIMIZERS = ("adamw", "muon")
SCHEDULES = ("cosine", "constant")
MOMENTS = ("float32", "bfloat16")
# With 8 bits of mantissa, a moment that changes by less than 1/256 of itself stands still.
_SLOWEST_BFLOAT16 = 0.99
# Root mean square of AdamW's updates over the learning rate, as measured for large models (Liu et
# al., "Muon is Scalable for LLM Training", arXiv 2502.16982): Muon's are scaled to it.
_ADAMW_RMS = 0.2


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The keys of `config.optimizer`.

    With "muon", each layer's matrices in the blocks take the orthogonalised momentum of their
    gradients as update, scaled to the root mean square of AdamW's; embeddings, heads, norms, biases
    and modulation tables take AdamW's update. So one learning rate serves both, and one that suits
    AdamW is a good start.

    Attributes:
      name: "adamw" or "muon".
      learning_rate: peak (UnityVideo: 5e-5 at batch 32; public release: 1e-5).
      rate_factors: factors of the rate by group of parameters, one of `rates.GROUPS` (public
        release: 10 for inputs, switch and heads, the parameters that it adds); 1 for those left
        out.
      warmup_steps: linear warm-up from zero (public release: 200).
      schedule: after it, "constant" (public release) or "cosine" to a tenth of the peak.
      schedule_steps: step at which the cosine ends; 0 is `config.train.steps` as the run was
        started, so that a run which is made longer continues at the rate it ended with.
      b1, b2, eps: AdamW's.
      momentum: Muon's, with Nesterov's look ahead.
      weight_decay: times the learning rate; only matrices decay.
      clip_norm: bound of the gradient's global norm (public release: 1.5).
      ema_decay: of the averaged parameters (public release: 0.9999); 0 keeps no average.
      accumulation: micro-batches per step.
      moments: type that AdamW's two moments and Muon's one are stored in; "bfloat16" halves their
        bytes.

    Raises:
      UserError: a value out of range.
    """

    learning_rate: float
    name: str = "adamw"
    warmup_steps: int = 200
    schedule: str = "constant"
    schedule_steps: int = 0
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    momentum: float = 0.95
    weight_decay: float = 0.01
    clip_norm: float = 1.5
    ema_decay: float = 0.9999
    accumulation: int = 1
    moments: str = "float32"
    # Not part of the hash, for dicts have none.
    rate_factors: Mapping[str, float | int] = dataclasses.field(default_factory=dict, hash=False)

    def __post_init__(self):
        check_keys(self.rate_factors, rates.GROUPS, "config.optimizer.rate_factors.")
        for group, factor in self.rate_factors.items():
            if not 0 <= factor < math.inf:
                raise UserError(
                    f"config.optimizer.rate_factors.{group}={factor}: give 0 or a positive number"
                )
        for field in dataclasses.fields(self):
            if field.type is float:
                object.__setattr__(self, field.name, float(getattr(self, field.name)))
        if self.name not in OPTIMIZERS:
            raise UserError(f"config.optimizer.name={self.name!r}: use one of {OPTIMIZERS}")
        if self.schedule not in SCHEDULES:
            raise UserError(f"config.optimizer.schedule={self.schedule!r}: use one of {SCHEDULES}")
        check_ranges(self)
        if self.moments not in MOMENTS:
            raise UserError(f"config.optimizer.moments={self.moments!r}: use one of {MOMENTS}")
        slowest = max(self.b1, self.b2, self.momentum)
        if self.moments == "bfloat16" and slowest > _SLOWEST_BFLOAT16:
            raise UserError(
                f"config.optimizer.moments='bfloat16' cannot follow b1={self.b1}, b2={self.b2}, "
                f"momentum={self.momentum}: set all to at most {_SLOWEST_BFLOAT16}, or moments to "
                "'float32'"
            )
        for name, least in (("accumulation", 1), ("schedule_steps", 0)):
            if getattr(self, name) < least:
                raise UserError(
                    f"config.optimizer.{name}={getattr(self, name)}: must be at least {least}"
                )


def check_ranges(config: Any) -> None:
    """Raises UserError for a number of an optimiser or its average that is out of range.

    Args:
      config: has these numbers as `OptimizerConfig` names them; it may lack a momentum.
    """
    for name in ("learning_rate", "clip_norm", "eps"):
        if not 0 < getattr(config, name) < math.inf:
            raise UserError(
                f"config.optimizer.{name}={getattr(config, name)}: give a positive number"
            )
    for name in ("weight_decay", "warmup_steps"):
        if not 0 <= getattr(config, name) < math.inf:
            raise UserError(f"config.optimizer.{name}={getattr(config, name)}: give 0 or more")
    for name in ("b1", "b2", "momentum", "ema_decay"):
        if not 0 <= getattr(config, name, 0.0) < 1:
            raise UserError(f"config.optimizer.{name}={getattr(config, name)}: give 0 to below 1")


def make_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Returns the learning rate by step.

    Args:
      config: its schedule.
      steps: at which a cosine ends, unless `config.schedule_steps` says so.
    """
    peak = config.learning_rate
    end = config.schedule_steps or steps
    rest: optax.Schedule = optax.constant_schedule(peak)
    if config.schedule == "cosine":
        rest = optax.cosine_decay_schedule(peak, max(1, end - config.warmup_steps), alpha=0.1)
    warmup = optax.linear_schedule(0.0, peak, max(1, config.warmup_steps))
    return optax.join_schedules([warmup, rest], [config.warmup_steps])


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Returns the optimiser behind a clipping of the gradient by its global norm."""
    rate = make_schedule(config, steps)
    optimizer = _adamw(config, rate)
    if config.name == "muon":
        optimizer = optax.partition({"adamw": optimizer, "muon": _muon(config, rate)}, _algorithm)
    if config.rate_factors:
        optimizer = optax.chain(optimizer, rates.scale_by_group(config.rate_factors))
    if config.moments != "float32":
        optimizer = _keep_moments_in(jnp.dtype(config.moments), optimizer)
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer)


def _adamw(config: OptimizerConfig, rate: optax.Schedule) -> optax.GradientTransformation:
    """AdamW; norms, biases and modulation tables do not decay."""

    def decays(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, _: is_kernel(path), params)

    return optax.adamw(
        rate,
        b1=config.b1,
        b2=config.b2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        mask=decays,
    )


def _algorithm(params: Any) -> Any:
    """Which optimiser updates each parameter: Muon the matrices inside blocks."""

    def of(path: tuple, _: Any) -> str:
        in_blocks = any(getattr(key, "key", None) == "blocks" for key in path)
        return "muon" if in_blocks and is_kernel(path) else "adamw"

    return jax.tree_util.tree_map_with_path(of, params)


def _muon(config: OptimizerConfig, rate: optax.Schedule) -> optax.GradientTransformation:
    """Muon on kernels [..., in, out], each of the stacked matrices separately."""

    def matrices(params: Any) -> Any:
        axes = contrib.MuonDimensionNumbers(reduction_axis=-2, output_axis=-1)
        return jax.tree.map(lambda _: axes, params)

    return contrib.muon(
        rate,
        beta=config.momentum,
        weight_decay=config.weight_decay,
        muon_weight_dimension_numbers=matrices,
        consistent_rms=_ADAMW_RMS,
    )


def _keep_moments_in(
    dtype: jnp.dtype, optimizer: optax.GradientTransformation
) -> optax.GradientTransformation:
    """The optimiser, computing in float32 but keeping what is shaped like parameters in `dtype`."""

    def cast(state: Any, to: jnp.dtype) -> Any:
        return optax.tree.map_params(optimizer, lambda moment: moment.astype(to), state)

    def init(params: Any) -> Any:
        return cast(optimizer.init(params), dtype)

    def update(gradients: Any, state: Any, params: Any) -> tuple[Any, Any]:
        updates, state = optimizer.update(gradients, cast(state, jnp.dtype("float32")), params)
        return updates, cast(state, dtype)

    return optax.GradientTransformation(init, update)
