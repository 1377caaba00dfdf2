"""Builds UniBench: 200 rendered clips with exact truth, or clips of a folder of real videos.

Command: python -m unityvideo_jax.unibench --workdir=unibench
         python -m unityvideo_jax.unibench --workdir=unibench_real --real=FOLDER

The same command again resumes where a killed one stopped, and checks every clip against the frozen
one. `--first` and `--num_clips` give a machine its share. `python -m unityvideo_jax.evaluate
--benchmark=unibench` scores predictions on it; docs/unibench.md says more.
"""

import pathlib
import time
from collections.abc import Sequence

from absl import flags

from unityvideo_jax import cli
from unityvideo_jax.errors import UserError
from unityvideo_jax.evaluation.benchmarks import real_clips, unibench
from unityvideo_jax.evaluation.benchmarks.unibench import Size
from unityvideo_jax.inputs.clip_folders import Clip

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Called by the program alone, so that importing this module claims no flag names."""
    cli.define_path(
        "workdir", None, "Folder to write, a folder per clip.", writes="folder", required=True
    )
    flags.DEFINE_integer("first", 0, "First clip of this share.", lower_bound=0)
    flags.DEFINE_integer("num_clips", None, "Clips of this share.", lower_bound=1)
    flags.DEFINE_bool("small", False, "Render at the size of the quick check.")
    cli.define_path("real", None, "Folder of real videos to choose from instead.")
    flags.DEFINE_bool("freeze", False, "Record the clips as the frozen ones of this version.")


def main(argv: Sequence[str]) -> None:
    """Builds or checks the share that the flags name."""
    del argv
    workdir = pathlib.Path(FLAGS.workdir)
    if FLAGS.real:
        cli.refuse(("first", "small", "freeze"), "is of rendered clips; leave it out or --real")
        chosen = real_clips.build(
            pathlib.Path(FLAGS.real),
            workdir,
            num_clips=FLAGS.num_clips or unibench.NUM_CLIPS,
        )
        print(f"{workdir}: {len(chosen)} real clips, frozen in {real_clips.CARD_NAME}", flush=True)
        return
    names = unibench.names()[FLAGS.first :][: FLAGS.num_clips]
    if not names:
        raise UserError(f"--first={FLAGS.first}: there are {unibench.NUM_CLIPS} clips")
    size = unibench.CHECK_SIZE if FLAGS.small else Size()
    if FLAGS.freeze:
        unibench.freeze(names, size, print)
        return
    known = unibench.frozen()
    for done, name in enumerate(names, 1):
        start = time.monotonic()
        made = not (workdir / name).exists()
        if made:
            rendered = unibench.render_clip(name, size)
            unibench.check(name, rendered.scene, unibench.signature(rendered.arrays), size, known)
            unibench.write_clip(workdir, name, rendered, size)
        else:
            unibench.verify_clip(Clip(path=workdir / name), known)
        what = "rendered" if made else "checked"
        seconds = time.monotonic() - start
        print(f"{done}/{len(names)} {name}: {what} in {seconds:.1f} s", flush=True)
    there = [name for name in unibench.names() if (workdir / name).is_dir()]
    print(
        f"{workdir}: {len(there)} of {unibench.NUM_CLIPS} clips of {size.name}, UniBench "
        f"v{unibench.VERSION}",
        flush=True,
    )


if __name__ == "__main__":
    define_flags()
    cli.run(main)
