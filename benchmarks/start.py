"""From the start of a process to the first sampled step, and where that time goes.

Command: python benchmarks/start.py
         python benchmarks/start.py wan
         python benchmarks/start.py trace

  start  worlds-mini in a new process, twice, with an empty and then a filled cache of compiled
         programs: importing, loading weights, and a call of one step, divided into the step (with
         the text encoder) and decoding. What loads side by side, and tracing, lowering, compiling
         and reading the cache, as JAX reports them, are parts of these.
  wan    the same for Wan 2.1's 1.3B at 81x480x832 with UMT5-XXL, its VAE in float32 and then in
         bfloat16: random weights of these sizes, saved by diffusers and transformers and
         converted to a model stored in bfloat16; 33 GB of temporary files.
  trace  what of that the host does for the 1.3B at 81x480x832, 50 steps, by shapes alone: tracing
         and lowering need no weights and no accelerator.
"""

import argparse
import collections
import functools
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

EVENTS = {
    "/jax/core/compile/jaxpr_trace_duration": "trace",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lower",
    "/jax/core/compile/backend_compile_duration": "compile or load",
    "/jax/compilation_cache/cache_retrieval_time_sec": "load",
}
HITS = {
    "/jax/compilation_cache/cache_hits": "hits",
    "/jax/compilation_cache/cache_misses": "misses",
}
FIRST_STEP = "first step"


class Clock:
    """Wall and processor seconds of parts of a process."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[float, float]] = {}
        self._since = time.perf_counter(), time.process_time()

    def lap(self, name: str) -> None:
        """Ends a part."""
        now = time.perf_counter(), time.process_time()
        self.rows[name] = now[0] - self._since[0], now[1] - self._since[1]
        self._since = now


def one(args: argparse.Namespace) -> None:
    """A start, as a JSON line."""
    clock = Clock()
    import jax

    from unityvideo_jax import cli
    from unityvideo_jax.runtime import threads
    from unityvideo_jax.sampling.pipeline import Pipeline

    clock.lap("import")
    cli.store_compiled()
    seconds: collections.Counter = collections.Counter()
    counts: collections.Counter = collections.Counter()

    def add(event: str, duration: float, **_: str) -> None:
        seconds[EVENTS.get(event, "")] += duration
        counts[EVENTS.get(event, "")] += 1

    jax.monitoring.register_event_duration_secs_listener(add)
    jax.monitoring.register_event_listener(lambda event, **_: counts.update([HITS.get(event, "")]))
    beside: dict[str, float] = {}

    def timed(name: str, call: Callable[[], Any]) -> Any:
        begun = time.perf_counter()
        result = call()
        beside[name] = time.perf_counter() - begun
        return result

    call_all = threads.call_all
    threads.call_all = lambda **calls: call_all(
        **{name: functools.partial(timed, name, call) for name, call in calls.items()}
    )
    call: dict[str, Any] = {"wanted": ("rgb", "depth"), "steps": 1}
    pipe = Pipeline.from_pretrained(args.pretrained, vae_dtype=args.vae_dtype)
    if args.wan:
        from wan import SIZES

        video = SIZES[args.size_of_model]["video"]
        call |= dict(zip(("num_frames", "height", "width"), video, strict=True))
        call["wanted"] = ("rgb",)
    clock.lap("weights")

    def decode(*args: Any) -> Any:
        if FIRST_STEP not in clock.rows:
            clock.lap(FIRST_STEP)
        return Pipeline.decode(pipe, *args)

    pipe.decode = decode
    pipe("A person in a red shirt walks past a blue ball.", **call)
    clock.lap("first decoding")
    within = {name: seconds[name] for name in EVENTS.values()}
    within |= {"programs": counts["compile or load"], **{n: counts[n] for n in HITS.values()}}
    pipe("A person in a red shirt walks past a blue ball.", **call)
    clock.lap("second call")
    print(json.dumps({"clock": clock.rows, "beside": beside, "within": within}))


def output_of(*command: str, **env: str) -> str:
    """What a command prints; ends this program with its errors if it fails."""
    done = subprocess.run(command, env=os.environ | env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout


def start(args: argparse.Namespace) -> None:
    """Prints a table of two starts."""
    command = [sys.executable, __file__, "--one", f"--pretrained={args.pretrained}"]
    command += [f"--size_of_model={args.size_of_model}", f"--vae_dtype={args.vae_dtype}"]
    command += ["--wan"] * args.wan
    with tempfile.TemporaryDirectory() as cache:
        outputs = [output_of(*command, JAX_COMPILATION_CACHE_DIR=cache) for _ in range(2)]
    runs = [json.loads(output.strip().splitlines()[-1]) for output in outputs]
    print("| part | first start: s (CPU s) | second start: s (CPU s) |\n| --- | ---: | ---: |")
    for number, name in enumerate(runs[0]["clock"]):
        cells = [f"{wall:.1f} ({cpu:.1f})" for wall, cpu in (run["clock"][name] for run in runs)]
        print(f"| {name} | {' | '.join(cells)} |")
        if name == FIRST_STEP:
            totals = [list(run["clock"].values())[: number + 1] for run in runs]
            cells = [f"{sum(w for w, _ in t):.1f} ({sum(c for _, c in t):.1f})" for t in totals]
            print(f"| **start to the end of the first step** | {' | '.join(cells)} |")
    for name in runs[0]["beside"]:
        cells = [f"{run['beside'][name]:.1f}" for run in runs]
        print(f"| of weights, side by side: {name} | {' | '.join(cells)} |")
    for name in runs[0]["within"]:
        kind = "d" if name in ("programs", *HITS.values()) else ".2f"
        print(f"| to the end of the first call: {name} | "
              + " | ".join(format(run["within"][name], kind) for run in runs) + " |")  # fmt: skip


def save_wan(folder: pathlib.Path, size: dict[str, Any]) -> None:
    """Writes random weights of a size in `SIZES`, laid out as diffusers lays out a pipeline."""
    import diffusers
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from wan import peer_transformer, peer_umt5, torch_module

    from unityvideo_jax.models.text.umt5 import UMT5Config

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    parts = {
        "transformer": lambda: peer_transformer(size["dit"]),
        "vae": lambda: diffusers.AutoencoderKLWan(**size["vae"]),
        "text_encoder": lambda: peer_umt5(size),
    }
    for name, make in parts.items():
        torch_module(make, device).save_pretrained(folder / name)
    # Letters, and as many made-up words as the real one has: its size is what takes time.
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(letter, -9.0) for letter in "▁abcdefghijklmnopqrstuvwxyz"]
    rest = UMT5Config(**size["umt5"]).vocab_size - len(pieces)
    pieces += [(f"▁{number:06}", -9.0) for number in range(rest)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder / "tokenizer")


def wan(args: argparse.Namespace) -> None:
    """Prints the table of two starts of Wan's model."""
    from wan import SIZES

    size = SIZES[args.size_of_model]
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        download, workdir, model = (folder / name for name in ("wan", "run", "model"))
        save_wan(download, size)
        convert = (sys.executable, "-m", "unityvideo_jax.convert")
        output_of(
            *(*convert, f"--from={download}", "--to=orbax", f"--workdir={workdir}"),
            *("--config=wan21_1_3b", "--config.model.modalities=('rgb',)"),
            *(f"--config.model.{key}={value}" for key, value in size["dit"].items()),
            *(f"--config.data.vae={download}", f"--config.data.text_encoder=umt5:{download}"),
            f"--config.data.text_length={size['dit']['text_len']}",
            JAX_PLATFORMS="cpu",
        )
        output_of(
            *(*convert, f"--from={workdir}", "--to=pretrained", "--storage=bfloat16"),
            f"--workdir={model}",
            JAX_PLATFORMS="cpu",
        )
        shutil.rmtree(workdir)
        for vae_dtype in ("float32", "bfloat16"):
            print(f"\nVAE in {vae_dtype}:\n", flush=True)
            changes = {"pretrained": str(model), "vae_dtype": vae_dtype, "wan": True}
            start(argparse.Namespace(**vars(args) | changes))


