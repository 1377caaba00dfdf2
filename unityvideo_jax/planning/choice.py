"""The closed form for a config: of one mesh, of the sampler, and of every mesh, the best first."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

import jax.numpy as jnp
import ml_collections

from unityvideo_jax.errors import UserError
from unityvideo_jax.inputs.buckets import Bucket
from unityvideo_jax.models.config import REMAT_POLICIES, DiTConfig
from unityvideo_jax.models.lora import WHOLE, LoraConfig
from unityvideo_jax.parallel.chips import chip_of
from unityvideo_jax.parallel.mesh import AXES, MeshConfig
from unityvideo_jax.planning import closed_form
from unityvideo_jax.planning.closed_form import Estimate, Step
from unityvideo_jax.planning.fit import check_divides, largest, latent_shape, training_shapes
from unityvideo_jax.planning.rates import rates_of
from unityvideo_jax.sampling.generate import SamplerConfig

# Tensor parallelism waits for its sums three times per layer, each way: only on the fastest links.
MAX_TENSOR = 8


def one_a_shard(mesh: MeshConfig) -> int:
    """The smallest batch of a mesh: one sample for each of its slice x data x fsdp parts."""
    return mesh.slice * mesh.data * mesh.fsdp


def estimate(
    config: ml_collections.ConfigDict,
    mesh: MeshConfig,
    kind: str,
    devices: int,
    bucket: Bucket | None = None,
) -> Estimate:
    """Estimates the training step on one mesh of devices of a known kind.

    Args:
      config: the run's.
      mesh: over all devices.
      kind, devices: what to train on.
      bucket: of the run; None is the largest.

    Raises:
      UserError: a batch, heads or tokens that the mesh does not divide.
    """
    model = DiTConfig(**config.model)
    sizes = dict(zip(AXES, mesh.shape(devices), strict=True))
    mesh = MeshConfig(**sizes)
    bucket = bucket or largest(config)
    batch = bucket.batch_size
    check_divides(config, [bucket], one_a_shard(mesh) * config.optimizer.accumulation)
    tokens = _stream_tokens(config, bucket)
    divides = {
        f"tensor={mesh.tensor}": math.gcd(model.num_heads, model.ffn_dim) % mesh.tensor,
        f"context={mesh.context}": tokens % mesh.context,
        f"fsdp={mesh.fsdp}": model.dim % mesh.fsdp,
    }
    if model.attention_parallel == "ulysses":
        heads = model.num_heads // mesh.tensor
        divides[f"context={mesh.context} with attention_parallel='ulysses'"] = heads % mesh.context
    for name, rest in divides.items():
        if rest:
            raise UserError(
                f"config.mesh.{name} does not divide {model.num_heads} heads, a width of "
                f"{model.dim} or {tokens} tokens per stream"
            )
    step = _step(config, model, bucket, batch, mesh)
    return closed_form.estimate(step, chip_of(kind), rates_of(kind))


def estimate_sampling(
    config: ml_collections.ConfigDict, kind: str, devices: int, samples: int | None = None
) -> Estimate:
    """Estimates the sampler for joint generation, its samples shared among the devices.

    Args:
      config: the run's.
      kind, devices: what to run on.
      samples: videos of a call; None is one per device.

    Raises:
      UserError: samples that the devices do not divide.
    """
    samples = devices if samples is None else samples
    if samples % devices:
        raise UserError(f"--samples={samples}: must be a multiple of the {devices} devices")
    sampler = SamplerConfig(**config.sampling)
    mesh = MeshConfig(data=devices)
    # Of the size that samples have by default.
    data, model = config.data, DiTConfig(**config.model)
    streams = max(shape.streams for shape in training_shapes(config))
    bucket = Bucket(frames=data.num_frames, height=data.height, width=data.width, streams=streams)
    step = _step(config, model, bucket, samples, mesh, training=False)
    return closed_form.estimate_sampling(
        step,
        evaluations=len(sampler.table().sigma),
        passes=len(sampler.passes()),
        chip=chip_of(kind),
        rates=rates_of(kind),
    )


def meshes(
    model: DiTConfig, stream_tokens: int, devices: int, slices: int = 1
) -> Iterator[tuple[MeshConfig, str]]:
    """Yields meshes that divide the model, each with its way of attending over split tokens.

    Heads and the feed-forward width divide by `tensor`, the tokens of a stream by `context`, the
    model's width by `fsdp`. Ulysses where the heads allow it, the ring elsewhere.

    Args:
      model: its sizes count, not its switches.
      stream_tokens: of one stream of one sample.
      devices: in all slices together.
      slices: what the mesh's `slice` axis will be.
    """
    each = devices // slices
    for tensor in _divisors(math.gcd(each, math.gcd(model.num_heads, model.ffn_dim))):
        if tensor > MAX_TENSOR:
            continue
        for context in _divisors(math.gcd(each // tensor, stream_tokens)):
            rest = each // tensor // context
            for fsdp in _divisors(math.gcd(rest, model.dim)):
                parallel = "ring" if model.num_heads // tensor % context else "ulysses"
                mesh = MeshConfig(
                    slice=slices, data=rest // fsdp, fsdp=fsdp, context=context, tensor=tensor
                )
                yield mesh, parallel


def rank(
    config: ml_collections.ConfigDict,
    kind: str,
    devices: int,
    *,
    batch: Callable[[MeshConfig], int] | None = None,
    slices: int = 1,
    remats: Sequence[str] = REMAT_POLICIES,
) -> list[Estimate]:
    """Estimates all meshes and remat policies, the best first.

    Those that fit come first, by samples per second to about 1 % and then by memory; the others
    follow by their memory.

    Args:
      config: the run's; its mesh, remat policy and way of attending are not read.
      kind, devices: what to train on.
      batch: samples of a step on a mesh; None is the config's batch size on all.
      slices: of TPUs.
      remats: policies to try.

    Raises:
      UserError: an unknown kind of device, or no mesh that divides the model and the batch.
    """
    chip, rates = chip_of(kind), rates_of(kind)
    if chip is None or rates is None:
        raise UserError(f"--mesh=best: the figures of {kind!r} are not known; give --topology")
    model, bucket, found = DiTConfig(**config.model), largest(config), []
    tokens = _stream_tokens(config, bucket)
    first = _step(config, model, bucket, bucket.batch_size, MeshConfig(data=1))
    for mesh, parallel in meshes(model, tokens, devices, slices):
        samples = batch(mesh) if batch else bucket.batch_size
        if samples % (one_a_shard(mesh) * config.optimizer.accumulation):
            continue
        for remat in remats:
            step = dataclasses.replace(
                first,
                model=dataclasses.replace(model, remat=remat, attention_parallel=parallel),
                batch=samples,
                mesh=_sizes(mesh),
            )
            found.append(closed_form.estimate(step, chip, rates))
    if not found:
        raise UserError(
            f"no mesh of {devices} devices divides config.train.batch_size="
            f"{bucket.batch_size}, {model.num_heads} heads and {tokens} tokens per stream: "
            "change the batch or the number of devices"
        )
    return sorted(found, key=_goodness)


def distinct(ranked: Sequence[Estimate]) -> list[Estimate]:
    """Selects one estimate of each context, tensor and policy, which matter most to a device.

    How `data` and `fsdp` share the rest of the devices changes little beside them.
    """
    first: dict[tuple, Estimate] = {}
    for found in ranked:
        key = (found.mesh["context"], found.mesh["tensor"], found.model.remat)
        first.setdefault(key, found)
    return list(first.values())


def _step(
    config: ml_collections.ConfigDict,
    model: DiTConfig,
    bucket: Bucket,
    batch: int,
    mesh: MeshConfig,
    *,
    training: bool = True,
) -> Step:
    return Step(
        model=model,
        latent_shape=latent_shape(config, bucket.size)[:3],
        streams=bucket.streams,
        batch=batch,
        moment_bytes=jnp.dtype(config.optimizer.moments).itemsize,
        keep_ema=config.optimizer.ema_decay > 0,
        accumulation=config.optimizer.accumulation if training else 1,
        mesh=_sizes(mesh),
        lora=LoraConfig.of(config) if training else WHOLE,
    )


def _sizes(mesh: MeshConfig) -> dict[str, int]:
    return {axis: getattr(mesh, axis) for axis in AXES}


def _stream_tokens(config: ml_collections.ConfigDict, bucket: Bucket) -> int:
    return math.prod(DiTConfig(**config.model).token_grid(latent_shape(config, bucket.size)[:3]))


def _goodness(found: Estimate) -> tuple:
    if not found.fits:
        return True, found.memory
    # Within about 1 % two speeds are one: the closed form knows no better.
    speed = round(100 * math.log(found.samples / found.step_seconds))
    return False, -speed, found.memory


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]
