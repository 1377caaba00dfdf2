"""RGB with surface normals, the modality of `examples/normals.py`, at the size of `worlds_tiny`.

Commands: python -m unityvideo_jax.prepare --plugins=examples.normals --source=worlds \
              --modalities=rgb,normals --workdir=normals_shards --num_clips=64
          python -m unityvideo_jax.train --plugins=examples.normals \
              --config=examples/normals_config.py --workdir=normals_run
          python -m unityvideo_jax.evaluate --plugins=examples.normals --workdir=normals_run \
              --num_clips=4 --output=normals_scores
Hardware: two CPU cores.
"""

import ml_collections

from unityvideo_jax.settings import presets


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration."""
    config = presets.load("worlds_tiny")
    config.model.modalities = ("rgb", "normals")
    config.data.dirs = ("normals_shards",)
    config.data.modality_weights = {"normals": 1.0}
    config.curriculum = ()
    return config
