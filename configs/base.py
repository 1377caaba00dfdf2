"""The paper's recipe with every key: each preset starts here and states only what differs.

Command:  that of `unityvideo_10b.py`, which changes none.
Recipe:   the two stages, learning rate, batch, steps, clip length and guidance are the paper's
          (sec. 4.1), and so are the curriculum (sec. 3.4) and the heads (appendix). Tasks are in
          its order (sec. 3.2), which comes without numbers. The rest follows Wan 2.1 and the
          release.
Keys:     the dataclasses that `unityvideo_jax/training/config.py` lists define each one.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration; every key can be overridden as `--config.<key>=...`."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    # A pretrained model (folder or name), or the workdir of a conversion or run, to start from.
    config.init_from = ""

    config.model = dict(
        dim=4096,
        ffn_dim=13824,
        num_heads=32,
        num_layers=40,
        in_channels=16,  # the VAE's latents
        patch_size=(1, 2, 2),
        freq_dim=256,
        text_dim=4096,  # the text encoder's
        text_len=512,
        eps=1e-6,
        modalities=("rgb", "depth", "flow", "segmentation", "skeleton", "densepose"),
        switcher="adaln",  # or "additive" (public release), "none"
        inputs="auto",  # or "one", "shared" (public release), "per_modality" (expert layers)
        in_context=True,
        heads="per_modality",  # or "shared" (public release)
        shared_timestep=False,
        rope_theta=1e4,
        rope_columns="place",  # or "modality", "rgb"
        remat="attention",
        scan_layers=True,
        dtype="bfloat16",
        attention="auto",
        attention_parallel="ulysses",  # or "ring"
    )

    # Adapters beside frozen weights of `init_from` (docs/adapters.md); rank 0 trains all weights.
    config.lora = dict(
        rank=0,
        alpha=0.0,  # 0 is the rank
        dropout=0.0,
        targets=("blocks.*_attention.[qkvo]", "blocks.ffn.*"),
        train=(),  # the model's own weights that train beside them
        adapters="shared",  # or "per_modality"
        base="bfloat16",  # or "int8", "nf4", "float32"
    )

    config.objective = dict(
        p_cond=0.2,
        p_est=0.3,
        p_joint=0.5,
        p_any=0.0,  # any set of streams noised
        own_timesteps=False,  # of each stream in p_any
        one_draw=False,  # one task and timestep per step (public release)
        timestep="logit_normal",
        logit_mean=0.0,
        logit_std=1.0,
        shift=5.0,
        uniform_share=0.0,
        noise_share=0.0,
        estimation_shift=1.0,
        estimation_noise_share=0.0,
        condition_dropout=0.1,
        first_frame=0.0,  # chance of image to video
        modality_loss_weights=dict(),  # 1 for each modality that is left out
    )

    config.data = dict(
        kind="shards",  # or "online", which renders worlds
        dirs=("data_dir",),
        dir_weights=(1.0,),
        modality_weights=dict(
            depth=1 / 7, flow=1 / 7, densepose=1 / 7, segmentation=2 / 7, skeleton=2 / 7
        ),
        streams=(0.0, 1.0),  # weights of samples of 1, 2, ... streams
        buckets=(),  # shapes of steps, such as dict(frames=1, height=384, width=672)
        batch_multiple=0,  # of buckets' batch sizes; 0 is what the mesh divides a batch into
        rgb_alone=1.0,  # of samples of 1 stream, the share that shows RGB
        never_together=(),  # pairs of modalities that no sample holds both of
        caption_dropout=0.1,
        prompt_dropout=0.0,
        registry_prompt_rate=0.0,  # online worlds only
        depth_codec="relative",  # or "metric", for data in metres
        num_frames=77,
        height=384,
        width=672,
        fps=15.0,
        split="train",
        closeup=0.0,  # online worlds only
        repeats=1,
        text_encoder="umt5:Wan2.1-T2V-14B",
        text_length=512,
        vae="Wan2.1-T2V-14B",  # a download of Wan, see docs/weights.md; "" is the shipped one
        vae_dtype="float32",  # online worlds only
        num_workers=0,
        read_threads=8,
    )

    # Pixel-aligned modalities first, then all five. `until` = -1 is the end.
    config.curriculum = (
        dict(until=16_000, modalities=("depth", "flow", "densepose")),
        dict(until=-1, modalities=("depth", "flow", "densepose", "segmentation", "skeleton")),
    )

    config.optimizer = dict(
        name="adamw",  # or "muon"
        learning_rate=5e-5,
        warmup_steps=1000,
        schedule="constant",  # or "cosine"
        schedule_steps=0,  # 0 is train.steps
        b1=0.9,
        b2=0.95,
        eps=1e-8,
        momentum=0.95,  # Muon's
        weight_decay=0.01,
        clip_norm=1.0,
        ema_decay=0.9999,
        accumulation=1,
        moments="float32",
        rate_factors=dict(),  # by group of parameters; 1 for each that is left out
    )

    # Devices along each axis; -1 takes what the others leave.
    config.mesh = dict(slice=1, data=1, fsdp=-1, context=1, tensor=1)

    config.train = dict(
        steps=56_000,
        batch_size=32,
        log_every=20,
        checkpoint_every=1000,
        checkpoint_minutes=0.0,  # 0 saves by steps alone
        keep=3,
        max_seconds=0.0,  # of steps, in all starts; 0 is no limit
        check_every=0,  # 0 checks never
        hang_seconds=600.0,  # without progress of any process; 0 is no limit
        sample_every=0,  # 0 writes no contact sheets
        sample_count=4,
    )

    config.sampling = dict(
        steps=50,
        solver="unipc",
        text_guidance=7.5,
        condition_guidance=1.0,
        shift=5.0,
        grid="wan",
        guidance_interval=(0.0, 1.0),
        guidance_rescale=0.0,
        window=0,  # frames that the model sees at once of a longer video
        overlap=5,
        batched_guidance=True,
        cache=0.0,  # share of the passes that are skipped
        separate=False,  # estimate every wanted stream without the others
    )
    return config
