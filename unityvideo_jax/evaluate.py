r"""Scores a trained run, or the predictions of any system in a folder.

  python -m unityvideo_jax.evaluate --workdir=run --benchmark=worlds_validation --num_clips=64 \
      --output=run/evaluation

samples procedural worlds, whose ground truth is exact: every modality from RGB, RGB from every
modality, and several streams together from a caption. It scores them and the held-out loss.

  python -m unityvideo_jax.evaluate --benchmark=unibench --predictions=theirs --system=theirs \
      --output=scores

scores arrays and videos that some system wrote (docs/evaluation.md has the layout). A second run of
either takes up where the first one stopped, clip by clip. Both write results.json, results.md and
results.html.
"""

import dataclasses
import pathlib
import time
from collections.abc import Sequence

import jax
import numpy as np
from absl import flags

from unityvideo_jax import cli, media, modalities, units
from unityvideo_jax.errors import UserError
from unityvideo_jax.evaluation import facts, score_folder, score_run
from unityvideo_jax.evaluation.benchmarks.clips import BENCHMARKS
from unityvideo_jax.evaluation.condition_gap import ConditionGapConfig
from unityvideo_jax.evaluation.heldout import HeldoutConfig
from unityvideo_jax.evaluation.joint import JointConfig
from unityvideo_jax.evaluation.physics import plausibility, prediction
from unityvideo_jax.evaluation.physics import run as physics
from unityvideo_jax.evaluation.physics.kinds import PAIRS
from unityvideo_jax.evaluation.physics.plausibility import PlausibilityConfig
from unityvideo_jax.evaluation.report import document, pictures
from unityvideo_jax.evaluation.report.page import ClipEntry
from unityvideo_jax.evaluation.row_store import RowStore
from unityvideo_jax.files import provenance
from unityvideo_jax.files.faults import show
from unityvideo_jax.metrics import scores
from unityvideo_jax.metrics.video.fvd import ENOUGH_VIDEOS
from unityvideo_jax.modalities import RGB
from unityvideo_jax.sampling import solvers
from unityvideo_jax.sampling.generate import SamplerConfig
from unityvideo_jax.sampling.pipeline import Pipeline

FLAGS = flags.FLAGS
# Flags by what reads them: a folder of predictions, a model, worlds or a folder of clips that a
# model is scored on, and the benchmark of physics.
OF_PREDICTIONS = ("system", "weights", "processes")
OF_CLIPS = (
    *("num_clips", "worlds_seed", "captions", "heldout_timesteps", "condition_gap_clips"),
    *("control", "joint_clips", "joint_streams"),
)
OF_PHYSICS = tuple(f"physics_{name}" for name in
                   ("pairs", "predictions", "given", "timesteps", "modalities"))  # fmt: skip
SETTINGS = ("steps", "solver", "condition_guidance", "shift", "separate")
OF_MODELS = (*cli.PIPELINE_FLAGS, *OF_CLIPS, *OF_PHYSICS, *SETTINGS, "batch_size")
# Settings that no row of a clip depends on.
ANEW = ("num_clips", "batch_size", "gap", "joint")


