"""UnityVideo's switcher and heads on Wan 2.2 TI2V-5B (4,999,787,712 weights).

Command:  python -m unityvideo_jax.convert --from=Wan2.2-TI2V-5B --to=orbax \
              --workdir=wan22_5b --config=configs/wan22_5b.py
          python -m unityvideo_jax.train --config=configs/wan22_5b.py --workdir=run \
              --config.init_from=wan22_5b --config.data.dirs="('data_dir',)"
Memory:   20 bytes a weight (master, average, two moments, gradient), 100 GB over all devices,
          and the activations.
Sizes:    Wan 2.2's own; its VAE has 48 channels and a stride of 16. Data, schedule and clip length
          are the paper's (sec. 4.1).
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration; every key can be overridden as `--config.<key>=...`."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    # Workdir of a conversion, or of another run, whose weights training starts from.
    config.init_from = ""

    config.model = dict(
        dim=3072,
        ffn_dim=14336,
        num_heads=24,
        num_layers=30,
        in_channels=48,
        patch_size=(1, 2, 2),
        freq_dim=256,
        text_dim=4096,
        text_len=512,
        eps=1e-6,
        modalities=("rgb", "depth", "flow", "segmentation", "skeleton", "densepose"),
        switcher="adaln",
        in_context=True,
        heads="per_modality",
        shared_timestep=False,
        rope_theta=1e4,
        remat="attention",
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
        shift=5.0,
        condition_dropout=0.1,
        first_frame=0.0,  # above 0 keeps the model's image to video
    )

    config.data = dict(
        kind="shards",
        dirs=("data_dir",),
        dir_weights=(1.0,),
        modality_weights=dict(
            depth=1 / 7, flow=1 / 7, densepose=1 / 7, segmentation=2 / 7, skeleton=2 / 7
        ),
        caption_dropout=0.1,
        prompt_dropout=0.0,
        depth_codec="relative",  # or "metric", for data in metres
        num_frames=77,
        height=384,
        width=672,
        fps=15.0,
        split="train",
        repeats=1,
        text_encoder="umt5:Wan2.2-TI2V-5B",
        text_length=512,
        vae="Wan2.2-TI2V-5B",  # a download of Wan, see docs/weights.md
        num_workers=0,
        read_threads=8,
    )

    # UnityVideo sec. 3.3: pixel-aligned modalities first, then all five. `until` = -1 is the end.
    config.curriculum = (
        dict(until=16_000, modalities=("depth", "flow", "densepose")),
        dict(until=-1, modalities=("depth", "flow", "densepose", "segmentation", "skeleton")),
    )

    config.optimizer = dict(
        learning_rate=5e-5,
        warmup_steps=1000,
        schedule="constant",
        schedule_steps=0,
        b1=0.9,
        b2=0.95,
        eps=1e-8,
        weight_decay=0.01,
        clip_norm=1.0,
        ema_decay=0.9999,
        accumulation=1,
        moments="float32",
    )

    config.mesh = dict(slice=1, data=1, fsdp=-1, context=1, tensor=1)

    config.train = dict(
        steps=56_000,
        batch_size=32,
        log_every=20,
        checkpoint_every=1000,
        keep=3,
        check_every=0,
        sample_every=0,
        sample_count=4,
    )

    config.sampling = dict(
        steps=50,
        solver="unipc",
        text_guidance=5.0,
        condition_guidance=1.0,
        shift=5.0,
        grid="wan",
    )
    return config
