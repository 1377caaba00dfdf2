r"""Plans a run before it costs anything: the needs of its step or sampler on given devices.

  python -m unityvideo_jax.plan --config=worlds_small --topology=v5p:2x2x2 \
      --mesh=fsdp=8 --mesh=fsdp=4,context=2 --config.model.remat=attention
  python -m unityvideo_jax.plan --config=wan21_1_3b --topology=v5p:4x4x4 --mesh=best
  python -m unityvideo_jax.plan --config=wan21_1_3b --topology=h200:8 --mesh=best
  python -m unityvideo_jax.plan --config=worlds_small --topology=v6e:2x2 \
      --program=sampling

For TPUs the real program is compiled: memory, FLOPs, bytes sent by every kind of collective, and
the time that the hardware's peaks allow. That needs `pip install 'unityvideo_jax[tpu]'`, and no
TPU. For GPUs a closed form answers, from measured rates. docs/planning.md reads the output.
"""

import copy
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
from absl import flags

from unityvideo_jax import cli
from unityvideo_jax.errors import UserError
from unityvideo_jax.parallel.chips import GIB

BEST = "best"
# Most programs that `--mesh=best` compiles per result: those that do not fit fail early.
_TRIES_EACH = 3
# Lines of the closed form's ranking.
_SHOWN = 8


def define_flags() -> None:
    """Called by the program alone, so that importing this module claims no flag names."""
    cli.define_config("The experiment.")
    flags.DEFINE_string(
        "topology",
        "local",
        "Devices: 'local', a TPU's name and shape such as v5p:2x2x2, or GPUs such as h200:8.",
    )
    flags.DEFINE_integer("slices", 1, "TPU slices of that shape.", lower_bound=1)
    flags.DEFINE_enum("program", "training", ("training", "sampling"), "What to plan.")
    flags.DEFINE_multi_string(
        "mesh",
        [],
        "Mesh to try, such as fsdp=4,context=2; may be repeated; 'best' searches meshes and remat "
        "policies. Default: config.mesh.",
    )
    flags.DEFINE_integer(
        "tries", 2, "Of --mesh=best: fitting programs to compile and compare.", lower_bound=1
    )
    flags.DEFINE_integer(
        "samples", None, "Videos that sampling makes at once; 1 per device if unset.", lower_bound=1
    )
    flags.DEFINE_bool(
        "optimize", False, "Compile for TPUs with full effort, as training does; takes minutes."
    )


def parse_mesh(text: str, slices: int) -> Any:
    """Parses the mesh of `--mesh`; sizes that are not given are 1.

    Raises:
      UserError: not of the form axis=size,axis=size.
    """
    from unityvideo_jax.parallel.mesh import AXES, MeshConfig

    sizes, given = {"data": 1, "slice": slices}, []
    for part in text.split(","):
        axis, _, size = part.partition("=")
        if axis in given:
            raise UserError(f"--mesh={text}: says {axis} twice; say it once")
        given.append(axis)
        if axis not in AXES or not size.removeprefix("-").isdigit():
            raise UserError(
                f"--mesh={text}: give {BEST}, or axis=size,... with axes of {', '.join(AXES)}"
            )
        sizes[axis] = int(size)
    return MeshConfig(**sizes)


def _checked_config() -> Any:
    args = flags.FLAGS
    config = cli.read_config(args.config)
    if config is None:
        raise UserError("give --config=NAME")
    from unityvideo_jax import train

    train.check(config)
    if args.program == "sampling" and args.mesh:
        raise UserError(
            "--mesh: sampling shares its samples among devices that each hold all weights; leave "
            "it out"
        )
    if args.samples is not None and args.program == "training":
        raise UserError("--samples is for --program=sampling; see --config.train.batch_size")
    if args.program == "sampling" and args.slices > 1:
        raise UserError("--slices: sampling stays within one slice; leave it out")
    if BEST not in args.mesh:
        cli.refuse(["tries"], f"is for --mesh={BEST}; leave it out")
    if BEST in args.mesh and len(args.mesh) > 1:
        raise UserError(f"--mesh={BEST}: leave out the other meshes")
    return config


def _meshes(config: Any, devices: int) -> list:
    """Those of the flags, or the config's own; refused before the first is compiled."""
    from unityvideo_jax.parallel.mesh import MeshConfig
    from unityvideo_jax.settings.sections import section

    args = flags.FLAGS
    own = section(MeshConfig, config, "mesh")
    if args.slices > 1:
        own = dataclasses.replace(own, slice=args.slices)
    meshes = [parse_mesh(text, args.slices) for text in args.mesh] or [own]
    for mesh in meshes:
        mesh.shape(devices)
    return meshes