def trace(args: argparse.Namespace) -> None:
    """Prints the seconds of tracing and lowering the 1.3B's sampler."""
    import jax
    import jax.numpy as jnp
    from flax import nnx
    from wan import SIZES, dit_config

    from unityvideo_jax.models import build
    from unityvideo_jax.models.vae.wan_vae import VAEConfig
    from unityvideo_jax.sampling.generate import SamplerConfig, jit_generate

    size = SIZES[args.size_of_model]
    config = dit_config(size)
    clock = Clock()
    graph, params = build.abstract_transformer(config)
    clock.lap("graph")
    shape = jax.ShapeDtypeStruct
    text = shape((1, 1, config.text_len, config.text_dim), jnp.float32)
    latents = VAEConfig(**size["vae"]).latent_shape(*size["video"])
    rows = {
        "given": shape((1, 1, *latents), jnp.float32),
        "modality": shape((1, 1), jnp.int32),
        "context": text,
        "null_context": text,
        "key": jax.eval_shape(lambda: jax.random.key(0)),
    }
    sample = jit_generate(lambda params: nnx.merge(graph, params))
    sampler = SamplerConfig(text_guidance=6.0, shift=8.0)
    traced = sample.trace(params, rows, wanted=(True,), sampler=sampler)
    clock.lap("trace")
    traced.lower()
    clock.lap("lower")
    for name, (wall, cpu) in clock.rows.items():
        print(f"{name}: {wall:.2f} s ({cpu:.2f} s of the CPU)")


def main(argv: Sequence[str]) -> None:
    """Runs one part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parts = {"start": start, "wan": wan, "trace": trace}
    parser.add_argument("part", nargs="?", choices=parts, default="start")
    parser.add_argument("--pretrained", default="worlds-mini")
    parser.add_argument("--size_of_model", default="wan", help="of wan and trace: wan or tiny")
    parser.add_argument("--wan", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--vae_dtype", default="float32", help=argparse.SUPPRESS)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    (one if args.one else parts[args.part])(args)


if __name__ == "__main__":
    main(sys.argv[1:])
