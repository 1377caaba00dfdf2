"""Sampling with skipped passes: its cost in quality, and its gain beside diffusers.

Command: python benchmarks/caches.py quality --clips=4 --output=out/caches
         python benchmarks/caches.py speed --cache=0.6 [--whole]

  quality  a trained model on held-out worlds: PSNR and SSIM of every wanted stream to the result of
           all passes, and the modality's own score against the truth, with and without skipping.
           Pictures of the first clip go into --output, with all passes above and fewer below.
  speed    the 1.3B at 81x480x832 with random weights, on the schedule of `quality` for the same
           share, steps and guidance (the calibration is that model's), beside diffusers'
           transformer with torch.compile and its MagCache, made to skip as many passes. Every line
           is measured in a process of its own. With --whole a run is the whole pipeline: it embeds
           a caption of 100 tokens and a negative one by UMT5-XXL, samples, and decodes the video.
"""

import argparse
import datetime
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from wan import (
    PROMPTS,
    SIZES,
    dit_config,
    ours_text,
    ours_vae,
    peer_text,
    peer_transformer,
    peer_vae,
    random_weights,
    timed,
    torch_module,
)

from unityvideo_jax.runtime import failures

SYSTEMS = ("ours", "peer")
TASKS = {
    "joint": ((), ("rgb", "depth")),
    "control": (("depth",), ("rgb",)),
    "estimation": (("rgb",), ("depth",)),
}
WAN_STREAMS = (("rgb",), ("rgb",))

Row = dict[str, Any]


def ssim(first: Float[np.ndarray, "t h w 3"], second: Float[np.ndarray, "t h w 3"]) -> float:
    """Structural similarity of videos in [-1, 1] (Wang et al. 2004), Gaussian windows.

    Args:
      first, second: videos to compare.
    """
    from scipy.ndimage import gaussian_filter

    a, b = (video.astype(np.float64) / 2 for video in (first, second))

    def blurred(x: np.ndarray) -> np.ndarray:
        return gaussian_filter(x, (0, 1.5, 1.5, 0), mode="mirror", truncate=3.5)

    mean_a, mean_b = blurred(a), blurred(b)
    var_a, var_b = blurred(a * a) - mean_a**2, blurred(b * b) - mean_b**2
    both = blurred(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    top = (2 * mean_a * mean_b + c1) * (2 * both + c2)
    return float((top / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))).mean())


