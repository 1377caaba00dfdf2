"""OpenUni as UnityVideo describes it: bounds, sizes and four groups; weights from local folders.

Command: python -m unityvideo_jax.prepare --config=openuni --source=VIDEOS --workdir=openuni

VIDEOS/koala36m and VIDEOS/opens2v are collections; clips of one or two people of any collection
make groups of their own. The paper gives the length, size and aesthetic bounds, the annotators, the
groups and the sizes of its demos; what it leaves open (text, motion, scene threshold) is ours. Its
aesthetic bound of 80 is on an unnamed scale, so it is set on LAION's here, where few clips exceed
65. Needs a GPU for any number of clips; its time was not measured.
"""

import ml_collections

from unityvideo_jax.settings import presets

WEIGHTS = "weights"


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration; every key can be overridden as `--config.<key>=...`."""
    config = presets.load("openuni_local")
    config.stages = (
        "probe", "size", "scenes", "length", "cut",
        "black_bars", "motion", "text", "aesthetic", "fingerprint",
        "duplicates", "people", "groups",
        "captions", "depth", "flow", "segmentation", "skeleton", "densepose",
    )  # fmt: skip
    config.probe.accept = ("variable_frame_rate", "rotated", "odd_size")
    config.size.min_side = 512
    config.scenes.update(detector="adaptive", threshold=0.0, margin=0.1)
    config.length.min_seconds = 5.0
    config.cut.update(num_frames=77, fps=15.0, short_side=512, max_clips=0)
    config.motion.least = 0.5
    config.aesthetic.weights = WEIGHTS
    config.people = dict(weights=f"{WEIGHTS}/rtdetr_r50vd_coco_o365")
    config.groups = dict(
        groups=dict(
            a_single_person=dict(people=1, modalities=("densepose", "depth", "flow", "skeleton")),
            b_two_persons=dict(people=2, modalities=("segmentation", "skeleton")),
            c_koala36m=dict(source="koala36m", modalities=("depth", "flow")),
            d_opens2v=dict(source="opens2v", modalities=("depth", "flow")),
        ),
        max_ratio=0.0,
    )
    config.captions.update(weights=f"{WEIGHTS}/Qwen2.5-VL-7B-Instruct", required=True)
    config.depth.weights = f"{WEIGHTS}/Depth-Anything-V2-Small-hf"
    config.flow.update(model="raft", weights=f"{WEIGHTS}/raft_large_C_T_SKHT_V2-ff5fadd5.pth")
    config.segmentation.update(
        weights=f"{WEIGHTS}/sam2.1-hiera-large",
        options=dict(detector=f"{WEIGHTS}/grounding-dino-base", prompt="a person. an object."),
    )
    config.skeleton.update(
        weights=f"{WEIGHTS}/vitpose-base-simple",
        options=dict(detector=f"{WEIGHTS}/rtdetr_r50vd_coco_o365"),
    )
    config.densepose.weights = f"{WEIGHTS}/densepose_rcnn_R_50_FPN_s1x.pt"
    config.encode.update(
        height=384, width=672, vae=f"{WEIGHTS}/wan21_vae", chunk_size=16, batch_size=1,
        text_encoder=f"umt5:{WEIGHTS}/Wan2.1-T2V-1.3B", text_length=512,
    )  # fmt: skip
    return config
