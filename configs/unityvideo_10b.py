"""The paper's model: a backbone of ten billion weights, AdaLN switcher, one head per modality.

Command:  python -m unityvideo_jax.train --config=unityvideo_10b --workdir=run \
              --config.data.dirs="('data_dir',)"
Memory:   20 bytes per weight (master, average, two moments, gradient), 201 GB over all devices,
          and the activations.
Time:     2.8 s per step of 32 samples of RGB and a modality of 17x256x256 on four H200 (fsdp=4,
          remat=attention_ffn, bfloat16 moments, no average; `benchmarks/`).
Result:   none; only its steps were timed.
Sizes:    the paper gives none but "10B", and its backbone is not public. These are Wan 14B's depth,
          feed-forward and heads of 128 at four fifths of its width: 10,055,172,160 for RGB.
"""

import ml_collections

from unityvideo_jax.settings import presets


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration; every key can be overridden as `--config.<key>=...`."""
    return presets.load("base")
