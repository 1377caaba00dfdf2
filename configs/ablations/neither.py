"""Neither a modality switcher nor in-context learning.

Command:  python -m unityvideo_jax.ablate --output=grid --arms=neither
Purpose:  the model that table 4's mechanisms add to. (The paper's own baseline is RGB alone.)
"""

import ml_collections

from unityvideo_jax.settings import presets


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration; every key can be overridden as `--config.<key>=...`."""
    config = presets.load("ablations/all")
    config.model.update(switcher="none", in_context=False)
    return config
