"""AdamW with warm-up, a schedule, and clipping by the global norm."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from unityvideo_jax.errors import UserError
from unityvideo_jax.models.layers import is_kernel

SCHEDULES = ("cosine", "constant")
MOMENTS = ("float32", "bfloat16")
# With 8 bits of mantissa, a moment that changes by less than 1/256 of itself stands still.
_SLOWEST_BFLOAT16 = 0.99


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The keys of `config.optimizer`.

    Attributes:
      learning_rate: peak (UnityVideo: 5e-5 at batch 32; public release: 1e-5).
      warmup_steps: linear warm-up from zero (public release: 200).
      schedule: after it, "constant" (public release) or "cosine" to a tenth of the peak.
      b1, b2, eps, weight_decay: AdamW's; only matrices decay.
      clip_norm: bound of the gradient's global norm (public release: 1.5).
      ema_decay: of the averaged parameters (public release: 0.9999); 0 keeps no average.
      accumulation: micro-batches a step.
      moments: type that both moments are kept in; "bfloat16" saves 4 bytes a weight.

    Raises:
      UserError: a value out of range.
    """

    learning_rate: float
    warmup_steps: int = 200
    schedule: str = "constant"
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.01
    clip_norm: float = 1.5
    ema_decay: float = 0.9999
    accumulation: int = 1
    moments: str = "float32"

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if field.type is float:
                object.__setattr__(self, field.name, float(getattr(self, field.name)))
        if self.schedule not in SCHEDULES:
            raise UserError(f"config.optimizer.schedule={self.schedule!r}: use one of {SCHEDULES}")
        for name in ("learning_rate", "clip_norm", "eps"):
            if getattr(self, name) <= 0:
                raise UserError(f"config.optimizer.{name}={getattr(self, name)}: must be positive")
        for name in ("b1", "b2", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"config.optimizer.{name}={getattr(self, name)}: give 0 to below 1")
        if self.moments not in MOMENTS:
            raise UserError(f"config.optimizer.moments={self.moments!r}: use one of {MOMENTS}")
        if self.moments == "bfloat16" and max(self.b1, self.b2) > _SLOWEST_BFLOAT16:
            raise UserError(
                f"config.optimizer.moments='bfloat16' cannot follow b1={self.b1}, b2={self.b2}: "
                f"set both to at most {_SLOWEST_BFLOAT16}, or moments to 'float32'"
            )
        if self.accumulation < 1 or self.warmup_steps < 0:
            raise UserError("config.optimizer: accumulation must be >= 1 and warmup_steps >= 0")


def make_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Learning rate by step."""
    peak = config.learning_rate
    rest: optax.Schedule = optax.constant_schedule(peak)
    if config.schedule == "cosine":
        rest = optax.cosine_decay_schedule(peak, max(1, steps - config.warmup_steps), alpha=0.1)
    warmup = optax.linear_schedule(0.0, peak, max(1, config.warmup_steps))
    return optax.join_schedules([warmup, rest], [config.warmup_steps])


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Clipped AdamW; norms, biases and modulation tables do not decay."""

    def decays(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, _: is_kernel(path), params)

    adamw = optax.adamw(
        make_schedule(config, steps),
        b1=config.b1,
        b2=config.b2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        mask=decays,
    )
    if config.moments != "float32":
        adamw = _keep_moments_in(jnp.dtype(config.moments), adamw)
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw)


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