def define_flags() -> None:
    """Called by the program alone, so that importing this module claims no flag names."""
    cli.define_path("output", None, "Folder of the results.", writes="folder", required=True)
    cli.define_path(
        "benchmark",
        "worlds_validation",
        f"A folder of clips; with a model also one of {', '.join((*BENCHMARKS, physics.NAME))}.",
    )
    flags.DEFINE_integer(
        "bootstrap", 1000, "Draws for the intervals.", lower_bound=10, upper_bound=100_000
    )
    cli.define_seed("seed", "Seed of the intervals and the sampler (clip i: seed + i).")
    cli.define_path("predictions", None, "Folder of a system's predictions.")
    flags.DEFINE_string("system", None, "Name of the system that made the predictions.")
    cli.define_path("weights", None, "Folder of the networks of video metrics.")
    flags.DEFINE_bool(
        "allow_faults", False, "Give averages although some clips are missing or faulty."
    )
    flags.DEFINE_integer("processes", 1, "Processes that score predictions at once.", lower_bound=1)
    flags.DEFINE_enum(
        "truth_unit", None, units.NAMES, "Unit of true depth in numbers that do not state it."
    )
    flags.DEFINE_enum("prediction_unit", None, units.NAMES, "The same of predicted depth.")
    cli.define_pipeline()
    flags.DEFINE_integer("num_clips", 16, "How many clips.", lower_bound=1)
    flags.DEFINE_integer("batch_size", 4, "Clips at once on each device.", lower_bound=1)
    cli.define_seed("worlds_seed", "Seed of the scenes.")
    flags.DEFINE_bool("captions", False, "Give the model the clips' captions.")
    flags.DEFINE_integer(
        "heldout_timesteps", 8, "Timesteps of the held-out loss, a multiple of 4; 0 leaves it out."
    )
    flags.DEFINE_integer(
        "condition_gap_clips", 8, "Clips of the condition gap, at least 2; 0 leaves it out."
    )
    flags.DEFINE_bool("control", True, "Score control: RGB of every modality, estimated again.")
    flags.DEFINE_integer(
        "joint_clips",
        32,
        "Clips whose captions are sampled jointly, at least 2; 0 leaves them out.",
    )
    flags.DEFINE_integer(
        "joint_streams", 0, "The most streams of a joint sample; 0 is as many as the run trains."
    )
    flags.DEFINE_integer("physics_pairs", PAIRS, "Pairs of each kind of violation, to 64.")
    flags.DEFINE_integer(
        "physics_predictions", prediction.CLIPS, "Clips of each set to continue, to 16; 0 for none."
    )
    flags.DEFINE_integer("physics_given", 5, "Frames that prediction starts from.")
    flags.DEFINE_integer("physics_timesteps", 5, "Timesteps of the plausibility error.")
    flags.DEFINE_list("physics_modalities", [], "Modalities noised with RGB; all if left out.")
    flags.DEFINE_integer("steps", None, "Solver steps; the run's own if left out.")
    flags.DEFINE_enum("solver", None, solvers.SOLVERS, "ODE solver.")
    flags.DEFINE_float("condition_guidance", None, "Guidance scale of the given RGB.")
    flags.DEFINE_float("shift", None, "Timestep shift.")
    flags.DEFINE_bool(
        "separate", None, "Estimate all modalities of a batch of clips in one call, a row for each."
    )


def main(argv: Sequence[str]) -> None:
    """Scores what the flags name and writes the report."""
    del argv
    output = pathlib.Path(FLAGS.output)
    chosen = [name for name in ("workdir", "pretrained", "predictions") if FLAGS[name].value]
    if len(chosen) != 1:
        raise UserError(
            "give --workdir to score a run, or --predictions to score a folder, or --pretrained to "
            "score a model"
        )
    _check_read(chosen[0])
    media.check_videos()
    if chosen == ["predictions"]:
        _score_folder(output)
    elif FLAGS.benchmark == physics.NAME:
        _score_physics(output)
    else:
        _score_run(output)
    print((output / "results.md").read_text(), flush=True)
    print(f"wrote {output}/results.json, results.md and results.html", flush=True)


def _check_read(scored: str) -> None:
    """Raises UserError for a flag that nothing reads where this flag says what is scored."""
    if scored == "predictions":
        cli.refuse(OF_MODELS, "is for a model, --predictions are scored as they are; leave it out")
        return
    cli.refuse(["prediction_unit"], "a run knows its own unit; give it with --predictions")
    cli.refuse(OF_PREDICTIONS, "is for --predictions; leave it out")
    if FLAGS.benchmark == physics.NAME:
        cli.refuse(
            (*OF_CLIPS, "truth_unit"), f"is not for --benchmark={physics.NAME}; leave it out"
        )
        return
    cli.refuse(OF_PHYSICS, f"is for --benchmark={physics.NAME}; leave it out")
    if FLAGS.benchmark in BENCHMARKS:
        cli.refuse(["truth_unit"], "worlds are in metres; leave it out")
    else:
        cli.refuse(["worlds_seed"], "is for worlds, not for a folder of clips; leave it out")
    if not FLAGS.joint_clips:
        cli.refuse(["joint_streams"], "--joint_clips=0 samples none jointly; leave one of them out")


