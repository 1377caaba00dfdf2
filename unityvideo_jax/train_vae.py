"""Trains the causal video autoencoder on procedural worlds, every modality of each clip.

Command: python -m unityvideo_jax.train_vae --config=configs/vae_worlds.py --output=vae

Worlds are rendered on the accelerator while it trains; nothing is read. `--output` receives
`model.safetensors`, `config.json`, a card `README.md` and the sheet `reconstructions.png`.
"""

import dataclasses
import datetime
import functools
import math
import os
import pathlib
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import flags
from flax import nnx
from jaxtyping import Array, Float, Int, Key, Shaped
from ml_collections import config_flags

from unityvideo_jax import cli, media, modalities, worlds
from unityvideo_jax.errors import UserError
from unityvideo_jax.models.vae_weights import WEIGHTS_FILE, load_vae, save_vae
from unityvideo_jax.models.wan_vae import VAEConfig, WanVAE
from unityvideo_jax.training import vae_report, vae_step

LARGEST = 12_000_000  # Bytes of weights that a package can carry comfortably.


# Gives the renderer of a split's clips at a height and width.
Source = Callable[[str, int, int], vae_report.Render]


def worlds_source(config: ml_collections.ConfigDict) -> Source:
    """Procedural worlds as the configuration asks for them."""

    def source(split: str, height: int, width: int) -> vae_report.Render:
        world = worlds.WorldConfig(
            height=height,
            width=width,
            num_frames=config.data.num_frames,
            fps=config.data.fps,
            split=split,
            seed=config.seed,
            supersample=config.data.supersample,
        )
        return lambda indices: worlds.render(
            world, worlds.sample_scenes(world, jnp.asarray(indices))
        )

    return source


def _batches(first: int, count: int, size: int) -> list[Int[np.ndarray, " n"]]:
    indices = np.arange(first, first + count, dtype=np.int32)
    return [indices[i : i + size] for i in range(0, count, size)]


def check(config: ml_collections.ConfigDict, output: pathlib.Path) -> VAEConfig:
    """The model's configuration, after everything that a user can get wrong.

    Raises:
      UserError: an occupied output folder, unknown keys, sizes that do not fit, weights too large.
    """
    if (output / WEIGHTS_FILE).exists():
        raise UserError(f"{output}: holds {WEIGHTS_FILE} already; give another --output")
    try:
        model = VAEConfig(**config.model)
    except TypeError as error:
        raise UserError(f"config.model: {error}; its keys are those of VAEConfig") from error
    for name in config.data.modalities:
        modalities.get(name)
    sizes = [tuple(size) for size in config.data.sizes]
    if not sizes or any(len(size) != 3 or min(size) < 1 for size in sizes):
        raise UserError(f"config.data.sizes={sizes}: give (height, width, clips) of each size")
    score = config.evaluation
    for height, width in [size[:2] for size in sizes] + [(score.height, score.width)]:
        model.latent_shape(config.data.num_frames, height, width)
    if config.steps < 1 or config.max_seconds <= 0:
        raise UserError("config.steps and config.max_seconds must be positive")
    return model


def train(
    config: ml_collections.ConfigDict, model: VAEConfig, source: Source
) -> tuple[WanVAE, dict[str, float | int]]:
    """Trains to the step or time limit; returns the averaged weights and what training took."""
    start = time.monotonic()
    names = tuple(config.data.modalities)
    root = jax.random.key(config.seed)
    optimizer = vae_step.VAEOptimizerConfig(**config.optimizer)
    vae = _initial(config, model, jax.random.fold_in(root, 0))
    graph, state = vae_step.init_state(vae, optimizer)
    parameters = sum(p.size for p in jax.tree.leaves(state.params))
    print(f"{parameters:,} parameters on {vae_report.device_name()}", flush=True)
    if parameters * 2 > LARGEST:
        raise UserError(
            f"config.model: {parameters:,} parameters take {parameters * 2 / 1e6:.1f} MB as "
            f"float16, more than {LARGEST / 1e6:.0f}; lower base_dim or dim_mult"
        )
    step = vae_step.make_step(
        graph, names, vae_step.VAELossConfig(**config.loss.to_dict()), optimizer
    )
    supply = _endless(config, names, source)
    noise = jax.random.fold_in(root, 1)
    # Compiling every size counts against the time limit but not against the schedule.
    warm = len(config.data.sizes)
    begun, done, pending = start, 0, None
    while done < config.steps and time.monotonic() - start < config.max_seconds:
        elapsed, whole = time.monotonic() - begun, config.max_seconds - (begun - start)
        progress = max(done / config.steps, elapsed / whole if done >= warm else 0.0)
        rate = optimizer.rate(done, progress)
        state, metrics = step(state, next(supply), noise, rate)
        # Wait for the step before, not for this one: the device always has work.
        if pending is not None:
            _follow(done - 1, *pending, names, config, begun)
        pending, done = (metrics, rate), done + 1
        if done == warm:
            jax.block_until_ready(state)
            begun = time.monotonic()
            print(f"compiled in {begun - start:.0f} s", flush=True)
    if pending is not None:
        _follow(done - 1, *pending, names, config, begun, last=True)
    took = {"steps": done, "seconds": round(time.monotonic() - start, 1), "parameters": parameters}
    return nnx.merge(graph, state.ema), took


