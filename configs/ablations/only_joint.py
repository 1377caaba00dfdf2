"""Joint generation as the only task.

Command:  python -m unityvideo_jax.ablate --output=grid --arms=only_joint
Purpose:  "only JointGen" in table 3.
"""

import ml_collections

from unityvideo_jax.settings import presets


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration; every key can be overridden as `--config.<key>=...`."""
    config = presets.load("ablations/all")
    config.objective.update(p_cond=0.0, p_est=0.0, p_joint=1.0)
    return config
