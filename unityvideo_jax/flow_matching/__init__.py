"""Flow matching (UnityVideo sec. 3.4): path and velocity, timesteps, tasks, loss."""

from unityvideo_jax.flow_matching.config import ObjectiveConfig
from unityvideo_jax.flow_matching.loss import Metrics, flow_matching_loss
from unityvideo_jax.flow_matching.path import (
    VelocityFn,
    interpolate,
    predict_clean,
    predict_noise,
    velocity,
)
from unityvideo_jax.flow_matching.tasks import TASKS, Noising, draw_noising, noised_streams
from unityvideo_jax.flow_matching.timesteps import (
    TIMESTEP_DISTRIBUTIONS,
    sample_timesteps,
    shift_timesteps,
)

__all__ = [
    "TASKS",
    "TIMESTEP_DISTRIBUTIONS",
    "Metrics",
    "Noising",
    "ObjectiveConfig",
    "VelocityFn",
    "draw_noising",
    "flow_matching_loss",
    "interpolate",
    "noised_streams",
    "predict_clean",
    "predict_noise",
    "sample_timesteps",
    "shift_timesteps",
    "velocity",
]
