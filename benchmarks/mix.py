"""Throughput of a run that mixes buckets, beside the weighted mean of its buckets alone.

Command: python benchmarks/mix.py                       # worlds_mini on the devices that are there
         python benchmarks/mix.py --steps=1 --rounds=1 --batch=4 \
             --bucket 2x5x32x32*2 1x1x48x32 2x1x32x32 \
             --set model.dim=48 model.ffn_dim=96 model.num_heads=2 model.num_layers=2 \
             model.dtype=float32                        # a rehearsal on a CPU

A bucket is STREAMSxFRAMESxHEIGHTxWIDTH, and *WEIGHT if it is not 1; the first one has
config.train.batch_size samples, and the others about as many tokens. Batches are random latents and
texts in host memory, in float16 as shards give them; they are put on the devices, and metrics read
one step late, as `train` does. Each round takes the same steps twice: bucket after bucket, then
mixed in the order that training draws. A throughput is tokens of those steps over their time; the
table has medians of the rounds, of which the first is left out.
"""

import argparse
import datetime
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from step import read_config

from unityvideo_jax.errors import UserError
from unityvideo_jax.flow_matching import ObjectiveConfig
from unityvideo_jax.inputs.buckets import Bucket
from unityvideo_jax.inputs.config import as_data_config
from unityvideo_jax.inputs.mixing import Mixture
from unityvideo_jax.models.config import DiTConfig
from unityvideo_jax.parallel.mesh import MeshConfig, make_mesh
from unityvideo_jax.parallel.rules import AxisRules, put_batch
from unityvideo_jax.planning.fit import batch_parts, check_divides, latent_shape, step_tokens
from unityvideo_jax.settings.sections import section
from unityvideo_jax.training import state as state_lib
from unityvideo_jax.training.optimizer import OptimizerConfig, make_optimizer
from unityvideo_jax.training.step import jit_train_step

BUCKETS = ("2x17x128x128*2", "2x17x96x160", "1x1x256x256")
# Batches that each bucket takes in turn.
DISTINCT = 3


def read_bucket(text: str) -> dict[str, Any]:
    """Parses the entry of `config.data.buckets` that a flag names.

    Raises:
      UserError: another form than STREAMSxFRAMESxHEIGHTxWIDTH*WEIGHT.
    """
    size, _, weight = text.partition("*")
    try:
        streams, frames, height, width = map(int, size.split("x"))
        share = float(weight or 1)
    except ValueError:
        raise UserError(f"--bucket={text}: give STREAMSxFRAMESxHEIGHTxWIDTH*WEIGHT") from None
    return dict(streams=streams, frames=frames, height=height, width=width, weight=share)


def random_batch(config: Any, bucket: Bucket, seed: int) -> dict[str, np.ndarray]:
    """Makes a batch as shards give it, of any modality beside RGB."""
    rng, rows, model = np.random.default_rng(seed), bucket.batch_size, config.model
    text = (rows, bucket.streams, config.data.text_length, model.text_dim)
    latents = (rows, bucket.streams, *latent_shape(config, bucket.size))
    others = rng.integers(1, len(model.modalities), (rows, bucket.streams - 1))
    return {
        "latents": rng.standard_normal(latents, np.float32).astype(np.float16),
        "modality": np.concatenate([np.zeros((rows, 1)), others], 1).astype(np.int32),
        "context": rng.standard_normal(text, np.float32).astype(np.float16),
    }


def seconds_of(places: Sequence[int], dispatch: Callable[[int], Any]) -> float:
    """Time of steps of these buckets, the next one always dispatched before the last is read."""
    start, pending = time.perf_counter(), None
    for place in places:
        metrics = dispatch(place)
        if pending is not None:
            jax.device_get(pending)
        pending = metrics
    jax.device_get(pending)
    return time.perf_counter() - start


