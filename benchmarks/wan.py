"""Wan's parts as sampling runs them, beside diffusers and transformers with torch.compile.

Command: python benchmarks/wan.py --part dit vae text

  dit   one solver step (two passes, with and without text) of the 1.3B at 81x480x832
  vae   decoding a video of 81x480x832
  text  UMT5-XXL on 8 prompts: of 512 tokens, and of 100 (which we pad to 128, diffusers to 512)

Every system runs in a process of its own, so that no two share the device's memory. Weights are
random. Compilation, with the first run, is timed apart; times are medians. With
--vae_dtype=float32 we keep all bits, and PyTorch rounds the products of convolutions to TF32.
"""

import argparse
import datetime
import functools
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from unityvideo_jax.runtime import failures

PARTS, SYSTEMS = ("dit", "vae", "text"), ("ours", "peer")
WAN = dict(
    video=(81, 480, 832),
    dit=dict(dim=1536, ffn_dim=8960, num_heads=12, num_layers=30, text_dim=4096, text_len=512),
    vae={},
    umt5={},
    tokens=512,
    short=100,
)
LARGE = dict(dim=5120, ffn_dim=13824, num_heads=40, num_layers=40)  # 14B
SIZES = {
    "wan": WAN,
    "wan_14b": WAN | {"dit": WAN["dit"] | LARGE},
    # Runs anywhere in seconds; its times mean nothing.
    "tiny": dict(
        video=(9, 32, 32),
        dit=dict(dim=64, ffn_dim=96, num_heads=2, num_layers=2, text_dim=32, text_len=16),
        vae=dict(base_dim=4, num_res_blocks=1),
        umt5=dict(vocab_size=64, dim=32, ffn_dim=48, num_heads=2, head_dim=16, num_layers=2),
        tokens=96,
        short=20,
    ),
}
GUIDANCE, SHIFT = 6.0, 8.0
PROMPTS = 8

Row = dict[str, Any]


def timed(run: Callable[[], Any], wait: Callable[[Any], Any], repeats: int, first: int = 2) -> Row:
    """Times the first run, and the median of `repeats` after the `first` ones, in seconds."""
    seconds = []
    for _ in range(first + repeats):
        start = time.perf_counter()
        wait(run())
        seconds.append(time.perf_counter() - start)
    median = float(np.median(seconds[first:]))
    return {"seconds": median, "compile": max(seconds[0] - median, 0.0)}


def random_weights(make: Callable[[], Any]) -> tuple[Any, Any]:
    """Draws graph and random weights of a module one by one: all initialisers take minutes."""
    from flax import nnx

    graph, shapes = nnx.split(nnx.eval_shape(make))
    return graph, random_arrays(shapes)


