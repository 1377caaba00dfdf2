"""Records of runs as a grid writes them, with made-up numbers that have a known outcome."""

import numpy as np

from unityvideo_jax.ablations.arms import ARMS
from unityvideo_jax.ablations.plan import REFERENCE

PAIRS = 48
# RGB loss of every arm; seeds differ by a hundredth and arms besides by a thousandth of it.
LOSSES = {"rgb": 0.30, "all": 0.24, "flow": 0.27, "depth": 0.2999}


def metrics(arm: str, seed: int) -> dict[str, float]:
    rng = np.random.default_rng([ARMS.index(arm), seed])
    loss = LOSSES.get(arm, 0.28) * (1 + 0.01 * seed) * (1 + 0.001 * rng.standard_normal())
    found = {
        "rgb_loss/alone": loss,
        "plausibility_error/likephys_t5/all/rgb": rng.uniform(0.4, 0.6),
    }
    for way in ("alone", "joint+flow", "joint+depth", "joint+densepose", "joint", "control"):
        found[f"frechet_proxy/{way}"] = 3.0 + rng.standard_normal()
        found[f"temporal_flickering/{way}"] = 97.0 + rng.standard_normal()
    # Streams of a pair that was never seen agree, though less than those of one that was.
    agree = {"all": 0.5, "unseen_pair": 0.4}.get(arm)
    if agree:
        noise = 0.001 * rng.standard_normal()
        found["agreement/moved_mask_iou/joint_3"] = agree + noise
        found["floor/agreement/moved_mask_iou/joint_3"] = 0.1
    return found | {"plausibility_error/frame_differences/all": 0.5}


def record(arm: str, seed: int, **changes) -> dict:
    rng = np.random.default_rng([7, seed, ARMS.index(arm)])
    outcomes = rng.random(PAIRS) < (0.9 if arm == "rgb" else 0.2)
    return {
        "name": f"{arm}_{seed}",
        "arm": arm,
        "seed": seed,
        "config_sha256": "of the run",
        "frozen": "of the grid",
        "step": 100,
        "modalities": [],
        "tasks": [],
        "parameters": 23_000_000,
        "rgb_share": 0.5,
        "rgb_samples": 8000,
        "flops": 1e15,
        "metrics": metrics(arm, seed),
        "pairs": {"rgb": "".join(map(str, outcomes.astype(int))), "rgb_shuffled": "=" * PAIRS},
        "evaluation_seconds": {"losses": 2.0},
        "curve": [
            {"step": step, "loss": 1 / step, "rgb_alone": 1 / step, "step_seconds": 0.05}
            for step in range(10, 101, 10)
        ],
        "seconds": 360.0,
        "versions": {"device": "a made device"},
        **changes,
    }


def reference() -> dict:
    return {"name": REFERENCE, "frozen": "of the grid", "metrics": {}, "pairs": {},
            "evaluation_seconds": {}}  # fmt: skip


def records(arms=ARMS, seeds=(0, 1, 2)) -> dict[str, dict]:
    found = {f"{arm}_{seed}": record(arm, seed) for arm in arms for seed in seeds}
    return found | {REFERENCE: reference()}
