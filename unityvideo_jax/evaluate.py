"""Scores a trained run: estimation of depth and segmentation, and the held-out loss.

  python -m unityvideo_jax.evaluate --workdir=run --benchmark=worlds_validation --num_clips=64 \
      --output=run/evaluation

Writes results.json, results.md and sheet.png (truth beside estimate) into --output.
"""

import dataclasses
import pathlib
import sys
import time
from collections.abc import Sequence

from absl import flags

from unityvideo_jax import cli, media, modalities, provenance
from unityvideo_jax.errors import UserError
from unityvideo_jax.evaluation import report, worlds_benchmark
from unityvideo_jax.evaluation.heldout import HeldoutConfig
from unityvideo_jax.evaluation.metrics import METRICS, PROTOCOLS
from unityvideo_jax.sampling import solvers
from unityvideo_jax.sampling.pipeline import Pipeline

_WORKDIR = flags.DEFINE_string("workdir", None, "Workdir of the training run.", required=True)
_STEP = flags.DEFINE_integer("checkpoint_step", None, "Which checkpoint; the latest if left out.")
_EMA = flags.DEFINE_bool("ema", True, "Use the averaged weights.")
_BENCHMARK = flags.DEFINE_enum(
    "benchmark", "worlds_validation", tuple(worlds_benchmark.BENCHMARKS), "Which clips."
)
_NUM_CLIPS = flags.DEFINE_integer("num_clips", 16, "How many clips.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch_size", 4, "Clips at once.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the sampler; clip i takes seed + i.")
_WORLDS_SEED = flags.DEFINE_integer("worlds_seed", 0, "Seed of the scenes.")
_CAPTIONS = flags.DEFINE_bool("captions", False, "Give the model the clips' captions.")
_TIMESTEPS = flags.DEFINE_integer(
    "heldout_timesteps", 8, "Timesteps of the held-out loss, a multiple of 4; 0 leaves it out."
)
_STEPS = flags.DEFINE_integer("steps", None, "Solver steps; the run's own if left out.")
_SOLVER = flags.DEFINE_enum("solver", None, solvers.SOLVERS, "ODE solver.")
_CONDITION = flags.DEFINE_float("condition_guidance", None, "Guidance scale of the given RGB.")
_SHIFT = flags.DEFINE_float("shift", None, "Timestep shift.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder of the results.", required=True)


def main(argv: Sequence[str]) -> None:
    """Samples, scores and writes the report."""
    del argv
    output = pathlib.Path(_OUTPUT.value)
    if output.exists() and not output.is_dir():
        raise UserError(f"--output={output}: a file of that name exists; name a folder")
    config = worlds_benchmark.BenchmarkConfig(
        benchmark=_BENCHMARK.value,
        num_clips=_NUM_CLIPS.value,
        batch_size=_BATCH.value,
        seed=_SEED.value,
        worlds_seed=_WORLDS_SEED.value,
        use_captions=_CAPTIONS.value,
        heldout=HeldoutConfig(timesteps=_TIMESTEPS.value, seed=_SEED.value)
        if _TIMESTEPS.value
        else None,
    )
    pipeline = Pipeline.from_workdir(_WORKDIR.value, step=_STEP.value, use_ema=_EMA.value)
    chosen = {
        "steps": _STEPS.value,
        "solver": _SOLVER.value,
        "condition_guidance": _CONDITION.value,
        "shift": _SHIFT.value,
    }
    sampler = dataclasses.replace(
        pipeline.sampler, **{k: v for k, v in chosen.items() if v is not None}
    )
    start = time.monotonic()

    def progress(done: int, total: int) -> None:
        print(f"{done}/{total} clips, {time.monotonic() - start:.0f} s", flush=True)

    results = worlds_benchmark.run(pipeline, config, sampler, progress)
    data = pipeline.config["data"]
    scored = [name for name in pipeline.modalities if name in METRICS]
    record = {
        "benchmark": config.benchmark,
        "num_clips": config.num_clips,
        "metrics": results.metrics,
        "vae_round_trip": results.vae_round_trip,
        "trivial": results.trivial,
        "protocols": PROTOCOLS,
        "seed": config.seed,
        "settings": dataclasses.asdict(config),
        "sampler": dataclasses.asdict(sampler),
        "size": [data["num_frames"], data["height"], data["width"]],
        "codecs": {name: modalities.get(name).codec.version for name in scored},
        "workdir": _WORKDIR.value,
        "checkpoint_step": pipeline.step,
        "ema": _EMA.value,
        "config_sha256": provenance.config_hash(pipeline.config),
        "config": provenance.plain(pipeline.config),
        "versions": provenance.versions(),
        "command": ["python", "-m", "unityvideo_jax.evaluate", *sys.argv[1:]],
        "seconds": round(time.monotonic() - start, 1),
    }
    report.write_report(output, record)
    media.contact_sheet(results.rows, output / "sheet.png", scale=max(1, 96 // data["height"]))
    print((output / "results.md").read_text(), flush=True)
    print(f"wrote {output}/results.json, results.md and sheet.png", flush=True)


if __name__ == "__main__":
    cli.run(main)
