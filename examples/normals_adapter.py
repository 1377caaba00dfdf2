"""An adapter that teaches `worlds-mini` surface normals, the modality of `examples/normals.py`.

Commands: python -m unityvideo_jax.prepare --plugins=examples.normals --source=worlds \
              --modalities=rgb,normals --workdir=normals_shards --num_clips=768 \
              --height=128 --width=128
          python -m unityvideo_jax.train --plugins=examples.normals \
              --config=examples/normals_adapter.py --workdir=normals_adapter
          python -m unityvideo_jax.sample --plugins=examples.normals --workdir=normals_adapter \
              --mode=estimation --modality=normals --input=VIDEO --steps=1 --output=normals
Hardware: one GPU.
Result:   none yet; two steps were run, on a CPU.
What trains: an adapter for each of RGB and normals, active where it is a target, and the tables and
          heads, in which normals have a row of their own and RGB's moves too.
"""

import ml_collections

from unityvideo_jax.settings import presets


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration; every key can be overridden as `--config.<key>=...`."""
    config = presets.load("worlds_mini_finetune")
    config.model.modalities = (*config.model.modalities, "normals")
    config.data.dirs = ("normals_shards",)
    config.data.modality_weights = {"normals": 1.0}
    config.lora.update(
        rank=32,
        adapters="per_modality",
        train=("modality_embedding.*", "heads.*", "blocks.modulation.*"),
    )
    config.optimizer.update(learning_rate=5e-4, schedule="cosine")
    config.train.update(steps=1500, batch_size=32)
    return config
