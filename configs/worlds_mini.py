"""A UnityVideo of 23M weights on procedural worlds of 17x128x128 rendered while it trains.

Command:  python -m unityvideo_jax.train --config=worlds_mini --workdir=run
Hardware: one H100 or more (batch over all devices).
Time:     0.084 s per step of 256 samples of one to four streams on four H200.
Result:   `worlds-mini`, from other weights: depth at AbsRel 0.071, masks at mIoU 0.65
          (`docs/runs.md`, with what its command changed).
Purpose:  runs of a few minutes that compare one choice, such as --config.objective.shift=5. Judge
          them by `evaluate`: held-out loss up to t = 1, and the condition gap.
On a CPU: add --config.model.dim=48 --config.model.ffn_dim=96 --config.model.num_heads=2
          --config.model.num_layers=2 --config.model.dtype=float32 --config.data.num_frames=5
          --config.data.height=32 --config.data.width=32 --config.train.batch_size=8.
"""

import ml_collections

from unityvideo_jax.settings import presets


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration; every key can be overridden as `--config.<key>=...`."""
    config = presets.load("worlds_small")
    config.model.num_layers = 9
    config.optimizer.name = "muon"  # better than AdamW in every score at equal time
    # Near t = 1, where sampling starts, and evenly over the rest (flow_matching/timesteps.py).
    config.objective.update(
        p_cond=0.15, p_est=0.45, p_joint=0.3, p_any=0.1, condition_dropout=0.05, first_frame=0.1,
        shift=3.0, uniform_share=0.1, noise_share=0.05,
        estimation_shift=2.0, estimation_noise_share=0.3,
        modality_loss_weights=dict.fromkeys(config.model.modalities, 1.0),
    )  # fmt: skip
    config.data.update(
        height=128, width=128, closeup=0.3,
        streams=(0.05, 0.5, 0.1, 0.35),
        modality_weights=dict(
            depth=0.13, flow=0.17, densepose=0.25, segmentation=0.2, skeleton=0.25
        ),
    )  # fmt: skip
    config.curriculum = ()  # all modalities from the start
    config.train.update(steps=4000, batch_size=96)
    return config
