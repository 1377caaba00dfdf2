"""Configuration of the training objective (UnityVideo sec. 3.2 and 3.4)."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from unityvideo_jax.errors import UserError
from unityvideo_jax.flow_matching.timesteps import TIMESTEP_DISTRIBUTIONS

_SWITCHES = ("own_timesteps", "one_draw")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """The keys of `config.objective`: which streams are noised, how much, and how often.

    Attributes:
      p_cond, p_est, p_joint, p_any: probabilities of the tasks; they sum to 1. UnityVideo sec. 3.2
        asks for p_cond < p_est < p_joint without numbers; the public release has 0.25, 0.25, 0.5.
        Neither has the fourth: of S streams, each of the 2^S - 1 non-empty sets is noised with the
        same probability, that is, every stream is noised with probability 1/2, redrawn until one
        is. Samples of one stream are joint whatever the probabilities.
      own_timesteps: with the fourth task, every noised stream draws a timestep of its own;
        otherwise the noised streams of a sample share one.
      one_draw: draw one task and one timestep per step (with accumulation: per micro-batch) for all
        samples, as the public release does, instead of one per sample (UnityVideo sec. 3.4).
      timestep: "logit_normal" or "uniform".
      logit_mean, logit_std: mean and deviation of the logit of t.
      shift: of the timestep towards noise; the public release has 5. `timesteps` says what it does.
      uniform_share: share of the samples whose timestep is uniform and not shifted.
      noise_share: share of the samples whose timestep is exactly 1, where sampling starts.
      estimation_shift: a further shift, for estimation alone, whose result RGB nearly determines,
        hence at large t.
      estimation_noise_share: share of the estimation samples, beyond `noise_share`, whose timestep
        is exactly 1. A modality of few degrees of freedom, such as flow, shows even through noise,
        so that at t = 0.97 it need not be read from RGB; estimation in one pass uses t = 1 alone.
      condition_dropout: chance that the clean streams of a sample are replaced by noise at t = 1,
        for guidance by the condition.
      first_frame: chance that the noised RGB of a sample starts with its own clean latent frame, at
        t = 0 and without a loss: image to video, as Wan 2.2 TI2V-5B samples it.
      modality_loss_weights: factor of the loss of each named modality's streams, "rgb" among them;
        1 for those left out. Modalities whose latents vary less have smaller losses.

    Raises:
      UserError: a value out of range.
    """

    p_cond: float | int = 0.2
    p_est: float | int = 0.3
    p_joint: float | int = 0.5
    p_any: float | int = 0.0
    own_timesteps: bool = False
    one_draw: bool = False
    timestep: str = "logit_normal"
    logit_mean: float | int = 0.0
    logit_std: float | int = 1.0
    shift: float | int = 1.0
    uniform_share: float | int = 0.0
    noise_share: float | int = 0.0
    estimation_shift: float | int = 1.0
    estimation_noise_share: float | int = 0.0
    condition_dropout: float | int = 0.1
    first_frame: float | int = 0.0
    # Not part of the hash, for dicts have none.
    modality_loss_weights: Mapping[str, float | int] = dataclasses.field(
        default_factory=dict, hash=False
    )

    def __post_init__(self) -> None:
        # "shift=5" on a command line is an int, and configs are compared: all become float.
        for field in dataclasses.fields(self):
            if field.name not in ("timestep", "modality_loss_weights", *_SWITCHES):
                object.__setattr__(self, field.name, _number(field.name, getattr(self, field.name)))
        weights = {
            name: _number(f"modality_loss_weights.{name}", value)
            for name, value in self.modality_loss_weights.items()
        }
        object.__setattr__(self, "modality_loss_weights", weights)
        for name, value in weights.items():
            if value < 0:
                raise UserError(f"objective.modality_loss_weights.{name}={value} is negative.")
        for name in (
            *("p_cond", "p_est", "p_joint", "p_any", "condition_dropout", "first_frame"),
            *("uniform_share", "noise_share", "estimation_noise_share"),
        ):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise UserError(f"objective.{name}={value} is no probability: give 0 to 1.")
        total = sum(self.task_probabilities)
        if abs(total - 1.0) > 1e-6:
            given = ", ".join(map(str, self.task_probabilities))
            raise UserError(
                f"objective.p_cond + p_est + p_joint + p_any = {total:g} must be 1: got {given}."
            )
        if self.timestep not in TIMESTEP_DISTRIBUTIONS:
            raise UserError(
                f"objective.timestep={self.timestep!r} is unknown: choose one of "
                f"{list(TIMESTEP_DISTRIBUTIONS)}."
            )
        for name in ("logit_std", "shift", "estimation_shift"):
            if getattr(self, name) <= 0.0:
                raise UserError(f"objective.{name}={getattr(self, name)} must be positive.")

    @property
    def task_probabilities(self) -> tuple[float, float, float, float]:
        """Probabilities in the order of `tasks.TASKS`, then that of `tasks.ANY`."""
        return self.p_cond, self.p_est, self.p_joint, self.p_any


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"objective.{name}={value!r} must be a number.")
    if not math.isfinite(value):
        raise UserError(f"objective.{name}={value!r} must be finite.")
    return float(value)
