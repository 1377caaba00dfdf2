"""A small UnityVideo (about 25M weights) on procedural worlds rendered while it trains: 17x64x64.

Command:  python -m unityvideo_jax.train --config=worlds_small --workdir=run
Hardware: one H200 (or any GPU or TPU with 40 GB).
Time:     0.060 s per step, rendering and encoding included.
Result:   7,312 steps, 530 s on an H200: loss 2.12 to 0.14 (`benchmarks/`).
"""

import ml_collections

from unityvideo_jax.settings import presets


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration; every key can be overridden as `--config.<key>=...`."""
    config = presets.load("base")
    config.model.update(
        dim=384, ffn_dim=1536, num_heads=6, num_layers=10, in_channels=32, text_dim=256,
        text_len=104, remat="none",
    )  # fmt: skip
    config.objective.shift = 1.0
    config.data.update(
        kind="online", dirs=(), dir_weights=(), repeats=16, registry_prompt_rate=0.5,
        num_frames=17, height=64, width=64, fps=8.0,
        vae="", vae_dtype="bfloat16", text_encoder="words", text_length=104, read_threads=4,
    )  # fmt: skip
    config.curriculum[0]["until"] = 1500
    config.optimizer.update(learning_rate=5e-4, warmup_steps=200, ema_decay=0.999)
    config.mesh.update(data=-1, fsdp=1)
    config.train.update(steps=10_000, batch_size=160, log_every=50, sample_every=2500)
    config.sampling.update(steps=30, text_guidance=3.0, shift=1.0, grid="linear")
    return config
