"""What 8 bits per weight cost: a model's scores beside those after rounding it once more.

Command: python benchmarks/rounding.py --clips=32 --output=out/rounding

A model that ships in 8 bits has no other weights to compare with. So each of its kernels gets a
second error of the size of the first, drawn uniformly within half a step of its 8-bit scale and
kept in float32; `evaluate` scores both models in one pass. If the second error costs nothing that
counts, the first did not either.
"""

import argparse
import json
import pathlib
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
from flax import nnx

from unityvideo_jax.pretrained import model as pretrained
from unityvideo_jax.sampling.pipeline import Pipeline

HEADLINES = (
    "depth/disparity_scale_shift_video/abs_rel",
    "flow/pooled_all/epe",
    "segmentation/hungarian_clip/mean_iou",
    "skeleton/torso_hungarian/pck_0.2",
    "densepose/clip_mean/part_miou",
)


def rounded_again(name: str, seed: int) -> Pipeline:
    """A model with the second error in every kernel that is stored in 8 bits."""
    pipe = Pipeline.from_pretrained(name)
    rng = np.random.default_rng(seed)
    leaves = dict(nnx.to_flat_state(pipe.params))
    for path, leaf in leaves.items():
        if path[-1] == "kernel":
            kernel = np.asarray(leaf.get_value(), np.float32)
            _, scale = pretrained.quantise(kernel)
            error = rng.uniform(-0.5, 0.5, kernel.shape) * np.expand_dims(scale, -2)
            leaves[path] = leaf.replace(jnp.asarray(kernel + error, jnp.float32))
    pipe.params = nnx.from_flat_state(leaves)
    return pipe


def main() -> None:
    """Prints the scores of both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pretrained", default="worlds-mini")
    parser.add_argument("--clips", type=int, default=32)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    args = parser.parse_args()
    again = args.output / "again"
    rounded_again(args.pretrained, args.seed).save_pretrained(again)
    found = []
    for number, model in enumerate((args.pretrained, again)):
        output = args.output / f"scores_{number}"
        flags = ["--steps=1", "--nocontrol", "--joint_clips=0", "--heldout_timesteps=0"]
        flags += ["--condition_gap_clips=0", f"--num_clips={args.clips}"]
        flags += [f"--pretrained={model}", f"--batch_size={args.batch}", f"--output={output}"]
        subprocess.run([sys.executable, "-m", "unityvideo_jax.evaluate", *flags], check=True)
        found.append(json.loads((output / "results.json").read_text())["metrics"])
    print("| score | 8 bits | rounded again | relative difference |\n| --- | ---: | ---: | ---: |")
    for name in HEADLINES:
        first, second = (scores[name] for scores in found)
        print(f"| {name} | {first:.4f} | {second:.4f} | {second / first - 1:+.2%} |")


if __name__ == "__main__":
    main()
