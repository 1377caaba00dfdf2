"""The ablations' full model: all modalities, all tasks, AdaLN switcher and in-context learner.

Command:  python -m unityvideo_jax.ablate --output=grid --arms=all
Purpose:  the arm beside which the others stand. In the paper's tables it is "ours": table 2, all
          modalities; table 3, all tasks; table 4, both mechanisms.
Data:     worlds of 17x64x64 whose prompts ask for people alone, so that objects by prompt are
          zero-shot. A quarter of the steps shows RGB alone, which every arm is compared by.
"""

import ml_collections

from unityvideo_jax.settings import presets


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration; every key can be overridden as `--config.<key>=...`."""
    config = presets.load("worlds_mini")
    config.model.inputs = "one"  # with every switcher
    config.objective.update(p_cond=0.2, p_est=0.3, p_joint=0.5, p_any=0.0, first_frame=0.0)
    config.data.update(
        height=64, width=64, closeup=0.15, repeats=24, registry_prompt_rate=0.0,
        streams=(0.25, 0.5, 0.25),
    )  # fmt: skip
    config.optimizer.update(learning_rate=7e-4, warmup_steps=100, schedule="cosine")
    config.train.update(steps=3000, batch_size=160, keep=1, sample_every=0)
    return config
