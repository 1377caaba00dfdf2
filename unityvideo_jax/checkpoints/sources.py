"""Weights by the name that a user gives: of a run, a conversion, or a pretrained model."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import nnx

from unityvideo_jax.checkpoints import arrays, reading, run_folder
from unityvideo_jax.errors import UserError
from unityvideo_jax.files import stores
from unityvideo_jax.files.stores import AnyPath
from unityvideo_jax.models import backbone, build
from unityvideo_jax.models.dit import DiTConfig
from unityvideo_jax.pretrained import model as pretrained
from unityvideo_jax.settings.sections import section


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """A place of weights.

    Attributes:
      name: as the user gave it.
      folder: of the checkpoint or of the pretrained model.
      config: its sections model, data and sampling at least.
      step: of the training that made the weights.
      item: of a checkpoint: "ema", or "params"; None of a pretrained model.
    """

    name: str
    folder: AnyPath
    config: Any
    step: int
    item: str | None

    @property
    def model(self) -> DiTConfig:
        """The transformer's configuration."""
        return section(DiTConfig, self.config, "model")

    def stored(self) -> dict[str, Any]:
        """Returns all weights by dotted path, each read where it is indexed or made an array.

        Raises:
          UserError: one of them is damaged; all are looked at first.
        """
        if self.item is None:
            return pretrained.stored(self.folder, self.config)
        reading.verify_item(self.folder, self.item)
        return arrays.open_arrays(self.folder, self.item)

    def load(self, target: Any = None) -> Any:
        """The parameters, float32, laid out as `target` is; None is all on the first device.

        Raises:
          UserError: they are damaged.
        """
        if self.item is None:
            return pretrained.load(self.folder, self.config, target)
        if target is None:
            target = build.on_one_device(build.abstract_transformer(self.model)[1])
        return reading.restore_weights(self.folder, target, use_ema=self.item == "ema")

    def fingerprint(self) -> str | None:
        """Names the weights, whatever their path; None for a checkpoint without digests."""
        if self.item is None:
            return pretrained.fingerprint(self.folder)
        return reading.fingerprint(self.folder)


def find(
    name: str | os.PathLike, step: int | None = None, fallback: bool = False, use_ema: bool = True
) -> Source:
    """Returns the source of this name.

    Args:
      name: workdir of a run or conversion, folder of a model, or a model that ships.
      step: of a run's checkpoint; None is the latest.
      fallback: as `reading.find` takes it.
      use_ema: a run's averaged weights if it has them.

    Raises:
      UserError: no such run, checkpoint or model.
    """
    if pretrained.is_model(name) or not stores.local(name).exists():
        folder = pretrained.find(name)
        config = pretrained.read_config(folder)
        found = {"folder": folder, "config": config, "step": config["step"], "item": None}
    else:
        config, folder = reading.find(name, step, fallback)
        item = reading.weights_item(folder, use_ema)
        found = {"folder": folder, "config": config, "step": int(folder.name), "item": item}
    return Source(name=os.fspath(name), **found)


def map_weights(model: DiTConfig, source: Source) -> dict[backbone.Path, backbone.Rows | None]:
    """As `backbone.map_weights`, for the weights that `config.init_from` names.

    Raises:
      UserError: they are adapters, or of a model that cannot start this one.
    """
    reading.refuse_adapters(source.name, source.config)
    try:
        return backbone.map_weights(model, source.model)
    except UserError as error:
        raise UserError(f"config.init_from={source.name}: {error}") from error


@dataclasses.dataclass(frozen=True, kw_only=True)
class Base:
    """The weights that adapters stand beside, as the model that trains them has them.

    Attributes:
      source: of the weights.
      mapped: what each weight of the model takes of them, as `backbone.map_weights` gives it.
    """

    source: Source
    mapped: Mapping[backbone.Path, backbone.Rows | None]

    def stored(self) -> dict[str, Any]:
        """As `Source.stored`, for the model that trains adapters."""
        weights = self.source.stored()
        names = {".".join(path): rows for path, rows in self.mapped.items()}
        return {
            name: weights[name] if rows is None else _rows_of(weights[name], rows)
            for name, rows in names.items()
        }

    def load(self) -> Any:
        """The parameters, float32, on the first device.

        Raises:
          UserError: they are damaged.
        """
        loaded = dict(nnx.to_flat_state(self.source.load()))
        return nnx.from_flat_state(
            {
                path: loaded[path].replace(backbone.take_rows(loaded[path][...], rows))
                for path, rows in self.mapped.items()
            }
        )


def _rows_of(weight: Any, rows: backbone.Rows) -> pretrained.StoredWeight:
    """A stored weight as a model of other modalities has it."""

    def read(place: Any) -> np.ndarray:
        value = np.asarray(weight[place])
        return np.take(value, rows.rows, rows.axis - len(weight.shape) + value.ndim)

    shape = list(weight.shape)
    shape[rows.axis] = len(rows.rows)
    return pretrained.StoredWeight(read=read, shape=tuple(shape))


def base(name: str | os.PathLike, model: DiTConfig, fallback: bool = False) -> Base:
    """Returns the weights that adapters of a model stand beside.

    Modalities are matched by name, as where all weights train (`models.backbone.map_weights`): a
    model of six modalities carries adapters for a seventh.

    Args:
      name: workdir of a conversion or run, whose averaged weights are taken if there are any, or a
        pretrained model.
      model: that trains the adapters.
      fallback: as `reading.find` takes it.

    Raises:
      UserError: no weights there, or those of another model.
    """
    found = find(name, fallback=fallback)
    mapped = map_weights(model, found)
    for path, _ in nnx.to_flat_state(build.abstract_transformer(model)[1]):
        if path not in mapped:
            raise UserError(
                f"config.init_from={name}: {'.'.join(path)} is missing there; use the config that "
                "it was made with"
            )
    return Base(source=found, mapped=mapped)


def base_of(workdir: str | os.PathLike, config: Any) -> Base:
    """Returns the weights that a run's adapters stand beside.

    Args:
      workdir: of the run.
      config: of the run.

    Raises:
      UserError: they are not where `config.init_from` says, or not what the run started from.
    """
    name = config["init_from"]
    try:
        found = base(name, section(DiTConfig, config, "model"))
    except UserError as error:
        raise UserError(
            f"{workdir}: holds adapters beside the weights of config.init_from={name!r}, which "
            f"do not open ({error}); run this from the folder that it was trained in, or correct "
            f"it in {pathlib.Path(workdir) / run_folder.CONFIG}"
        ) from error
    recorded = run_folder.fingerprint_of_base(workdir)
    if recorded is not None and recorded != found.source.fingerprint():
        raise UserError(
            f"{workdir}: its adapters were trained beside other weights than "
            f"{found.source.folder} holds now; restore those, or correct config.init_from"
        )
    return found
