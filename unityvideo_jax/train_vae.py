"""Trains the causal video autoencoder on procedural worlds, every modality of each clip.

Command: python -m unityvideo_jax.train_vae --config=vae_worlds --output=vae

Worlds are rendered on the accelerator while it trains; nothing is read. `--output` receives
`model.safetensors`, `config.json`, a card `README.md` and the sheet `reconstructions.png`.
"""

import dataclasses
import datetime
import math
import pathlib
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import flags
from flax import nnx
from jax import P
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float, Int, Key, Shaped

from unityvideo_jax import cli, media, modalities, worlds
from unityvideo_jax.errors import UserError
from unityvideo_jax.evaluation import ceiling
from unityvideo_jax.files import escape
from unityvideo_jax.files.paths import atomic_path
from unityvideo_jax.models.vae.wan_vae import VAEConfig, WanVAE
from unityvideo_jax.parallel.device_memory import check_device
from unityvideo_jax.parallel.mesh import MeshConfig, make_mesh
from unityvideo_jax.pretrained.vae import check_unoccupied, load_vae, save_vae
from unityvideo_jax.runtime import seeds
from unityvideo_jax.sampling.streams import PIXEL_BYTES
from unityvideo_jax.settings.sections import check_keys, check_values, section
from unityvideo_jax.training import vae_report, vae_step
from unityvideo_jax.training.vae_config import VAEDataConfig, VAEEvaluationConfig, VAERunConfig
from unityvideo_jax.worlds import WorldConfig

LARGEST = 12_000_000  # Bytes of weights that a package can carry comfortably.


def world(config: ml_collections.ConfigDict, split: str, height: int, width: int) -> WorldConfig:
    """The procedural worlds of a split with the configuration's settings."""
    return WorldConfig(
        height=height,
        width=width,
        num_frames=config.data.num_frames,
        fps=config.data.fps,
        split=split,
        seed=config.seed,
        supersample=config.data.supersample,
        closeup=config.data.closeup if split == "train" else 0.0,
    )


def _render(
    world: WorldConfig, indices: Int[Array, " n"] | Int[np.ndarray, " n"]
) -> dict[str, Shaped[Array, "..."]]:
    return worlds.render(world, worlds.sample_scenes(world, jnp.asarray(indices)))


def _batches(first: int, count: int, size: int) -> list[Int[np.ndarray, " n"]]:
    indices = np.arange(first, first + count, dtype=np.int32)
    return [indices[i : i + size] for i in range(0, count, size)]


def check(config: ml_collections.ConfigDict, output: pathlib.Path) -> VAEConfig:
    """The model's configuration, after all checks of the user's settings.

    Raises:
      UserError: an occupied output folder, unknown keys, sizes that do not fit, weights too large.
    """
    check_unoccupied(output, "--output")
    sections = {
        "data": VAEDataConfig,
        "loss": vae_step.VAELossConfig,
        "optimizer": vae_step.VAEOptimizerConfig,
        "evaluation": VAEEvaluationConfig,
    }
    alone = [field.name for field in dataclasses.fields(VAERunConfig)]
    known = ("model", *sections, *alone)
    check_keys(config, known, "config.", needed=known)
    values = {key: config[key] for key in alone}
    check_values(VAERunConfig, values, "config.")
    VAERunConfig(**values)
    for name, cls in sections.items():
        section(cls, config.to_dict(), name)
    for key in ("background", "modality_weights"):
        check_keys(config.loss[key], modalities.names(), f"config.loss.{key}.")
    seeds.check(config.seed, "config.seed")
    try:
        model = VAEConfig(**config.model)
    except TypeError as error:
        raise UserError(f"config.model: {error}; its keys are those of VAEConfig") from error
    sizes = [tuple(size) for size in config.data.sizes]
    score = config.evaluation
    for height, width in [size[:2] for size in sizes] + [(score.height, score.width)]:
        model.latent_shape(config.data.num_frames, height, width)
        world(config, "train", height, width)
    count = jax.device_count()
    if uneven := [size for size in sizes if size[2] % count]:
        raise UserError(
            f"config.data.sizes={sizes}: the clips of {uneven[0]} do not divide among {count} "
            f"devices; give a multiple of {count}"
        )
    width = model.base_dim * max(model.dim_mult)
    # Of the widest convolution of 3x3x3: weights, average and two moments, each in float32.
    check_device(
        4 * 4 * 27 * width**2,
        f"config.model: layers of width {width}",
        "lower config.model.base_dim",
    )
    for size in sizes:
        check_device(
            PIXEL_BYTES * config.data.num_frames * math.prod(size) // count,
            f"config.data.sizes: {size} of {config.data.num_frames} frames",
            "give fewer or smaller clips",
        )
    return model


