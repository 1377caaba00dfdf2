"""From the command `train` to the end of its first step.

Command: python benchmarks/first_step.py --config=worlds_tiny
         python benchmarks/first_step.py --config=worlds_small --override model.dtype=float32 \
             model.dim=96 model.ffn_dim=256 model.num_heads=4 model.num_layers=4 \
             data.vae_dtype=float32 train.batch_size=8

A config that reads shards (the first) gets some of worlds, made before; others render worlds as
they train. The first start has an empty cache of compiled programs, the second a filled one. With
PYTHONPATH at its root, another checkout is timed.
"""

import argparse
import datetime
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence


def timed(command: Sequence[str], cache: str) -> tuple[float, float]:
    """Seconds until the first line and until the first step's.

    Raises:
      SystemExit: the command failed; with what it printed.
    """
    start = time.monotonic()
    lines, times = [], []
    env = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    for line in process.stdout or ():
        lines.append(line)
        times.append(time.monotonic() - start)
    first = [at for at, line in zip(times, lines, strict=True) if line.startswith("step 1/")]
    if process.wait() or not first:
        raise SystemExit("".join(lines))
    return times[0], first[0]


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="worlds_tiny")
    parser.add_argument("--override", nargs="*", default=[], help="KEY=VALUE of the config")
    parser.add_argument("--clips", type=int, default=16, help="in the shards")
    args = parser.parse_args(argv)
    kind = runpy.run_path(f"configs/{args.config}.py")["get_config"]().data.kind
    overrides = [f"--config.{one}" for one in args.override]
    now = datetime.datetime.now(datetime.UTC)
    print(f"{now:%Y-%m-%d %H:%M} UTC, {os.cpu_count()} CPU cores, {args.config}, {kind}\n")
    print("| start | first line s | first step s |\n| --- | ---: | ---: |")
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        if kind == "shards":
            prepare = [sys.executable, "-m", "unityvideo_jax.prepare", "--source=worlds"]
            prepare += [f"--workdir={folder / 'data'}", f"--num_clips={args.clips}"]
            subprocess.run(prepare, check=True, stdout=subprocess.DEVNULL)
            overrides.append(f"--config.data.dirs=('{folder / 'data'}',)")
        for number in (1, 2):
            train = [sys.executable, "-m", "unityvideo_jax.train", f"--config={args.config}"]
            train += [f"--workdir={folder / f'run_{number}'}", "--config.train.steps=2"]
            train += ["--config.train.log_every=1", *overrides]
            first, step = timed(train, os.fspath(folder / "compiled"))
            print(f"| {number} | {first:.1f} | {step:.1f} |", flush=True)


if __name__ == "__main__":
    main()
