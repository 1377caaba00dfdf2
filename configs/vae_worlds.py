"""The autoencoder that ships with the package: Wan 2.1's layers, much narrower, on worlds.

Command:  python -m unityvideo_jax.train_vae --config=vae_worlds --output=vae
Hardware: four H100 (14 steps per second); fewer devices take proportionally longer.
Time:     `max_seconds` of training and about a minute of evaluation.
Result:   the README.md that the command writes beside the weights.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration; every key can be overridden as `--config.<key>=...`."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    # Folder of an autoencoder to start from; '' draws new weights. Give another seed: other worlds.
    config.init_from = ""

    # 5.1M parameters: 10.2 MB as float16. Squares of 2x2 pixels become channels first, so that no
    # layer runs at full resolution: three times as many steps per second as widths of 24 and 32 at
    # full resolution, and the lowest loss at equal time (`docs/runs.md`).
    config.model = dict(
        base_dim=40,
        decoder_base_dim=48,
        z_dim=32,
        dim_mult=(1, 2, 2),
        num_res_blocks=1,
        temporal_downsample=(True, True),
        residual=False,
        patch_size=2,
    )
    config.dtype = "bfloat16"

    config.data = dict(
        modalities=("rgb", "depth", "flow", "segmentation", "skeleton", "densepose"),
        num_frames=17,
        fps=8.0,
        supersample=1,
        # Share of the clips whose camera is close to a person.
        closeup=0.4,
        # (height, width, clips): steps take them in turn. A clip counts once per modality.
        sizes=((128, 128, 16),),
    )

    config.loss = dict(
        gradient=0.5,
        coarse=0.25,
        kl=3e-5,
        foreground=1.0,
        first_frame=1.5,
        # A codec's value of empty pixels; rgb and depth have no such value.
        background=dict(flow=0.0, segmentation=-1.0, skeleton=-1.0, densepose=-1.0),
        # Masks and body parts are read at their borders, where errors cost them more than others.
        modality_weights=dict(rgb=1.0, segmentation=2.0, densepose=2.0),
    )

    config.optimizer = dict(
        learning_rate=1.2e-3,
        warmup_steps=100,
        b1=0.9,
        b2=0.98,
        eps=1e-8,
        weight_decay=1e-3,
        clip_norm=1.0,
        ema_decay=0.999,
    )

    # Training ends at the nearer of the two limits, and the learning rate falls to zero there.
    config.steps = 40_000
    config.max_seconds = 640.0
    config.log_every = 200

    # (height, width) of the clips that are scored and drawn, by this many processes.
    config.evaluation = dict(
        height=128, width=128, num_clips=64, statistics_clips=64, batch=4, processes=1
    )
    return config
