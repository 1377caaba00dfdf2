"""The public release's additive switcher without in-context learning.

Command:  python -m unityvideo_jax.ablate --output=grid --arms=only_additive
Purpose:  table 4 with the release's mechanism.
"""

import ml_collections

from unityvideo_jax.settings import presets


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration; every key can be overridden as `--config.<key>=...`."""
    config = presets.load("ablations/all")
    config.model.update(switcher="additive", in_context=False)
    return config
