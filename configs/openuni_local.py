"""Curates a folder of videos on one machine: scenes, clips, filters, captions, modalities, shards.

Command: python -m unityvideo_jax.prepare --config=openuni_local --source=VIDEOS --workdir=openuni

Needs the extra `annotate`. Runs without any weights: optical flow is then the only modality, and
stages that cannot run say so in every clip's notes. Give a stage its weights to run it, also later:
`--config.depth.weights=Depth-Anything-V2-Small-hf` adds depth to finished shards. The bounds suit
short, small clips; `configs/openuni.py` has the paper's.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration; every key can be overridden as `--config.<key>=...`."""
    config = ml_collections.ConfigDict()
    config.num_workers = 1  # processes; 0 is this one, which a broken video can crash
    config.beam = ""  # options of an Apache Beam pipeline that maps instead: docs/beam.md

    # In this order. Stages up to `fingerprint` see each video, those after it each clip.
    config.stages = (
        "probe", "size", "scenes", "length", "cut",
        "black_bars", "motion", "text", "aesthetic", "fingerprint",
        "duplicates",
        "captions", "depth", "flow", "segmentation", "skeleton", "densepose",
    )  # fmt: skip
    config.probe = dict(accept=())
    config.size = dict(min_side=128)
    config.scenes = dict(detector="content", threshold=27.0)
    config.length = dict(min_seconds=2.0)
    config.cut = dict(num_frames=17, fps=8.0, short_side=256, max_clips=8)
    config.black_bars = dict(max_share=0.02)
    config.motion = dict(least=0.2, most=60.0)
    config.text = dict(max_share=0.01)
    config.aesthetic = dict(weights="", least=50.0)
    config.duplicates = dict(max_bits=12)
    config.captions = dict(file="", weights="")
    config.depth = dict(model="depth_anything_v2", weights="")
    config.flow = dict(model="dis", weights="")
    config.segmentation = dict(
        model="sam2", weights="", options=dict(detector="", prompt="", every=16)
    )
    config.skeleton = dict(model="vitpose", weights="", options=dict(detector=""))
    config.densepose = dict(model="torchscript", weights="")

    # The shipped VAE has seen procedural worlds only: give Wan's for real video.
    config.encode = dict(
        height=128,
        width=128,
        vae="",
        text_encoder="words",
        text_length=104,
        chunk_size=8,
        batch_size=4,
    )
    config.page = dict(max_clips=200)
    return config
