r"""Trains and scores the ablations of UnityVideo's tables 2 to 4 at small size, with several seeds.

  python -m unityvideo_jax.ablate --output=grid --parallel=4

runs every arm of `configs/ablations/` with seeds 0, 1 and 2, one run per GPU, and writes
`grid/runs.jsonl` (one line per finished run), `grid/results.md` and its pictures. The same command
resumes: a finished run is not repeated, and one that was interrupted continues from its checkpoint.
`--dry_run` prints the plan and how long it will take.
"""

import ast
import contextlib
import dataclasses
import gc
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from absl import flags

from unityvideo_jax import cli, media, train
from unityvideo_jax.ablations import arms, frozen, log, page, plan
from unityvideo_jax.ablations.plan import REFERENCE, Run
from unityvideo_jax.errors import UserError
from unityvideo_jax.files import lock, provenance, strict_json
from unityvideo_jax.runtime import signals

FLAGS = flags.FLAGS
# Flags that only running a grid reads.
OF_GRID = (
    *("arms", "seeds", "steps", "max_seconds", "parallel", "stop_after", "change", "measure"),
    *("estimator", "dry_run", "tflops"),
)


def define_flags() -> None:
    """Called by the program alone, so that importing this module claims no flag names."""
    cli.define_path("output", None, "Folder of the grid.", writes="folder")
    flags.DEFINE_list(
        "arms", list(arms.ARMS), "Names of presets below configs/ablations, or files of your own."
    )
    flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of every arm.")
    flags.DEFINE_integer(
        "steps", 0, "Steps of the arm `all`, and others in proportion; 0 is the preset's.",
        lower_bound=0,
    )  # fmt: skip
    flags.DEFINE_float("max_seconds", 0.0, "Seconds of a run's steps; 0 is no limit.", 0.0)
    flags.DEFINE_integer("parallel", 1, "Runs at once, each on a GPU of its own.", lower_bound=1)
    flags.DEFINE_float(
        "stop_after", 0.0, "Seconds after which the grid saves and ends; 0 is never.", 0.0
    )
    flags.DEFINE_multi_string("change", [], "KEY=VALUE of every arm's configuration.")
    flags.DEFINE_multi_string(
        "measure", [], "NAME=VALUE of how much is measured, see ablations/truth.py."
    )
    cli.define_path("estimator", "worlds-mini", "The model that scores control.")
    flags.DEFINE_bool("dry_run", False, "Print the plan and the time it will take; do nothing.")
    flags.DEFINE_float("tflops", 50.0, "Model TFLOP/s of a device, for the plan's times.", 1e-6)
    cli.define_path("log", None, "Instead of running: the log of a grid, for --page.")
    cli.define_path("page", None, "Where the page of --log is written.", writes="file")


