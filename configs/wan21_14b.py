"""UnityVideo's switcher and heads on Wan 2.1 T2V 14B (14,288,491,584 weights).

Command:  python -m unityvideo_jax.convert --from=Wan2.1-T2V-14B --to=orbax \
              --workdir=wan21_14b --config=wan21_14b
          python -m unityvideo_jax.train --config=wan21_14b --workdir=run \
              --config.init_from=wan21_14b --config.data.dirs="('data_dir',)"
Memory:   20 bytes per weight (master, average, two moments, gradient), 286 GB over all devices,
          and the activations.
Time:     not measured; `docs/planning.md` has estimates.
Result:   none; it was not trained.
Sizes:    Wan 2.1's own, and its advice for guidance and shift.
"""

import ml_collections

from unityvideo_jax.settings import presets


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration; every key can be overridden as `--config.<key>=...`."""
    config = presets.load("wan21_1_3b")
    config.model.update(dim=5120, ffn_dim=13824, num_heads=40, num_layers=40, remat="attention")
    config.data.update(vae="Wan2.1-T2V-14B", text_encoder="umt5:Wan2.1-T2V-14B")
    config.sampling.update(text_guidance=5.0, shift=5.0)
    return config
