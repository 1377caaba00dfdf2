"""The sections of an experiment's configuration, and the keys of `config.train`."""

import dataclasses
from collections.abc import Collection
from typing import Any

from unityvideo_jax.errors import UserError
from unityvideo_jax.flow_matching import ObjectiveConfig
from unityvideo_jax.inputs.config import DataConfig
from unityvideo_jax.models.config import DiTConfig
from unityvideo_jax.models.lora import LoraConfig
from unityvideo_jax.parallel.mesh import MeshConfig
from unityvideo_jax.sampling.generate import SamplerConfig
from unityvideo_jax.training.optimizer import OptimizerConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The keys of `config.train`.

    Attributes:
      steps: of the whole run.
      batch_size: samples per step, over all devices.
      log_every, checkpoint_every: steps between two records, and between two checkpoints.
      checkpoint_minutes: a checkpoint is saved too when the last one is so old; 0 is never. All
        processes save at the same step, by the clock of the first.
      keep: checkpoints to keep.
      sample_every: steps between two contact sheets; 0 writes none.
      sample_count: records per contact sheet.
      max_seconds: the run saves and ends once its steps have taken this long, over all of its
        starts and without compilation; 0 is no limit.
      check_every: steps between two checks that the devices compute what they should, see
        `training.integrity`; 0 checks never.
      hang_seconds: a run ends, and names what hangs, when no process got further for so long, and
        for ten times the longest step before, see `training.hang`; 0 is never.

    Raises:
      UserError: a value out of range.
    """

    steps: int
    batch_size: int
    log_every: int = 50
    checkpoint_every: int = 1000
    checkpoint_minutes: float | int = 0.0
    keep: int = 3
    sample_every: int = 0
    sample_count: int = 4
    max_seconds: float | int = 0.0
    check_every: int = 0
    hang_seconds: float | int = 600.0

    def __post_init__(self):
        may_be_0 = ("sample_every", "check_every", "max_seconds", "checkpoint_minutes")
        for name in (field.name for field in dataclasses.fields(self)):
            least = 0 if name in (*may_be_0, "hang_seconds") else 1
            if getattr(self, name) < least:
                raise UserError(
                    f"config.train.{name}={getattr(self, name)}: must be at least {least}"
                )


# Keys that are read only with some value of another key: that key, and the value.
_READ_WITH = {
    **dict.fromkeys(
        ("data.dirs", "data.dir_weights", "data.num_workers", "data.read_threads"),
        ("data.kind", "shards"),
    ),
    **dict.fromkeys(
        ("data.split", "data.closeup", "data.repeats", "data.vae_dtype"), ("data.kind", "online")
    ),
    "objective.logit_mean": ("objective.timestep", "logit_normal"),
    "objective.logit_std": ("objective.timestep", "logit_normal"),
    "optimizer.momentum": ("optimizer.name", "muon"),
    "optimizer.schedule_steps": ("optimizer.schedule", "cosine"),
}


def check_read(config: Any, overridden: Collection[str]) -> None:
    """Raises UserError for a key of the command line that nothing reads in this configuration.

    A file may state such a key: presets start from others.

    Args:
      config: of an experiment.
      overridden: keys that the command line set, without "config.".
    """
    for key in overridden:
        if key.startswith("lora.") and key != "lora.rank" and not config.lora.rank:
            raise UserError(
                f"config.{key}: config.lora.rank=0 trains all weights and no adapters; set the "
                "rank too, or leave it out"
            )
        if key not in _READ_WITH:
            continue
        other, needed = _READ_WITH[key]
        section, name = other.split(".")
        if (value := config[section][name]) != needed:
            raise UserError(
                f"config.{key}: is read only with config.{other}={needed!r}, and that is "
                f"{value!r}; set both, or leave it out"
            )


SECTIONS = {
    "model": DiTConfig,
    "lora": LoraConfig,
    "objective": ObjectiveConfig,
    "data": DataConfig,
    "optimizer": OptimizerConfig,
    "mesh": MeshConfig,
    "train": TrainConfig,
    "sampling": SamplerConfig,
}
