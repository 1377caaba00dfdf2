"""Calibration of the cache: how a model's outputs change while it samples, kept with its weights.

`cache.json`, in the folder of a pretrained model or in a workdir, holds one curve per task and kind
of pass, and the settings it was measured with. The curves are functions of the noise level, so they
serve any solver, number of steps, shift and scale of guidance; another model is refused.
"""

import dataclasses
import hashlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flax import nnx

from unityvideo_jax.errors import UserError
from unityvideo_jax.files import checksums, provenance, strict_json
from unityvideo_jax.modalities import RGB
from unityvideo_jax.sampling.generate import SamplerConfig
from unityvideo_jax.sampling.guidance import Pass
from unityvideo_jax.sampling.schedule import EVERYTHING, GIVEN, TEXT, Curve, Schedule, derive
from unityvideo_jax.settings.sections import check_keys

FILE, FORMAT = "cache.json", 1
KEYS = ("format", "model", "tasks", "measured")
TASKS = ("joint", "control", "estimation")
COMMAND = "python -m unityvideo_jax.calibrate"
# Matrices, which other adapters and fewer bits change; all other weights name the model.
MATRICES = ("kernel", "codes", "scales", "down", "up")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration:
    """The contents of `cache.json`.

    Attributes:
      model: `fingerprint` of the model.
      tasks: curves by kind of pass, by task.
      measured: the sampler's settings, size and number of samples behind them, for people.
    """

    model: str
    tasks: Mapping[str, Mapping[str, Curve]]
    measured: Mapping[str, Any]

    def save(self, folder: pathlib.Path) -> pathlib.Path:
        """Writes the file into a folder and returns its path."""
        tasks = {
            task: {kind: _columns(curve) for kind, curve in curves.items()}
            for task, curves in self.tasks.items()
        }
        record = {"format": FORMAT, "model": self.model, "tasks": tasks, "measured": self.measured}
        provenance.write_json(folder / FILE, checksums.sealed(provenance.plain(record)))
        return folder / FILE

    def curves(self, task: str, kinds: Sequence[str], where: str) -> list[Curve]:
        """Returns the curves of a task's passes.

        Args:
          task: one of `TASKS`.
          kinds: of the passes, in order.
          where: what the message starts with.

        Raises:
          UserError: the task or one of the kinds was not calibrated.
        """
        found = self.tasks.get(task, {})
        for kind in kinds:
            if kind not in found:
                raise UserError(
                    f"{where}: has no curve of {task}'s passes of {kind}; calibrate with requests "
                    f"of that task and guidance: {COMMAND} --batch_file=FILE"
                )
        return [found[kind] for kind in kinds]

    def schedule(
        self,
        where: str,
        sampler: SamplerConfig,
        streams: Sequence[str],
        wanted: Sequence[str],
        *,
        counts: Mapping[int, Any],
        skipped: int,
    ) -> Schedule:
        """Returns the schedule of a call, for `generate`.

        Args:
          where: the file, for messages.
          sampler: settings of the call; `cache` says how much is skipped.
          streams: of the call, in order.
          wanted: those that are sampled.
          counts, skipped: as `generate` takes them.

        Raises:
          UserError: a task or kind of pass that was not calibrated, or more than can be skipped.
        """
        fixed = [s for s, name in enumerate(streams) if name not in wanted]
        guided, unguided = sampler.passes(fixed, counts), sampler.unguided.passes(fixed, counts)
        passes = sampler.all_passes(fixed, counts)
        sigma = sampler.table(skipped).sigma
        low, high = np.float32(sampler.guidance_interval)
        inside = (np.float32(sigma) >= low) & (np.float32(sigma) <= high)
        needed = np.array(
            [[one in (guided if row else unguided) for one in passes] for row in inside]
        )
        weights = unguided | guided
        scales = [1.0, *(float(np.abs(weights[one]).max()) for one in passes[1:])]
        kinds = [kind_of(one, passes[0]) for one in passes]
        curves = self.curves(task_of(streams, wanted), kinds, where)
        changes = [curve.at(sigma) * scale for curve, scale in zip(curves, scales, strict=True)]
        return derive(np.stack(changes, axis=1), needed, sigma, sampler.cache)


def _columns(curve: Curve) -> dict[str, list[float]]:
    return {key: [round(float(v), 6) for v in vars(curve)[key]] for key in ("sigma", "change")}


def load(folder: pathlib.Path | None, model: str) -> tuple[Calibration, pathlib.Path]:
    """Returns the calibration beside a model's weights, and its file.

    Args:
      folder: of the model or run; None if its weights came from no folder.
      model: `fingerprint` of the model that samples.

    Raises:
      UserError: there is none, it is damaged, or it is another model's.
    """
    if folder is None:
        raise UserError("cache: this pipeline has no folder with a calibration; load it from one")
    file = folder / FILE
    if not file.is_file():
        raise UserError(f"cache: {file} is missing; calibrate the model once: {COMMAND} --help")
    fix = f"calibrate the model again: {COMMAND} --help"
    record = checksums.unsealed(file, strict_json.read_object(file), fix)
    check_keys(record, KEYS, f"{file}: ", needed=KEYS)
    if record["format"] != FORMAT:
        raise UserError(f"{file}: format {record['format']}, this version reads {FORMAT}; {fix}")
    if record["model"] != model:
        raise UserError(f"{file}: is of another model, or of other weights than these; {fix}")
    tasks = {
        task: {
            kind: Curve(**{name: np.array(column, float) for name, column in curve.items()})
            for kind, curve in curves.items()
        }
        for task, curves in record["tasks"].items()
    }
    return Calibration(model=model, tasks=tasks, measured=record["measured"]), file


def fingerprint(model: Any, params: nnx.State) -> str:
    """Names a model's weights: SHA-256 of its configuration and of all weights but matrices.

    These are float32 however the matrices are held, and what adapters of files leave as it is; so a
    model's calibration serves it in fewer bits, and with adapters.

    Args:
      model: configuration, a dataclass.
      params: of the transformer.
    """
    shape = {k: v for k, v in dataclasses.asdict(model).items() if k not in _HOW}
    digest = hashlib.sha256(provenance.config_hash(shape).encode())
    for path, leaf in sorted(nnx.to_flat_state(params), key=lambda item: tuple(map(str, item[0]))):
        if path[-1] not in MATRICES:
            digest.update(".".join(map(str, path)).encode())
            digest.update(np.asarray(leaf[...], np.float32).tobytes())
    return digest.hexdigest()


# Keys of a model's configuration that change how it is computed, and not what.
_HOW = ("remat", "scan_layers", "dtype", "attention", "attention_parallel")


def task_of(streams: Sequence[str], wanted: Sequence[str]) -> str:
    """The task of a call: "joint" if no stream is only given, "control" if RGB is wanted."""
    if set(streams) <= set(wanted):
        return "joint"
    return "control" if RGB in wanted else "estimation"


def kind_of(one: Pass, first: Pass) -> str:
    """Returns the kind of a pass; `first` is that of everything."""
    if one == first:
        return EVERYTHING
    return GIVEN if one.text else TEXT
