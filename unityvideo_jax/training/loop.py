"""The training loop, read from top to bottom."""

import contextlib
import dataclasses
import math
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from unityvideo_jax.checkpoints.run_folder import read_config
from unityvideo_jax.errors import UserError
from unityvideo_jax.files import disk
from unityvideo_jax.flow_matching import ObjectiveConfig
from unityvideo_jax.inputs.buckets import count_streams, size_name
from unityvideo_jax.models.config import DiTConfig, model_flops, parameter_count
from unityvideo_jax.models.lora import LoraConfig
from unityvideo_jax.parallel import hosts
from unityvideo_jax.parallel.mesh import MeshConfig, make_mesh
from unityvideo_jax.parallel.rules import AxisRules, num_parts, put_batch
from unityvideo_jax.runtime import seeds, signals
from unityvideo_jax.settings.sections import section
from unityvideo_jax.training import adapters
from unityvideo_jax.training import state as state_lib
from unityvideo_jax.training.batches import (
    BuildIterator,
    Inputs,
    abstract_batch,
    check_batch,
    check_divides,
    not_finite,
)
from unityvideo_jax.training.checkpoints import Checkpointer, SaveTimes, last_whole
from unityvideo_jax.training.config import TrainConfig
from unityvideo_jax.training.curriculum import stages
from unityvideo_jax.training.goodput import Goodput, goodput_line
from unityvideo_jax.training.hang import Watchdog
from unityvideo_jax.training.integrity import IntegrityCheck
from unityvideo_jax.training.ledger import Ledger
from unityvideo_jax.training.metrics import Averages, MetricWriter, Speed, progress_line
from unityvideo_jax.training.optimizer import OptimizerConfig, make_optimizer, make_schedule
from unityvideo_jax.training.profiling import ProfileConfig, Profiler, peak_memory
from unityvideo_jax.training.start import start_from
from unityvideo_jax.training.step import jit_train_step

# (graphdef, modalities) -> writes a contact sheet of parameters: (params, step, path).
Sampler = Callable[[Any, int, pathlib.Path], None]


class Ended(NamedTuple):
    """The step that training reached, and whether a signal stopped it before it was due to end."""

    step: int
    stopped: bool


