"""RGB alone.

Command:  python -m unityvideo_jax.ablate --output=grid --arms=rgb
Purpose:  the baseline of the paper's tables 2 to 4 and of figure 2, at equal steps.
"""

import ml_collections

from unityvideo_jax.settings import presets


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration; every key can be overridden as `--config.<key>=...`."""
    config = presets.load("ablations/all")
    config.data.streams = (1.0,)
    return config