def quality(args: argparse.Namespace) -> None:
    """Prints the table of a trained model, and writes the pictures."""
    import unityvideo_jax as uv
    from unityvideo_jax import media, modalities
    from unityvideo_jax.evaluation.benchmarks.clips import BenchmarkClips
    from unityvideo_jax.metrics.psnr import psnr

    pipe = uv.Pipeline.from_pretrained(args.pretrained)
    data = {"num_frames": args.num_frames or pipe.num_frames, "fps": pipe.fps}
    data |= {"height": args.size or pipe.height, "width": args.size or pipe.width}
    clips = BenchmarkClips(data, "worlds_validation", num_clips=args.clips, batch_size=1)
    print(f"{args.pretrained}, {args.clips} clips of {tuple(data.values())}, {args.steps} steps\n")
    print("| task | cache | passes | stream | PSNR dB | SSIM | score, all passes | score | s |")
    print("| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |", flush=True)
    for task in args.tasks:
        given, wanted = TASKS[task]
        found: dict[tuple[float, str], list[Row]] = {}
        for number, batch in enumerate(clips.batches(range(args.clips))):
            arrays = {key: np.asarray(value)[0] for key, value in batch.clip.items()}
            drawn = {
                name: np.asarray(codec.encode({key: arrays[key] for key in codec.keys})[0])
                for name in given
                for codec in (pipe.codec(name),)
            }
            runs = {}
            for share in (0.0, *args.cache):
                start = time.perf_counter()
                runs[share] = pipe(
                    "" if task == "estimation" else batch.captions[0],
                    given=drawn,
                    wanted=wanted,
                    seed=number,
                    steps=args.steps,
                    cache=share,
                    modality_prompts={n: batch.prompts[0][n] for n in (*given, *wanted)
                                      if n != "rgb"},
                )  # fmt: skip
                seconds = time.perf_counter() - start
                for name in wanted:
                    dense, own = (runs[s].videos[name][0] for s in (0.0, share))
                    score = None
                    if task == "estimation":
                        metric = modalities.metrics()[name]()
                        metric.update(runs[share].arrays(name), arrays, f"clip {number}")
                        score = metric.compute()[metric.headline]
                    found.setdefault((share, name), []).append(
                        {
                            "psnr": float(psnr(np.mean(np.square(dense - own)))),
                            "ssim": ssim(dense, own),
                            "score": score,
                            "seconds": seconds,
                            "passes": runs[share].records[0]["passes"],
                        }
                    )
            if not number and args.output:
                for share, samples in runs.items():
                    samples.save(pathlib.Path(args.output) / f"{task}_{share:g}")
                compare = {
                    f"{name}, cache {share:g}": runs[share].video(name)
                    for name in wanted
                    for share in (0.0, max(args.cache))
                }
                media.contact_sheet(compare, pathlib.Path(args.output) / f"{task}.png")
        for (share, name), rows in found.items():
            if share:
                dense = found[0.0, name]
                scores = [f"{np.mean([r['score'] for r in one]):.4f}" if rows[0]["score"] else ""
                          for one in (dense, rows)]  # fmt: skip
                print(
                    f"| {task} | {share:g} | {rows[0]['passes']} | {name} | "
                    f"{np.mean([r['psnr'] for r in rows]):.1f} | "
                    f"{np.mean([r['ssim'] for r in rows]):.4f} | {scores[0]} | {scores[1]} | "
                    f"{np.median([r['seconds'] for r in rows]):.0f} "
                    f"({np.median([r['seconds'] for r in dense]):.0f}) |",
                    flush=True,
                )


def schedule(args: argparse.Namespace, share: float) -> Any:
    """Returns the sampler's settings, and the schedule of RGB from text for a share, None for 0."""
    import unityvideo_jax as uv
    from unityvideo_jax.sampling import calibration

    pipe = uv.Pipeline.from_pretrained(args.pretrained)
    sampler = pipe.sampler.changed(
        steps=args.steps, solver="unipc", cache=share, batched_guidance=False
    )
    if not share:
        return sampler, None
    found, file = calibration.load(pipe.folder, pipe.fingerprint)
    return sampler, found.schedule(str(file), sampler, *WAN_STREAMS, counts={}, skipped=0)


def ours(args: argparse.Namespace, share: float) -> Row:
    """Seconds of all steps by this package."""
    import dataclasses

    import jax
    import jax.numpy as jnp
    from flax import nnx

    from unityvideo_jax.models.dit import DiT
    from unityvideo_jax.models.lora import hold
    from unityvideo_jax.models.vae.wan_vae import VAEConfig
    from unityvideo_jax.sampling.generate import jit_generate

    sampler, chosen = schedule(args, share)
    sampler = dataclasses.replace(sampler, cache=0.0)
    size = SIZES[args.size_of_model]
    config = dit_config(size)

    def make() -> DiT:
        model = DiT(config, rngs=nnx.Rngs(0))
        hold(model, args.hold_weights, "--hold_weights")
        return model

    graph, params = random_weights(make)
    latents = VAEConfig(**size["vae"]).latent_shape(*size["video"])
    texts = jax.random.normal(jax.random.key(1), (2, 1, 1, config.text_len, config.text_dim))
    rows = {
        "given": jnp.zeros((1, 1, *latents)),
        "modality": jnp.zeros((1, 1), jnp.int32),
        "context": texts[0],
        "null_context": texts[1],
        "key": jax.random.key(2),
    }
    sample = jit_generate(lambda params: nnx.merge(graph, params))
    embed = ours_text(size)(PROMPTS, size["short"]) if args.whole else None
    decode = ours_vae(size, "bfloat16") if args.whole else None

    def once() -> Any:
        inputs = rows
        if embed:
            # A batch of texts, as the encoder runs them: the caption, the negative one, empty ones.
            embedded = embed()[:2, : config.text_len]
            room = config.text_len - embedded.shape[1]
            texts = jnp.pad(embedded, ((0, 0), (0, room), (0, 0)))[:, None, None]
            inputs = rows | {"context": texts[0], "null_context": texts[1]}
        result = sample(params, inputs, wanted=(True,), sampler=sampler, schedule=chosen)
        return decode(result[:, 0]) if decode else result

    run = timed(once, jax.block_until_ready, args.repeats, first=1)
    stats = jax.local_devices()[0].memory_stats() or {}
    return run | {
        "passes": chosen.count if chosen else 2 * args.steps,
        "device": jax.devices()[0].device_kind,
        "version": f"jax {jax.__version__}",
        "memory": stats.get("peak_bytes_in_use", 0),
    }