def _initial(config: ml_collections.ConfigDict, model: VAEConfig, key: Key[Array, ""]) -> WanVAE:
    if not config.init_from:
        return nnx.jit(lambda key: WanVAE(model, rngs=nnx.Rngs(key), dtype=config.dtype))(key)
    vae = load_vae(config.init_from, dtype=config.dtype)
    # Statistics describe latents; those of the new weights are measured when they are done.
    vae.config = dataclasses.replace(
        vae.config, latents_mean=model.latents_mean, latents_std=model.latents_std
    )
    if vae.config != model:
        raise UserError(
            f"config.init_from={config.init_from}: these weights are of {vae.config}, not of "
            f"config.model={model}; make the two agree"
        )
    return vae


def _endless(
    config: ml_collections.ConfigDict, names: tuple[str, ...], source: Source
) -> Iterator[Float[Array, "n m t h w 3"]]:
    """Batches of videos [clips, modality, time, height, width, 3], the sizes in turn."""
    sizes = [tuple(size) for size in config.data.sizes]
    renders = [source("train", height, width) for height, width, _ in sizes]
    first = 0
    while True:
        for (_, _, count), render in zip(sizes, renders, strict=True):
            clips = render(np.arange(first, first + count, dtype=np.int32))
            yield vae_step.encode_modalities(names, clips)[0]
            first += count


def _follow(
    index: int,
    metrics: Mapping[str, Shaped[Array, "..."]],
    rate: float,
    names: tuple[str, ...],
    config: ml_collections.ConfigDict,
    begun: float,
    last: bool = False,
) -> None:
    """Stops at a loss that is not finite; prints the progress line."""
    loss = float(metrics["loss"])
    if not math.isfinite(loss):
        raise UserError(f"step {index}: the loss is {loss}; lower config.optimizer.learning_rate")
    if not last and index % config.log_every:
        return
    seconds = time.monotonic() - begun
    psnr = " ".join(f"{n} {v:.1f}" for n, v in zip(names, metrics["psnr"], strict=True))
    print(
        f"step {index} | {seconds:.0f} s | loss {loss:.4f} | kl {float(metrics['kl']):.2f} | "
        f"gradient {float(metrics['gradient_norm']):.2f} | rate {rate:.1e} | PSNR {psnr}",
        flush=True,
    )


def finish(
    config: ml_collections.ConfigDict,
    vae: WanVAE,
    took: Mapping[str, float | int],
    source: Source,
    output: pathlib.Path,
) -> dict[str, vae_report.Score]:
    """Measures latent statistics, saves, loads what was saved, scores that, writes the card."""
    score, names = config.evaluation, tuple(config.data.modalities)
    vae.dtype = "float32"
    # Statistics and scores are those of the stored, rounded weights.
    save_vae(vae, output / ".unmeasured")
    rounded = load_vae(output / ".unmeasured")
    fresh = source("train", score.height, score.width)
    # The last indices there are: training never comes to them.
    first = np.iinfo(np.int32).max - score.statistics_clips
    encode = functools.partial(vae_step.encode_modalities, names)
    mean, deviation = vae_report.latent_statistics(
        rounded,
        (encode(fresh(b))[0] for b in _batches(first, score.statistics_clips, score.batch)),
    )
    # Reconstruction does not depend on the statistics; one compiled autoencoder serves all.
    validation = source("validation", score.height, score.width)
    indices = _batches(0, score.num_clips, score.batch)
    scores = vae_report.evaluate(rounded, validation, names, indices)
    _sheet(rounded, validation, names, output / "reconstructions.png")
    _card(config, vae.config, took, scores, output / "README.md")
    rounded.config = dataclasses.replace(vae.config, latents_mean=mean, latents_std=deviation)
    save_vae(rounded, output)
    for path in (output / ".unmeasured").iterdir():
        path.unlink()
    (output / ".unmeasured").rmdir()
    return scores


