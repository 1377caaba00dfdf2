"""RGB alone, for as many FLOPs as the full model.

Command:  python -m unityvideo_jax.ablate --output=grid --arms=rgb_equal_compute
Purpose:  the baseline at equal compute: a step of RGB alone costs less than half.
"""

import ml_collections

from unityvideo_jax.settings import presets


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration; every key can be overridden as `--config.<key>=...`."""
    config = presets.load("ablations/rgb")
    config.train.steps = round(2.0582 * config.train.steps)  # model FLOPs of a step, `all` / `rgb`
    return config