def train(
    config: ml_collections.ConfigDict, model: VAEConfig
) -> tuple[WanVAE, dict[str, float | int]]:
    """Trains to the step or time limit; returns the averaged weights and facts of the training.

    Every device renders and learns from its share of each step's clips; all hold all weights.

    Raises:
      UserError: a model that is too large, or a loss that is not finite.
    """
    start = time.monotonic()
    names = tuple(config.data.modalities)
    root = jax.random.key(config.seed)
    optimizer = vae_step.VAEOptimizerConfig(**config.optimizer)
    vae = _initial(config, model, jax.random.fold_in(root, 0))
    graph, state = vae_step.init_state(vae, optimizer)
    mesh = make_mesh(MeshConfig(data=-1))
    state = jax.device_put(state, NamedSharding(mesh, P()))
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
    supply = _endless(config, names, mesh)
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
        vae.config,
        latents_mean=model.latents_mean,
        latents_std=model.latents_std,
        modality_statistics=(),
    )
    if vae.config != model:
        raise UserError(
            f"config.init_from={config.init_from}: these weights are of {vae.config}, not of "
            f"config.model={model}; make the two agree"
        )
    return vae


def _endless(
    config: ml_collections.ConfigDict, names: tuple[str, ...], mesh: Mesh
) -> Iterator[Float[Array, "n m t h w 3"]]:
    """Batches of videos [clips, modality, time, height, width, 3], the sizes in turn."""
    sizes = [tuple(size) for size in config.data.sizes]

    def drawn(height: int, width: int) -> Callable[[Int[Array, " n"]], Float[Array, "..."]]:
        train = world(config, "train", height, width)

        def videos(indices: Int[Array, " n"]) -> Float[Array, "n m t h w 3"]:
            return vae_step.encode_modalities(names, _render(train, indices))[0]

        # Each device renders its own clips, as it would alone.
        return jax.jit(
            jax.shard_map(
                videos, mesh=mesh, in_specs=P("data"), out_specs=P("data"), check_vma=False
            )
        )

    draws = [drawn(height, width) for height, width, _ in sizes]
    first = 0
    while True:
        for (_, _, count), draw in zip(sizes, draws, strict=True):
            indices = np.arange(first, first + count, dtype=np.int32)
            yield draw(jax.device_put(indices, NamedSharding(mesh, P("data"))))
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
    output: pathlib.Path,
) -> dict[str, ceiling.Ceiling]:
    """Saves with measured statistics, loads what was saved, scores that, writes the card.

    Returns:
      The ceilings by split.
    """
    score, names = config.evaluation, tuple(config.data.modalities)
    vae.dtype = "float32"
    # Statistics and scores are those of the stored, rounded weights.
    save_vae(vae, output)
    rounded = load_vae(output)
    train = world(config, "train", score.height, score.width)
    # The last indices there are: training never comes to them.
    first = np.iinfo(np.int32).max - score.statistics_clips
    fresh = _batches(first, score.statistics_clips, score.batch)
    statistics = vae_report.latent_statistics(
        rounded, names, (vae_step.encode_modalities(names, _render(train, b))[0] for b in fresh)
    )
    rounded.config = dataclasses.replace(
        vae.config,
        latents_mean=statistics.mean,
        latents_std=statistics.std,
        modality_statistics=statistics.modalities,
    )
    save_vae(rounded, output)
    found = {
        split: ceiling.measure(
            rounded,
            world(config, split, score.height, score.width),
            names,
            score.num_clips,
            batch_size=score.batch,
            processes=score.processes,
        )
        for split in ("validation", "closeup")
    }
    validation = world(config, "validation", score.height, score.width)
    _sheet(rounded, validation, names, output / "reconstructions.png")
    _card(config, vae.config, took, found, output / "README.md")
    return found


