"""A process of a job: trains the synthetic run as `train.py` would, on its share of the batches.

Called as: one_of_several.py WORKDIR OPTIONS, a JSON object of
  mesh, train: of the configuration.
  seconds: that each batch takes.
  profile: steps to trace.
  pids: folder to write this process's id to.
  hangs: [process, step], which waits for its batch of that step for ever.
"""

import json
import os
import pathlib
import sys
import threading
import time

import jax

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "training"))

from synthetic_run import Batches, start_light, tiny_config

from unityvideo_jax.parallel import hosts
from unityvideo_jax.parallel.mesh import MeshConfig, make_mesh
from unityvideo_jax.training import loop
from unityvideo_jax.training.profiling import ProfileConfig
from unityvideo_jax.training.workdir import open_workdir

STEPS = 12


class Share(Batches):
    """This process's rows of every batch."""

    def __init__(self, stage, share, seconds, hangs):
        super().__init__(stage)
        self.share, self.seconds, self.hangs = share, seconds, hangs

    def __next__(self):
        time.sleep(self.seconds)
        if [jax.process_index(), self.stage.start + self.n + 1] == self.hangs:
            self.never_comes()
        index, count = self.share
        rows = self.batch_size // count
        mine = slice(index * rows, (index + 1) * rows)
        return {name: values[mine] for name, values in super().__next__().items()}

    def never_comes(self):
        threading.Event().wait()


def main(workdir, options):
    start_light()
    options = json.loads(options)
    hosts.initialize()
    config = tiny_config(**{"steps": STEPS} | options.get("train", {}))
    config.mesh.update(options["mesh"])
    if "pids" in options:
        file = pathlib.Path(options["pids"]) / f"{jax.process_index()}.pid"
        file.write_text(str(os.getpid()))
    seconds, hangs = options.get("seconds", 0.0), options.get("hangs")
    profiled = options.get("profile", "")
    with hosts.leaves_at_once(), hosts.first_only(open_workdir(workdir, config)):
        share = hosts.feed_share(make_mesh(MeshConfig(**config.mesh)))
        # One string, so that one write: the processes share a pipe.
        print(f"share {share[0]} {share[1]}\n", end="", flush=True)
        loop.train(
            config,
            pathlib.Path(workdir),
            lambda stage: Share(stage, share, seconds, hangs),
            log=lambda line: print(line, flush=True),
            profile=ProfileConfig(steps=profiled, hlo=bool(profiled)),
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
