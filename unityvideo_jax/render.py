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

_SPLIT = flags.DEFINE_enum("split", "train", worlds.SPLITS, "Which worlds.")
_NUM_CLIPS = flags.DEFINE_integer("num_clips", 4, "How many clips.", lower_bound=1)
_FIRST = flags.DEFINE_integer("first", 0, "Index of the first clip.", lower_bound=0)
_HEIGHT = flags.DEFINE_integer("height", 96, "Pixels, a multiple of 16.", lower_bound=16)
_WIDTH = flags.DEFINE_integer("width", 96, "Pixels, a multiple of 16.", lower_bound=16)
_NUM_FRAMES = flags.DEFINE_integer("num_frames", 17, "Frames a clip, 4n+1.", lower_bound=1)
_SEED = cli.define_seed("seed", "Seed of the worlds.")
_CLOSEUP = flags.DEFINE_float("closeup", 0.0, "Share of clips with the camera near a person.")
_COLUMNS = flags.DEFINE_integer("columns", 3, "Frames shown of each clip.", lower_bound=1)
_OUTPUT = cli.define_path("output", "worlds.png", "The PNG to write.", writes="file")


def _encoder(name: str):
    codec = modalities.get(name).codec
    return jax.jit(jax.vmap(lambda clip: codec.encode(clip)[0]))


def main(argv: Sequence[str]) -> None:
    """Renders, encodes and writes the sheet: a row a clip, the modalities side by side."""
    del argv
    config = worlds.WorldConfig(
        height=_HEIGHT.value,
        width=_WIDTH.value,
        num_frames=_NUM_FRAMES.value,
        split=_SPLIT.value,
        seed=_SEED.value,
        closeup=_CLOSEUP.value,
    )
    # The sheet is composed of all rows at once.
    shown = _NUM_CLIPS.value * _COLUMNS.value * len(modalities.names())
    capacity.check_host(
        shown * config.height * config.width * 3,
        f"--num_clips={_NUM_CLIPS.value}, --columns={_COLUMNS.value}",
        "show fewer",
    )
    encoders = {name: _encoder(name) for name in modalities.names()}
    rows = []
    for index in range(_FIRST.value, _FIRST.value + _NUM_CLIPS.value):
        scenes = worlds.sample_scenes(config, jnp.array([index]))
        clip = worlds.render(config, scenes)
        caption = worlds.describe(config, scenes)[0].caption
        videos = [media.to_uint8(np.asarray(encode(clip))[0]) for encode in encoders.values()]
        picks = np.linspace(0, config.num_frames - 1, _COLUMNS.value).round().astype(int)
        # One "frame" of the sheet is one modality's strip, so that a clip fills one row.
        rows.append((f"{index}: {caption}", np.concatenate([v[picks] for v in videos])))
        print(f"clip {index}: {caption}", flush=True)
    media.contact_sheet(rows, _OUTPUT.value, columns=_COLUMNS.value * len(encoders))
    print(f"wrote {pathlib.Path(_OUTPUT.value)}", flush=True)


if __name__ == "__main__":
    cli.run(main)
