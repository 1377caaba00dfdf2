r"""Scores a trained run, or the predictions of any system in a folder.

  python -m unityvideo_jax.evaluate --workdir=run --benchmark=worlds_validation --num_clips=64 \
      --output=run/evaluation

samples estimates of every modality of procedural worlds, whose ground truth is exact, and scores
them and the held-out loss.

  python -m unityvideo_jax.evaluate --benchmark=unibench --predictions=theirs --system=theirs \
      --output=scores

scores arrays and videos that some system wrote (docs/evaluation.md has the layout). A second run of
either takes up where the first one stopped, clip by clip. Both write results.json, results.md and
results.html.
"""

import dataclasses
import pathlib
import sys
import time
from collections.abc import Sequence

import jax
from absl import flags

import unityvideo_jax
from unityvideo_jax import cli, modalities, units
from unityvideo_jax.errors import UserError
from unityvideo_jax.evaluation import condition_gap, heldout, score_folder, score_run
from unityvideo_jax.evaluation.condition_gap import ConditionGapConfig
from unityvideo_jax.evaluation.heldout import HeldoutConfig
from unityvideo_jax.evaluation.report import document, pictures
from unityvideo_jax.evaluation.report.page import ClipEntry
from unityvideo_jax.evaluation.row_store import RowStore
from unityvideo_jax.files import provenance
from unityvideo_jax.files.faults import show
from unityvideo_jax.metrics import scores
from unityvideo_jax.metrics.video.fvd import ENOUGH_VIDEOS
from unityvideo_jax.metrics.video.table import VIDEO_PROTOCOLS
from unityvideo_jax.modalities import RGB
from unityvideo_jax.sampling import solvers
from unityvideo_jax.sampling.pipeline import Pipeline

_OUTPUT = cli.define_path("output", None, "Folder of the results.", writes="folder", required=True)
_BENCHMARK = cli.define_path(
    "benchmark",
    "worlds_validation",
    f"A folder of clips; with --workdir also one of {', '.join(score_run.BENCHMARKS)}.",
)
_BOOTSTRAP = flags.DEFINE_integer(
    "bootstrap", 1000, "Draws for the intervals.", lower_bound=10, upper_bound=100_000
)
_SEED = cli.define_seed("seed", "Seed of the intervals and the sampler (clip i: seed + i).")

_PREDICTIONS = cli.define_path("predictions", None, "Folder of a system's predictions.")
_SYSTEM = flags.DEFINE_string("system", None, "Name of the system that made the predictions.")
_WEIGHTS = cli.define_path("weights", None, "Folder of the networks of video metrics.")
_ALLOW_FAULTS = flags.DEFINE_bool(
    "allow_faults", False, "Give averages although some clips are missing or faulty."
)
_PROCESSES = flags.DEFINE_integer(
    "processes", 1, "Processes that score predictions at once.", lower_bound=1
)
_TRUTH_UNIT = flags.DEFINE_enum(
    "truth_unit", None, units.NAMES, "Unit of true depth in numbers that do not state it."
)
_PREDICTION_UNIT = flags.DEFINE_enum(
    "prediction_unit", None, units.NAMES, "The same of predicted depth."
)

_WORKDIR = cli.define_path("workdir", None, "Workdir of the training run.")
_STEP = flags.DEFINE_integer("checkpoint_step", None, "Which checkpoint; the latest if left out.")
_VAE = cli.define_path("vae", None, "Folder of the VAE, instead of config.data.vae.")
_TEXT_ENCODER = flags.DEFINE_string(
    "text_encoder", None, "Text encoder, instead of config.data.text_encoder."
)
_FALLBACK = flags.DEFINE_bool(
    "fallback", False, "If the checkpoint is damaged, take the newest whole one before it."
)
_EMA = flags.DEFINE_bool("ema", True, "Use the averaged weights.")
_NUM_CLIPS = flags.DEFINE_integer("num_clips", 16, "How many clips.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch_size", 4, "Clips at once on each device.", lower_bound=1)
_WORLDS_SEED = cli.define_seed("worlds_seed", "Seed of the scenes.")
_CAPTIONS = flags.DEFINE_bool("captions", False, "Give the model the clips' captions.")
_TIMESTEPS = flags.DEFINE_integer(
    "heldout_timesteps", 8, "Timesteps of the held-out loss, a multiple of 4; 0 leaves it out."
)
_GAP = flags.DEFINE_integer(
    "condition_gap_clips", 8, "Clips of the condition gap, at least 2; 0 leaves it out."
)
_STEPS = flags.DEFINE_integer("steps", None, "Solver steps; the run's own if left out.")
_SOLVER = flags.DEFINE_enum("solver", None, solvers.SOLVERS, "ODE solver.")
_CONDITION = flags.DEFINE_float("condition_guidance", None, "Guidance scale of the given RGB.")
_SHIFT = flags.DEFINE_float("shift", None, "Timestep shift.")


