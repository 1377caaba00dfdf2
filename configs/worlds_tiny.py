"""The smallest run through the final architecture: 17 frames of 64x64.

Command:  python -m unityvideo_jax.prepare --source=worlds --workdir=data_dir --num_clips=48
          python -m unityvideo_jax.train --config=worlds_tiny --workdir=run \
              --config.data.dirs="('data_dir',)"
Hardware: any CPU; `make demo` runs 1,200 steps on two cores, 0.15 s each.
Result:   loss 0.61 after 400 steps on 32 clips, 0.43 after the demo's 1,200 on 48: colours and
          layout, no outlines; on real video, depth that hardly depends on it.
Purpose:  to see the whole path work and to debug. `worlds_small.py` is the one to train on a GPU.
"""

import ml_collections

from unityvideo_jax.settings import presets


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration; every key can be overridden as `--config.<key>=...`."""
    config = presets.load("worlds_small")
    # bfloat16 is emulated, hence slow, on CPUs
    config.model.update(
        dim=96, ffn_dim=256, num_heads=4, num_layers=4, freq_dim=64, dtype="float32"
    )
    config.data.update(
        kind="shards", dirs=("data_dir",), dir_weights=(1.0,), repeats=1, registry_prompt_rate=0.0,
        vae_dtype="float32",
    )  # fmt: skip
    config.curriculum[0]["until"] = 100
    config.optimizer.update(learning_rate=2e-3, warmup_steps=20, schedule="cosine", ema_decay=0.99)
    config.train.update(
        steps=400, batch_size=8, log_every=20, checkpoint_every=100, keep=2, sample_every=0,
        sample_count=2,
    )  # fmt: skip
    config.sampling.update(steps=20, text_guidance=1.0)
    return config
