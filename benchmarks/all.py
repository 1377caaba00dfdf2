"""Measurements of one NVIDIA GPU, one after the other.

Command: python benchmarks/all.py OUTPUT [NAME ...] [--limit=600]

Names are those of MEASUREMENTS; without any, all run. What a measurement printed is
OUTPUT/NAME.log. One that is there already is not repeated; one that fails, or whose commands take
more than --limit seconds, leaves OUTPUT/NAME.part, and the next one runs.
Needs the extras cuda and flash, and for the other side diffusers, peft, transformers and torch.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Sequence

ROOT = pathlib.Path(__file__).parent.parent
LEAN = "--set optimizer.moments=bfloat16 optimizer.ema_decay=0.0"
SHORT = "--latents=5,32,32 --batch=8"  # 8 samples of 2,560 tokens; a config's own are 40,560
MEASUREMENTS = {
    # Checkpoints, their digests and the checks of devices, at three sizes.
    "safety": (
        "safety.py --config=configs/worlds_mini.py",
        "safety.py --config=configs/worlds_mini.py --set model.num_layers=30",
        "safety.py --config=configs/wan21_1_3b.py --repeats=2",
    ),
    "mix": ("mix.py",),
    "step": (
        f"step.py --config=configs/wan21_1_3b.py --steps=3 {LEAN} --remat attention_ffn"
        " --peer checkpointed",
        f"step.py --config=configs/wan22_5b.py --steps=2 {LEAN} --remat attention"
        " --peer checkpointed",
    ),
    # Adapters, beside PEFT's.
    "lora": (
        "step.py --config=configs/wan21_1_3b.py --steps=3 --set lora.rank=32"
        " --remat attention_ffn --peer checkpointed",
        f"step.py --config=configs/wan21_1_3b.py {SHORT} --steps=8 --set lora.rank=32"
        " --remat none attention_ffn --peer plain",
    ),
    "lora_5b": (
        "step.py --config=configs/wan22_5b.py --steps=2 --set lora.rank=32 --remat attention"
        " --peer checkpointed",
        f"step.py --config=configs/wan22_5b.py {SHORT} --steps=5 --set lora.rank=32"
        " --remat attention_ffn --peer checkpointed",
    ),
    "lora_5b_small": tuple(
        "step.py --config=configs/wan22_5b.py --steps=2 --remat attention full"
        f" --set lora.rank=32 lora.base={base}"
        for base in ("int8", "nf4")
    ),
    # Sampling with skipped passes, beside diffusers'; then texts and video as well.
    "caches": ("caches.py speed --cache 0.6",),
    "whole": ("caches.py speed --cache 0.6 --whole",),
    "large": ("caches.py speed --cache 0.6 --system ours --size_of_model=wan_14b --steps=10",),
    "wan": ("wan.py",),
    "attention": (
        "attention.py --shape 1,40560,40560,12,128 8,2560,2560,12,128 --kernel cudnn flash",
    ),
    "start": ("start.py", "start.py wan"),
    "inputs": (
        "inputs.py --workers=0,4,8 --threads=4 --seconds=5",
        "inputs.py --online=configs/worlds_mini.py --seconds=20",
        "worlds.py --size=128 --batch 16",
    ),
    "heldout": ("heldout.py worlds-mini",),
    "agreement": ("agreement.py --clips=32 --batch=16",),
}


def run(output: pathlib.Path, name: str, limit: float) -> bool:
    """Runs the commands of a measurement; whether all of them succeeded within `limit` seconds."""
    ends = time.monotonic() + limit
    environment = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.95"} | os.environ
    log = output / f"{name}.part"
    with log.open("w") as stream:
        for command in MEASUREMENTS[name]:
            print(f"$ python benchmarks/{command}", file=stream, flush=True)
            script, *arguments = command.split()
            try:
                subprocess.run(
                    [sys.executable, ROOT / "benchmarks" / script, *arguments],
                    cwd=ROOT,
                    env=environment,
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                    timeout=max(ends - time.monotonic(), 1.0),
                    check=True,
                )
            except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
                print(error, file=stream)
                return False
    log.rename(output / f"{name}.log")
    return True


def main(argv: Sequence[str] | None = None) -> None:
    """Runs what was named and is not there yet; status 1 if a measurement failed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(MEASUREMENTS))
    parser.add_argument("--limit", type=float, default=600.0, help="seconds of a measurement")
    args = parser.parse_args(argv)
    if unknown := set(args.names) - set(MEASUREMENTS):
        parser.error(f"{', '.join(sorted(unknown))}: names are {', '.join(MEASUREMENTS)}")
    args.output.mkdir(parents=True, exist_ok=True)
    failed = False
    for name in args.names or MEASUREMENTS:
        if (args.output / f"{name}.log").exists():
            continue
        start = time.monotonic()
        succeeded = run(args.output, name, args.limit)
        failed |= not succeeded
        print(
            f"{name}: {time.monotonic() - start:.0f} s{'' if succeeded else ', failed'}", flush=True
        )
    sys.exit(failed)


if __name__ == "__main__":
    main()
