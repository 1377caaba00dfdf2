"""The public UnityVideo release: Wan 2.2 TI2V-5B with an additive switch and one modality head.

Command:  python -m unityvideo_jax.convert --from=unityvideo_5b_ema.safetensors --to=orbax \
              --workdir=unityvideo_release_5b --config=unityvideo_release_5b
          python -m unityvideo_jax.train --config=unityvideo_release_5b --workdir=run \
              --config.init_from=unityvideo_release_5b --config.data.dirs="('data_dir',)"
Memory:   as `wan22_5b.py`.
Sizes:    5,010,432,384 weights in the release, 10,644,672 of them its own and the rest Wan 2.2's;
          and one vector (3072) for RGB, which starts at zero.
Recipe:   the release's: one task and timestep per step, and ten times the learning rate for its own
          parameters. It also draws one modality per step, here they are drawn per sample.
"""

import ml_collections

from unityvideo_jax.settings import presets


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration; every key can be overridden as `--config.<key>=...`."""
    config = presets.load("wan22_5b")
    config.model.update(switcher="additive", heads="shared", shared_timestep=True)
    config.objective.update(p_cond=0.25, p_est=0.25, condition_dropout=0.0, one_draw=True)
    config.data.update(num_frames=33, height=256, width=256, fps=8.0)
    config.curriculum = ()  # all five modalities from the start
    config.optimizer.update(learning_rate=1e-5, warmup_steps=200, b2=0.999, clip_norm=1.5)
    config.optimizer.rate_factors = dict(inputs=10.0, switch=10.0, heads=10.0)
    config.train.update(steps=15_000, batch_size=8)
    config.sampling.update(steps=20, solver="euler", text_guidance=1.0, shift=1.0, grid="linear")
    return config
