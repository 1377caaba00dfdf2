"""The smallest run through the final architecture: 17 frames of 64x64.

Command:  python -m unityvideo_jax.prepare --source=worlds --workdir=data_dir --num_clips=48
          python -m unityvideo_jax.train --config=configs/worlds_tiny.py --workdir=run \
              --config.data.dirs="('data_dir',)"
Hardware: any CPU; `make demo` runs 1,200 steps on two cores, 0.15 s each.
Result:   loss 0.61 after 400 steps on 32 clips, 0.43 after the demo's 1,200 on 48: colours and
          layout, no outlines; on real video, depth that hardly depends on it.
Purpose:  to see the whole path work and to debug. `worlds_small.py` is the one to train on a GPU.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration; every key can be overridden as `--config.<key>=...`."""
    config = ml_collections.ConfigDict()
    config.seed = 0

    config.model = dict(
        dim=96,
        ffn_dim=256,
        num_heads=4,
        num_layers=4,
        in_channels=32,
        patch_size=(1, 2, 2),
        freq_dim=64,
        text_dim=256,
        text_len=104,
        modalities=("rgb", "depth", "flow", "segmentation", "skeleton", "densepose"),
        switcher="adaln",
        in_context=True,
        heads="per_modality",
        rope_theta=1e4,
        remat="none",
        scan_layers=True,
        dtype="float32",  # bfloat16 is emulated, hence slow, on CPUs
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
        kind="shards",
        dirs=("data_dir",),
        dir_weights=(1.0,),
        modality_weights=dict(
            depth=1 / 7, flow=1 / 7, densepose=1 / 7, segmentation=2 / 7, skeleton=2 / 7
        ),
        caption_dropout=0.1,
        prompt_dropout=0.0,
        depth_codec="relative",  # or "metric", for data in metres
        num_frames=17,
        height=64,
        width=64,
        fps=8.0,
        split="train",
        closeup=0.0,
        repeats=1,
        text_encoder="words",
        text_length=104,
        vae="",
        num_workers=0,
        read_threads=4,
    )

    # UnityVideo sec. 3.3: pixel-aligned modalities first, then all five. `until` = -1 is the end.
    config.curriculum = (
        dict(until=100, modalities=("depth", "flow", "densepose")),
        dict(until=-1, modalities=("depth", "flow", "densepose", "segmentation", "skeleton")),
    )

    config.optimizer = dict(
        learning_rate=2e-3,
        warmup_steps=20,
        schedule="cosine",
        schedule_steps=0,
        b1=0.9,
        b2=0.95,
        eps=1e-8,
        weight_decay=0.01,
        clip_norm=1.0,
        ema_decay=0.99,
        accumulation=1,
        moments="float32",
    )

    config.mesh = dict(slice=1, data=-1, fsdp=1, context=1, tensor=1)

    config.train = dict(
        steps=400,
        batch_size=8,
        log_every=20,
        checkpoint_every=100,
        keep=2,
        check_every=0,
        sample_every=0,
        sample_count=2,
    )

    config.sampling = dict(
        steps=20, solver="unipc", text_guidance=1.0, condition_guidance=1.0, shift=1.0
    )
    return config