def main(argv: Sequence[str]) -> None:
    """Scores what the flags name and writes the report."""
    del argv
    output = pathlib.Path(_OUTPUT.value)
    if bool(_WORKDIR.value) == bool(_PREDICTIONS.value):
        raise UserError("give --workdir to score a run, or --predictions to score a folder")
    if _WORKDIR.value:
        _score_run(output)
    else:
        _score_folder(output)
    print((output / "results.md").read_text(), flush=True)
    print(f"wrote {output}/results.json, results.md and results.html", flush=True)


def _progress(start: float):
    def progress(done: int, total: int) -> None:
        print(f"{done}/{total} clips, {time.monotonic() - start:.0f} s", flush=True)

    return progress


def _common(clips: Sequence[scores.ClipScore], start: float) -> dict:
    """What both kinds of record say: intervals, versions, and how to do it again."""
    return {
        "intervals": scores.bootstrap(clips, samples=_BOOTSTRAP.value, seed=_SEED.value),
        "bootstrap": {"samples": _BOOTSTRAP.value, "seed": _SEED.value, "level": 0.95},
        "seed": _SEED.value,
        "versions": provenance.versions(),
        "command": ["python", "-m", "unityvideo_jax.evaluate", *sys.argv[1:]],
        "seconds": round(time.monotonic() - start, 1),
    }


def _check_faults(faults: Sequence[str], clips: int, of: int, output: pathlib.Path) -> None:
    """Lists faults; raises UserError for them unless --allow_faults is given."""
    show(faults)
    if faults and not _ALLOW_FAULTS.value:
        raise UserError(
            f"{len(faults)} faults in {clips} of {of} clips, listed above, such as {faults[0]}; "
            f"fix them and run again (the other clips are kept in {output}/rows), or pass "
            "--allow_faults to average without them"
        )


def _score_folder(output: pathlib.Path) -> None:
    if not _SYSTEM.value:
        raise UserError("--system is missing; name the system that made the predictions")
    # NumPy scores and JAX only draws, so the report is the same whatever accelerator there is.
    jax.config.update("jax_platforms", "cpu")
    start = time.monotonic()
    config = score_folder.HarnessConfig(
        benchmark=pathlib.Path(_BENCHMARK.value),
        predictions=pathlib.Path(_PREDICTIONS.value),
        output=output,
        weights=pathlib.Path(_WEIGHTS.value) if _WEIGHTS.value else None,
        processes=_PROCESSES.value,
        truth_unit=_TRUTH_UNIT.value or "",
        prediction_unit=_PREDICTION_UNIT.value or "",
    )
    outcome = score_folder.run(config, _progress(start))
    faulty = outcome.counts["clips_with_faults"]
    _check_faults(outcome.faults, faulty, len(outcome.rows), output)
    clips = [row.score for row in outcome.rows]
    metrics = scores.aggregate(clips)
    videos = metrics.get("fvd/i3d_kinetics400/videos", ENOUGH_VIDEOS)
    notes = (
        [f"FVD of {videos} videos is biased and noisy; use {ENOUGH_VIDEOS} or more"]
        if videos < ENOUGH_VIDEOS
        else []
    )
    record = {
        "benchmark": config.benchmark.resolve().name,
        "system": _SYSTEM.value,
        "num_clips": len(outcome.rows),
        "counts": outcome.counts,
        "metrics": metrics,
        **_common(clips, start),
        "protocols": _used(metrics),
        "notes": notes,
        "faults": outcome.faults,
        "skipped": outcome.skipped,
        "unknown_clips": outcome.unknown,
        "rows_reused": outcome.reused,
        "codecs": {
            name: modalities.get(name).codec.version for name in outcome.streams if name != RGB
        },
        "checksums": {
            "weights": outcome.weights,
            "clips": {row.clip: row.checksums for row in outcome.rows},
        },
    }
    entries = [
        ClipEntry(name=r.clip, score=r.score, pictures=r.pictures, faults=r.faults)
        for r in outcome.rows
    ]
    document.write_report(output, record, entries)


