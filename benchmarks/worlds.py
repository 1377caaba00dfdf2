"""Frames per second of the worlds renderer, ground truth included.

Command: python benchmarks/worlds.py --size=128 --batch=64
"""

import argparse
import datetime
import time
from collections.abc import Sequence

import jax
import numpy as np

from unityvideo_jax import worlds


def measure(config: worlds.WorldConfig, batch: int, repeats: int) -> dict[str, float]:
    """Seconds to compile, seconds per batch (sampling included; the median), frames per second."""
    step = jax.jit(lambda index: worlds.render(config, worlds.sample_scenes(config, index)))
    start = time.perf_counter()
    compiled = step.lower(jax.ShapeDtypeStruct((batch,), np.int32)).compile()
    compile_seconds = time.perf_counter() - start
    jax.block_until_ready(compiled(np.arange(batch, dtype=np.int32)))
    seconds = []
    for repeat in range(1, repeats + 1):
        # New scenes each time: their contents decide what is skipped.
        index = np.arange(repeat * batch, (repeat + 1) * batch, dtype=np.int32)
        start = time.perf_counter()
        jax.block_until_ready(compiled(index))
        seconds.append(time.perf_counter() - start)
    median = float(np.median(seconds))
    analysis = compiled.memory_analysis()
    memory = analysis.temp_size_in_bytes + analysis.output_size_in_bytes if analysis else 0
    return {
        "compile_s": compile_seconds,
        "batch_s": median,
        "frames_per_s": batch * config.num_frames / median,
        "memory_gb": memory / 1e9,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Prints one line per setting."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=128, help="height and width in pixels")
    parser.add_argument("--num_frames", type=int, default=17)
    parser.add_argument("--batch", type=int, nargs="+", default=[1], help="clips at a time")
    parser.add_argument("--supersample", type=int, nargs="+", default=[1])
    parser.add_argument("--split", choices=worlds.SPLITS, default="train")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args(argv)
    device = jax.devices()[0]
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    print(f"{device.device_kind}, {date}, jax {jax.__version__}")
    for supersample in args.supersample:
        for batch in args.batch:
            config = worlds.WorldConfig(
                height=args.size,
                width=args.size,
                num_frames=args.num_frames,
                split=args.split,
                supersample=supersample,
            )
            result = measure(config, batch, args.repeats)
            print(
                f"{args.num_frames}x{args.size}x{args.size} supersample={supersample} "
                f"batch={batch}: {result['frames_per_s']:.0f} frames/s, "
                f"{result['batch_s']:.3f} s per batch, compiled in {result['compile_s']:.0f} s, "
                f"{result['memory_gb']:.1f} GB",
                flush=True,
            )


if __name__ == "__main__":
    main()
