"""A tiny run whose steps have two shapes and two micro-batches, on shards of noise.

Command: python tests/training/mixed_run.py SHARDS WORKDIR SECONDS   # that each batch takes
"""

import math
import pathlib
import sys
import time

sys.path[:0] = [str(pathlib.Path(__file__).parents[1] / name) for name in ("inputs", "training")]

import jax  # noqa: E402
import stand_ins  # noqa: E402
from synthetic_run import start_light, tiny_config  # noqa: E402

from unityvideo_jax import train  # noqa: E402
from unityvideo_jax.training import loop  # noqa: E402
from unityvideo_jax.training.workdir import open_workdir  # noqa: E402

SIZES = [(5, 16, 16), (1, 16, 32)]
MODALITIES = ("rgb", "depth")


def config(shards, **changes):
    """A configuration of two buckets, and of a second stage that draws one more often."""
    experiment = tiny_config(steps=10, checkpoint_every=5)
    experiment.model.update(modalities=MODALITIES, text_len=6, num_layers=1)
    entries = [dict(zip(("frames", "height", "width"), size, strict=True)) for size in SIZES]
    entries = tuple(entry | dict(streams=s) for entry, s in zip(entries, (2, 1), strict=True))
    # Multiples of eight samples, which the mesh of the test and accumulation divide.
    experiment.data = stand_ins.config(
        shards,
        modality_weights={"depth": 1.0},
        buckets=entries,
        batch_multiple=8,
        **dict(zip(("num_frames", "height", "width"), SIZES[0], strict=True)),
    )
    experiment.curriculum = (
        dict(until=8, modalities=("depth",)),
        dict(until=-1, modalities=("depth",), buckets=(entries[0], entries[1] | dict(weight=2))),
    )
    experiment.optimizer.schedule_steps = experiment.train.steps
    experiment.optimizer.accumulation = 2
    experiment.update_from_flattened_dict(changes)
    return experiment


class _Slow:
    """An iterator whose batches take `seconds` longer."""

    def __init__(self, iterator, seconds):
        self._iterator, self._seconds = iterator, seconds

    def __getattr__(self, name):
        return getattr(self._iterator, name)

    def __next__(self):
        time.sleep(self._seconds)
        return next(self._iterator)


def run(shards, workdir, seconds=0.0, **changes):
    """Trains on the devices of its mesh; returns what it prints."""
    lines, experiment = [], config(shards, **changes)

    def build(stage):
        return _Slow(train.build_iterator(experiment, stage, (0, 1)), seconds)

    devices = jax.devices()[: math.prod(experiment.mesh.values())]
    with open_workdir(workdir, experiment) as path:
        loop.train(experiment, path, build, log=lines.append, devices=devices)
    return lines


if __name__ == "__main__":
    start_light()
    run(sys.argv[1], sys.argv[2], float(sys.argv[3]))
