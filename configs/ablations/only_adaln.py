"""The AdaLN switcher without in-context learning.

Command:  python -m unityvideo_jax.ablate --output=grid --arms=only_adaln
Purpose:  "w/ Modality Switcher" in table 4.
"""

import ml_collections

from unityvideo_jax.settings import presets


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration; every key can be overridden as `--config.<key>=...`."""
    config = presets.load("ablations/all")
    config.model.in_context = False
    return config
