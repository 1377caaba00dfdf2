"""The start of a run: its configuration, input, model and optimiser, and the state to train on."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import ml_collections
import optax
from flax import nnx
from jax.sharding import Mesh

from unityvideo_jax.checkpoints.run_folder import read_config
from unityvideo_jax.errors import UserError
from unityvideo_jax.flow_matching import ObjectiveConfig
from unityvideo_jax.models.config import DiTConfig, parameter_count
from unityvideo_jax.models.lora import LoraConfig
from unityvideo_jax.parallel.rules import AxisRules, num_parts
from unityvideo_jax.settings.sections import section
from unityvideo_jax.training import adapters
from unityvideo_jax.training import state as state_lib
from unityvideo_jax.training.batches import BuildIterator, Inputs, check_divides
from unityvideo_jax.training.checkpoints import Checkpointer
from unityvideo_jax.training.config import TrainConfig
from unityvideo_jax.training.curriculum import stages
from unityvideo_jax.training.metrics import Averages
from unityvideo_jax.training.optimizer import OptimizerConfig, make_optimizer
from unityvideo_jax.training.start import start_from
from unityvideo_jax.training.state import TrainState

RULES = AxisRules()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setup:
    """What a run trains with; its state, which every step replaces, stands apart.

    Attributes:
      run, model, objective, optim, lora: sections of the configuration; `optim` as the run pinned
        it, so that one that resumes keeps the schedule that it started with.
      inputs: batches from the next step on.
      averages: metrics of the steps since the last record.
      checkpointer: of the run; the caller closes it.
      graphdef, layout: the model's structure, and the shardings of the state.
      optimizer: turns gradients into updates.
      start: steps done so far.
      saved: what the checkpoint holds beside the state; empty at the start of a run.
    """

    run: TrainConfig
    model: DiTConfig
    objective: ObjectiveConfig
    optim: OptimizerConfig
    lora: LoraConfig
    inputs: Inputs
    averages: Averages
    checkpointer: Checkpointer
    graphdef: nnx.GraphDef
    layout: TrainState
    optimizer: optax.GradientTransformation
    start: int
    saved: Mapping[str, Any]


def set_up(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    build_iterator: BuildIterator,
    mesh: Mesh,
    log: Callable[[str], None],
    fallback: bool,
) -> tuple[Setup, TrainState]:
    """Makes all that a run trains with, and restores its latest checkpoint or starts its weights.

    Arguments are those of `loop.train`.

    Raises:
      UserError: a config that cannot run, data that does not fit, or a damaged checkpoint.
    """
    run = section(TrainConfig, config, "train")
    model = section(DiTConfig, config, "model")
    objective = section(ObjectiveConfig, config, "objective")
    optim = section(OptimizerConfig, read_config(workdir), "optimizer")
    lora = LoraConfig.of(config)
    adapters.check(lora, config.get("init_from"))
    _check_timesteps(model, objective)
    weights = dict(config.data.modality_weights)
    plan = tuple(s for s in stages(config.curriculum, weights, run.steps) if s.start < run.steps)

    # Input, first of all: data that does not fit must not cost the making of a model.
    checkpointer = Checkpointer(workdir, run.keep)
    if fallback:
        checkpointer.fall_back(log)
    resumed = checkpointer.latest()
    inputs, averages = Inputs(plan, build_iterator, resumed or 0, log), Averages()
    parts = num_parts(("slice", "data", "fsdp"), mesh) * optim.accumulation
    for rows in dict.fromkeys(shape[0] for shape in inputs.shapes) or (run.batch_size,):
        check_divides("config.train.batch_size", rows, parts)

    optimizer = make_optimizer(optim, run.steps)
    graphdef, state, layout = state_lib.create(
        model, optimizer, mesh, RULES, config.seed, keep_ema=optim.ema_decay > 0, lora=lora
    )
    count = sum(x.size for x in jax.tree.leaves(state.params))
    trained = f"{count / 1e6:.2f}M parameters"
    if lora.rank:
        trained += f" trained beside a base of {parameter_count(model) / 1e6:.2f}M in {lora.base}"
    log(f"model: {trained}; mesh: {dict(mesh.shape)}")

    saved: dict[str, Any] = {}
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
            state, model, lora, config.init_from, fallback, fresh=resumed is None, log=log
        )
        log(f"adapters of rank {lora.rank} stand beside the weights of {config.init_from}")
    made = Setup(
        run=run,
        model=model,
        objective=objective,
        optim=optim,
        lora=lora,
        inputs=inputs,
        averages=averages,
        checkpointer=checkpointer,
        graphdef=graphdef,
        layout=layout,
        optimizer=optimizer,
        start=resumed or 0,
        saved=saved,
    )
    return made, state


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