def main(argv: Sequence[str]) -> None:
    """Runs the grid, or writes the page of one that was run."""
    del argv
    if bool(FLAGS.log) != bool(FLAGS.page) or bool(FLAGS.log) == bool(FLAGS.output):
        raise UserError("give --output=FOLDER to run the grid, or --log=FILE and --page=FILE")
    if FLAGS.log:
        cli.refuse(OF_GRID, "is of a grid that is run with --output; leave it out")
        if not pathlib.Path(FLAGS.log).is_file():
            raise UserError(f"--log={FLAGS.log}: no such file; the grid writes {log.FILE}")
        page.write(pathlib.Path(FLAGS.page), log.read(pathlib.Path(FLAGS.log)))
        print(f"wrote {FLAGS.page}", flush=True)
        return
    output, settings = pathlib.Path(FLAGS.output), _settings()
    runs, lines = plan.make_plan(_arms(), _numbers("--seeds", FLAGS.seeds))
    for run in runs:
        train.check(run.config())
    shared = frozen.record(runs[0].arm, FLAGS.estimator, settings)
    for run in runs:
        if frozen.record(run.arm, FLAGS.estimator, settings) != shared:
            raise UserError(
                f"{run.arm.name}: its clips or autoencoder are not {runs[0].arm.name}'s"
            )
    key = frozen.check(output, shared)
    done = log.finished(log.read(output / log.FILE), runs, key)
    table = plan.table(runs, done, FLAGS.parallel, 1e12 * FLAGS.tflops)
    print("\n".join([*lines, *table]), flush=True)
    if FLAGS.dry_run:
        return
    with log.locked(output):
        frozen.begin(output, shared)
    if FLAGS.parallel > 1:
        _share_out(output, len(runs) + 1)
    elif len(done) <= len(runs):
        with _stopped_after(FLAGS.stop_after):
            _work(output, runs, key, settings)
    with log.locked(output):
        records = log.read(output / log.FILE)
        done = log.finished(records, runs, key)
        print(f"{len(done)} of {len(runs) + 1} finished, the reference among them", flush=True)
        if done - {REFERENCE}:
            page.write(output / "results.md", records)
            print(f"wrote {output}/results.md", flush=True)
    if len(done) <= len(runs):
        print("run the same command again to continue", flush=True)


def _arms() -> list[arms.Arm]:
    changes = dict(_pair("--change", one) for one in FLAGS.change)
    if FLAGS.max_seconds:
        changes["train.max_seconds"] = FLAGS.max_seconds
    return [arms.load(name, changes, FLAGS.steps) for name in FLAGS.arms]


def _settings() -> Any:
    from unityvideo_jax.ablations.truth import MeasureConfig
    from unityvideo_jax.settings.sections import check_keys, check_values

    values = dict(_pair("--measure", one) for one in FLAGS.measure)
    check_keys(values, [field.name for field in dataclasses.fields(MeasureConfig)], "--measure=")
    check_values(MeasureConfig, values, "--measure=")
    return MeasureConfig(**values)


def _pair(flag: str, text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError) as error:
        if not equals:
            raise UserError(f"{flag}={text}: give NAME=VALUE") from error
        return key, value


def _numbers(flag: str, texts: Sequence[str]) -> list[int]:
    try:
        return [int(text) for text in texts]
    except ValueError as error:
        raise UserError(f"{flag}={','.join(texts)}: give whole numbers") from error


