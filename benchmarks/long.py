"""Drift of estimated depth along a long video whose truth repeats.

Command: python benchmarks/long.py --num_frames=5000

A rendered scene of 33 frames runs to and fro, so it repeats every 64 frames, and so should its
depth. Depth is estimated in one pass per window and the windows are joined. Each row compares a
period of 64 frames with the first one, over the pixels that are surface in both: the ratio of the
deviations of disparity, the difference of their means in deviations of the first, their
correlation; and with the truth: AbsRel by the one scale and shift that fit the first period.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence

import numpy as np

HALF, PERIOD = 33, 64


def to_and_fro(clip: np.ndarray, count: int) -> Iterator[np.ndarray]:
    """The frames of a clip forwards, backwards, forwards, ..., so many of them."""
    order = [*range(HALF), *range(HALF - 2, 0, -1)]
    return (clip[order[i % PERIOD]] for i in range(count))


def compared(
    own: np.ndarray, first: np.ndarray, truth: np.ndarray, fit: tuple[float, float]
) -> tuple[float, float, float, float]:
    """Ratio of deviations, difference of means, correlation and AbsRel of disparities."""
    both = (own > 0) & (first > 0)
    x, y = own[both], first[both]
    correlation = float(np.corrcoef(x, y)[0, 1])
    surface = (own > 0) & (truth > 0)
    fitted = np.maximum(fit[0] * own[surface] + fit[1], 1e-3)
    error = float(np.abs(truth[surface] / fitted - 1.0).mean())
    return float(x.std() / y.std()), float((x.mean() - y.mean()) / y.std()), correlation, error


def main(argv: Sequence[str]) -> None:
    """Prints one row per period that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pretrained", default="worlds-mini")
    parser.add_argument("--num_frames", type=int, default=776)
    parser.add_argument("--size", type=int, default=64, help="height and width")
    parser.add_argument("--window", type=int, default=17)
    parser.add_argument("--overlap", type=int, default=5)
    parser.add_argument("--clip", type=int, default=0, help="of the validation worlds")
    args = parser.parse_args(argv)

    import unityvideo_jax as uv
    from unityvideo_jax.evaluation.benchmarks.clips import BenchmarkClips
    from unityvideo_jax.sampling.long import sample_long
    from unityvideo_jax.sampling.presets import PRESETS

    pipe = uv.Pipeline.from_pretrained(args.pretrained)
    size = {"height": args.size, "width": args.size}
    data = {"num_frames": HALF, "fps": pipe.fps, **size}
    clips = BenchmarkClips(data, "worlds_validation", num_clips=args.clip + 1, batch_size=1)
    batch = next(iter(clips.batches([args.clip])))
    rgb = 2.0 * np.asarray(batch.clip["rgb"][0], np.float32) - 1.0
    depth = np.asarray(batch.clip["depth"][0])

    start, spent = time.perf_counter(), time.process_time()
    found, seams = [], []
    for chunk in sample_long(
        pipe,
        "",
        given={"rgb": to_and_fro(rgb, args.num_frames)},
        wanted=("depth",),
        num_frames=args.num_frames,
        continued=False,
        window=args.window,
        overlap=args.overlap,
        sampler=pipe.sampler.changed(**PRESETS["one_pass"]),
        **size,
    ):
        found.append(1.0 / chunk.arrays["depth"]["depth"])
        seams += chunk.seams.values()
    disparity = np.concatenate(found)
    truth = np.stack(list(to_and_fro(1.0 / depth, PERIOD)))
    periods = [disparity[i : i + PERIOD] for i in range(0, len(disparity) - PERIOD + 1, PERIOD)]
    surface = (periods[0] > 0) & (truth > 0)
    scale, shift = np.polyfit(periods[0][surface], truth[surface], 1)
    print(
        f"{args.num_frames} frames of {args.size}x{args.size}, {len(seams)} overlaps, "
        f"{time.perf_counter() - start:.0f} s, {time.process_time() - spent:.0f} s of the CPU; "
        f"AbsRel in the overlaps {np.mean(seams):.3f} (largest {np.max(seams):.3f})\n"
    )
    print("| frames | deviation | mean | correlation | AbsRel |")
    print("| --- | ---: | ---: | ---: | ---: |")
    rows = sorted({0, 1, len(periods) - 1} | {2**n for n in range(20) if 2**n < len(periods)})
    for n in rows:
        numbers = compared(periods[n], periods[0], truth, (scale, shift))
        cells = " | ".join(f"{number:.3f}" for number in numbers)
        print(f"| {n * PERIOD} to {n * PERIOD + PERIOD - 1} | {cells} |")


if __name__ == "__main__":
    main(sys.argv[1:])
