"""worlds-mini, fine-tuned on a folder of clips.

Command:  python -m unityvideo_jax.prepare --source=clips --workdir=shards \
              --height=128 --width=128 --fps=8
          python -m unityvideo_jax.train --config=worlds_mini_finetune --workdir=run \
              --config.data.dirs="('shards',)"
Hardware: a GPU, or a CPU with --config.train.batch_size=2 --config.model.dtype=float32.
Purpose:  a new look or subject in minutes, all weights trained; adapters are in `docs/adapters.md`.
"""

import ml_collections

from unityvideo_jax.settings import presets


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration; every key can be overridden as `--config.<key>=...`."""
    config = presets.load("worlds_mini")
    config.init_from = "worlds-mini"
    config.data.update(
        kind="shards", dirs=("data_dir",), dir_weights=(1.0,), repeats=1, registry_prompt_rate=0.0,
        closeup=0.0, vae_dtype="float32", streams=(0.0, 1.0),
    )  # fmt: skip
    config.optimizer.update(learning_rate=1e-4, warmup_steps=20, ema_decay=0.98)
    config.train.update(
        steps=400, batch_size=16, log_every=10, checkpoint_every=100, keep=2, sample_every=0,
        sample_count=2,
    )  # fmt: skip
    return config
