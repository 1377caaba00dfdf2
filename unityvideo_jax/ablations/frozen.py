"""The frozen part of a grid, by hash: the clips, settings and models that all its runs share."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from unityvideo_jax import modalities, worlds
from unityvideo_jax.ablations.arms import Arm
from unityvideo_jax.errors import UserError
from unityvideo_jax.evaluation.physics import frozen as physics
from unityvideo_jax.files import provenance, strict_json
from unityvideo_jax.inputs.fingerprints import fingerprints
from unityvideo_jax.pretrained import model as pretrained

FILE = "grid.json"


def record(arm: Arm, estimator: str, settings: Any) -> dict[str, Any]:
    """Returns the facts that must not change within a grid.

    Args:
      arm: any of the grid.
      estimator: name or folder of the model that scores control.
      settings: a dataclass, of the evaluation.
    """
    data = arm.data
    found = fingerprints(data)
    folder = pretrained.find(estimator)
    files = [folder / x for x in (pretrained.CONFIG_FILE, pretrained.WEIGHTS_FILE, pretrained.VAE)]
    return provenance.plain(
        {
            "vae": found["data.vae"],
            "text_encoder": found["data.text_encoder"],
            "codecs": {name: modalities.get(name).codec.version for name in arm.model.modalities},
            "worlds": worlds.VERSION,
            "size": [*data.size, float(data.fps)],
            "physics": provenance.file_hash(physics.FROZEN),
            "estimator": [estimator, *(provenance.file_hash(x) for x in files if x.exists())],
            "evaluation": dataclasses.asdict(settings),
        }
    )


def check(folder: pathlib.Path, now: Mapping[str, Any]) -> str:
    """Compares the frozen part with that of the grid's start, if it has begun; returns its hash.

    Raises:
      UserError: something differs; names it.
    """
    file = folder / FILE
    if file.exists():
        began = strict_json.read(file)
        for key in sorted({*began, *now}):
            if began.get(key) != now.get(key):
                raise UserError(
                    f"{file}: {key} was {began.get(key)!r} when the grid began and is "
                    f"{now.get(key)!r} now; give it back, or name another --output"
                )
    return provenance.config_hash(now)


def begin(folder: pathlib.Path, now: Mapping[str, Any]) -> None:
    """Writes the frozen part, unless the grid has begun."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / FILE).exists():
        provenance.write_json(folder / FILE, now)
