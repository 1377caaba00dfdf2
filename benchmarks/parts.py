"""What limits the reading of body parts: which pixels are read wrongly, and of which parts.

Command: python benchmarks/parts.py [MODEL] [--clips=12] [--benchmark=worlds_validation]

Of the first clips, DensePose's picture through the autoencoder ("ceiling") and as the model
estimates it from true RGB in one pass. A row holds shares of the pixels of true bodies: read right,
as a neighbour in the same limb, as another part, missed, and, in the same unit, what lies outside
of bodies and is read as one; then part mIoU, and part mIoU if every pixel takes the part whose
colours are nearest on average around it. Below, the IoU of every part, limb by limb.
"""

import argparse
import itertools

import jax.numpy as jnp
import numpy as np
from heldout import load
from jaxtyping import Float, Int
from scipy import ndimage

from unityvideo_jax import modalities
from unityvideo_jax.evaluation.benchmarks.clips import BENCHMARKS, BenchmarkClips
from unityvideo_jax.metrics.densepose import part_ious
from unityvideo_jax.modalities.densepose import CHAINS, NUM_PARTS, colour_distances

NAME = "densepose"
FAR = 0.3  # squared distance above which a colour is no further evidence
WIDTH = 0.7  # of the average, in pixels
BACKGROUND = 0.2  # factor of the background's distance in the average


def averaged(video: Float[np.ndarray, "t h w 3"]) -> Int[np.ndarray, "t h w"]:
    """The parts whose colours are nearest on average over neighbouring pixels."""
    far = list(colour_distances(video))
    far[0] *= BACKGROUND
    around = (0, WIDTH, WIDTH)
    far = [ndimage.gaussian_filter(np.minimum(d, FAR), around, mode="nearest") for d in far]
    return np.argmin(far, axis=0)


def shares(confusion: Int[np.ndarray, "25 25"]) -> list[float]:
    """A row of the table, of counts by true and read part."""
    right = np.trace(confusion[1:, 1:])
    near = sum(confusion[a, b] + confusion[b, a] for c in CHAINS for a, b in itertools.pairwise(c))
    other = confusion[1:, 1:].sum() - right - near
    counts = [right, near, other, confusion[1:, 0].sum(), confusion[0, 1:].sum()]
    return [float(n) / max(int(confusion[1:].sum()), 1) for n in counts]


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="worlds-mini")
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--benchmark", choices=BENCHMARKS, default="worlds_validation")
    args = parser.parse_args()
    pipeline, codec = load(args.model), modalities.get(NAME).codec
    clips = BenchmarkClips(
        pipeline.config["data"], args.benchmark, num_clips=args.clips, batch_size=4
    )
    classes = NUM_PARTS + 1
    counts = {name: np.zeros((classes, classes), np.int64) for name in ("ceiling", "model")}
    scores = {name: [] for name in counts}
    for batch in clips.batches(range(args.clips)):
        for k in range(batch.count):
            clip = {key: np.asarray(batch.clip[key][k]) for key in ("part", "uv", "rgb")}
            drawn = jnp.asarray(codec.encode(clip)[0])[None]
            rebuilt = pipeline.vae.decode(pipeline.vae.encode(drawn, NAME), NAME)[0]
            made = pipeline(
                "", given={"rgb": clip["rgb"] * 2 - 1}, wanted=(NAME,), steps=1,
                seed=int(batch.index[k]),
            )  # fmt: skip
            pictures = {"ceiling": np.asarray(rebuilt), "model": made.video(NAME) / 127.5 - 1.0}
            true = clip["part"]
            for name, video in pictures.items():
                video = np.clip(video, -1.0, 1.0).astype(np.float32)
                read = codec.decode(video, {})["part"]
                np.add.at(counts[name], (true.ravel(), read.ravel()), 1)
                ious = [part_ious(parts, true) for parts in (read, averaged(video))]
                if not np.isnan(ious[0]).all():
                    scores[name].append([np.nanmean(one) for one in ious])
    print(f"{args.benchmark}, {args.clips} clips, {len(scores['model'])} with bodies\n")
    print("| | right | neighbour | other | missed | outside | part mIoU | averaged |")
    print("| --- |" + " ---: |" * 7)
    for name, confusion in counts.items():
        row = [*shares(confusion), *np.mean(scores[name], axis=0)]
        print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in row) + " |")
    for name, confusion in counts.items():
        both = np.diag(confusion)
        ious = both / np.maximum(confusion.sum(0) + confusion.sum(1) - both, 1)
        limbs = ["; ".join(f"{part}: {ious[part]:.2f}" for part in parts) for parts in CHAINS]
        print(f"\n{name}: " + " | ".join(limbs))


if __name__ == "__main__":
    main()
