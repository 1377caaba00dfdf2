"""Packs clips of other layouts into TFDS datasets, their files byte for byte.

Command: python -m unityvideo_jax.pack --tars=OpenUni --subset=Koala36M --workdir=koala
         python -m unityvideo_jax.pack --benchmark=unibench --workdir=packed

The first reads OpenUni as it is published (data/openuni/README.md), the second what `python -m
unityvideo_jax.unibench` wrote (data/unibench/README.md). The same command again resumes where a
killed one stopped. Clips that lack something in the tars are set aside and listed. For a broken tar
or a bad clip of a benchmark the status is 2, unless --allow_faults finishes without it. `python -m
unityvideo_jax.prepare --source=koala` makes latents of the clips.
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from unityvideo_jax import cli
from unityvideo_jax import modalities as registry
from unityvideo_jax.errors import UserError
from unityvideo_jax.inputs.packing import pack_benchmark, pack_openuni

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Called by the program alone, so that importing this module claims no flag names."""
    cli.define_path("tars", None, "Root of OpenUni's published layout.")
    flags.DEFINE_string("subset", "", "Which source of OpenUni, such as Koala36M.")
    flags.DEFINE_list("modalities", [], "What a clip must have. Default: all with tars.")
    flags.DEFINE_string("caption_column", "", "Of the metadata. Default: a usual name.")
    flags.DEFINE_bool("allow_faults", False, "Finish without what cannot be read.")
    cli.define_path("benchmark", None, "Folder of a benchmark's clips.")
    cli.define_path("workdir", None, "The TFDS data_dir to write.", writes="folder", required=True)


def main(argv: Sequence[str]) -> None:
    """Packs what the flags name."""
    del argv
    if bool(FLAGS.tars) == bool(FLAGS.benchmark):
        raise UserError("give either --tars=ROOT or --benchmark=FOLDER")
    for name in FLAGS.modalities:
        registry.get(name)
    workdir = pathlib.Path(FLAGS.workdir)
    if FLAGS.benchmark:
        names = ("subset", "modalities", "caption_column")
        cli.refuse(names, "is for --tars; a benchmark is packed as it is, leave it out")
        card = pack_benchmark(
            pathlib.Path(FLAGS.benchmark), workdir, allow_faults=FLAGS.allow_faults
        )
    else:
        card = pack_openuni(
            pathlib.Path(FLAGS.tars),
            workdir,
            subset=FLAGS.subset,
            modalities=FLAGS.modalities,
            caption_column=FLAGS.caption_column,
            allow_faults=FLAGS.allow_faults,
        )
    counts = ", ".join(f"{count} in {split}" for split, count in card.counts.items())
    print(f"{workdir}/{card.dataset}: clips of {', '.join(card.modalities)}: {counts}", flush=True)


if __name__ == "__main__":
    define_flags()
    cli.run(main)