def _sheet(
    vae: WanVAE, render: vae_report.Render, names: tuple[str, ...], path: pathlib.Path
) -> None:
    """Original above reconstruction, a pair of rows a modality."""
    videos, _ = vae_step.encode_modalities(names, render(np.arange(2, dtype=np.int32)))
    rebuilt = np.asarray(vae_report.reconstruct(vae, videos))
    rows = []
    for clip, (before, after) in enumerate(zip(np.asarray(videos), rebuilt, strict=True)):
        for name, a, b in zip(names, before, after, strict=True):
            rows.append((f"{name}, clip {clip}: original", media.to_uint8(a)))
            rows.append((f"{name}, clip {clip}: reconstructed", media.to_uint8(b)))
    media.contact_sheet(rows, path, columns=6, scale=2)


def _card(
    config: ml_collections.ConfigDict,
    model: VAEConfig,
    took: Mapping[str, float | int],
    scores: Mapping[str, vae_report.Score],
    path: pathlib.Path,
) -> None:
    score = config.evaluation
    command = shlex.join(["python", "-m", "unityvideo_jax.train_vae", *sys.argv[1:]])
    sizes = ", ".join(f"{c} x {h}x{w}" for h, w, c in config.data.sizes)
    origin = f"from the weights in `{config.init_from}`" if config.init_from else "from scratch"
    stride = f"{model.temporal_stride} x {model.spatial_stride} x {model.spatial_stride}"
    lines = [
        "# Causal video autoencoder on procedural worlds",
        "",
        f"The architecture of Wan 2.1's autoencoder (stride {stride}, {model.z_dim} channels) with",
        f"base_dim {model.base_dim}, dim_mult {tuple(model.dim_mult)}, num_res_blocks "
        f"{model.num_res_blocks}: {took['parameters']:,} parameters, stored as float16.",
        f"Trained {origin} on procedural worlds ({', '.join(scores)}); not for real video.",
        "",
        f"- Command: `{command}`",
        f"- Seed: {config.seed}",
        f"- Date: {datetime.datetime.now(datetime.UTC).date().isoformat()}",
        f"- Device: {vae_report.device_name()}, JAX {jax.__version__}",
        f"- Training: {took['steps']} steps in {took['seconds']} s, compilation included; clips a "
        f"step, in turn: {sizes}, {config.data.num_frames} frames, each clip in all modalities",
        f"- Latents: unit variance and zero mean a channel over {score.statistics_clips} clips of "
        "the training split that it was not trained on",
        "",
        "## Reconstruction error",
        "",
        f"{score.num_clips} clips of the validation split, {config.data.num_frames} frames of "
        f'{score.height}x{score.width}, with the stored weights computing in float32. "Codec '
        "alone\" is the codec's own round trip. Counts of instances and people are withheld from "
        "the decoders.",
        "",
        vae_report.table(scores),
        "",
        "`reconstructions.png` shows two of the clips, original above reconstruction.",
    ]
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text("\n".join(lines) + "\n")
    os.replace(temporary, path)


def define_flags() -> None:
    """Called by the program alone, so that importing this module claims no flag names."""
    config_flags.DEFINE_config_file("config", None, "The configuration file.")
    flags.DEFINE_string("output", None, "Folder for the weights; must not hold any yet.")


def main(argv: Sequence[str]) -> None:
    """Trains, measures and writes the autoencoder."""
    del argv
    if flags.FLAGS.config is None or flags.FLAGS.output is None:
        raise UserError("give --config=configs/vae_worlds.py and --output=FOLDER")
    config, output = flags.FLAGS.config, pathlib.Path(flags.FLAGS.output)
    model = check(config, output)
    output.mkdir(parents=True, exist_ok=True)
    source = worlds_source(config)
    vae, took = train(config, model, source)
    scores = finish(config, vae, took, source, output)
    print(vae_report.table(scores), flush=True)
    print(f"wrote {output}", flush=True)


if __name__ == "__main__":
    define_flags()
    cli.run(main)
