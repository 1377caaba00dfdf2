"""Measurements of one NVIDIA GPU, one after the other.

Command: python benchmarks/all.py OUTPUT [NAME ...] [--limit=600]

Names are those of TIMES and QUALITY; without any, all of TIMES run. What a measurement printed is
OUTPUT/NAME.log. One that is there already is not repeated; one that fails, or whose commands take
more than --limit seconds, leaves OUTPUT/NAME.part, and the next one runs. Those of TIMES need the
GPU for themselves, and the extras cuda and flash; for the other side also diffusers, peft,
transformers and torch. Those of QUALITY may run side by side, each with a part of the memory
(XLA_PYTHON_CLIENT_MEM_FRACTION), and on CPUs, slowly.
"""

import argparse
import itertools
import os
import pathlib
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence

ROOT = pathlib.Path(__file__).parent.parent
LEAN = "--set optimizer.moments=bfloat16 optimizer.ema_decay=0.0"
SHORT = "--latents=5,32,32 --batch=8"  # 8 samples of 2,560 tokens; a config's own are 40,560
TIMES = {
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
        f"XLA_FLAGS=--xla_gpu_enable_command_buffer= step.py --config=configs/wan21_1_3b.py {SHORT}"
        " --steps=8 --set lora.rank=32 model.scan_layers=False --remat none --peer plain",
    ),
    "lora_5b": (
        "step.py --config=configs/wan22_5b.py --steps=2 --set lora.rank=32 --remat attention"
        " --peer checkpointed",
        f"step.py --config=configs/wan22_5b.py {SHORT} --steps=5 --set lora.rank=32"
        " --remat attention_ffn --peer checkpointed",
    ),
    "adapters": ("adapters.py",),
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
    "first_step": ("first_step.py --config=worlds_mini",),
    "inputs": (
        "inputs.py --workers=0,4,8 --threads=4 --seconds=5",
        "inputs.py --online=configs/worlds_mini.py --seconds=20",
        "worlds.py --size=128 --batch 16",
    ),
}
MINI = "-m unityvideo_jax.evaluate --pretrained=worlds-mini --batch_size=16"
ONE_PASS = f"{MINI} --steps=1 --nocontrol --joint_clips=0 --num_clips=64"
ROPE = (
    '-m unityvideo_jax.train --config=ablations/all --config.data.streams="(0.0,0.0,0.5,0.5)"'
    " --config.train.steps=1000 --config.train.batch_size=96 --config.model.attention=xla"
)
COLUMNS = ("modality", "place", "rgb")
NORMALS = "--plugins=examples.normals"
QUALITY = {
    "heldout": ("heldout.py worlds-mini",),
    "agreement": ("agreement.py --clips=32 --batch=16",),
    "rounding": ("rounding.py --clips=64 --batch=16 --output={output}/rounding",),
    # Estimation in one pass, then in 20 steps with control and joint samples beside.
    **{
        name: (f"{ONE_PASS} --benchmark={name} --output={{output}}/{name}",)
        for name in ("worlds_validation", "worlds_closeup", "heldout_animals", "heldout_objects")
    },
    **{
        f"steps_{name}": (
            f"{MINI} --steps=20 --condition_gap_clips=0 --heldout_timesteps=0 --num_clips=64"
            f" --benchmark={name} --output={{output}}/steps_{name}",
        )
        for name in ("worlds_validation", "worlds_closeup")
    },
    "physics": (f"{MINI} --benchmark=worlds_physics --output={{output}}/physics",),
    "unibench": (
        "-m unityvideo_jax.unibench --workdir={output}/unibench_clips --num_clips=24",
        "-m unityvideo_jax.evaluate --pretrained=worlds-mini --steps=1 --batch_size=4"
        " --nocontrol --joint_clips=0 --heldout_timesteps=0 --condition_gap_clips=0"
        " --num_clips=24 --benchmark={output}/unibench_clips --output={output}/unibench",
    ),
    # Which columns of RoPE a modality takes, at three and four streams.
    "rope": (
        *(
            f"{ROPE} --config.model.rope_columns={columns} --config.seed={seed}"
            f" --workdir={{output}}/rope_{columns}_{seed}"
            for columns in COLUMNS
            for seed in (0, 1)
        ),
        *(
            "heldout.py --streams 3 4 --timesteps=8"
            + "".join(f" {{output}}/rope_{c}_{seed}" for c in COLUMNS)
            for seed in (0, 1)
        ),
    ),
    # An adapter that learns a modality: examples/normals_adapter.py.
    "normals": (
        f"-m unityvideo_jax.prepare {NORMALS} --source=worlds --modalities=rgb,normals"
        " --workdir={output}/normals_shards --num_clips=768 --height=128 --width=128",
        f"-m unityvideo_jax.train {NORMALS} --config=examples/normals_adapter.py"
        " --workdir={output}/normals_run"
        """ --config.data.dirs="('{output}/normals_shards',)" """,
        f"-m unityvideo_jax.evaluate {NORMALS} --workdir={{output}}/normals_run --steps=1"
        " --num_clips=32 --batch_size=16 --nocontrol --joint_clips=0 --heldout_timesteps=0"
        " --output={output}/normals",
    ),
}
MEASUREMENTS = TIMES | QUALITY


def run(output: pathlib.Path, name: str, limit: float) -> bool:
    """Runs the commands of a measurement; whether all of them succeeded within `limit` seconds."""
    ends = time.monotonic() + limit
    environment = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.95"} | os.environ
    log = output / f"{name}.part"
    with log.open("w") as stream:
        for command in MEASUREMENTS[name]:
            words = shlex.split(command.format(output=output.absolute()))
            variables = list(itertools.takewhile(lambda word: "=" in word, words))
            words = words[len(variables) :]
            if words[0] != "-m":
                words[0] = f"benchmarks/{words[0]}"
            print(f"$ {shlex.join([*variables, 'python', *words])}", file=stream, flush=True)
            try:
                subprocess.run(
                    [sys.executable, *words],
                    cwd=ROOT,
                    env=environment | dict(v.split("=", 1) for v in variables),
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
    for name in args.names or TIMES:
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
