"""Training step of a config, beside diffusers' Wan transformer of the same size on one device.

Command: python benchmarks/step.py --config=configs/wan21_1_3b.py --latents=13,60,104 --batch=1 \
             --remat full attention --peer checkpointed

         python benchmarks/step.py --config=configs/wan21_1_3b.py --batch=2 --mesh=fsdp=2 \
             --remat full

         python benchmarks/step.py --config=configs/wan21_1_3b.py --remat attention \
             --peer checkpointed --set lora.rank=32 lora.base=int8

Every line is measured in a process of its own, so that no two share the devices' memory. Latents
and texts are random. "Model TFLOP/s" is of one device; it counts matrix products and attention of
forward and backward, nothing recomputed, by the same formula for both:
`models.config.model_flops`. "Loss" is the first step's, the same on every mesh.

With `lora.rank` adapters of that rank train beside frozen random weights, on the layers of
`lora.targets`, and in diffusers' by PEFT on the same layers, beside bfloat16. "Model TFLOP/s" then
counts twice the forward pass, as `train` does: frozen weights have no gradient.
"""

import argparse
import ast
import collections
import contextlib
import dataclasses
import datetime
import glob
import json
import math
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from wan import random_arrays

from unityvideo_jax.runtime import failures
from unityvideo_jax.settings import presets

WARM_UP = 2


def read_config(path: str, settings: Sequence[str] = ()) -> Any:
    """Reads the config of a file, with settings such as `model.remat=full`."""
    config = presets.load_config(path)
    for setting in settings:
        key, value = setting.split("=", 1)
        with contextlib.suppress(ValueError, SyntaxError):  # a text without quotes
            value = ast.literal_eval(value)
        config.update_from_flattened_dict({key: value})
    return config


def median_seconds(step: Callable[[], Any], wait: Callable[[Any], Any], steps: int) -> float:
    """Median of the time from the end of a step to that of the next, the first ones apart.

    As in `train`, the next step is always dispatched before one waits for the last.
    """
    ends, running = [], step()
    for _ in range(WARM_UP + steps):
        following = step()
        wait(running)
        ends.append(time.perf_counter())
        running = following
    wait(running)
    return float(np.median(np.diff(ends)[WARM_UP - 1 :]))


def measure_ours(args: argparse.Namespace) -> dict[str, Any]:
    """Measures compilation and step time, FLOP/s and memory of the step that `train` runs."""
    import jax
    import jax.numpy as jnp

    from unityvideo_jax.flow_matching import ObjectiveConfig
    from unityvideo_jax.models.config import DiTConfig, model_flops
    from unityvideo_jax.models.lora import LoraConfig
    from unityvideo_jax.parallel.mesh import make_mesh
    from unityvideo_jax.parallel.rules import AxisRules, put_batch
    from unityvideo_jax.plan import parse_mesh
    from unityvideo_jax.training import state as state_lib
    from unityvideo_jax.training.optimizer import OptimizerConfig, make_optimizer
    from unityvideo_jax.training.step import jit_train_step

    config = read_config(args.config, [f"model.remat={args.remat[0]}", *args.set])
    model = DiTConfig(**config.model)
    optim, lora = OptimizerConfig(**config.optimizer), LoraConfig.of(config)
    optimizer = make_optimizer(optim, config.train.steps)
    sizes = parse_mesh(args.mesh, slices=1)
    mesh = make_mesh(sizes, jax.devices()[: math.prod(dataclasses.astuple(sizes))])
    with jax.set_mesh(mesh):
        graphdef, state, layout = state_lib.create(
            model, optimizer, mesh, AxisRules(), 0, keep_ema=optim.ema_decay > 0, lora=lora
        )
        state = dataclasses.replace(state, frozen=random_arrays(state.frozen))
        keys = jax.random.split(jax.random.key(1), 3)
        text = (args.batch, 2, model.text_len, model.text_dim)
        batch = {
            "latents": jax.random.normal(
                keys[0], (args.batch, 2, *args.latents, model.in_channels)
            ),
            "modality": jnp.tile(jnp.array([[0, 1]], jnp.int32), (args.batch, 1)),
            "context": jax.random.normal(keys[1], text),
        }
        batch = put_batch(batch, AxisRules(), mesh)
        step = jit_train_step(
            graphdef, layout, model, ObjectiveConfig(**config.objective), optim, optimizer
        )
        start = time.perf_counter()
        compiled = step.lower(state, batch, keys[2]).compile()
        compile_seconds = time.perf_counter() - start
        holder, losses = [state], []
        del state

        def once() -> Any:
            holder[0], metrics = compiled(holder[0], batch, keys[2])
            losses.append(metrics["loss"])
            return metrics

        seconds = median_seconds(once, jax.block_until_ready, args.steps)
        if args.profile:
            with tempfile.TemporaryDirectory() as folder:
                with jax.profiler.trace(folder):
                    jax.block_until_ready(once())
                print_profile(folder, compiled.as_text(), args.profile)
    stats = jax.local_devices()[0].memory_stats() or {}
    total, count = losses[0]
    return {
        "device": jax.devices()[0].device_kind,
        "version": f"jax {jax.__version__}",
        "compile": compile_seconds,
        "seconds": seconds,
        "flops": lora.passes * args.batch * model_flops(model, args.latents, 2) / mesh.size,
        "memory": stats.get("peak_bytes_in_use", 0),
        "loss": float(total / count),
    }


