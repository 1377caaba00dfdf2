"""Exports of a run's adapters: files of their own, or merged into the whole weights."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from unityvideo_jax.checkpoints.sources import Base
from unityvideo_jax.errors import UserError
from unityvideo_jax.interop import lora as files
from unityvideo_jax.models.config import DiTConfig
from unityvideo_jax.models.lora import ADAPTER, LoraConfig
from unityvideo_jax.pretrained.model import StoredWeight

_DOWN, _UP = f".{ADAPTER}.down", f".{ADAPTER}.up"


def export(
    stored: Mapping[str, Any],
    model: DiTConfig,
    lora: LoraConfig,
    folder: pathlib.Path,
    *,
    layout: str,
    storage: str,
    log: Callable[[str], None],
) -> None:
    """Writes a run's adapters for diffusers and others: one file, or one per modality.

    Args:
      stored: what the run trained, by dotted path.
      model, lora: of the run.
      folder: new or empty. RGB's adapter, or the shared one, has diffusers' own name; the others
        carry their modality's name besides.
      layout, storage: as `interop.lora.write_adapter` takes them.
      log: takes lines, one about weights that the files cannot hold.

    Raises:
      UserError: a folder with something in it, or a layout that has no adapters.
    """
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"--workdir={folder}: is not empty; name a new folder")
    paths = [name.removesuffix(_DOWN) for name in stored if name.endswith(_DOWN)]
    per_modality = lora.adapters == "per_modality"
    names = model.modalities if per_modality else ("rgb",)
    folder.mkdir(parents=True, exist_ok=True)
    for row, name in enumerate(names):
        layers = {}
        for path in paths:
            down, up = (np.asarray(stored[path + end].read().result()) for end in (_DOWN, _UP))
            down, up = (down[:, row], up[:, row]) if per_modality else (down, up)
            layers[path] = down, lora.scale * up
        file = folder / (files.STEM + (f"_{name}" if row else "") + ".safetensors")
        count = files.write_adapter(file, layers, model, layout=layout, storage=storage)
        log(f"{count} tensors of rank {lora.rank} are in {file}")
    if others := sorted(name for name in stored if f".{ADAPTER}." not in name):
        log(
            f"left over: {', '.join(others)}, trained beside the adapters; --merge keeps what the "
            "layout can hold"
        )


def _merged(kernel: Any, down: Any, up: Any, scale: float) -> StoredWeight:
    """A stored kernel with an adapter merged into it."""

    def read(place: Any) -> np.ndarray:
        whole, narrow, wide = (np.asarray(one[place]) for one in (kernel, down, up))
        return whole + np.float32(scale) * (narrow @ wide)

    return StoredWeight(read=read, shape=tuple(kernel.shape))


def merged(stored: Mapping[str, Any], base: Base, lora: LoraConfig) -> dict[str, Any]:
    """Returns all weights with a run's adapters merged into them, each read when asked for.

    Args:
      stored: what the run trained, by dotted path.
      base: the weights that the adapters stand beside.
      lora: of the run.

    Raises:
      UserError: adapters per modality, which no one matrix can stand for, or a damaged base.
    """
    if lora.adapters == "per_modality":
        raise UserError(
            "the run has an adapter per modality, and one matrix cannot act differently by stream; "
            "write the adapters, with --to=diffusers or wan and without --merge"
        )
    whole: dict[str, Any] = base.stored()
    for name, array in stored.items():
        if name.endswith(_DOWN):
            path = name.removesuffix(_DOWN)
            kernel = f"{path}.kernel"
            whole[kernel] = _merged(whole[kernel], array, stored[path + _UP], lora.scale)
        elif not name.endswith(_UP):
            whole[name] = array
    return whole
