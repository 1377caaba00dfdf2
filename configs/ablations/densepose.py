"""RGB with DensePose, all three tasks.

Command:  python -m unityvideo_jax.ablate --output=grid --arms=densepose
Purpose:  "+ DensePose" in figure 2.
"""

import ml_collections

from unityvideo_jax.settings import presets


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration; every key can be overridden as `--config.<key>=...`."""
    config = presets.load("ablations/all")
    config.data.streams = (0.25, 0.75)
    config.data.modality_weights = ml_collections.ConfigDict({"densepose": 1.0})
    return config
