"""What digests of checkpoints and checks of the devices cost, beside a save and a step.

Command: python benchmarks/safety.py --config=configs/worlds_mini.py --set model.num_layers=30

Prints seconds of a training step, of one `train.check_every` check, of a checkpoint's digests and
of the whole save with them, each the median of `--repeats` after a first that compiles. Batches
are random.
"""

import argparse
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from step import read_config

from unityvideo_jax.checkpoints import manifest
from unityvideo_jax.flow_matching import ObjectiveConfig
from unityvideo_jax.models.config import DiTConfig
from unityvideo_jax.parallel.mesh import MeshConfig, make_mesh
from unityvideo_jax.parallel.rules import AxisRules, put_batch
from unityvideo_jax.settings.sections import section
from unityvideo_jax.training import checkpoints
from unityvideo_jax.training import state as state_lib
from unityvideo_jax.training.integrity import IntegrityCheck
from unityvideo_jax.training.optimizer import OptimizerConfig, make_optimizer
from unityvideo_jax.training.step import jit_train_step


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
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()

    config = read_config(args.config, args.set)
    model, optim = (
        section(DiTConfig, config, "model"),
        section(OptimizerConfig, config, "optimizer"),
    )
    objective = section(ObjectiveConfig, config, "objective")
    mesh, rules = make_mesh(MeshConfig(data=-1)), AxisRules()
    with jax.set_mesh(mesh):
        optimizer = make_optimizer(optim, config.train.steps)
        graphdef, state, layout = state_lib.create(
            model, optimizer, mesh, rules, config.seed, keep_ema=optim.ema_decay > 0
        )
        batch = random_batch(model, config.train.batch_size, tuple(args.latents))
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
        with tempfile.TemporaryDirectory() as folder:
            seconds["save"] = median(lambda: save(pathlib.Path(folder), state), args.repeats)
        # Last, because it donates the state.
        step = jit_train_step(graphdef, layout, model, objective, optim, optimizer)
        key = jax.random.key(1)

        def advance() -> Any:
            nonlocal state
            state, metrics = step(state, batch, key)
            return metrics

        seconds["step"] = median(advance, 4 * args.repeats)
        weights = sum(x.size for x in jax.tree.leaves(state.params))
    device = jax.devices()[0].device_kind
    print(f"{weights / 1e6:.1f}M weights, {jax.device_count()} x {device}")
    for name in ("step", "check", "digests", "save"):
        print(f"{name:8} {seconds[name]:.4f} s")
    print(f"digests / save {seconds['digests'] / seconds['save']:.2%}")
    print(f"check / step   {seconds['check'] / seconds['step']:.2f}")


def save(folder: pathlib.Path, state: state_lib.TrainState) -> None:
    """Saves a checkpoint into a new folder, and waits for it."""
    with checkpoints.Checkpointer(folder / str(time.time_ns()), keep=1) as checkpointer:
        checkpointer.save(state, {}, {})
        checkpointer.wait()


if __name__ == "__main__":
    main()
