"""The arms: their presets, the tasks that each trains, and how often it trains its RGB.

Arms are compared at equal steps, but a step is not the same work: a joint or a control sample
noises RGB, an estimation sample does not, and more streams cost more. So each arm states both.
"""

import dataclasses
from collections.abc import Mapping

import ml_collections

from unityvideo_jax import modalities
from unityvideo_jax.errors import UserError
from unityvideo_jax.flow_matching import ObjectiveConfig
from unityvideo_jax.flow_matching.tasks import TASKS
from unityvideo_jax.inputs.config import DataConfig, as_data_config, stage_modality_weights
from unityvideo_jax.modalities import RGB
from unityvideo_jax.models.config import DiTConfig, model_flops, parameter_count
from unityvideo_jax.models.vae.config import VAEConfig
from unityvideo_jax.pretrained.vae import load_vae_config
from unityvideo_jax.settings import presets
from unityvideo_jax.settings.sections import section

FOLDER = "ablations/"
# In the order in which a grid trains them: the first answer the most.
ARMS = (
    "rgb",
    "all",
    "depth",
    "flow",
    "densepose",
    "rgb_equal_compute",
    "only_joint",
    "only_control",
    "only_estimation",
    "neither",
    "only_in_context",
    "only_adaln",
    "only_additive",
    "unseen_pair",
)
MOST_PARAMETERS = 25_000_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arm:
    """An arm and what follows from its configuration.

    Attributes:
      name: of the preset below `ablations/`, or of a file.
      config: the experiment.
    """

    name: str
    config: ml_collections.ConfigDict = dataclasses.field(compare=False)

    @property
    def model(self) -> DiTConfig:
        """The transformer's configuration."""
        return section(DiTConfig, self.config, "model")

    @property
    def data(self) -> DataConfig:
        """The data's configuration."""
        return as_data_config(self.config.data)

    @property
    def trained(self) -> tuple[str, ...]:
        """Modalities that it sees beside RGB, in the model's order."""
        return tuple(stage_modality_weights(self.data, self.model.modalities, None))

    @property
    def streams(self) -> dict[int, float]:
        """Share of the steps, and so of the samples, by number of streams."""
        weights = {n: float(w) for n, w in enumerate(self.data.streams, 1) if w}
        return {n: w / sum(weights.values()) for n, w in weights.items()}

    def trains(self, task: int) -> bool:
        """Whether samples of several streams are ever of this task of `tasks.TASKS`."""
        objective = section(ObjectiveConfig, self.config, "objective")
        several = any(n > 1 for n in self.streams)
        return several and (objective.task_probabilities[task] > 0 or objective.p_any > 0)

    @property
    def rgb_share(self) -> float:
        """Share of its samples whose RGB is noised, and so trained."""
        objective = section(ObjectiveConfig, self.config, "objective")
        total = 0.0
        for streams, share in self.streams.items():
            if streams == 1:
                total += share * float(self.data.rgb_alone)
                continue
            # Of the 2^S - 1 sets that "any" noises, 2^(S - 1) hold RGB.
            of_any = 2 ** (streams - 1) / (2**streams - 1)
            total += share * (objective.p_cond + objective.p_joint + objective.p_any * of_any)
        return total

    @property
    def flops(self) -> float:
        """Mean model FLOPs of a training step."""
        latents = latent_grid(load_vae_config(self.data.vae or None), self.data)
        forward = sum(
            share * model_flops(self.model, latents, n) for n, share in self.streams.items()
        )
        return 3.0 * forward * self.config.train.batch_size

    def facts(self) -> dict[str, float | int | list[str]]:
        """Facts for a record of the arm, beside its configuration."""
        samples = self.config.train.steps * self.config.train.batch_size
        return {
            "modalities": [*self.trained],
            "tasks": [name for n, name in enumerate(TASKS) if self.trains(n)],
            "parameters": parameter_count(self.model),
            "rgb_share": self.rgb_share,
            "rgb_samples": round(samples * self.rgb_share),
            "flops": self.flops * self.config.train.steps,
        }


def latent_grid(vae: VAEConfig, data: DataConfig) -> tuple[int, int, int]:
    """Latent frames, rows and columns of a clip of the data."""
    return tuple(vae.latent_shape(*data.size)[:3])


def load(name: str, changes: Mapping[str, object] | None = None, steps: int = 0) -> Arm:
    """Loads an arm by name: a preset below `ablations/`, or a configuration file.

    Args:
      name: of the arm.
      changes: values by dotted key that hold for every arm of the grid.
      steps: of the arm `all`; another has as many more or fewer as in its preset. 0 keeps them.

    Raises:
      UserError: no such arm, a key that does not exist, or a model above `MOST_PARAMETERS`.
    """
    config = presets.load(FOLDER + name) if name in ARMS else presets.load_config(name)
    if steps:
        like = presets.load(FOLDER + "all").train.steps
        config.train.steps = max(1, round(steps * config.train.steps / like))
    try:
        config.update_from_flattened_dict(dict(changes or {}))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{name}: {error}; give keys of a configuration") from error
    arm = Arm(name=name, config=config)
    if (count := parameter_count(arm.model)) > MOST_PARAMETERS:
        raise UserError(
            f"{name}: {count / 1e6:.1f}M weights; the grid compares models of at most "
            f"{MOST_PARAMETERS / 1e6:.0f}M"
        )
    unknown = [m for m in arm.trained if modalities.get(m).metric is None]
    if unknown or RGB not in arm.model.modalities:
        raise UserError(f"{name}: {', '.join(unknown) or RGB} cannot be scored")
    return arm
