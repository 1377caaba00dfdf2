"""Held-out loss of runs by number of streams, and their differences clip by clip.

Command: python benchmarks/heldout.py RUN_A RUN_B --clips=64
         python benchmarks/heldout.py RUN_A --save=a.npz       # on one device, RUN_B on another
         python benchmarks/heldout.py a.npz b.npz

A run is a workdir, a model's folder or name, or a file that --save wrote. Clips are the first of
`worlds_validation`, noise and timesteps those of `evaluate`'s held-out loss
(`unityvideo_jax/evaluation/heldout.py`). A difference is to the first run, with its standard error
over clips, which meet the same noise.
"""

import argparse
import pathlib

import numpy as np
from jaxtyping import Float

from unityvideo_jax.evaluation.benchmarks.clips import BenchmarkClips
from unityvideo_jax.evaluation.heldout import HeldoutConfig, tasks_of
from unityvideo_jax.evaluation.latent_pairs import HeldoutErrors, LatentPairs
from unityvideo_jax.flow_matching.tasks import TASKS
from unityvideo_jax.pretrained import model as pretrained
from unityvideo_jax.sampling.pipeline import Pipeline

# "<names of the streams>/<task>" -> per clip, the mean over timesteps and noised streams.
Losses = dict[str, Float[np.ndarray, " clips"]]


def load(run: str) -> Pipeline:
    """Loads a model by its folder or name, or the averaged weights of a run."""
    of = Pipeline.from_pretrained if pretrained.is_model(run) else Pipeline.from_workdir
    return of(run)


def measure(run: str, config: HeldoutConfig, clips: int, batch: int) -> Losses:
    """Losses of a model, or of the averaged weights of a run."""
    pipeline = load(run)
    data = BenchmarkClips(
        pipeline.config["data"], "worlds_validation", num_clips=clips, batch_size=batch
    )
    heldout = HeldoutErrors(pipeline, LatentPairs(pipeline), config)
    rows: dict[int, dict[str, list]] = {n: {} for n in range(clips)}
    for found in data.batches(list(rows)):
        heldout.measure(found, {int(n): rows[int(n)] for n in found.index[: found.count]})
    losses = {}
    for names in rows[0]:
        errors = np.asarray([row[names] for row in rows.values()])  # [clip, task, timestep, stream]
        for place, task in enumerate(tasks_of(errors.shape[-1])):
            noised = errors[:, place].any(axis=(0, 1))
            losses[f"{names}/{TASKS[task]}"] = errors[:, place][..., noised].mean(axis=(1, 2))
    return losses


def rows_of(losses: Losses) -> Losses:
    """Means over the sets of streams of each number of streams, by task and over all tasks."""
    groups: dict[str, list[np.ndarray]] = {}
    for name, values in losses.items():
        streams, task = name.split("/")
        count = f"S = {streams.count('+') + 1}"
        for label in (f"{count}, {task}", f"{count}, all"):
            groups.setdefault(label, []).append(values)
    return {label: np.mean(values, axis=0) for label, values in sorted(groups.items())}


def main() -> None:
    """Prints the table of the runs, and their differences."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--timesteps", type=int, default=8)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--save", help="write the losses of the only run here, as npz")
    args = parser.parse_args()
    config = HeldoutConfig(timesteps=args.timesteps, streams=tuple(args.streams))
    found = [
        dict(np.load(run, allow_pickle=False))
        if run.endswith(".npz")
        else measure(run, config, args.clips, args.batch)
        for run in args.runs
    ]
    if args.save:
        np.savez(args.save, **found[0])
    tables = [rows_of(losses) for losses in found]
    names = [pathlib.Path(run).stem for run in args.runs]
    print("| streams, task |", " | ".join(names), "|")
    print("|---|" + "---:|" * len(names))
    for label, first in tables[0].items():
        cells = [f"{first.mean():.4f}"]
        for table in tables[1:]:
            gap = table[label] - first
            error = gap.std(ddof=1) / np.sqrt(len(gap))
            cells.append(f"{table[label].mean():.4f} ({gap.mean():+.4f} ± {error:.4f})")
        print(f"| {label} |", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
