"""Memory, traffic and time of training or sampling on a mesh of devices elsewhere.

The real program is compiled for the devices; memory and traffic are then read from the result.
"""

import contextlib
import dataclasses
import functools
import math
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from flax import nnx
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from unityvideo_jax.errors import UserError
from unityvideo_jax.flow_matching import ObjectiveConfig
from unityvideo_jax.inputs.buckets import Bucket
from unityvideo_jax.models import build
from unityvideo_jax.models.config import DiTConfig, model_flops
from unityvideo_jax.models.lora import LoraConfig
from unityvideo_jax.parallel.chips import Chip, chip_of
from unityvideo_jax.parallel.mesh import MeshConfig, make_mesh
from unityvideo_jax.parallel.rules import AxisRules
from unityvideo_jax.planning import hlo
from unityvideo_jax.planning.fit import batch_parts, check_divides, largest, latent_shape
from unityvideo_jax.planning.flops import count_flops
from unityvideo_jax.sampling.generate import SamplerConfig, jit_generate
from unityvideo_jax.settings.sections import section
from unityvideo_jax.training import state as state_lib
from unityvideo_jax.training.optimizer import OptimizerConfig, make_optimizer
from unityvideo_jax.training.step import jit_train_step

# Variables that libtpu otherwise looks up on the machine it runs on.
_NO_TPU_HERE = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5p-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    # Two programs may compile at once: neither uses a TPU.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
# Memory comes out within 3 %, and the compiler takes a fifth to a quarter of the time.
_QUICK = {"exec_time_optimization_effort": -1.0}
# libtpu 0.0.42 aborts where it gives an all-reduce between a chip's two devices to the SparseCores.
_WORKS_ON = {"TPU7x": {"xla_tpu_enable_sparse_core_collective_offload_all_reduce": False}}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """One program on one mesh. Bytes, FLOPs and seconds of one device, unless said otherwise.

    Attributes:
      mesh: sizes of its axes.
      model: with its remat policy and its way of attending over split tokens.
      samples: of all devices together.
      evaluations: how often the program evaluates the velocity: 1 of a training step, the solver's
        of sampling.
      parameters: float32 weights, and in training their moving average; frozen ones as held.
      optimizer: its moments.
      batch: input, and in sampling the output.
      temporary: activations, gradients and everything else that lives within a step.
      code: the program.
      model_flops: of the model, forward and in training backward, nothing recomputed.
      executed_flops: of the compiled program's matrix products, recomputation included.
      traffic: sent between devices and moved through main memory.
      chip: the device's figures; None if unknown.
      problem: why the compiler refused; the figures it would have given are then zero.
    """

    mesh: Mapping[str, int]
    model: DiTConfig
    samples: int
    evaluations: int = 1
    parameters: int
    optimizer: int
    batch: int
    temporary: int
    code: int
    model_flops: float
    executed_flops: float
    traffic: hlo.Traffic
    chip: Chip | None
    problem: str = ""

    @property
    def memory(self) -> int:
        """All bytes that the step holds at once."""
        return self.parameters + self.optimizer + self.batch + self.temporary + self.code

    @property
    def fits(self) -> bool | None:
        """Whether the step fits the device; None if its memory is unknown."""
        if self.problem:
            return False
        return None if self.chip is None else self.memory <= self.chip.memory

    @property
    def seconds(self) -> dict[str, float]:
        """Least time for arithmetic, main memory, fast links, and the network between slices.

        The step takes at least the longest of them, and at most about their sum if nothing overlaps
        and each runs at its peak.
        """
        if self.chip is None:
            return {}
        far = {key: n for key, n in self.traffic.sent.items() if "slice" in key[1].split("+")}
        near = sum(self.traffic.sent.values()) - sum(far.values())
        return {
            "compute": self.executed_flops / self.chip.flops,
            "memory": self.traffic.memory / self.chip.memory_bandwidth,
            "links": near / self.chip.link_bandwidth,
            "network": sum(far.values()) / self.chip.network_bandwidth,
        }

    @property
    def step_seconds(self) -> float | None:
        """The roofline: the longest of `seconds`."""
        return max(self.seconds.values()) if self.seconds else None