def peer_ratios(steps: int, passes: int) -> list[float]:
    """Ratios by which MagCache runs so many passes in all, in as many steps for both texts.

    It runs the first fifth, and steps spread evenly over the rest: those get the ratio 0, whose
    error passes any threshold, the others 1, which has none.
    """
    first = int(0.2 * steps + 0.5)
    count = max(round(passes / 2) - first, 1)
    runs = set(np.linspace(first, steps - 1, count).round().astype(int).tolist())
    return [1.0 if step >= first and step not in runs else 0.0 for step in range(steps)]


def counted(function: Callable[..., Any], calls: list[int]) -> Callable[..., Any]:
    """A function that adds an entry to a list whenever it is called."""

    def call(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return function(*args, **kwargs)

    return call


def peer(args: argparse.Namespace, share: float) -> Row:
    """Measures the same for diffusers' transformer, in bfloat16, its blocks compiled."""
    import diffusers
    import torch

    sampler, chosen = schedule(args, share)
    size = SIZES[args.size_of_model]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    frames, height, width = size["video"]
    model = torch_module(lambda: peer_transformer(size["dit"]), device)
    if args.attention:
        model.set_attention_backend(args.attention)
    calls = []
    # The hooks of a cache are not compiled, but the functions that they call are: so a block's own
    # forward is compiled, as `compile_repeated_blocks` does without hooks.
    for block in model.blocks:
        block.forward = torch.compile(block.forward)
    model.blocks[0].forward = counted(model.blocks[0].forward, calls)
    if chosen is not None:
        model.enable_cache(
            diffusers.MagCacheConfig(
                threshold=0.5,
                max_skip_steps=args.steps,
                retention_ratio=0.2,
                num_inference_steps=args.steps,
                mag_ratios=peer_ratios(args.steps, chosen.count),
            )
        )
    scheduler = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=sampler.shift
    )
    shape = (2, 1, size["dit"]["text_len"], size["dit"]["text_dim"])
    texts = torch.randn(shape, device=device, dtype=torch.bfloat16)
    noise = torch.randn((1, 16, (frames - 1) // 4 + 1, height // 8, width // 8), device=device)
    embed = peer_text(size, device)(1, size["short"]) if args.whole else None
    decode = peer_vae(size, device, "bfloat16") if args.whole else None

    def sample() -> Any:
        """The loop of WanPipeline."""
        scheduler.set_timesteps(args.steps, device=device)
        calls.clear()
        x, pair = noise, texts
        if embed:
            pair = [embed()[:, : size["dit"]["text_len"]] for _ in range(2)]
        for t in scheduler.timesteps:
            outputs = []
            for name, text in zip(("cond", "uncond"), pair, strict=True):
                with model.cache_context(name):
                    outputs.append(
                        model(x.to(torch.bfloat16), t.expand(1), text, return_dict=False)[0]
                    )
            with_text, without = outputs
            velocity = without + sampler.text_guidance * (with_text - without)
            x = scheduler.step(velocity, t, x, return_dict=False)[0]
        return decode(x.to(torch.bfloat16)) if decode else x

    def wait(value: Any) -> Any:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return value

    with torch.no_grad():
        run = timed(sample, wait, args.repeats, first=1)
    on_gpu = device.type == "cuda"
    return run | {
        "passes": len(calls),
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "version": f"diffusers {diffusers.__version__}, torch {torch.__version__}",
        "memory": torch.cuda.max_memory_allocated() if on_gpu else 0,
    }


def measure(system: str, share: float, args: argparse.Namespace) -> Row:
    """One line, in a process of its own; {} if it fails, which is printed."""
    command = [sys.executable, __file__, "speed", "--one", "--system", system]
    command += [f"--cache={share}", f"--pretrained={args.pretrained}", f"--steps={args.steps}"]
    command += [f"--repeats={args.repeats}", f"--size_of_model={args.size_of_model}"]
    command += [f"--hold_weights={args.hold_weights}", f"--attention={args.attention}"]
    command += ["--whole"] * args.whole
    # JAX reads the calibration for both; on a GPU it would take the memory that PyTorch needs.
    env = os.environ | ({"JAX_PLATFORMS": "cpu"} if system == "peer" else {})
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = failures.cause_of(done.returncode, done.stderr)
        print(f"| {system} | {share:g} | failed: {reason} | | | | |", flush=True)
        return {}
    return json.loads(done.stdout.strip().splitlines()[-1])


def speed(args: argparse.Namespace) -> None:
    """Prints the table of both systems, with all passes and with fewer."""
    now = datetime.datetime.now(datetime.UTC)
    print(
        f"{now:%Y-%m-%d %H:%M} UTC; {args.size_of_model}, {args.steps} UniPC steps"
        f"{', with text and VAE' * args.whole}\n"
    )
    print("| system | cache | passes | compile s | s | dense / s | peak GiB |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
    for system in args.system:
        dense = {}
        for share in (0.0, *args.cache):
            row = measure(system, share, args)
            dense = dense or row
            if row:
                print(
                    f"| {system}: {row['version']}, {row['device']} | {share:g} | {row['passes']} "
                    f"| {row['compile']:.1f} | {row['seconds']:.3f} | "
                    f"{dense['seconds'] / row['seconds']:.2f} | {row['memory'] / 2**30:.1f} |",
                    flush=True,
                )


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("quality", "speed"))
    parser.add_argument("--pretrained", default="worlds-mini", help="calibrated model")
    parser.add_argument("--cache", nargs="+", type=float, default=[0.4, 0.55, 0.65])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=["joint", "estimation"])
    parser.add_argument("--clips", type=int, default=2)
    parser.add_argument("--num_frames", type=int, default=0, help="0 is the model's own")
    parser.add_argument("--size", type=int, default=0, help="height and width, likewise")
    parser.add_argument("--output", default="", help="folder of the pictures")
    parser.add_argument("--system", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--size_of_model", choices=SIZES, default="wan")
    parser.add_argument("--hold_weights", default="bfloat16", help="float32, bfloat16, int8 or nf4")
    parser.add_argument("--repeats", type=int, default=1, help="timed runs of all steps")
    parser.add_argument("--attention", default="", help="attention backend of diffusers")
    parser.add_argument("--whole", action="store_true", help="text and VAE too")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> None:
    """Runs one part."""
    args = parse(argv)
    if args.one:
        run = ours if args.system == ["ours"] else peer
        print(json.dumps(run(args, args.cache[0])))
    elif args.part == "quality":
        quality(args)
    else:
        speed(args)


if __name__ == "__main__":
    main(sys.argv[1:])