def _progress(start: float):
    def progress(done: int, total: int) -> None:
        print(f"{done}/{total} clips, {time.monotonic() - start:.0f} s", flush=True)

    return progress


def _common(clips: Sequence[scores.ClipScore], start: float) -> dict:
    """The parts that both kinds of record share: intervals, versions, and the command."""
    return {
        "intervals": scores.bootstrap(clips, samples=FLAGS.bootstrap, seed=FLAGS.seed),
        "bootstrap": {"samples": FLAGS.bootstrap, "seed": FLAGS.seed, "level": 0.95},
        "seed": FLAGS.seed,
        "versions": provenance.versions(),
        "command": cli.command("evaluate"),
        "seconds": round(time.monotonic() - start, 1),
    }


def _check_faults(faults: Sequence[str], clips: int, of: int, output: pathlib.Path) -> None:
    """Lists faults; raises UserError for them unless --allow_faults is given."""
    show(faults)
    if faults and not FLAGS.allow_faults:
        raise UserError(
            f"{len(faults)} faults in {clips} of {of} clips, listed above, such as {faults[0]}; "
            f"fix them and run again (the other clips are stored in {output}/rows), or pass "
            "--allow_faults to average without them"
        )


def _score_folder(output: pathlib.Path) -> None:
    if not FLAGS.system:
        raise UserError("--system is missing; name the system that made the predictions")
    # NumPy scores and JAX only draws, so the report is the same whatever accelerator there is.
    jax.config.update("jax_platforms", "cpu")
    start = time.monotonic()
    config = score_folder.HarnessConfig(
        benchmark=pathlib.Path(FLAGS.benchmark),
        predictions=pathlib.Path(FLAGS.predictions),
        output=output,
        weights=pathlib.Path(FLAGS.weights) if FLAGS.weights else None,
        processes=FLAGS.processes,
        truth_unit=FLAGS.truth_unit or "",
        prediction_unit=FLAGS.prediction_unit or "",
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
        "system": FLAGS.system,
        "num_clips": len(outcome.rows),
        "counts": outcome.counts,
        "metrics": metrics,
        "trivial": scores.aggregate([row.trivial for row in outcome.rows]),
        **_common(clips, start),
        "protocols": facts.used_protocols(metrics),
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


def _entry(
    output: pathlib.Path, name: str, score: scores.ClipScore, drawn: dict[str, str]
) -> ClipEntry:
    """A clip on the page, with those of its pictures that there are."""
    there = {what: path for what, path in drawn.items() if (output / path).exists()}
    return ClipEntry(name=name, score=score, pictures=there)


def _load() -> tuple[Pipeline, SamplerConfig]:
    """The pipeline that the flags name, on all devices, and how to sample."""
    pipeline = cli.load_pipeline()
    pipeline.spread(jax.local_devices())
    return pipeline, pipeline.sampler.changed(**{name: FLAGS[name].value for name in SETTINGS})


def _score_run(output: pathlib.Path) -> None:
    config = score_run.BenchmarkConfig(
        benchmark=FLAGS.benchmark,
        num_clips=FLAGS.num_clips,
        batch_size=FLAGS.batch_size * jax.local_device_count(),
        seed=FLAGS.seed,
        worlds_seed=FLAGS.worlds_seed,
        use_captions=FLAGS.captions,
        truth_unit=FLAGS.truth_unit or "",
        heldout=HeldoutConfig(timesteps=FLAGS.heldout_timesteps, seed=FLAGS.seed)
        if FLAGS.heldout_timesteps
        else None,
        gap=ConditionGapConfig(clips=FLAGS.condition_gap_clips, seed=FLAGS.seed)
        if FLAGS.condition_gap_clips
        else None,
        control=FLAGS.control,
        joint=JointConfig(clips=FLAGS.joint_clips, streams=FLAGS.joint_streams, seed=FLAGS.seed)
        if FLAGS.joint_clips
        else None,
    )
    pipeline, sampler = _load()
    start = time.monotonic()
    data = pipeline.config["data"]

    def picture(clip: int, modality: str) -> str:
        return f"pictures/{clip:04d}_{modality}"

    def draw(clip: int, modality: str, predicted, truth) -> None:
        stem = output / picture(clip, modality)
        pictures.write_comparison(stem, modality, predicted, truth, float(data["fps"]))

    def draw_joint(clip: int, caption: str, rows: Sequence[tuple[str, np.ndarray]]) -> None:
        pictures.write_sheet(output / document.joint_sheet(clip), rows)

    # Of a clip, the scores depend on these and not on how many clips there are or go together.
    settings = dataclasses.asdict(config)
    depends = {k: v for k, v in settings.items() if k not in ANEW}
    depends |= facts.origin(pipeline, sampler, FLAGS.text_encoder)
    rows = RowStore(
        folder=output / "rows", kind=score_run.RunRow, settings=provenance.plain(depends)
    )
    results = score_run.run(pipeline, config, sampler, _progress(start), draw, rows, draw_joint)
    _check_faults(results.faults, len(results.faults), config.num_clips, output)
    scored = [name for name in pipeline.modalities if modalities.get(name).metric]
    record = {
        "benchmark": config.benchmark,
        "num_clips": config.num_clips,
        "metrics": results.metrics,
        "vae_round_trip": results.vae_round_trip,
        "trivial": results.trivial,
        "faults": results.faults,
        "joint": {f"{n:04d}": caption for n, caption in results.joint_captions.items()},
        **_common(results.clips, start),
        "protocols": facts.protocols(),
        "settings": settings,
        "codecs": {name: pipeline.codec(name).version for name in scored},
        **facts.model(pipeline, sampler, cli.weights_of(pipeline)),
    }
    entries = [
        _entry(output, f"{i:04d}", clip, {m: f"{picture(i, m)}.png" for m in scored})
        for i, clip in zip(results.numbers, results.clips, strict=True)
    ]
    document.write_report(output, record, entries)


def _score_physics(output: pathlib.Path) -> None:
    config = physics.PhysicsConfig(
        pairs=FLAGS.physics_pairs,
        predictions=FLAGS.physics_predictions,
        given=FLAGS.physics_given,
        batch_size=FLAGS.batch_size * jax.local_device_count(),
        names=tuple(FLAGS.physics_modalities),
        plausibility=PlausibilityConfig(timesteps=FLAGS.physics_timesteps, seed=FLAGS.seed),
        seed=FLAGS.seed,
    )
    pipeline, sampler = _load()
    start = time.monotonic()
    settings = dataclasses.asdict(config)
    depends = {k: v for k, v in settings.items() if k not in ("pairs", "predictions", "batch_size")}
    depends |= facts.origin(pipeline, sampler, FLAGS.text_encoder)
    rows = RowStore(
        folder=output / "rows",
        kind=physics.PhysicsRow,
        settings=provenance.plain(depends),
    )

    def draw(name: str, sheet: Sequence[tuple[str, np.ndarray]]) -> None:
        pictures.write_sheet(output / f"pictures/{name}.png", sheet)

    found = physics.run(pipeline, config, sampler, rows, _progress(start), draw)
    model, round_trip, trivial = physics.results(found.values())
    record = {
        "benchmark": physics.NAME,
        "num_clips": len(found),
        "metrics": model,
        "vae_round_trip": round_trip,
        "trivial": trivial,
        **_common([row.scores["model"] for row in found.values()], start),
        "protocols": plausibility.protocols(config.plausibility) | prediction.PROTOCOL,
        "notes": physics.notes(pipeline),
        "settings": settings,
        **facts.model(pipeline, sampler, cli.weights_of(pipeline)),
    }
    entries = [
        _entry(output, name, row.scores["model"], {RGB: f"pictures/{name}.png"})
        for name, row in found.items()
    ]
    document.write_report(output, record, entries)


if __name__ == "__main__":
    define_flags()
    cli.run(main)
