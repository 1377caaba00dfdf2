"""UnityVideo's switcher and heads on Wan 2.2 TI2V-5B (4,999,787,712 weights).

Command:  python -m unityvideo_jax.convert --from=Wan2.2-TI2V-5B --to=orbax \
              --workdir=wan22_5b --config=wan22_5b
          python -m unityvideo_jax.train --config=wan22_5b --workdir=run \
              --config.init_from=wan22_5b --config.data.dirs="('data_dir',)"
Memory:   20 bytes per weight (master, average, two moments, gradient), 100 GB over all devices,
          and the activations.
Time:     5.9 s per step of one sample, RGB and a modality of 49x960x1664, on one H200 (bfloat16
          moments, no average; `benchmarks/`).
Result:   none; only its steps were timed.
Sizes:    Wan 2.2's own; its VAE has 48 channels and a stride of 16.
"""

import ml_collections

from unityvideo_jax.settings import presets


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration; every key can be overridden as `--config.<key>=...`."""
    config = presets.load("base")
    config.model.update(dim=3072, ffn_dim=14336, num_heads=24, num_layers=30, in_channels=48)
    config.data.update(vae="Wan2.2-TI2V-5B", text_encoder="umt5:Wan2.2-TI2V-5B")
    config.sampling.text_guidance = 5.0
    return config
