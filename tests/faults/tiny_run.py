"""The training loop on a tiny model and made batches, as a program.

Command: python -m tests.faults.tiny_run --workdir=FOLDER [--train='{"steps": 8}'] [--seconds=0.1]
"""

import json
import pathlib
import sys
import time

from absl import flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "training"))

from synthetic_run import Batches, start_light, tiny_config

from unityvideo_jax import cli
from unityvideo_jax.training import loop
from unityvideo_jax.training.workdir import open_workdir

_WORKDIR = cli.define_path("workdir", None, "Folder of the run.", writes="folder", required=True)
_TRAIN = flags.DEFINE_string("train", "{}", "Keys of config.train, as JSON.")
_SECONDS = flags.DEFINE_float("seconds", 0.0, "That each batch takes.")


class Slow(Batches):
    """Batches that arrive slowly."""

    def __next__(self):
        time.sleep(_SECONDS.value)
        return super().__next__()


def main(argv) -> None:
    """Trains the tiny model."""
    del argv
    start_light()
    config, workdir = tiny_config(**json.loads(_TRAIN.value)), pathlib.Path(_WORKDIR.value)
    config.model.freq_dim = 256  # as Wan's, so that it can be exported
    with open_workdir(workdir, config):
        loop.train(config, workdir, Slow, log=lambda line: print(line, flush=True))


if __name__ == "__main__":
    cli.run(main)
