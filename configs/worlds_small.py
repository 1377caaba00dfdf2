"""A small UnityVideo (about 25M weights) on procedural worlds rendered while it trains: 17x64x64.

Command:  python -m unityvideo_jax.train --config=configs/worlds_small.py --workdir=run
Hardware: one H200 (or any GPU or TPU with 40 GB).
Result:   7,312 steps, 530 s on an H200: loss 2.12 to 0.14 (`benchmarks/LOG.md`), with latents of
          16 channels; those of today have 32.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration; every key can be overridden as `--config.<key>=...`."""
    config = ml_collections.ConfigDict()
    config.seed = 0

    config.model = dict(
        dim=384,
        ffn_dim=1536,
        num_heads=6,
        num_layers=10,
        in_channels=32,
        patch_size=(1, 2, 2),
        freq_dim=256,
        text_dim=256,
        text_len=104,
        modalities=("rgb", "depth", "flow", "segmentation", "skeleton", "densepose"),
        switcher="adaln",
        in_context=True,
        heads="per_modality",
        rope_theta=1e4,
        remat="none",
        scan_layers=True,
        dtype="bfloat16",
        attention="auto",
        attention_parallel="ulysses",
    )

    config.objective = dict(
        p_cond=0.2,
        p_est=0.3,
        p_joint=0.5,
        timestep="logit_normal",
        logit_mean=0.0,
        logit_std=1.0,
        shift=1.0,
        condition_dropout=0.1,
    )

    config.data = dict(
        kind="online",
        dirs=(),
        dir_weights=(),
        modality_weights=dict(
            depth=1 / 7, flow=1 / 7, densepose=1 / 7, segmentation=2 / 7, skeleton=2 / 7
        ),
        caption_dropout=0.1,
        prompt_dropout=0.0,
        registry_prompt_rate=0.5,
        depth_codec="relative",  # or "metric", for data in metres
        num_frames=17,
        height=64,
        width=64,
        fps=8.0,
        split="train",
        closeup=0.0,
        repeats=16,
        text_encoder="words",
        text_length=104,
        vae="",
        vae_dtype="bfloat16",
        num_workers=0,
        read_threads=4,
    )

    # UnityVideo sec. 3.3: pixel-aligned modalities first, then all five. `until` = -1 is the end.
    config.curriculum = (
        dict(until=1500, modalities=("depth", "flow", "densepose")),
        dict(until=-1, modalities=("depth", "flow", "densepose", "segmentation", "skeleton")),
    )

    config.optimizer = dict(
        learning_rate=5e-4,
        warmup_steps=200,
        schedule="constant",
        schedule_steps=0,
        b1=0.9,
        b2=0.95,
        eps=1e-8,
        weight_decay=0.01,
        clip_norm=1.0,
        ema_decay=0.999,
        accumulation=1,
        moments="float32",
    )

    config.mesh = dict(slice=1, data=-1, fsdp=1, context=1, tensor=1)

    config.train = dict(
        steps=10_000,
        batch_size=160,
        log_every=50,
        checkpoint_every=1000,
        keep=3,
        check_every=0,
        sample_every=2500,
        sample_count=4,
    )

    config.sampling = dict(
        steps=30, solver="unipc", text_guidance=3.0, condition_guidance=1.0, shift=1.0
    )
    return config
