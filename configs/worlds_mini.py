"""A UnityVideo of 23M weights on procedural worlds of 17x128x128 rendered while it trains.

Command:  python -m unityvideo_jax.train --config=configs/worlds_mini.py --workdir=run
Hardware: one H100 or more (batch over all devices).
Purpose:  runs of a few minutes that compare one choice: each is a key below, such as
          --config.optimizer.name=muon or --config.objective.shift=5. Judge them by `evaluate`:
          held-out loss up to t = 1, and the condition gap.
On a CPU: add --config.model.dim=48 --config.model.ffn_dim=96 --config.model.num_heads=2
          --config.model.num_layers=2 --config.model.dtype=float32 --config.data.num_frames=5
          --config.data.height=32 --config.data.width=32 --config.train.batch_size=8.
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
        num_layers=9,
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
        # Near t = 1, where sampling starts, and evenly over the rest (flow_matching/timesteps.py).
        shift=3.0,
        uniform_share=0.1,
        noise_share=0.05,
        estimation_shift=1.0,
        condition_dropout=0.1,
        modality_loss_weights=dict(
            rgb=1.0, depth=1.0, flow=1.0, densepose=1.0, segmentation=1.0, skeleton=1.0
        ),
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
        num_frames=17,
        height=128,
        width=128,
        fps=8.0,
        split="train",
        closeup=0.3,
        repeats=16,
        text_encoder="words",
        text_length=104,
        vae="",
        vae_dtype="bfloat16",
        num_workers=0,
        read_threads=4,
    )

    config.curriculum = ()  # all modalities from the start

    config.optimizer = dict(
        name="adamw",
        learning_rate=5e-4,
        warmup_steps=200,
        schedule="constant",
        schedule_steps=0,
        b1=0.9,
        b2=0.95,
        eps=1e-8,
        momentum=0.95,
        weight_decay=0.01,
        clip_norm=1.0,
        ema_decay=0.999,
        accumulation=1,
        moments="float32",
    )

    config.mesh = dict(slice=1, data=-1, fsdp=1, context=1, tensor=1)

    config.train = dict(
        steps=4000,
        batch_size=96,
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