def measure(args: argparse.Namespace) -> None:
    """Compiles every bucket's step, takes the rounds and prints the table."""
    config = read_config(args.config, args.set)
    config.curriculum = ()
    if args.batch:
        config.train.batch_size = args.batch
    mesh = make_mesh(section(MeshConfig, config, "mesh"))
    entries = tuple(map(read_bucket, args.bucket))
    first = entries[0]
    with config.unlocked():
        config.data.update(height=first["height"], width=first["width"])
        config.data.update(num_frames=first["frames"], buckets=entries)
        config.data.streams = (*(0.0,) * (first["streams"] - 1), 1.0)
        config.data.batch_multiple = batch_parts(config, mesh)
    shapes = as_data_config(config.data).shapes(config.train.batch_size)
    check_divides(config, shapes, batch_parts(config, mesh))
    tokens = [step_tokens(config, bucket) for bucket in shapes]
    model = section(DiTConfig, config, "model")
    optim = section(OptimizerConfig, config, "optimizer")
    objective = section(ObjectiveConfig, config, "objective")
    optimizer = make_optimizer(optim, config.train.steps)
    rules, key = AxisRules(), jax.random.key(0)
    batches = [
        [random_batch(config, bucket, seed) for seed in range(DISTINCT)] for bucket in shapes
    ]
    with jax.set_mesh(mesh):
        graphdef, state, layout = state_lib.create(
            model, optimizer, mesh, rules, 0, keep_ema=optim.ema_decay > 0
        )
        step = jit_train_step(
            graphdef, layout, model, objective, optim, optimizer, max_traces=len(shapes)
        )
        start = time.perf_counter()
        compiled = [
            step.lower(state, put_batch(of_bucket[0], rules, mesh), key).compile()
            for of_bucket in batches
        ]
        print(f"compiled {len(shapes)} steps in {time.perf_counter() - start:.0f} s", flush=True)
        holder, drawn = [state], [0] * len(shapes)
        del state

        def dispatch(place: int) -> Mapping[str, Any]:
            batch = batches[place][drawn[place] % DISTINCT]
            drawn[place] += 1
            holder[0], metrics = compiled[place](holder[0], put_batch(batch, rules, mesh), key)
            return metrics

        mixture = Mixture([bucket.weight for bucket in shapes])
        order = [mixture[n][0] for n in range(args.steps * mixture.period)]
        alone, mixed = [], []
        for _ in range(args.rounds + 1):
            counts = [order.count(place) for place in range(len(shapes))]
            alone.append([seconds_of([p] * n, dispatch) for p, n in enumerate(counts)])
            mixed.append(seconds_of(order, dispatch))
    # The first round warms up.
    each = np.median(np.asarray(alone[1:]), axis=0)
    ratios = [sum(row) / whole for row, whole in zip(alone[1:], mixed[1:], strict=True)]
    whole, total = float(np.median(mixed[1:])), sum(tokens[place] for place in order)

    device = jax.devices()[0].device_kind
    print(f"{mesh.size} x {device}, jax {jax.__version__}, {datetime.date.today()}")
    print(f"{args.rounds} rounds of {len(order)} steps, {model.num_layers} layers of {model.dim}")
    print("| bucket | steps | samples | tokens | step ms | tokens/s |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for bucket, count, seconds, own in zip(shapes, counts, each, tokens, strict=True):
        print(
            f"| {bucket.label} | {count / len(order):.1%} | {bucket.batch_size} | {own:,} | "
            f"{1e3 * seconds / count:.2f} | {own * count / seconds:,.0f} |"
        )
    for name, seconds in (("each alone, weighted", float(each.sum())), ("mixed", whole)):
        print(
            f"| {name} | | | {total // len(order):,} | {1e3 * seconds / len(order):.2f} | "
            f"{total / seconds:,.0f} |"
        )
    low, high = min(ratios), max(ratios)
    print(f"mixed / alone: {np.median(ratios):.1%} (rounds: {low:.1%} to {high:.1%})", flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures what the flags ask for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="configs/worlds_mini.py")
    parser.add_argument("--set", nargs="*", default=[], help="KEY=VALUE of the config.")
    parser.add_argument("--bucket", nargs="+", default=list(BUCKETS))
    parser.add_argument("--batch", type=int, default=0, help="Samples of the first bucket.")
    parser.add_argument("--steps", type=int, default=12, help="Periods of the mix per round.")
    parser.add_argument("--rounds", type=int, default=3)
    measure(parser.parse_args(argv))


if __name__ == "__main__":
    main()
