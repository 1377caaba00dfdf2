"""The weights to sample with: a run's own, or those that its adapters stand beside, with them."""

import os
from collections.abc import Callable
from typing import Any

import ml_collections
from flax import nnx

from unityvideo_jax.checkpoints import reading, sources
from unityvideo_jax.files.stores import AnyPath
from unityvideo_jax.models import build, lora
from unityvideo_jax.models.dit import DiTConfig
from unityvideo_jax.settings.sections import section


def load_for_inference(
    workdir: str | os.PathLike,
    step: int | None = None,
    use_ema: bool = True,
    fallback: bool = False,
) -> tuple[ml_collections.ConfigDict, Any, int]:
    """Loads configuration, parameters and step of a run; arguments and errors as `open_run`."""
    config, load, step = open_run(workdir, step, use_ema, fallback)
    return config, load(), step


def open_run(
    workdir: str | os.PathLike,
    step: int | None = None,
    use_ema: bool = True,
    fallback: bool = False,
) -> tuple[ml_collections.ConfigDict, Callable[[], Any], int]:
    """Finds configuration, parameters and step of a run.

    Args:
      workdir: of the run, or of a conversion.
      step: of the checkpoint; None is the latest.
      use_ema: the averaged parameters, if there are any, rather than those of the last step.
      fallback: as `reading.find` takes it.

    Returns:
      The parameters as a function that loads them onto the first device.

    Raises:
      UserError: no run, no such checkpoint, or a damaged one; the function raises it too.
    """
    config, folder = reading.find(workdir, step, fallback)
    model = section(DiTConfig, config, "model")
    adapters = lora.LoraConfig.of(config)

    def load() -> Any:
        if adapters.rank:
            return _with_base(workdir, config, model, adapters, folder, use_ema)
        target = build.on_one_device(build.abstract_transformer(model)[1])
        return reading.restore_weights(folder, target, use_ema)

    return config, load, int(folder.name)


def _with_base(
    workdir: str | os.PathLike,
    config: ml_collections.ConfigDict,
    model: DiTConfig,
    adapters: lora.LoraConfig,
    folder: AnyPath,
    use_ema: bool,
) -> Any:
    """Weights of `lora.make_for_sampling`: those of `config.init_from` with what a run trained."""
    params = sources.base_of(workdir, config).load()
    target = build.on_one_device(abstract_trained(model, adapters))
    trained = reading.restore_weights(folder, target, use_ema)
    if adapters.adapters == "shared":
        return lora.merge(params, trained, adapters.scale)
    flat = {**dict(nnx.to_flat_state(params)), **dict(nnx.to_flat_state(trained))}
    return nnx.from_flat_state(flat)


def abstract_trained(model: DiTConfig, adapters: lora.LoraConfig) -> Any:
    """Returns the shapes of the weights that a run with adapters trains and saves."""
    return nnx.filter_state(build.abstract_transformer(model, adapters)[1], adapters.trains)