def _compile(config: Any, devices: Sequence) -> list:
    """Compiles and prints what the flags ask for."""
    from unityvideo_jax.parallel.mesh import MeshConfig
    from unityvideo_jax.planning import choice, planner, report

    args = flags.FLAGS
    plans = []

    def add(made: Any) -> None:
        plans.append(made)
        print(f"\n{report.describe(made)}", flush=True)

    quick = not args.optimize
    if args.program == "sampling":
        add(planner.plan_sampling(config, devices, samples=args.samples, quick=quick))
    elif args.mesh == [BEST]:
        kind = devices[0].device_kind
        guesses = choice.distinct(choice.rank(config, kind, len(devices), slices=args.slices))
        for guess in guesses[: _TRIES_EACH * args.tries]:
            config.model.remat = guess.model.remat
            config.model.attention_parallel = guess.model.attention_parallel
            add(planner.plan(config, MeshConfig(**guess.mesh), devices, quick=quick))
            if sum(made.fits for made in plans) == args.tries:
                break
    else:
        for mesh in _meshes(config, len(devices)):
            add(planner.plan(config, mesh, devices, quick=quick))
    return plans


def _estimate(config: Any, kind: str, count: int) -> list:
    """Estimates and prints what the flags ask for."""
    from unityvideo_jax.planning import choice, report

    args = flags.FLAGS
    if args.program == "sampling":
        plans = [choice.estimate_sampling(config, kind, count, args.samples)]
    elif args.mesh == [BEST]:
        plans = choice.rank(config, kind, count, slices=args.slices)[:_SHOWN]
    else:
        plans = [choice.estimate(config, mesh, kind, count) for mesh in _meshes(config, count)]
    print(f"rates: {plans[0].rates.source}")
    for made in plans[:1] if args.mesh == [BEST] else plans:
        print(f"\n{report.describe_estimate(made)}")
    return plans


def _mixes(config: Any, best: Any, devices: Sequence, kind: str) -> list[str]:
    """The buckets of each stage of the curriculum on the best mesh, one by one and together."""
    from unityvideo_jax.parallel.mesh import AXES, MeshConfig
    from unityvideo_jax.planning import choice, fit, planner, report

    config = copy.deepcopy(config)
    config.model.remat = best.model.remat
    config.model.attention_parallel = best.model.attention_parallel
    mesh = MeshConfig(**{axis: best.mesh[axis] for axis in AXES})
    quick = not flags.FLAGS.optimize
    found: dict[Any, Any] = {}
    texts = []
    for shapes in fit.stage_shapes(config):
        for bucket in shapes:
            one = dataclasses.replace(bucket, weight=1.0)
            if one not in found:
                found[one] = (
                    planner.plan(config, mesh, devices, bucket=one, quick=quick)
                    if devices
                    else choice.estimate(config, mesh, kind, math.prod(best.mesh.values()), one)
                )
        plans = [found[dataclasses.replace(bucket, weight=1.0)] for bucket in shapes]
        if len(shapes) > 1:
            texts.append(report.mix(shapes, [fit.step_tokens(config, b) for b in shapes], plans))
    return list(dict.fromkeys(texts))


def main(argv: Sequence[str]) -> None:
    """Prints a plan for every mesh, a comparison if there are several, and which is the best."""
    del argv
    args = flags.FLAGS
    config = _checked_config()
    if args.topology != "local":
        # The TPU's compiler is wanted, not a TPU.
        jax.config.update("jax_platforms", "cpu")
    from unityvideo_jax.planning import fit, planner, report
    from unityvideo_jax.planning.rates import gpus

    found = gpus(args.topology)
    if found:
        cli.refuse(("slices", "optimize", "tries"), "is for TPUs; for GPUs a closed form answers")
    devices = [] if found else planner.topology(args.topology, args.slices)
    kind, count = found or (devices[0].device_kind, len(devices))
    if not config.data.get("batch_multiple"):
        with config.unlocked():
            # Every mesh that divides this divides the batch too.
            parts = count * config.optimizer.accumulation
            config.data.batch_multiple = math.gcd(parts, config.train.batch_size)
    largest = fit.largest(config)
    samples = largest.batch_size
    if config.data.get("buckets"):
        samples = f"{samples} of {largest.label}, the largest of {len(fit.training_shapes(config))}"
    if args.program == "sampling":
        samples = args.samples or count
    print(f"{count} x {kind}, {args.program}, batch {samples}", flush=True)
    if args.program == "training":
        size = planner.checkpoint_bytes(config) / GIB
        print(f"a checkpoint: {size:.3f} GiB, written once, about an equal part by each process")
    plans = _estimate(config, kind, count) if found else _compile(config, devices)
    if len(plans) > 1:
        print(f"\n{report.compare(plans)}")
    if args.program == "training" and (len(plans) > 1 or args.mesh == [BEST]):
        print(f"\n{report.advice(plans)}")
    if args.program == "training":
        for text in _mixes(config, report.order(plans)[0], devices, kind):
            print(f"\n{text}", flush=True)
        if config.data.get("buckets"):
            print(f"--config.data.batch_multiple={config.data.batch_multiple} trains with these")


if __name__ == "__main__":
    define_flags()
    cli.run(main)