def random_arrays(shapes: Any) -> Any:
    """Draws random arrays of a tree of shapes, laid out by their shardings if they have any."""
    import jax
    import jax.numpy as jnp

    @functools.partial(jax.jit, static_argnums=(1, 2))
    def draw(key: Any, shape: tuple[int, ...], dtype: Any) -> Any:
        if not jnp.issubdtype(dtype, jnp.floating):
            return jax.random.randint(key, shape, 0, 128).astype(dtype)
        if len(shape) == 1:
            return jnp.full(shape, 0.5, dtype)
        return jax.random.normal(key, shape, dtype) / math.prod(shape[:-1]) ** 0.5

    leaves, tree = jax.tree.flatten(shapes)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    made = [
        jax.device_put(draw(key, leaf.shape, leaf.dtype), leaf.sharding)
        for key, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(tree, jax.block_until_ready(made))


def dit_config(size: Row) -> Any:
    """Configuration of this package's transformer of a size in `SIZES`."""
    from unityvideo_jax.models.config import DiTConfig

    return DiTConfig(
        **size["dit"], modalities=("rgb",), switcher="none", remat="none", dtype="bfloat16"
    )


def ours_vae(size: Row, dtype: str) -> Callable[[Any], Any]:
    """Decoder of this package: latents [1,t,h,w,c] -> video."""
    from flax import nnx

    from unityvideo_jax.models.vae.wan_vae import VAEConfig, WanVAE

    config = VAEConfig(**size["vae"])
    graph, params = random_weights(lambda: WanVAE(config, rngs=nnx.Rngs(0), dtype=dtype))
    return nnx.merge(graph, params).decode_streamed


def ours_text(size: Row) -> Callable[[int, int], Callable[[], Any]]:
    """Encoder of this package: (texts, tokens of each) -> embeds such texts, random ones."""
    import jax.numpy as jnp
    from flax import nnx

    from unityvideo_jax.interop.umt5 import UMT5TextEncoder
    from unityvideo_jax.models.text.umt5 import UMT5, UMT5Config

    config = UMT5Config(**size["umt5"])
    graph, params = random_weights(lambda: UMT5(config, rngs=nnx.Rngs(0)))
    encoder = UMT5TextEncoder(model=nnx.merge(graph, params), tokenizer=None, length=size["tokens"])

    def embedder(texts: int, tokens: int) -> Callable[[], Any]:
        ids = np.zeros((texts, encoder.padded_length(tokens)), np.int32)
        drawn = np.random.default_rng(0).integers(1, config.vocab_size, (texts, tokens))
        ids[:, :tokens] = drawn
        inputs = jnp.asarray(ids), jnp.asarray(ids > 0)
        return lambda: encoder.embed(*inputs)

    return embedder


def ours(part: str, args: argparse.Namespace) -> dict[str, Row]:
    """Times this package, by name of the part."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from unityvideo_jax.models.dit import DiT
    from unityvideo_jax.models.vae.wan_vae import VAEConfig
    from unityvideo_jax.sampling.generate import SamplerConfig, generate

    size = SIZES[args.size]
    latents = VAEConfig(**size["vae"]).latent_shape(*size["video"])

    rows = {}
    if part == "dit":
        config = dit_config(size)
        graph, params = random_weights(lambda: DiT(config, rngs=nnx.Rngs(0)))
        sampler = SamplerConfig(
            steps=args.steps, solver="unipc", text_guidance=GUIDANCE, shift=SHIFT
        )
        text = (1, 1, config.text_len, config.text_dim)
        texts = jax.random.normal(jax.random.key(1), (2, *text))

        @jax.jit
        def sample(params: Any, texts: Any, key: Any) -> Any:
            return generate(
                nnx.merge(graph, params),
                given=jnp.zeros((1, 1, *latents)),
                wanted=(True,),
                modality=jnp.zeros((1, 1), jnp.int32),
                context=texts[0],
                null_context=texts[1],
                key=key,
                config=sampler,
            )

        key = jax.random.key(2)
        row = timed(lambda: sample(params, texts, key), jax.block_until_ready, args.repeats)
        rows["sampling step"] = row | {"seconds": row["seconds"] / args.steps}
    elif part == "vae":
        decode = ours_vae(size, args.vae_dtype)
        z = jax.random.normal(jax.random.key(1), (1, *latents))
        run = timed(lambda: decode(z), jax.block_until_ready, args.repeats)
        rows[f"VAE decode, {args.vae_dtype}"] = run
    else:
        embedder = ours_text(size)
        for count in (size["tokens"], size["short"]):
            rows[f"text, {PROMPTS} prompts of {count} tokens"] = timed(
                embedder(PROMPTS, count), jax.block_until_ready, args.repeats
            )
    stats = jax.local_devices()[0].memory_stats() or {}
    common = {
        "device": jax.devices()[0].device_kind,
        "version": f"jax {jax.__version__}",
        "memory": stats.get("peak_bytes_in_use", 0),
    }
    return {name: row | common for name, row in rows.items()}


def torch_module(make: Callable[[], Any], device: Any, dtype: str = "bfloat16") -> Any:
    """A frozen module of torch, made on a device in a type."""
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        with device:
            return make().eval().requires_grad_(False).to(device, getattr(torch, dtype))
    finally:
        torch.set_default_dtype(before)


def peer_transformer(dit: dict[str, int]) -> Any:
    """diffusers' Wan transformer of a size in `SIZES`."""
    import diffusers

    return diffusers.WanTransformer3DModel(
        num_attention_heads=dit["num_heads"],
        attention_head_dim=dit["dim"] // dit["num_heads"],
        in_channels=16,
        out_channels=16,
        text_dim=dit["text_dim"],
        ffn_dim=dit["ffn_dim"],
        num_layers=dit["num_layers"],
    )


def peer_vae(size: Row, device: Any, dtype: str) -> Callable[[Any], Any]:
    """Decoder of diffusers: latents [1,c,t,h,w] -> video.

    Not compiled, as its pipeline runs it: torch.compile took minutes without an end.
    """
    import diffusers

    model = torch_module(lambda: diffusers.AutoencoderKLWan(**size["vae"]), device, dtype)
    return lambda z: model.decode(z, return_dict=False)[0]


def peer_umt5(size: Row) -> Any:
    """transformers' encoder of a size in `SIZES`."""
    import transformers

    from unityvideo_jax.interop.umt5 import CONFIG_FIELDS
    from unityvideo_jax.models.text.umt5 import UMT5Config

    config = UMT5Config(**size["umt5"])
    fields = {theirs: getattr(config, ours) for ours, theirs in CONFIG_FIELDS.items()}
    fields["feed_forward_proj"] = "gated-gelu"
    return transformers.UMT5EncoderModel(transformers.UMT5Config(**fields))


def peer_text(size: Row, device: Any) -> Callable[[int, int], Callable[[], Any]]:
    """Encoder of transformers, compiled: (texts, tokens of each) -> embeds such texts, random."""
    import torch

    model = torch_module(lambda: peer_umt5(size), device)
    model.compile()

    def embedder(texts: int, tokens: int) -> Callable[[], Any]:
        shape = (texts, size["tokens"])
        generator = torch.Generator(device).manual_seed(0)
        most = model.config.vocab_size
        ids = torch.randint(1, most, shape, generator=generator, device=device)
        mask = (torch.arange(size["tokens"], device=device) < tokens).long().expand(shape)
        return lambda: model(ids, mask).last_hidden_state

    return embedder


def peer(part: str, args: argparse.Namespace) -> dict[str, Row]:
    """Times diffusers and transformers, in bfloat16, compiled by torch.compile."""
    import diffusers
    import torch
    import transformers

    size = SIZES[args.size]
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    frames, height, width = size["video"]
    latents = (16, (frames - 1) // 4 + 1, height // 8, width // 8)

    def wait(value: Any) -> Any:
        if on_gpu:
            torch.cuda.synchronize()
        return value

    rows = {}
    if part == "dit":
        dit = size["dit"]
        model = torch_module(lambda: peer_transformer(dit), device)
        if args.attention:
            model.set_attention_backend(args.attention)
        model.compile_repeated_blocks()
        scheduler = diffusers.UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=SHIFT
        )
        shape = (2, 1, dit["text_len"], dit["text_dim"])
        texts = torch.randn(shape, device=device, dtype=torch.bfloat16)
        noise = torch.randn((1, *latents), device=device)

        def sample() -> Any:
            """The loop of WanPipeline."""
            scheduler.set_timesteps(args.steps, device=device)
            x = noise
            for t in scheduler.timesteps:
                inputs = (x.to(torch.bfloat16), t.expand(1))
                with_text = model(*inputs, texts[0], return_dict=False)[0]
                without = model(*inputs, texts[1], return_dict=False)[0]
                velocity = without + GUIDANCE * (with_text - without)
                x = scheduler.step(velocity, t, x, return_dict=False)[0]
            return x

        row = timed(sample, wait, args.repeats)
        rows["sampling step"] = row | {"seconds": row["seconds"] / args.steps}
    elif part == "vae":
        decode = peer_vae(size, device, args.vae_dtype)
        z = torch.randn((1, *latents), device=device, dtype=getattr(torch, args.vae_dtype))
        run = timed(lambda: decode(z), wait, args.repeats)
        rows[f"VAE decode, {args.vae_dtype}"] = run
    else:
        embedder = peer_text(size, device)
        for count in (size["tokens"], size["short"]):
            rows[f"text, {PROMPTS} prompts of {count} tokens"] = timed(
                embedder(PROMPTS, count), wait, args.repeats
            )
    common = {
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "version": f"diffusers {diffusers.__version__}, transformers {transformers.__version__}, "
        f"torch {torch.__version__}",
        "memory": torch.cuda.max_memory_allocated() if on_gpu else 0,
    }
    return {name: row | common for name, row in rows.items()}


def measure(part: str, system: str, args: argparse.Namespace) -> dict[str, Row]:
    """Measures one part and system in a process of its own; {} if it fails, which is printed."""
    command = [sys.executable, __file__, "--part", part, "--system", system, "--one"]
    command += [f"--size={args.size}", f"--steps={args.steps}", f"--repeats={args.repeats}"]
    command += [f"--vae_dtype={args.vae_dtype}", f"--attention={args.attention}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = failures.cause_of(done.returncode, done.stderr)
        print(f"| {part} | {system} | failed: {reason} | | | | |", flush=True)
        return {}
    return json.loads(done.stdout.strip().splitlines()[-1])


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--system", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--size", choices=SIZES, default="wan")
    parser.add_argument("--steps", type=int, default=4, help="solver steps a timed run")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs")
    parser.add_argument("--vae_dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--attention", default="", help="attention backend of diffusers")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> None:
    """Measures each part by each system and prints the table."""
    args = parse(argv)
    if args.one:
        run = ours if args.system == ["ours"] else peer
        print(json.dumps(run(args.part[0], args)))
        return
    print(f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC; sizes: {args.size}\n")
    print("| what | system | compile s | time s | peak GiB | peer / ours |")
    print("| --- | --- | ---: | ---: | ---: | ---: |", flush=True)
    for part in args.part:
        measured = {system: measure(part, system, args) for system in args.system}
        for system, rows in measured.items():
            for name, row in rows.items():
                other = measured.get("peer", {}).get(name)
                ratio = f"{other['seconds'] / row['seconds']:.2f}" if other else ""
                print(
                    f"| {name} | {system}: {row['version']}, {row['device']} | "
                    f"{row['compile']:.1f} | {row['seconds']:.4f} | {row['memory'] / 2**30:.1f} | "
                    f"{ratio if system == 'ours' else ''} |",
                    flush=True,
                )


if __name__ == "__main__":
    main(sys.argv[1:])