def print_profile(folder: str, program: str, lines: int) -> None:
    """Prints the kernels that took longest in a trace, and the operation that each came from."""
    import jax

    sources = dict(re.findall(r"%?([\w.-]+) = [^\n]*metadata=\{[^}]*op_name=\"([^\"]*)\"", program))
    (file,) = glob.glob(f"{folder}/**/*.xplane.pb", recursive=True)
    total: collections.Counter[str] = collections.Counter()
    count: collections.Counter[str] = collections.Counter()
    times = []
    for plane in jax.profiler.ProfileData.from_file(file).planes:
        if "GPU" not in plane.name and "TPU" not in plane.name:
            continue
        for line in plane.lines:
            if "Stream" not in line.name and line.name != "XLA Ops":
                continue
            for event in line.events:
                name = str(dict(event.stats).get("hlo_op", event.name))
                total[name] += event.duration_ns
                count[name] += 1
                times += [event.start_ns, event.start_ns + event.duration_ns]
    whole = sum(total.values())
    print("| kernel | calls | ms | share | operation |\n| --- | ---: | ---: | ---: | --- |")
    for name, nanoseconds in total.most_common(lines):
        source = sources.get(name, "").replace("|", "/")[-110:]
        print(
            f"| {name} | {count[name]} | {nanoseconds / 1e6:.3f} | {nanoseconds / whole:.1%} | "
            f"{source} |"
        )
    span = max(times, default=0) - min(times, default=0)
    print(f"all kernels: {whole / 1e6:.0f} ms, from first to last {span / 1e6:.0f} ms", flush=True)


def measure_peer(args: argparse.Namespace) -> dict[str, Any]:
    """Measures the same for diffusers' transformer: streams side by side, blocks compiled.

    float32 weights, bfloat16 autocast, as its training examples do; beside adapters, the frozen
    weights are bfloat16.
    """
    import diffusers
    import torch

    from unityvideo_jax.models.config import DiTConfig, model_flops
    from unityvideo_jax.models.lora import LoraConfig

    config = read_config(args.config, args.set)
    lora = LoraConfig.of(config)
    # It has one text and no switcher.
    model = DiTConfig(**{**config.model, "in_context": False, "switcher": "none"})
    time_, height, width = args.latents
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device(device):
        peer = diffusers.WanTransformer3DModel(
            patch_size=model.patch_size,
            num_attention_heads=model.num_heads,
            attention_head_dim=model.head_dim,
            in_channels=model.in_channels,
            out_channels=model.in_channels,
            text_dim=model.text_dim,
            freq_dim=model.freq_dim,
            ffn_dim=model.ffn_dim,
            num_layers=model.num_layers,
        )
    if lora.rank:
        add_peer_adapters(peer, lora.rank)
    if args.peer[0] == "checkpointed":
        peer.enable_gradient_checkpointing()
    for block in peer.blocks:
        block.compile()
    trained = [p for p in peer.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=device == "cuda")
    latents = torch.randn(args.batch, model.in_channels, time_, height, 2 * width, device=device)
    target = torch.randn_like(latents)
    text = torch.randn(args.batch, model.text_len, model.text_dim, device=device)
    timestep = torch.full((args.batch,), 500, device=device)

    def once() -> Any:
        with torch.autocast(device, torch.bfloat16):
            velocity = peer(latents, timestep, text, return_dict=False)[0]
        loss = torch.nn.functional.mse_loss(velocity.float(), target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        # Reading the loss would wait for all that was dispatched behind it as well.
        end = torch.cuda.Event() if device == "cuda" else None
        if end:
            end.record()
        return loss, end

    def wait(step: Any) -> None:
        if end := step[1]:
            end.synchronize()

    start = time.perf_counter()
    first = once()
    wait(first)
    compile_seconds = time.perf_counter() - start
    seconds = median_seconds(once, wait, args.steps)
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "version": f"diffusers {diffusers.__version__}, torch {torch.__version__}",
        "compile": compile_seconds - seconds,
        "seconds": seconds,
        "flops": lora.passes * args.batch * model_flops(model, (time_, height, 2 * width), 1),
        "memory": torch.cuda.max_memory_allocated() if device == "cuda" else 0,
        "loss": first[0].item(),
    }


