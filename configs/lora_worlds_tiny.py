"""Adapters of rank 8 on a run of `worlds_tiny`, on any CPU.

Command:  python -m unityvideo_jax.train --config=lora_worlds_tiny --workdir=run_lora \\
              --config.init_from=run --config.data.dirs="('data_dir',)"
Purpose:  to see the whole path of an adapter work; `lora_wan22_5b.py` is the same on Wan.
"""

import ml_collections

from unityvideo_jax.settings import presets


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration; every key can be overridden as `--config.<key>=...`."""
    config = presets.load("worlds_tiny")
    config.lora.update(rank=8, base="float32")
    config.optimizer.learning_rate = 2e-3
    config.train.steps = 100
    return config
