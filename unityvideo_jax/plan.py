r"""Plans a run before it costs anything: compiles its step for devices that need not be here.

  python -m unityvideo_jax.plan --config=configs/worlds_small.py --topology=v5p:2x2x2 \
      --mesh=fsdp=8 --mesh=fsdp=4,context=2 --config.model.remat=attention

Prints, for one device: memory, FLOPs, bytes sent by every kind of collective, and the step time
that the hardware's peaks allow. Compiling for TPUs needs `pip install 'unityvideo_jax[tpu]'`, and
no TPU.
"""

import dataclasses
from collections.abc import Sequence

import jax
from absl import flags
from ml_collections import config_flags

from unityvideo_jax import cli
from unityvideo_jax.errors import UserError


def define_flags() -> None:
    """Called by the program alone, so that importing this module claims no flag names."""
    config_flags.DEFINE_config_file("config", None, "The experiment.", lock_config=True)
    flags.DEFINE_string(
        "topology", "local", "Devices: 'local', or a TPU's name and shape such as v5p:2x2x2."
    )
    flags.DEFINE_integer("slices", 1, "TPU slices of that shape.", lower_bound=1)
    flags.DEFINE_multi_string(
        "mesh",
        [],
        "Mesh to try, such as fsdp=4,context=2; may be repeated. Default: config.mesh.",
    )


def parse_mesh(text: str, slices: int):
    """The mesh that `--mesh` describes; sizes that are not given are 1.

    Raises:
      UserError: not of the form axis=size,axis=size.
    """
    from unityvideo_jax.parallel.mesh import AXES, MeshConfig

    sizes = {"data": 1, "slice": slices}
    for part in text.split(","):
        axis, _, size = part.partition("=")
        if axis not in AXES or not size.removeprefix("-").isdigit():
            raise UserError(f"--mesh={text}: give axis=size,... with axes of {', '.join(AXES)}")
        sizes[axis] = int(size)
    return MeshConfig(**sizes)


def main(argv: Sequence[str]) -> None:
    """Prints a plan for every mesh, and a comparison if there are several."""
    del argv
    args = flags.FLAGS
    try:
        # A file that failed to load raises at the first look inside.
        config = args.config and args.config.copy_and_resolve_references()
    except OSError as error:
        raise UserError(f"--config: {error}") from error
    if config is None:
        raise UserError("give --config=configs/NAME.py")
    if args.topology != "local":
        # The TPU's compiler is wanted, not a TPU.
        jax.config.update("jax_platforms", "cpu")
    from unityvideo_jax.parallel import plan_report, planner
    from unityvideo_jax.parallel.mesh import MeshConfig
    from unityvideo_jax.sections import section

    devices = planner.topology(args.topology, args.slices)
    own = section(MeshConfig, config, "mesh")
    if args.slices > 1:
        own = dataclasses.replace(own, slice=args.slices)
    meshes = [parse_mesh(text, args.slices) for text in args.mesh] or [own]
    for mesh in meshes:
        mesh.shape(len(devices))  # refused before the first is compiled
    print(f"{len(devices)} x {devices[0].device_kind}, batch {config.train.batch_size}", flush=True)
    plans = []
    for mesh in meshes:
        plans.append(planner.plan(config, mesh, devices))
        print(f"\n{plan_report.describe(plans[-1])}", flush=True)
    if len(plans) > 1:
        print(f"\n{plan_report.compare(plans)}")


if __name__ == "__main__":
    define_flags()
    cli.run(main)