def _check_timesteps(model: DiTConfig, objective: ObjectiveConfig) -> None:
    if model.shared_timestep and objective.own_timesteps and objective.p_any:
        raise UserError(
            "config.objective.own_timesteps=True: config.model.shared_timestep gives all streams "
            "the largest timestep; set one of them to False"
        )
    if model.shared_timestep and objective.condition_dropout:
        raise UserError(
            f"config.objective.condition_dropout={objective.condition_dropout}: a dropped stream "
            "is at t = 1, and with config.model.shared_timestep all others would be; set it to 0"
        )


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
      UserError: a config that cannot run, a damaged checkpoint, or a step that is not finite.
    """
    mesh = make_mesh(section(MeshConfig, config, "mesh"), devices)
    with jax.set_mesh(mesh), disk.explained(workdir, lambda: last_whole(workdir)):
        profile = profile or ProfileConfig()
        return _train(config, workdir, build_iterator, make_sampler, log, mesh, profile, fallback)


def _train(
    config, workdir, build_iterator, make_sampler, log, mesh: Mesh, profile, fallback
) -> Ended:
    # --- Configuration -----------------------------------------------------------------------
    goodput = Goodput()
    model = section(DiTConfig, config, "model")
    objective = section(ObjectiveConfig, config, "objective")
    # As pinned: a run that resumes keeps the schedule that it started with.
    optim = section(OptimizerConfig, read_config(workdir), "optimizer")
    run = section(TrainConfig, config, "train")
    weights = dict(config.data.modality_weights)
    plan = tuple(s for s in stages(config.curriculum, weights, run.steps) if s.start < run.steps)
    lora = LoraConfig.of(config)
    adapters.check(lora, config.get("init_from"))
    _check_timesteps(model, objective)

    # --- Input, first of all: data that does not fit must not cost the making of a model -----
    checkpointer = Checkpointer(workdir, run.keep)
    if fallback:
        checkpointer.fall_back(log)
    resumed = checkpointer.latest()
    start = resumed or 0
    inputs, averages = Inputs(plan, build_iterator, start, log), Averages()
    shapes = inputs.shapes
    parts = num_parts(("slice", "data", "fsdp"), mesh) * optim.accumulation
    for rows in dict.fromkeys(shape[0] for shape in shapes) or (run.batch_size,):
        check_divides("config.train.batch_size", rows, parts)

    # --- Model, optimiser, state -------------------------------------------------------------
    rules = AxisRules()
    optimizer = make_optimizer(optim, run.steps)
    schedule = make_schedule(optim, run.steps)
    graphdef, state, layout = state_lib.create(
        model, optimizer, mesh, rules, config.seed, keep_ema=optim.ema_decay > 0, lora=lora
    )
    count = sum(x.size for x in jax.tree.leaves(state.params))
    trained = f"{count / 1e6:.2f}M parameters"
    if lora.rank:
        trained += f" trained beside a base of {parameter_count(model) / 1e6:.2f}M in {lora.base}"
    log(f"model: {trained}; mesh: {dict(mesh.shape)}")

    # --- Checkpoint --------------------------------------------------------------------------
    saved = None
    if resumed is not None:
        state, saved = checkpointer.restore(state_lib.abstract_state(state), resumed)
        with checkpointer.position_of(resumed):
            inputs.resume(saved)
            averages.set_state(saved.get("averages", {}))
        log(f"resumed at step {resumed}")
        if resumed >= run.steps:
            log(f"config.train.steps={run.steps} are done; set more of them to continue")
    elif (source := config.get("init_from")) and not lora.rank:
        state = start_from(state, model, source, fallback, log)
        log(f"starts from the weights of {source}")
    if lora.rank:
        state = adapters.load_base(
            state, model, lora, config.init_from, fallback, fresh=resumed is None
        )
        log(f"adapters of rank {lora.rank} stand beside the weights of {config.init_from}")
    sampler = make_sampler(graphdef) if make_sampler and run.sample_every else None

    # --- Step --------------------------------------------------------------------------------
    step_fn = jit_train_step(
        graphdef, layout, model, objective, optim, optimizer, max_traces=len(shapes) or None
    )
    key = jax.random.key(seeds.after(config.seed, 1))

    # --- Loop: dispatch step n, then read the metrics of step n - 1 --------------------------
    profiler = Profiler(profile, workdir, start, run.steps, log)
    writer = MetricWriter(workdir, start, log) if hosts.is_first() else None
    ledger = Ledger(workdir, goodput, start, log) if hosts.is_first() else None
    watchdog = Watchdog(
        run.hang_seconds, workdir, goodput, lambda: finished + 1, lambda: last_whole(workdir)
    )
    times = SaveTimes(run.checkpoint_every, run.checkpoint_minutes)
    vote = hosts.Vote(mesh)
    share, _ = hosts.feed_share(mesh)
    begun = time.perf_counter()

    def read() -> tuple[Mapping[str, Any], dict[str, Any]]:
        with goodput.phase("input"):
            return inputs.next()

    def put(batch: Mapping[str, Any]) -> dict[str, jax.Array]:
        with goodput.phase("transfer"):
            rows = {name: x for name, x in batch.items() if name != "index"}
            return put_batch(rows, rules, mesh)

    def finish(step: int, index: np.ndarray, metrics: Any) -> None:
        nonlocal finished
        values = jax.device_get(metrics)
        samples = values.pop("samples")
        if not values.pop("finite"):
            why = not_finite(samples, index, share * len(index), inputs.describe)
            raise UserError(f"step {step}: {why}; the checkpoint before it stands")
        averages.add(values)
        goodput.finished()
        finished = step
        if ledger is not None:
            ledger.finished(step)
        # Where dispatching waits, as on CPUs, the step that was dispatched since is done too.
        newest, last = dispatched
        done = newest if last["finite"].is_ready() else step
        if step == start + 1:
            speed.start(done)  # the first step also sets things up
        if step % run.log_every and step != run.steps:
            return
        record = averages.take()
        record["learning_rate"] = float(schedule(step - 1))
        record |= speed.take(done) | goodput.shares() | goodput.losses() | peak_memory()
        if writer is not None:
            writer.write(step, record)
        eta = (time.perf_counter() - begun) / (step - start) * (run.steps - step)
        log(progress_line(step, run.steps, record, eta))

    def compile_steps(*batches: Mapping[str, Any]) -> None:
        """Compiles the step for batches of these shapes, real or abstract, all at once."""
        lowered, several = {}, len(shapes) > 1 or compiled
        for batch in batches:
            shape = batch["latents"].shape
            if shape in compiled or shape in lowered:
                continue
            check_batch(batch, model)
            of = f" of {shape[0]} samples, {count_streams(shape[1])} of {size_name(shape[2:5])}"
            log(f"compiling the step{of if several else ''}")
            lowered[shape] = step_fn.lower(state, batch, key)
        names = [f"step_{size_name(shape[:5])}" if several else "step" for shape in lowered]
        with futures.ThreadPoolExecutor() as threads:
            done = list(threads.map(profiler.compile, lowered.values(), names))
        compiled.update(zip(lowered, done, strict=True))
        speed.start(step)

    def work_of(shape: tuple[int, ...]) -> tuple[int, int]:
        """Model FLOPs and tokens of a step on latents of shape [b, s, t, h, w, c]."""
        flops = lora.passes * model_flops(model, shape[2:5], shape[1]) * shape[0]
        tokens = math.prod(shape[:5]) // math.prod(model.patch_size)
        return flops, tokens

    def save(state, position) -> None:
        with goodput.phase("checkpoint"):
            resolved = {**config.to_dict(), "optimizer": dataclasses.asdict(optim)}
            beside = {"averages": averages.get_state(), "seconds": seconds()}
            checkpointer.save(state, position | beside, resolved)
        times.saved(step)
        speed.start(step)

    step = finished = start
    pending, position = None, saved
    earlier, begun_steps = float((saved or {}).get("seconds", 0.0)), time.perf_counter()

    def seconds() -> float:
        return earlier + time.perf_counter() - begun_steps

    def out_of_time() -> bool:
        return 0 < run.max_seconds <= seconds()

    dispatched: tuple[int, Any] = (start, None)
    compiled: dict[tuple[int, ...], Callable] = {}
    speed = Speed(start)
    if sampler and lora.rank and resumed is None:
        # An adapter starts as nothing: these are the samples without it.
        sampler(state.best, 0, workdir / "samples" / f"step_{0:07d}.png")
    with (
        checkpointer,
        writer or contextlib.nullcontext(),
        contextlib.closing(goodput),
        ledger or contextlib.nullcontext(),
        contextlib.closing(profiler),
        watchdog,
        hosts.stops_without_peers(),
    ):
        if start < run.steps:
            following = read()
            first = put(following[0])
            with goodput.phase("start"):
                compile_steps(first, *(abstract_batch(first, shape) for shape in shapes))
            if run.check_every:
                check = IntegrityCheck(
                    graphdef,
                    layout,
                    mesh,
                    objective,
                    modalities=model.modalities,
                    step=start,
                    probe=first,
                    parts=optim.accumulation,
                )
            del first
        # Before this there is nothing to save, and a signal ends the process at once.
        with signals.asks_to_stop("training saves after this step and ends") as asked:
            stop = False
            begun_steps = time.perf_counter()
            goodput.begin_steps()
            while step < run.steps:
                stop, overdue = vote(bool(asked) or out_of_time(), times.overdue())
                if stop:
                    break
                with goodput.phase("other"):
                    annotated = profiler.step(step + 1, state)
                with annotated:
                    batch, position = following
                    on_device = put(batch)
                    shape = on_device["latents"].shape
                    if shape not in compiled:  # of an iterator that did not say so
                        with goodput.phase("start"):
                            compile_steps(on_device)
                    with jax.transfer_guard("disallow"):
                        state, metrics = compiled[shape](state, on_device, key)
                    goodput.dispatched(metrics)
                    step += 1
                    speed.dispatched(step, *work_of(shape))
                    dispatched = (step, metrics)
                    checkpointer.check()
                    if pending is not None:
                        finish(*pending)
                    pending = (step, np.asarray(batch["index"]), metrics)
                    if step < run.steps:
                        following = read()
                    if run.check_every and step % run.check_every == 0:
                        finish(*pending)
                        pending = None
                        with goodput.phase("other"):
                            check(state, step)
                        speed.start(step)
                    if times.due(step, overdue) or step == run.steps:
                        if pending is not None:
                            finish(*pending)
                        pending = None
                        save(state, position)
                    if sampler and (step % run.sample_every == 0 or step in (1, run.steps)):
                        if pending is not None:
                            finish(*pending)
                            pending = None
                        with goodput.phase("sampling"):
                            sampler(state.best, step, workdir / "samples" / f"step_{step:07d}.png")
                        speed.start(step)
            if pending is not None:
                finish(*pending)
            if stop and step > start:
                if times.last != step:
                    save(state, position)
                    with goodput.phase("checkpoint"):
                        checkpointer.wait()
                more = "run it again to continue"
                if asked:
                    by = f"signal {asked[0]}"
                elif out_of_time():
                    by, more = f"config.train.max_seconds={run.max_seconds:g}", "raise it for more"
                else:
                    by = "a signal to another process"
                log(f"stopped by {by} at step {step}; saved; {more}")
            with goodput.phase("checkpoint"):
                checkpointer.wait()
    log(goodput_line(goodput.shares(), goodput.losses()))
    return Ended(step=step, stopped=stop and not out_of_time())
