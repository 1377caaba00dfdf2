"""The table of docs/planning.md: meshes that train each model on each device, and step times.

Command: python benchmarks/plans.py --rows=plans.jsonl          # compiles; resumes where it stopped
         python benchmarks/plans.py --rows=plans.jsonl --table  # prints what there is

TPUs: the training step is compiled for the topology, with the meshes and remat policies that the
closed form ranks best, in turn, until one fits. A step takes minutes to compile, so these rows are
stored. GPUs: the closed form alone, made anew for each table. The batch is one sample for each
slice x data x fsdp shard; moments are bfloat16.
"""

import argparse
import itertools
import json
import math
import pathlib
import runpy
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax

from unityvideo_jax.runtime import failures

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
MODELS = {
    "1.3B": "wan21_1_3b",
    "5B": "wan22_5b",
    "10B": "unityvideo_10b",
    "14B": "wan21_14b",
}
# The pixels of a token of Wan 2.2 do not divide 720: its own size is 704 x 1280.
SIZES = {"81x480x832": (81, 480, 832), "81x720x1280": (81, 720, 1280), "17x256x256": (17, 256, 256)}
TPUS = {"v5p:4x4x8": "TPU v5", "v6e:16x16": "TPU v6 lite", "tpu7x:4x4x4": "TPU7x"}
TPUS |= {"v5e:16x16": "TPU v5 lite"}
GPU, GPU_COUNTS = "NVIDIA H200", (1, 2, 4, 8, 16, 32, 64)
TRIES = 3
GIB = 2**30


def load(model: str, size: str) -> Any:
    """A model's config at a video size."""
    config = runpy.run_path(str(CONFIGS / f"{MODELS[model]}.py"))["get_config"]()
    frames, height, width = SIZES[size]
    if model == "5B" and height == 720:
        height = 704
    config.data.update(num_frames=frames, height=height, width=width)
    config.optimizer.moments = "bfloat16"
    return config


def estimated(model: str, size: str, count: int) -> dict[str, Any]:
    """Estimates the best plan on so many GPUs."""
    from unityvideo_jax.planning import choice

    best = choice.rank(load(model, size), GPU, count, batch=choice.one_a_shard)[0]
    return {
        "mesh": _short(best.mesh),
        "remat": best.model.remat,
        "parallel": best.model.attention_parallel,
        "batch": best.samples,
        "memory": best.memory,
        "seconds": best.step_seconds,
        "share": best.model_flops / best.chip.flops / best.step_seconds,
        "fits": best.fits,
    }


def compiled(model: str, size: str, topology: str) -> dict[str, Any]:
    """Compiles the best plans in turn; returns the first that fits, else the last one tried."""
    from unityvideo_jax.parallel.mesh import MeshConfig
    from unityvideo_jax.planning import choice, planner

    config = load(model, size)
    devices = planner.topology(topology)
    tried, row = [], {}
    ranked = choice.rank(config, TPUS[topology], len(devices), batch=choice.one_a_shard)
    for guess in choice.distinct(ranked)[:TRIES]:
        config.model.remat = guess.model.remat
        config.model.attention_parallel = guess.model.attention_parallel
        config.train.batch_size = guess.samples
        start = time.perf_counter()
        made = planner.plan(config, MeshConfig(**guess.mesh), devices)
        row = {
            "mesh": _short(guess.mesh),
            "remat": config.model.remat,
            "parallel": config.model.attention_parallel,
            "batch": config.train.batch_size,
            "memory": made.memory,
            "parts": [made.parameters, made.optimizer, made.batch, made.temporary, made.code],
            "seconds": made.step_seconds,
            "by": made.seconds,
            "share": None
            if made.problem
            else made.model_flops / made.chip.flops / made.step_seconds,
            "fits": made.fits,
            "problem": made.problem,
            "guess": [guess.memory, guess.step_seconds],
            "compile": time.perf_counter() - start,
        }
        print(json.dumps(row), file=sys.stderr, flush=True)
        if made.fits:
            break
        tried.append([row["mesh"], row["remat"], made.problem, made.memory])
    return row | {"tried": tried}


def _short(mesh: dict[str, int]) -> str:
    return ",".join(f"{axis}={n}" for axis, n in mesh.items() if n > 1) or "data=1"


def tpu_cells() -> list[tuple[str, str, str]]:
    """Lists (topology, model, size), in the order in which they are filled."""
    return [(where, model, size) for size in SIZES for where in TPUS for model in MODELS]


def fill(path: pathlib.Path) -> None:
    """Adds the rows that are missing; a cell that fails is printed and left out."""
    done = {tuple(row["cell"]) for row in read(path)}
    for cell in tpu_cells():
        if cell in done:
            continue
        # A process of its own gives the compiler's memory back.
        run = subprocess.run(
            [sys.executable, __file__, "--one", *cell], capture_output=True, text=True, check=False
        )
        if run.returncode:
            cause = failures.cause_of(run.returncode, run.stderr or "")
            print(f"{cell}: failed with status {run.returncode}: {cause}", flush=True)
            continue
        row = json.loads(run.stdout.splitlines()[-1])
        with path.open("a") as file:
            file.write(json.dumps({"cell": cell, **row}) + "\n")
        print(cell, row["mesh"], row["remat"], row["fits"], flush=True)


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    """All rows so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Formats Markdown: one table per size; a TPU's cell that has no row is left out."""
    known = {tuple(row["cell"]): row for row in rows}
    lines = []
    for size in sorted(SIZES, key=lambda name: math.prod(SIZES[name])):
        lines += [
            f"\n### {size}\n",
            "| on | model | mesh | keeps | batch | GiB per device | step s |",
        ]
        lines[-1] += " model share | fits |"
        lines.append("| --- | --- | --- | --- | ---: | ---: | ---: | ---: | --- |")
        for cell in tpu_cells():
            if cell in known and cell[2] == size:
                lines.append(_line(*cell[:2], known[cell]))
        for count, model in itertools.product(GPU_COUNTS, MODELS):
            lines.append(_line(f"{count} x H200", model, estimated(model, size, count)))
    return "\n".join(lines)


def _line(where: str, model: str, row: dict[str, Any]) -> str:
    mesh = row["mesh"] + (" (ring)" if row["parallel"] == "ring" else "")
    figures = "- | - | -"
    if row["share"] is not None:
        figures = f"{row['memory'] / GIB:.1f} | {row['seconds']:.3g} | {row['share']:.0%}"
    fits = "yes" if row["fits"] else "no"
    return f"| {where} | {model} | {mesh} | {row['remat']} | {row['batch']} | {figures} | {fits} |"


def main(argv: Sequence[str]) -> None:
    """Fills the rows, or prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=pathlib.Path, default=pathlib.Path("plans.jsonl"))
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    jax.config.update("jax_platforms", "cpu")  # the TPU's compiler is wanted, not a TPU
    if args.one:
        where, model, size = args.one
        print(json.dumps(compiled(model, size, where)))
    elif args.table:
        print(table(read(args.rows)))
    else:
        fill(args.rows)


if __name__ == "__main__":
    main(sys.argv[1:])