def _protocols() -> dict[str, str]:
    """What the protocols of a run's metrics stand for, by name."""
    scored = modalities.metrics().values()
    own = {name: text for metric in scored for name, text in metric.protocols.items()}
    return own | heldout.PROTOCOLS | condition_gap.PROTOCOLS


def _used(metrics: dict) -> dict[str, str]:
    """The protocols of these metrics: those whose name is in one of the keys."""
    everything = _protocols() | VIDEO_PROTOCOLS
    return {
        name: text
        for name, text in everything.items()
        if any(f"/{name}/" in f"/{key}/" for key in metrics)
    }


def _score_run(output: pathlib.Path) -> None:
    config = score_run.BenchmarkConfig(
        benchmark=_BENCHMARK.value,
        num_clips=_NUM_CLIPS.value,
        batch_size=_BATCH.value * jax.local_device_count(),
        seed=_SEED.value,
        worlds_seed=_WORLDS_SEED.value,
        use_captions=_CAPTIONS.value,
        truth_unit=_TRUTH_UNIT.value or "",
        heldout=HeldoutConfig(timesteps=_TIMESTEPS.value, seed=_SEED.value)
        if _TIMESTEPS.value
        else None,
        gap=ConditionGapConfig(clips=_GAP.value, seed=_SEED.value) if _GAP.value else None,
    )
    if _PREDICTION_UNIT.value:
        raise UserError("--prediction_unit: a run knows its own unit; give it with --predictions")
    pipeline = Pipeline.from_workdir(
        _WORKDIR.value,
        step=_STEP.value,
        use_ema=_EMA.value,
        fallback=_FALLBACK.value,
        vae=_VAE.value,
        text_encoder=_TEXT_ENCODER.value,
    )
    pipeline.spread(jax.local_devices())
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
    data = pipeline.config["data"]

    def picture(clip: int, modality: str) -> str:
        return f"pictures/{clip:04d}_{modality}"

    def draw(clip: int, modality: str, predicted, truth) -> None:
        stem = output / picture(clip, modality)
        pictures.write_comparison(stem, modality, predicted, truth, float(data["fps"]))

    # Of a clip, the scores depend on these and not on how many clips there are or go together.
    settings = dataclasses.asdict(config)
    depends = {k: v for k, v in settings.items() if k not in ("num_clips", "batch_size", "gap")}
    depends |= {
        "codecs": {name: modalities.get(name).codec.version for name in modalities.metrics()},
        "package": unityvideo_jax.__version__,
        "sampler": dataclasses.asdict(sampler),
        "config": provenance.config_hash(pipeline.config),
        "checkpoint": [str(pathlib.Path(_WORKDIR.value).resolve()), pipeline.step, _EMA.value],
        "parts": [_VAE.value, _TEXT_ENCODER.value],
    }
    rows = RowStore(
        folder=output / "rows", kind=score_run.RunRow, settings=provenance.plain(depends)
    )
    results = score_run.run(pipeline, config, sampler, _progress(start), draw, rows)
    _check_faults(results.faults, len(results.faults), config.num_clips, output)
    scored = [name for name in pipeline.modalities if modalities.get(name).metric]
    record = {
        "benchmark": config.benchmark,
        "num_clips": config.num_clips,
        "metrics": results.metrics,
        "vae_round_trip": results.vae_round_trip,
        "trivial": results.trivial,
        "faults": results.faults,
        **_common(results.clips, start),
        "protocols": _protocols(),
        "settings": settings,
        "sampler": dataclasses.asdict(sampler),
        "size": [data["num_frames"], data["height"], data["width"]],
        "codecs": {name: pipeline.codec(name).version for name in scored},
        "workdir": _WORKDIR.value,
        "checkpoint_step": pipeline.step,
        "ema": _EMA.value,
        "config_sha256": provenance.config_hash(pipeline.config),
        "config": provenance.plain(pipeline.config),
    }
    entries = [
        ClipEntry(
            name=f"{i:04d}",
            score=clip,
            pictures={
                m: f"{picture(i, m)}.png"
                for m in scored
                if (output / f"{picture(i, m)}.png").exists()
            },
        )
        for i, clip in zip(results.numbers, results.clips, strict=True)
    ]
    document.write_report(output, record, entries)


if __name__ == "__main__":
    cli.run(main)
