"""What checkpoints, their digests and checks of the devices cost, beside a step.

Command: python benchmarks/safety.py --config=configs/worlds_mini.py --set model.num_layers=30
         PYTHONPATH=.:benchmarks launch/local.sh 2 safety --config=configs/worlds_mini.py --fsdp=2

Prints seconds of a training step, of one `train.check_every` check, of a checkpoint's digests, of
the whole save with them, of the part of it that training waits for (stall), and of a step while the
rest is written; each the median of `--repeats` after a first that compiles. Batches are random.
With several processes each prints its own line of every figure, and the folder for temporary files
is theirs together.
"""

import argparse
import contextlib
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from step import read_config

from unityvideo_jax.checkpoints import manifest
from unityvideo_jax.flow_matching import ObjectiveConfig
from unityvideo_jax.models.config import DiTConfig
from unityvideo_jax.parallel import hosts
from unityvideo_jax.parallel.mesh import MeshConfig, make_mesh
from unityvideo_jax.parallel.rules import AxisRules, put_batch
from unityvideo_jax.settings.sections import section
from unityvideo_jax.training import checkpoints
from unityvideo_jax.training import state as state_lib
from unityvideo_jax.training.integrity import IntegrityCheck
from unityvideo_jax.training.optimizer import OptimizerConfig, make_optimizer
from unityvideo_jax.training.step import jit_train_step

# All processes take as many steps: none waits for a step that another does not take.
STEPS_BESIDE = 2


def median(function: Callable[[], Any], repeats: int) -> float:
    """Median seconds of a call, its results waited for, after one that compiles."""
    jax.block_until_ready(function())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def random_batch(model: DiTConfig, size: int, latents: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Makes a batch of RGB and depth as `training.batches` takes it."""
    draw = np.random.default_rng(0)
    shape = (size, 2, *latents, model.in_channels)
    return {
        "latents": draw.standard_normal(shape, np.float32),
        "modality": np.tile(np.arange(2, dtype=np.int32), (size, 1)),
        "context": draw.standard_normal((size, 2, model.text_len, model.text_dim), np.float32),
    }


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="configs/worlds_mini.py")
    parser.add_argument("--set", nargs="*", default=[], help="such as model.num_layers=30")
    parser.add_argument("--latents", type=int, nargs=3, default=(5, 16, 16))
    parser.add_argument("--fsdp", type=int, default=1, help="parts of the parameters")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()

    hosts.initialize()
    config = read_config(args.config, args.set)
    model, optim = (
        section(DiTConfig, config, "model"),
        section(OptimizerConfig, config, "optimizer"),
    )
    objective = section(ObjectiveConfig, config, "objective")
    mesh, rules = make_mesh(MeshConfig(data=-1, fsdp=args.fsdp)), AxisRules()
    with jax.set_mesh(mesh):
        optimizer = make_optimizer(optim, config.train.steps)
        graphdef, state, layout = state_lib.create(
            model, optimizer, mesh, rules, config.seed, keep_ema=optim.ema_decay > 0
        )
        rows = config.train.batch_size // hosts.feed_share(mesh)[1]
        batch = random_batch(model, rows, tuple(args.latents))
        batch = put_batch(batch, rules, mesh)
        check = IntegrityCheck(
            graphdef,
            layout,
            mesh,
            objective,
            modalities=model.modalities,
            step=0,
            probe=batch,
            parts=optim.accumulation,
        )
        seconds = {"check": median(lambda: check(state, 0), args.repeats)}
        trees = checkpoints.saved_items(state)
        seconds["digests"] = median(lambda: manifest.make(trees, {}), args.repeats)
        step = jit_train_step(graphdef, layout, model, objective, optim, optimizer)
        key = jax.random.key(1)

        def advance() -> Any:
            nonlocal state
            state, metrics = step(state, batch, key)
            return metrics

        seconds["step"] = median(advance, 4 * args.repeats)
        saves, beside = [], []
        for _ in range(args.repeats + 1):
            with shared_folder() as folder:
                saves.append(save(folder / "alone", state))
                beside += save_beside(folder / "beside", state, advance)
        for name, column in zip(("stall", "save"), zip(*saves[1:], strict=True), strict=True):
            seconds[name] = statistics.median(column)
        seconds["step while saving"] = statistics.median(beside)
        weights = sum(x.size for x in jax.tree.leaves(state.params))
    device = jax.devices()[0].device_kind
    process = f"process {jax.process_index()}: " if jax.process_count() > 1 else ""
    print(f"{process}{weights / 1e6:.1f}M weights, {jax.device_count()} x {device}")
    for name, one in seconds.items():
        print(f"{process}{name:17} {one:.4f} s", flush=True)
    print(f"{process}digests / save {seconds['digests'] / seconds['save']:.2%}")
    print(f"{process}stall / save   {seconds['stall'] / seconds['save']:.2%}")
    print(f"{process}check / step   {seconds['check'] / seconds['step']:.2f}")


@contextlib.contextmanager
def shared_folder() -> Iterator[pathlib.Path]:
    """A temporary folder, the same one in all processes of this machine."""
    with contextlib.ExitStack() as stack:
        made = stack.enter_context(tempfile.TemporaryDirectory()) if hosts.is_first() else ""
        name = np.zeros(256, np.uint8)
        name[: len(made)] = list(made.encode())
        name = multihost_utils.broadcast_one_to_all(name)
        yield pathlib.Path(bytes(name).rstrip(b"\0").decode())
        multihost_utils.sync_global_devices("saved")


def save(folder: pathlib.Path, state: state_lib.TrainState) -> tuple[float, float]:
    """Saves a checkpoint.

    Returns:
      Seconds until training may continue, and until the checkpoint is whole.
    """
    with checkpoints.Checkpointer(folder, keep=1) as checkpointer:
        jax.block_until_ready(state)
        begun = time.perf_counter()
        checkpointer.save(state, {}, {})
        stall = time.perf_counter() - begun
        checkpointer.wait()
        return stall, time.perf_counter() - begun


def save_beside(
    folder: pathlib.Path, state: state_lib.TrainState, advance: Callable[[], Any]
) -> list[float]:
    """Saves a checkpoint while training continues; seconds of the steps that begin meanwhile."""
    steps = []
    with checkpoints.Checkpointer(folder, keep=1) as checkpointer:
        checkpointer.save(state, {}, {})
        for _ in range(STEPS_BESIDE):
            begun = time.perf_counter()
            jax.block_until_ready(advance())
            steps.append(time.perf_counter() - begun)
    return steps


if __name__ == "__main__":
    main()