def topology(name: str, slices: int = 1) -> list[Any]:
    """Devices to compile for.

    Args:
      name: "local" for this machine's, or a TPU's name and shape such as "v5p:2x2x2", "v5e:4x4",
        "v6e:2x2", "tpu7x:2x2x1"; that TPU need not be there.
      slices: how many of that shape.

    Raises:
      UserError: an unknown name, or no TPU compiler.
    """
    if name == "local":
        return jax.devices()
    for variable, value in _NO_TPU_HERE.items():
        os.environ.setdefault(variable, value)
    options: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
    if name.startswith("v4"):
        options["chip_config_name"] = "megacore"  # a chip is one device, as JAX has it there
    try:
        described = topologies.get_topology_desc(name, "tpu", **options)
    except Exception as error:
        if "TPU support not installed" in str(error):
            raise UserError(
                f"--topology={name}: the TPU compiler is missing; install it with `pip install "
                "'unityvideo_jax[tpu]'` (it needs no TPU), or give --topology=local"
            ) from error
        raise UserError(
            f"--topology={name}: {str(error).splitlines()[0]}; give a TPU and its shape, such as "
            "v5p:2x2x2, v5e:4x4 or tpu7x:2x2x1"
        ) from error
    return list(described.devices)


def abstract_batch(config: ml_collections.ConfigDict, mesh: Mesh, bucket: Bucket) -> dict[str, Any]:
    """Shapes and shardings of the batches of a bucket."""
    check_divides(config, [bucket], batch_parts(config, mesh))
    rows, streams = bucket.batch_size, bucket.streams
    shapes = {
        "latents": ((streams, *latent_shape(config, bucket.size)), jnp.float32),
        "modality": ((streams,), jnp.int32),
        "context": ((streams, config.data.text_length, config.model.text_dim), jnp.float32),
    }
    layout = NamedSharding(mesh, AxisRules().spec(("batch",)))
    return {
        name: jax.ShapeDtypeStruct((rows, *shape), dtype, sharding=layout)
        for name, (shape, dtype) in shapes.items()
    }


def checkpoint_bytes(config: ml_collections.ConfigDict) -> int:
    """Bytes of the arrays of a run's checkpoint, all of which is written once; no array is made."""
    optim, lora = section(OptimizerConfig, config, "optimizer"), LoraConfig.of(config)
    _, shapes, _ = state_lib.plan(
        section(DiTConfig, config, "model"),
        make_optimizer(optim, config.train.steps),
        make_mesh(MeshConfig(data=1), jax.devices()[:1]),
        AxisRules(),
        keep_ema=optim.ema_decay > 0,
        lora=lora,
    )
    saved = jax.tree.leaves((shapes.params, shapes.ema, shapes.opt_state))
    return sum(x.size * x.dtype.itemsize for x in saved)


def plan(
    config: ml_collections.ConfigDict,
    mesh_config: MeshConfig,
    devices: Sequence,
    *,
    bucket: Bucket | None = None,
    quick: bool = True,
) -> Plan:
    """Compiles the training step of `config` for a mesh of `devices` and reads its needs.

    Args:
      config: the run's.
      mesh_config: over all the devices.
      devices: to compile for; from `topology`.
      bucket: of the run; None is the largest.
      quick: spend less on making TPU programs fast, which takes most of the compilation.

    Raises:
      UserError: a model, batch or mesh that do not fit each other.
    """
    mesh = make_mesh(mesh_config, devices)
    model = section(DiTConfig, config, "model")
    optim = section(OptimizerConfig, config, "optimizer")
    objective = section(ObjectiveConfig, config, "objective")
    lora = LoraConfig.of(config)
    optimizer = make_optimizer(optim, config.train.steps)
    with jax.set_mesh(mesh):
        graphdef, shapes, layout = state_lib.plan(
            model, optimizer, mesh, AxisRules(), keep_ema=optim.ema_decay > 0, lora=lora
        )
        state = jax.tree.map(
            lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), shapes, layout
        )
        bucket = bucket or largest(config)
        batch = abstract_batch(config, mesh, bucket)
        key = jax.eval_shape(lambda: jax.random.key(0))
        step = jit_train_step(graphdef, layout, model, objective, optim, optimizer)
        traced = step.trace(state, batch, key)
        compiled, problem = _compile(traced, devices[0], quick)
    samples = bucket.batch_size
    forward = model_flops(model, latent_shape(config, bucket.size)[:3], bucket.streams)
    return _plan(
        traced,
        compiled,
        problem,
        mesh=mesh,
        model=model,
        samples=samples,
        parameters=_local_bytes((state.params, state.ema, state.frozen)),
        optimizer=_local_bytes(state.opt_state),
        batch=_local_bytes(batch),
        model_flops=(2 if lora.rank else 3) * samples * forward / mesh.size,
    )


