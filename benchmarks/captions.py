"""Samples of held-out captions, to look at one by one.

Command: python benchmarks/captions.py [MODEL] --clips=32 --output=out/captions

MODEL is a workdir or a model's folder or name. Captions are those of the first clips of
`worlds_validation`; RGB is sampled jointly with depth, seed i for clip i. Each picture has eight
clips: the sampled RGB, and below it the world that the caption was written for.
"""

import argparse
import pathlib

import numpy as np
from heldout import load

from unityvideo_jax import media
from unityvideo_jax.ablations.measure import real_videos
from unityvideo_jax.evaluation.benchmarks.clips import BenchmarkClips
from unityvideo_jax.modalities import RGB

PER_PICTURE = 8


def main() -> None:
    """Writes the pictures, and a caption per line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="worlds-mini")
    parser.add_argument("--clips", type=int, default=32)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    args = parser.parse_args()
    pipe = load(args.model)
    args.output.mkdir(parents=True, exist_ok=True)
    data = BenchmarkClips(
        pipe.config["data"], "worlds_validation", num_clips=args.clips, batch_size=args.batch
    )
    rows: list[tuple[str, np.ndarray]] = []
    for batch in data.batches([*range(args.clips)]):
        count = batch.count
        seeds = [int(i) for i in batch.index[:count]]
        captions = list(batch.captions[:count])
        made = pipe(captions, wanted=(RGB, "depth"), seed=seeds, steps=args.steps)
        sampled, true = media.to_uint8(made.videos[RGB]), real_videos(batch)
        for n, caption in enumerate(captions):
            print(f"{seeds[n]}: {caption}", flush=True)
            rows.append((f"{seeds[n]}: {caption}", sampled[n]))
            rows.append(("the world of this caption", true[n]))
    for start in range(0, len(rows), 2 * PER_PICTURE):
        part = rows[start : start + 2 * PER_PICTURE]
        media.contact_sheet(part, args.output / f"{start // 2:03d}.png", columns=5)


if __name__ == "__main__":
    main()
