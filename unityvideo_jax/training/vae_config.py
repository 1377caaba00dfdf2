"""The keys of an autoencoder's training beside its model, loss and optimiser."""

import dataclasses

from unityvideo_jax import modalities as registry
from unityvideo_jax.errors import UserError
from unityvideo_jax.inputs.config import VAE_DTYPES


@dataclasses.dataclass(frozen=True, kw_only=True)
class VAEDataConfig:
    """The keys of `config.data`.

    Attributes:
      modalities: that every clip is shown in.
      num_frames, fps, supersample, closeup: as `WorldConfig` has them.
      sizes: (height, width, clips) of the steps, which take them in turn.

    Raises:
      UserError: no size or modality, or one that cannot be.
    """

    modalities: tuple[str, ...]
    num_frames: int
    fps: float | int
    supersample: int
    closeup: float | int
    sizes: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        for name in self.modalities:
            registry.get(name)
        if not self.modalities:
            raise UserError("config.data.modalities: empty; name at least one")
        if not self.sizes or any(len(size) != 3 or min(size) < 1 for size in self.sizes):
            raise UserError(
                f"config.data.sizes={self.sizes}: give (height, width, clips) of each size"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class VAEEvaluationConfig:
    """The keys of `config.evaluation`, which is read when the training is done.

    Attributes:
      height, width, num_clips: of the clips that are scored.
      statistics_clips: from which the latents' mean and deviation are taken.
      batch, processes: clips at once, and processes that score them.

    Raises:
      UserError: a value below 1.
    """

    height: int
    width: int
    num_clips: int
    statistics_clips: int
    batch: int
    processes: int

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise UserError(f"config.evaluation.{name}={value}: give 1 or more")


@dataclasses.dataclass(frozen=True, kw_only=True)
class VAERunConfig:
    """The keys of no section.

    Attributes:
      seed: of weights, worlds and noise.
      init_from: folder of weights to start from; "" is none.
      dtype: that the model computes in.
      steps, max_seconds: the training ends at the nearer of the two.
      log_every: steps between two lines.

    Raises:
      UserError: a value out of range.
    """

    seed: int
    init_from: str
    dtype: str
    steps: int
    max_seconds: float | int
    log_every: int

    def __post_init__(self) -> None:
        for name in ("steps", "max_seconds", "log_every"):
            if not getattr(self, name) > 0:
                raise UserError(f"config.{name}={getattr(self, name)}: give a positive number")
        if self.dtype not in VAE_DTYPES:
            raise UserError(f"config.dtype={self.dtype!r}: use one of {VAE_DTYPES}")