@contextlib.contextmanager
def _stopped_after(seconds: float) -> Iterator[None]:
    """SIGTERM to this process if the block takes longer; 0 is never."""
    timer = threading.Timer(seconds or 1.0, os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    if seconds:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _share_out(output: pathlib.Path, total: int) -> None:
    """Starts one worker per device; each takes runs that no other works on.

    Raises:
      UserError: a worker failed; names its output.
    """
    started = time.monotonic()
    (output / "logs").mkdir(exist_ok=True)
    command = [sys.executable, "-m", "unityvideo_jax.ablate", *_of_a_worker(sys.argv[1:])]
    with signals.asks_to_stop("the workers save and end") as asked:
        workers = []
        for n, environment in enumerate(log.devices(FLAGS.parallel)):
            file = output / "logs" / f"worker_{n}.txt"
            with file.open("a") as text:
                worker = subprocess.Popen(command, env=environment, stdout=text, stderr=text)
            workers.append((worker, file))
        said: set[str] = set()
        passed_on = False
        while any(worker.poll() is None for worker, _ in workers):
            if asked and not passed_on:
                passed_on = True
                for worker, _ in workers:
                    worker.terminate()
            for name in log.read(output / log.FILE).keys() - said:
                said.add(name)
                seconds = time.monotonic() - started
                print(f"{name}: in the log ({len(said)} of {total}), {seconds:.0f} s", flush=True)
            time.sleep(1.0)
    bad = [str(file) for worker, file in workers if worker.returncode not in (0, 143)]
    if bad:
        raise UserError(f"{len(bad)} workers failed, see the end of {', '.join(bad)}")


def _of_a_worker(words: Sequence[str]) -> list[str]:
    """The words of a command for one run at a time: those given, without --parallel's."""
    kept, rest = [], iter(words)
    for word in rest:
        if re.fullmatch("--?parallel", word):
            next(rest)  # its value
        elif not re.match("--?parallel=", word):
            kept.append(word)
    return kept


def _work(output: pathlib.Path, runs: Sequence[Run], key: str, settings: Any) -> None:
    """Does what is not done and what no other process does, one run after the other."""
    from unityvideo_jax.ablations.scoring import Evaluator

    evaluator = Evaluator(runs[0].arm, settings, FLAGS.estimator)
    failed: list[str] = []
    names = {run.name: run for run in runs} | {REFERENCE: None}
    for name, run in names.items():
        with lock.attempt(output / log.WORK / f"{name}.lock") as holder:
            # Read again with the lock: another worker may have finished it meanwhile.
            if holder or name in log.read(output / log.FILE):
                continue
            try:
                if run is None:
                    record = {"name": REFERENCE, **evaluator.reference(runs[0].arm)}
                elif (record := _one(output, run, evaluator)) is None:
                    return
            except UserError as error:
                # A run that diverges must not cost the others.
                print(f"{name}: error: {error}", file=sys.stderr, flush=True)
                failed.append(name)
                continue
            finally:
                gc.collect()  # the run's state lies in cycles of functions, and on the device
            record |= {"frozen": key, "versions": provenance.versions()}
            log.add(output, record)
            print(f"{name}: finished", flush=True)
    if failed:
        raise UserError(f"failed, as listed above: {', '.join(failed)}; run it again to try again")


def _one(output: pathlib.Path, run: Run, evaluator: Any) -> dict[str, Any] | None:
    """The record of a run, trained and scored; None if a signal ended its training."""
    from unityvideo_jax.ablations import scoring

    start = time.monotonic()
    workdir = log.work_of(output, run.name)
    trained = workdir.with_name(f"{run.name}.trained.json")
    if not trained.exists():
        ended = _train(run, workdir)
        if ended.stopped:
            return None
        provenance.write_json(trained, {"step": ended.step})
    first = run.seed == int(FLAGS.seeds[0])

    def draw(title: str, rows: Sequence[tuple[str, Any]]) -> None:
        name = page.picture(run.arm.name, title)
        if first and name is not None:
            media.contact_sheet(rows, output / "results" / name, columns=6, scale=2)

    found = evaluator.run(workdir, run.arm, draw)
    return {
        "name": run.name,
        "arm": run.arm.name,
        "seed": run.seed,
        "config_sha256": run.config_hash,
        "step": strict_json.read(trained)["step"],
        **run.arm.facts(),
        **found,
        "curve": scoring.curve(workdir),
        "seconds": round(time.monotonic() - start, 1),
    }


def _train(run: Run, workdir: pathlib.Path) -> Any:
    """Trains a run, or resumes it, as `train` does."""
    from unityvideo_jax.inputs.config import as_data_config
    from unityvideo_jax.inputs.fingerprints import fingerprints
    from unityvideo_jax.parallel.mesh import MeshConfig, make_mesh
    from unityvideo_jax.planning.fit import check_training
    from unityvideo_jax.settings.sections import section
    from unityvideo_jax.training import loop
    from unityvideo_jax.training.workdir import open_workdir

    config = run.config()
    say = lambda line: print(f"{run.name}: {line}", flush=True)  # noqa: E731
    identify = lambda: fingerprints(as_data_config(config.data))  # noqa: E731
    with open_workdir(workdir, config, identify=identify, log=say):
        check_training(config, make_mesh(section(MeshConfig, config, "mesh")))
        return loop.train(
            config, workdir, lambda stage: train.build_iterator(config, stage, (0, 1)), log=say
        )


if __name__ == "__main__":
    define_flags()
    cli.run(main)
