"""Adapters of rank 32 on Wan 2.2 TI2V-5B, beside UnityVideo's switcher and heads.

Command:  python -m unityvideo_jax.convert --from=Wan2.2-TI2V-5B --to=orbax \\
              --workdir=wan22_5b --config=wan22_5b
          python -m unityvideo_jax.train --config=lora_wan22_5b --workdir=run \\
              --config.init_from=wan22_5b --config.data.dirs="('data_dir',)"
Memory:   2 bytes per frozen weight (`--config.lora.base=int8` or `nf4`: 1 or 0.6), and 20 per
          weight that trains.
Result:   none; not run at this size.
"""

import ml_collections

from unityvideo_jax.settings import presets


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration; every key can be overridden as `--config.<key>=...`."""
    config = presets.load("wan22_5b")
    config.lora.update(
        rank=32,
        # What Wan lacks trains fully: the switcher's tables and one head per modality.
        train=("modality_embedding.*", "blocks.modulation.*", "heads.*"),
    )
    config.optimizer.update(learning_rate=2e-4, warmup_steps=100, ema_decay=0.999)
    config.train.update(steps=2000, batch_size=1)
    return config
