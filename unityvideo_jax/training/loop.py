"""The training loop, read from top to bottom."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from unityvideo_jax.files import disk
from unityvideo_jax.parallel import device_memory, hosts
from unityvideo_jax.parallel.mesh import MeshConfig, make_mesh
from unityvideo_jax.parallel.rules import put_batch
from unityvideo_jax.runtime import seeds, signals
from unityvideo_jax.settings.sections import section
from unityvideo_jax.training.batches import BuildIterator, abstract_batch, not_finite
from unityvideo_jax.training.checkpoints import last_whole
from unityvideo_jax.training.goodput import Goodput, goodput_line
from unityvideo_jax.training.hang import Watchdog
from unityvideo_jax.training.integrity import IntegrityCheck
from unityvideo_jax.training.profiling import ProfileConfig, Profiler
from unityvideo_jax.training.programs import StepPrograms
from unityvideo_jax.training.progress import Progress
from unityvideo_jax.training.setup import RULES, set_up
from unityvideo_jax.training.step import jit_train_step
from unityvideo_jax.training.times import Deadline, SaveTimes

# (graphdef, modalities) -> writes a contact sheet of parameters: (params, step, path).
Sampler = Callable[[Any, int, pathlib.Path], None]

FIT = "lower it or set config.model.remat; `python -m unityvideo_jax.plan` says what fits"


class Ended(NamedTuple):
    """The step that training reached, and whether a signal stopped it before it was due to end."""

    step: int
    stopped: bool


def train(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    build_iterator: BuildIterator,
    make_sampler: Callable[[nnx.GraphDef], Sampler] | None = None,
    log: Callable[[str], None] = print,
    devices: Sequence[jax.Device] | None = None,
    profile: ProfileConfig | None = None,
    fallback: bool = False,
) -> Ended:
    """Trains from the latest checkpoint of `workdir`, or from the start.

    Args:
      config: as `configs/worlds_tiny.py` lays out.
      workdir: of the run, locked by the caller.
      build_iterator: makes a stage's batches.
      make_sampler: makes the writer of contact sheets; None writes none.
      log: takes progress lines.
      devices: to train on; all of them by default.
      profile: what to record beside the metrics; None is nothing.
      fallback: read the latest checkpoint first, and continue from the newest whole one if it is
        damaged.

    Raises:
      UserError: a config that cannot run, a damaged checkpoint, a step that is not finite, or one
        that a device has no room for.
    """
    mesh = make_mesh(section(MeshConfig, config, "mesh"), devices)
    batch = f"config.train.batch_size={config.train.batch_size}"
    with (
        jax.set_mesh(mesh),
        disk.explained(workdir, lambda: last_whole(workdir)),
        device_memory.explained(batch, FIT),
    ):
        profile = profile or ProfileConfig()
        return _train(config, workdir, build_iterator, make_sampler, log, mesh, profile, fallback)


def _train(
    config, workdir, build_iterator, make_sampler, log, mesh: Mesh, profile, fallback
) -> Ended:
    goodput = Goodput()
    setup, state = set_up(config, workdir, build_iterator, mesh, log, fallback)
    run, inputs, start = setup.run, setup.inputs, setup.start
    sampler = make_sampler(setup.graphdef) if make_sampler and run.sample_every else None
    key = jax.random.key(seeds.after(config.seed, 1))
    shapes = inputs.shapes
    step_fn = jit_train_step(
        setup.graphdef,
        setup.layout,
        setup.model,
        setup.objective,
        setup.optim,
        setup.optimizer,
        max_traces=len(shapes) or None,
    )
    profiler = Profiler(profile, workdir, start, run.steps, log)
    programs = StepPrograms(step_fn, key, setup.model, setup.lora, shapes, profiler, log)
    share, _ = hosts.feed_share(mesh)

    def why_not_finite(samples: np.ndarray, index: np.ndarray) -> str:
        return not_finite(samples, index, share * len(index), inputs.describe)

    progress = Progress(setup, workdir, goodput, why_not_finite, log)
    watchdog = Watchdog(
        run.hang_seconds,
        workdir,
        goodput,
        lambda: progress.finished + 1,
        lambda: last_whole(workdir),
    )
    times = SaveTimes(run.checkpoint_every, run.checkpoint_minutes)
    deadline = Deadline(run.max_seconds, float(setup.saved.get("seconds", 0.0)))
    vote = hosts.Vote(mesh)

    def read() -> tuple[Mapping[str, Any], dict[str, Any]]:
        with goodput.phase("input"):
            return inputs.next()

    def put(batch: Mapping[str, Any]) -> dict[str, jax.Array]:
        with goodput.phase("transfer"):
            rows = {name: x for name, x in batch.items() if name != "index"}
            return put_batch(rows, RULES, mesh)

    def sample(step: int) -> None:
        sampler(state.best, step, workdir / "samples" / f"step_{step:07d}.png")

    def save() -> None:
        with progress.pause("checkpoint"):
            resolved = {**config.to_dict(), "optimizer": dataclasses.asdict(setup.optim)}
            beside = {"averages": setup.averages.get_state(), "seconds": deadline.seconds()}
            setup.checkpointer.save(state, position | beside, resolved)
        times.saved(step)

    step, position = start, setup.saved
    if sampler and setup.lora.rank and not setup.saved:
        sample(0)  # an adapter starts as nothing: these are the samples without it
    with (
        setup.checkpointer,
        progress,
        contextlib.closing(profiler),
        watchdog,
        hosts.stops_without_peers(),
    ):
        if start < run.steps:
            following = read()
            first = put(following[0])
            with progress.pause("start"):
                programs.compile(state, first, *(abstract_batch(first, shape) for shape in shapes))
            if run.check_every:
                check = IntegrityCheck(
                    setup.graphdef,
                    setup.layout,
                    mesh,
                    setup.objective,
                    modalities=setup.model.modalities,
                    step=start,
                    probe=first,
                    parts=setup.optim.accumulation,
                )
            del first
        # Before this there is nothing to save, and a signal ends the process at once.
        with signals.asks_to_stop("training saves after this step and ends") as asked:
            stop = False
            deadline.begin()
            goodput.begin_steps()
            # Step n is dispatched, then the metrics of step n - 1 are read.
            while step < run.steps:
                stop, overdue = vote(bool(asked) or deadline.is_over(), times.overdue())
                if stop:
                    break
                with goodput.phase("other"):
                    annotated = profiler.step(step + 1, state)
                with annotated:
                    batch, position = following
                    on_device = put(batch)
                    if not programs.has(on_device):  # of an iterator that did not say so
                        with progress.pause("start"):
                            programs.compile(state, on_device)
                    state, metrics = programs(state, on_device)
                    step += 1
                    setup.checkpointer.check()
                    index = np.asarray(batch["index"])
                    progress.dispatched(step, metrics, index, programs.work(on_device))
                    if step < run.steps:
                        following = read()
                    if run.check_every and step % run.check_every == 0:
                        with progress.pause("other"):
                            check(state, step)
                    if times.due(step, overdue) or step == run.steps:
                        save()
                    if sampler and (step % run.sample_every == 0 or step in (1, run.steps)):
                        with progress.pause("sampling"):
                            sample(step)
            if stop and step > start:
                if times.last != step:
                    save()
                    with goodput.phase("checkpoint"):
                        setup.checkpointer.wait()
                more = "run it again to continue"
                if asked:
                    by = f"signal {asked[0]}"
                elif deadline.is_over():
                    by, more = f"config.train.max_seconds={run.max_seconds:g}", "raise it for more"
                else:
                    by = "a signal to another process"
                log(f"stopped by {by} at step {step}; saved; {more}")
            with goodput.phase("checkpoint"):
                setup.checkpointer.wait()
    log(goodput_line(goodput.shares(), goodput.losses()))
    return Ended(step=step, stopped=stop and not deadline.is_over())
