"""Flow and segmentation are never in one sample.

Command:  python -m unityvideo_jax.ablate --output=grid --arms=unseen_pair
Purpose:  zero-shot: the two are sampled together, and compared with a model that saw them so.
"""

import ml_collections

from unityvideo_jax.settings import presets


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration; every key can be overridden as `--config.<key>=...`."""
    config = presets.load("ablations/all")
    config.data.never_together = (("flow", "segmentation"),)
    return config
