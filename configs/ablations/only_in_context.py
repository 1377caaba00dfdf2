"""In-context learning without a modality switcher.

Command:  python -m unityvideo_jax.ablate --output=grid --arms=only_in_context
Purpose:  "w/ In-Context Learner" in table 4.
"""

import ml_collections

from unityvideo_jax.settings import presets


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration; every key can be overridden as `--config.<key>=...`."""
    config = presets.load("ablations/all")
    config.model.switcher = "none"
    return config
