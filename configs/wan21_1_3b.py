"""UnityVideo's switcher and heads on Wan 2.1 T2V 1.3B (1,418,996,800 weights).

Command:  python -m unityvideo_jax.convert --from=Wan2.1-T2V-1.3B --to=orbax \
              --workdir=wan21_1_3b --config=wan21_1_3b
          python -m unityvideo_jax.train --config=wan21_1_3b --workdir=run \
              --config.init_from=wan21_1_3b --config.data.dirs="('data_dir',)"
Memory:   20 bytes per weight (master, average, two moments, gradient), 28 GB over all devices,
          and the activations.
Time:     2.4 s per step of one sample, RGB and a modality of 49x480x832, on one H200 (bfloat16
          moments, no average; `benchmarks/`).
Result:   none; only its steps were timed.
Sizes:    Wan 2.1's own; guidance 6 and shift 8 are Wan's advice for this size.
"""

import ml_collections

from unityvideo_jax.settings import presets


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration; every key can be overridden as `--config.<key>=...`."""
    config = presets.load("base")
    config.model.update(dim=1536, ffn_dim=8960, num_heads=12, num_layers=30, remat="attention_ffn")
    config.data.update(vae="Wan2.1-T2V-1.3B", text_encoder="umt5:Wan2.1-T2V-1.3B")
    config.sampling.update(text_guidance=6.0, shift=8.0)
    return config