def _sheet(vae: WanVAE, world: WorldConfig, names: tuple[str, ...], path: pathlib.Path) -> None:
    """Original above reconstruction, a pair of rows per modality."""
    clips = _render(world, np.arange(2, dtype=np.int32))
    videos, _ = vae_step.encode_modalities(names, clips)
    rebuilt = np.asarray(vae_report.reconstruct(vae, videos))
    rows = []
    for clip, (before, after) in enumerate(zip(np.asarray(videos), rebuilt, strict=True)):
        for name, a, b in zip(names, before, after, strict=True):
            rows.append((f"{name}, clip {clip}: original", media.to_uint8(a)))
            rows.append((f"{name}, clip {clip}: reconstructed", media.to_uint8(b)))
    media.contact_sheet(rows, path, columns=6, scale=max(1, 128 // world.width))


def _card(
    config: ml_collections.ConfigDict,
    model: VAEConfig,
    took: Mapping[str, float | int],
    found: Mapping[str, ceiling.Ceiling],
    path: pathlib.Path,
) -> None:
    score = config.evaluation
    command = shlex.join(cli.command("train_vae"))
    sizes = ", ".join(f"{c} x {h}x{w}" for h, w, c in config.data.sizes)
    start = f"from the weights in {escape.code(config.init_from)}"
    origin = start if config.init_from else "from scratch"
    stride = f"{model.temporal_stride} x {model.spatial_stride} x {model.spatial_stride}"
    names = ", ".join(config.data.modalities)
    lines = [
        "# Causal video autoencoder on procedural worlds",
        "",
        f"The architecture of Wan 2.1's autoencoder (stride {stride}, {model.z_dim} channels) with",
        f"base_dim {model.base_dim}, decoder_base_dim {model.decoder_base_dim}, dim_mult "
        f"{tuple(model.dim_mult)}, num_res_blocks {model.num_res_blocks}, patch_size "
        f"{model.patch_size}:",
        f"{took['parameters']:,} parameters, stored as float16.",
        f"Trained {origin} on procedural worlds ({names}); not for real video.",
        "",
        f"- Command: {escape.code(command)}",
        f"- Seed: {config.seed}",
        f"- Date: {datetime.datetime.now(datetime.UTC).date().isoformat()}",
        f"- Device: {vae_report.device_name()}, JAX {jax.__version__}",
        f"- Training: {took['steps']} steps in {took['seconds']} s, compilation included; clips "
        f"per step, in turn: {sizes}, {config.data.num_frames} frames, each clip in all "
        f"modalities; worlds version {worlds.VERSION}, {config.data.closeup:.0%} of the clips with "
        "the camera close to a person",
        f"- Latents: zero mean and unit variance per channel and modality over "
        f"{score.statistics_clips} clips of the training split that it was not trained on",
    ]
    for split, measured in found.items():
        lines += [
            "",
            f"## Ceiling on {split}",
            "",
            f"{score.num_clips} clips, {config.data.num_frames} frames of {score.height}x"
            f"{score.width}: the truth through codec and autoencoder (float32), read without its "
            "side record and scored as an estimate.",
            "",
            ceiling.table(measured),
        ]
    lines += ["", "`reconstructions.png` shows two of the clips, original above reconstruction."]
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n")


def define_flags() -> None:
    """Called by the program alone, so that importing this module claims no flag names."""
    cli.define_config("The experiment.")
    cli.define_path(
        "output", None, "Folder for the weights; must not hold any yet.", writes="folder"
    )


def main(argv: Sequence[str]) -> None:
    """Trains, measures and writes the autoencoder."""
    del argv
    if flags.FLAGS.config is None or flags.FLAGS.output is None:
        raise UserError("give --config=vae_worlds and --output=FOLDER")
    config, output = cli.read_config(flags.FLAGS.config), pathlib.Path(flags.FLAGS.output)
    model = check(config, output)
    output.mkdir(parents=True, exist_ok=True)
    vae, took = train(config, model)
    for split, measured in finish(config, vae, took, output).items():
        print(f"{split}\n{ceiling.table(measured)}", flush=True)
    print(f"wrote {output}", flush=True)


if __name__ == "__main__":
    define_flags()
    cli.run(main)