def plan_sampling(
    config: ml_collections.ConfigDict,
    devices: Sequence,
    *,
    samples: int | None = None,
    quick: bool = True,
) -> Plan:
    """Compiles the sampler of `config`, all steps and guidance, and reads its needs.

    As `sample` runs it for joint generation: the samples are shared among the devices, each of
    which holds all weights.

    Args:
      config: the run's.
      devices: to compile for.
      samples: videos of a call, each of all streams; None is one per device.
      quick: as in `plan`.

    Raises:
      UserError: samples that the devices do not divide.
    """
    samples = len(devices) if samples is None else samples
    if samples % len(devices):
        raise UserError(f"--samples={samples}: must be a multiple of the {len(devices)} devices")
    mesh = make_mesh(MeshConfig(), devices)
    model, sampler = DiTConfig(**config.model), SamplerConfig(**config.sampling)
    streams = min(2, len(model.modalities))
    everywhere = NamedSharding(mesh, PartitionSpec())
    rows = NamedSharding(mesh, AxisRules().spec(("batch",)))

    def abstract(shape: tuple[int, ...], dtype: Any, where: NamedSharding = rows) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=where)

    with jax.set_mesh(mesh):
        graphdef, params = build.abstract_transformer(model)
        params = jax.tree.map(lambda x: abstract(x.shape, x.dtype, everywhere), params)
        latents = abstract((samples, streams, *latent_shape(config)), jnp.float32)
        text = abstract(
            (samples, streams, config.data.text_length, config.model.text_dim), jnp.float32
        )
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), samples))
        inputs = {
            "given": latents,
            "modality": abstract((samples, streams), jnp.int32),
            "context": text,
            "null_context": text,
            "key": abstract(keys.shape, keys.dtype),
        }
        traced = jit_generate(functools.partial(nnx.merge, graphdef)).trace(
            params, inputs, wanted=(True,) * streams, sampler=sampler
        )
        compiled, problem = _compile(traced, devices[0], quick)
    evaluations = len(sampler.table().sigma)
    passes = len(sampler.passes())
    forward = model_flops(model, latent_shape(config)[:3], streams)
    return _plan(
        traced,
        compiled,
        problem,
        mesh=mesh,
        model=model,
        samples=samples,
        evaluations=evaluations,
        parameters=_local_bytes(params),
        optimizer=0,
        batch=_local_bytes(([x for name, x in inputs.items() if name != "key"], latents)),
        model_flops=samples * evaluations * passes * forward / mesh.size,
    )


def _compile(traced: Any, device: Any, quick: bool) -> tuple[Any, str]:
    """The compiled program, or None and why there is none: it does not fit the device."""
    options = dict(_WORKS_ON.get(device.device_kind, {}))
    if quick and device.platform == "tpu":
        options |= _QUICK
    try:
        with contextlib.nullcontext() if device in jax.devices() else _unstored():
            return traced.lower().compile(options), ""
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return None, _out_of_memory(str(error))


@contextlib.contextmanager
def _unstored() -> Iterator[None]:
    """JAX would store programs for devices that are not there, and cannot read them again."""
    threshold = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, threshold)
    jax.config.update(threshold, math.inf)
    try:
        with warnings.catch_warnings():  # of those that were stored
            warnings.filterwarnings("ignore", "Error reading persistent compilation cache")
            yield
    finally:
        jax.config.update(threshold, before)


def _plan(traced: Any, compiled: Any, problem: str, *, mesh: Mesh, **known: Any) -> Plan:
    """Joins facts known before compiling with those of the compiled program."""
    analysis = compiled.memory_analysis() if compiled else None
    return Plan(
        mesh=dict(mesh.shape),
        temporary=analysis.temp_size_in_bytes if analysis else 0,
        code=analysis.generated_code_size_in_bytes if analysis else 0,
        executed_flops=count_flops(traced.jaxpr) / mesh.size,
        traffic=hlo.measure(compiled.as_text(), dict(mesh.shape))
        if compiled
        else hlo.Traffic(sent={}, memory=0.0),
        chip=chip_of(mesh.devices.flat[0].device_kind),
        problem=problem,
        **known,
    )


def _local_bytes(tree: Any) -> int:
    """Bytes of a tree of abstract arrays on one device."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
    )


def _out_of_memory(message: str) -> str:
    found = re.search(r"([^:.]* \([\d.]+\w\) exceeds available HBM \([\d.]+\w\))", message)
    return "out of memory: " + (found[1].strip() if found else message.splitlines()[0][:120])
