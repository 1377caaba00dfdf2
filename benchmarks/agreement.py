"""Do streams that are sampled together agree better than those sampled pairwise?

Command: python benchmarks/agreement.py [MODEL] [--clips=16] [--steps=20] [--streams=4]

MODEL is a workdir or a model's folder or name. Captions are those of the first clips of
`worlds_validation`, and sets of streams, seeds and scores those of `evaluate`'s protocol `joint_4`
(`unityvideo_jax/evaluation/joint.py`). The same streams are sampled

  together    in one sample of all of them;
  one by one  RGB with the first modality, then each other modality from that RGB;
  pairwise    RGB with each modality in a sample of its own, from the same noise.

Each has its own floor: its streams shuffled over clips. A difference is to `together`, with its
standard error over the clips that count for both.
"""

import argparse
from collections.abc import Callable, Mapping

import numpy as np
from heldout import load

from unityvideo_jax.evaluation import joint
from unityvideo_jax.evaluation.benchmarks.clips import BenchmarkClips
from unityvideo_jax.evaluation.benchmarks.folder import Batch
from unityvideo_jax.metrics.scores import ClipScore, aggregate
from unityvideo_jax.modalities import RGB
from unityvideo_jax.sampling.generate import SamplerConfig
from unityvideo_jax.sampling.pipeline import Pipeline


def one_by_one(
    pipeline: Pipeline, streams: tuple[str, ...], batch: Batch, sampler: SamplerConfig, seed: int
) -> dict[str, np.ndarray]:
    """Samples RGB with the first modality, then each other modality from that RGB.

    Arguments and result are those of `joint.sample_together`.
    """
    _, first, *others = streams
    videos = dict(joint.sample_together(pipeline, (RGB, first), batch, sampler, seed))
    given = {RGB: videos[RGB]}
    for name in others:
        videos |= joint.sample_together(pipeline, (name,), batch, sampler, seed, given)
    return videos


def pairwise(
    pipeline: Pipeline, streams: tuple[str, ...], batch: Batch, sampler: SamplerConfig, seed: int
) -> dict[str, np.ndarray]:
    """Samples RGB with each modality alone, and returns the RGB of the first pair.

    Arguments and result are those of `joint.sample_together`.
    """
    videos: dict[str, np.ndarray] = {}
    for name in streams[1:]:
        pair = joint.sample_together(pipeline, (RGB, name), batch, sampler, seed)
        videos = {**pair, **videos}
    return videos


WAYS: Mapping[str, Callable] = {
    "together": joint.sample_together,
    "one by one": one_by_one,
    "pairwise": pairwise,
}


def difference(first: Mapping[int, ClipScore], second: Mapping[int, ClipScore], key: str) -> str:
    """Returns mean and standard error of second - first over the clips that both score."""
    rows = [(first[n].means.get(key, (0, 0)), second[n].means.get(key, (0, 0))) for n in first]
    gaps = np.asarray([b[0] - a[0] for a, b in rows if a[1] > 0 and b[1] > 0])
    if len(gaps) < 2:
        return "-"
    return f"{gaps.mean():+.3f} ± {gaps.std(ddof=1) / np.sqrt(len(gaps)):.3f} ({len(gaps)})"


def main() -> None:
    """Prints the scores of each way and their differences."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="worlds-mini")
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--streams", type=int, default=4)
    args = parser.parse_args()
    pipeline = load(args.model)
    data = BenchmarkClips(
        pipeline.config["data"], "worlds_validation", num_clips=args.clips, batch_size=args.batch
    )
    known = [n for n in pipeline.modalities if n == RGB or n in data.modalities]
    sets = [s for s in joint.stream_sets(known, args.streams) if len(s) == args.streams]
    print("sets:", "; ".join("+".join(one) for one in sets), flush=True)
    sampler = pipeline.sampler.changed(steps=args.steps)
    config = joint.JointConfig(clips=args.clips, streams=args.streams)
    found = {}
    for way, sample in WAYS.items():
        batches = data.batches(list(range(args.clips)))
        found[way] = joint.measure(pipeline, batches, sets, sampler, config, sample=sample)
        print(f"{way} is sampled", flush=True)
    together = found["together"]
    ceiling = aggregate([*together.ceiling.values()])
    print("| agreement | way | model | floor | ceiling | against together (clips) |")
    print("|---|---|---:|---:|---:|---:|")
    for key in [key for key in ceiling if not key.endswith(("/still", "/clips", "clips_without"))]:
        for way, one in found.items():
            model, floor = (aggregate([*scores.values()]) for scores in (one.model, one.floor))
            gap = "" if one is together else difference(together.model, one.model, key)
            cells = [model.get(key), floor.get(key), ceiling[key]]
            shown = ["-" if value is None else f"{value:.3f}" for value in cells]
            print(f"| `{key}` | {way} |", " | ".join(shown), f"| {gap} |")


if __name__ == "__main__":
    main()