def add_peer_adapters(peer: Any, rank: int) -> None:
    """Freezes diffusers' transformer in bfloat16 and adds PEFT's adapters, which are float32.

    They stand on queries, keys, values and outputs of both attentions and on the feed-forward.
    """
    import peft
    import torch

    peer.requires_grad_(False).to(torch.bfloat16)
    layers = ["to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2"]
    # Both of an adapter's matrices random: the first step's gradients are those of any later step.
    peer.add_adapter(
        peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=layers, init_lora_weights=False)
    )
    for parameter in peer.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True, help="a file of configs/")
    parser.add_argument(
        "--latents",
        type=lambda text: tuple(int(n) for n in text.split(",")),
        default=(13, 60, 104),
        help="time,height,width of one stream's latents; a sample has two streams",
    )
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--mesh", default="data=1", help="of ours, such as fsdp=2,context=2")
    parser.add_argument("--set", nargs="*", default=[], help="settings of ours: KEY=VALUE")
    parser.add_argument("--remat", nargs="*", default=[], help="policies of ours to measure")
    parser.add_argument(
        "--peer", nargs="*", default=[], choices=("checkpointed", "plain"), help="and of diffusers'"
    )
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--profile", type=int, default=0, help="kernels of ours to list")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> None:
    """Measures each line in a process of its own and prints the table."""
    args = parse(argv)
    if args.one:
        print(json.dumps((measure_peer if args.peer else measure_ours)(args)))
        return
    shared = [f"--config={args.config}", f"--latents={','.join(map(str, args.latents))}"]
    shared += [f"--batch={args.batch}", f"--steps={args.steps}", f"--profile={args.profile}"]
    shared += [f"--mesh={args.mesh}", "--set", *args.set]
    runs = [("ours", "--remat", name) for name in args.remat]
    runs += [("diffusers", "--peer", name) for name in args.peer]
    name = pathlib.Path(args.config).stem
    print(f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC; {name}, batch {args.batch}")
    print(f"latents of a stream: {args.latents}, mesh {args.mesh}, {' '.join(args.set)}\n")
    print("| system | recomputation | compile s | step s | model TFLOP/s | peak GiB | loss |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |", flush=True)
    for system, flag, value in runs:
        command = [sys.executable, __file__, "--one", *shared, flag, value]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = failures.cause_of(done.returncode, done.stderr)
            print(f"| {system} | {value} | failed: {reason} |", flush=True)
            continue
        *profile, last = done.stdout.strip().splitlines()
        row = json.loads(last)
        print(
            f"| {system}, {row['version']}, {row['device']} | {value} | {row['compile']:.0f} | "
            f"{row['seconds']:.3f} | {row['flops'] / row['seconds'] / 1e12:.0f} | "
            f"{row['memory'] / 2**30:.1f} | {row['loss']:.5f} |",
            flush=True,
        )
        for text in profile:
            print(text, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
