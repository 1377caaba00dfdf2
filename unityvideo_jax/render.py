"""Renders procedural worlds to a contact sheet: every modality as its codec draws it.

Command: python -m unityvideo_jax.render --split=train --num_clips=4 --output=worlds.png
"""

import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from unityvideo_jax import cli, media, modalities, worlds
from unityvideo_jax.runtime import capacity

FLAGS = flags.FLAGS


def _encoder(name: str):
    codec = modalities.get(name).codec
    return jax.jit(jax.vmap(lambda clip: codec.encode(clip)[0]))


def define_flags() -> None:
    """Called by the program alone, so that importing this module claims no flag names."""
    flags.DEFINE_enum("split", "train", worlds.SPLITS, "Which worlds.")
    flags.DEFINE_integer("num_clips", 4, "How many clips.", lower_bound=1)
    flags.DEFINE_integer("first", 0, "Index of the first clip.", lower_bound=0)
    flags.DEFINE_integer("height", 96, "Pixels, a multiple of 16.", lower_bound=16)
    flags.DEFINE_integer("width", 96, "Pixels, a multiple of 16.", lower_bound=16)
    flags.DEFINE_integer("num_frames", 17, "Frames per clip, 4n+1.", lower_bound=1)
    cli.define_seed("seed", "Seed of the worlds.")
    flags.DEFINE_float("closeup", 0.0, "Share of clips with the camera near a person.")
    flags.DEFINE_integer("columns", 3, "Frames shown of each clip.", lower_bound=1)
    cli.define_path("output", "worlds.png", "The PNG to write.", writes="file")


def main(argv: Sequence[str]) -> None:
    """Renders, encodes and writes the sheet: one row per clip, the modalities side by side."""
    del argv
    config = worlds.WorldConfig(
        height=FLAGS.height,
        width=FLAGS.width,
        num_frames=FLAGS.num_frames,
        split=FLAGS.split,
        seed=FLAGS.seed,
        closeup=FLAGS.closeup,
    )
    # The sheet is composed of all rows at once.
    shown = FLAGS.num_clips * FLAGS.columns * len(modalities.names())
    capacity.check_host(
        shown * config.height * config.width * 3,
        f"--num_clips={FLAGS.num_clips}, --columns={FLAGS.columns}",
        "show fewer",
    )
    encoders = {name: _encoder(name) for name in modalities.names()}
    rows = []
    for index in range(FLAGS.first, FLAGS.first + FLAGS.num_clips):
        scenes = worlds.sample_scenes(config, jnp.array([index]))
        clip = worlds.render(config, scenes)
        caption = worlds.describe(config, scenes)[0].caption
        videos = [media.to_uint8(np.asarray(encode(clip))[0]) for encode in encoders.values()]
        picks = np.linspace(0, config.num_frames - 1, FLAGS.columns).round().astype(int)
        # One "frame" of the sheet is one modality's strip, so that a clip fills one row.
        rows.append((f"{index}: {caption}", np.concatenate([v[picks] for v in videos])))
        print(f"clip {index}: {caption}", flush=True)
    media.contact_sheet(rows, FLAGS.output, columns=FLAGS.columns * len(encoders))
    print(f"wrote {pathlib.Path(FLAGS.output)}", flush=True)


if __name__ == "__main__":
    define_flags()
    cli.run(main)
