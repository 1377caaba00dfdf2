r"""Converts weights: Wan's or the release's into a run, or a run into theirs or a model's folder.

  python -m unityvideo_jax.convert --from=Wan2.2-TI2V-5B --to=orbax --workdir=wan22 \
      --config=wan22_5b
  python -m unityvideo_jax.train --config=wan22_5b --config.init_from=wan22 --workdir=run
  python -m unityvideo_jax.convert --from=run --to=diffusers --workdir=exported
  python -m unityvideo_jax.convert --from=run --to=pretrained --storage=int8 --workdir=my-model

A run that trained adapters gives an adapter's file; with --merge, the whole model. --to=pretrained
merges them always.

Tensors are moved one at a time, so that memory holds the largest tensor and never the model. A
conversion that was killed resumes when the same command is given again.
"""

import contextlib
import ctypes
import math
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import ml_collections
from absl import flags

from unityvideo_jax import cli
from unityvideo_jax.checkpoints import adapters, arrays, manifest, run_folder, sources
from unityvideo_jax.errors import UserError
from unityvideo_jax.files import provenance, stores
from unityvideo_jax.files.paths import is_part
from unityvideo_jax.interop import shards, wan, wan_keys
from unityvideo_jax.interop.card import write_card
from unityvideo_jax.interop.journal import Journal, fingerprint
from unityvideo_jax.models.dit import DiTConfig
from unityvideo_jax.models.lora import LoraConfig
from unityvideo_jax.pretrained import model as pretrained
from unityvideo_jax.pretrained.vae import load_vae
from unityvideo_jax.sampling import parts
from unityvideo_jax.settings.sections import section
from unityvideo_jax.training.workdir import open_workdir

STAGING = ".convert"
PRETRAINED = "pretrained"
# Flags that only some values of --to read.
READ_BY = {
    "config": ("orbax",),
    **dict.fromkeys(
        ("checkpoint_step", "fallback", "ema", "storage"), (PRETRAINED, *wan_keys.LAYOUTS)
    ),
    **dict.fromkeys(("merge", "shard_gb"), wan_keys.LAYOUTS),
}
M_MMAP_THRESHOLD = -3  # of glibc's malloc.h


def table(rows: Mapping[str, tuple[int, int, Sequence[str]]]) -> str:
    """Formats rows of (tensors, parameters, names) as text; only few names are shown."""
    lines = [f"{'':10s} {'tensors':>8s} {'parameters':>16s}"]
    for title, (tensors, parameters, names) in rows.items():
        shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        lines.append(f"{title:10s} {tensors:8,d} {parameters:16,d}  {shown}".rstrip())
    return "\n".join(lines)


def _count(shapes: Iterable[tuple[int, ...]]) -> int:
    return sum(math.prod(shape) for shape in shapes)


def _places_count(config: DiTConfig, new: Mapping[str, list[tuple[int, ...]]]) -> int:
    weights = wan_keys.weights(config)
    return sum(
        len(places) * math.prod(weights[ours].shape[len(places[0]) :])
        for ours, places in new.items()
    )


def convert_in(
    source: str,
    workdir: str,
    config: ml_collections.ConfigDict,
    log: Callable[[str], object] = print,
) -> None:
    """Converts safetensors into `workdir`/checkpoints/0, which `train` and `sample` read.

    Args:
      source: file or folder.
      workdir: becomes a run's folder.
      config: of the experiment.
      log: takes lines.

    Raises:
      UserError: weights that do not fit config.model, or a workdir that has checkpoints.
    """
    # Adapters belong to a later run: whole weights are converted.
    config = ml_collections.ConfigDict({k: v for k, v in config.items() if k != "lora"})
    model = section(DiTConfig, config, "model")
    checkpoint = wan.open_checkpoint(source, model)
    tensors = checkpoint.tensors
    if checkpoint.prefix:
        log(f"all names begin with {checkpoint.prefix!r}, which is left out")
    if small := sum(isinstance(t, shards.ScaledTensor) for t in tensors.values()):
        log(f"{small} tensors are 8-bit floats: they carry about 2 digits")
    log(
        table(
            {
                "matched": (len(tensors), _count(t.shape for t in tensors.values()), ()),
                "new": (
                    len(checkpoint.new),
                    _places_count(model, checkpoint.new),
                    sorted(checkpoint.new),
                ),
                "left over": (0, 0, ()),
            }
        )
    )
    target = pathlib.Path(workdir) / run_folder.CHECKPOINTS
    if target.exists():
        raise UserError(f"--workdir={workdir}: has {target.name} already; name a new folder")
    identity = {"files": fingerprint(checkpoint.files), "model": config.model}
    begun = Journal(pathlib.Path(workdir) / STAGING / "journal.json", identity)
    wan.check_values(checkpoint, done=tuple(begun.done))  # before anything is written
    with open_workdir(workdir, config) as folder:
        staging = folder / STAGING
        staged = staging / run_folder.CHECKPOINTS
        journal = Journal(staging / "journal.json", identity)
        if journal.is_fresh or not staged.exists():
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir()
            journal.done.clear()
            arrays.create(staged, wan_keys.weights(model), provenance.plain(config))
            journal.save()
        elif journal.done:
            log(f"continuing after {len(journal.done)} of {len(checkpoint.files)} files")
        wan.fill(
            arrays.open_arrays(staged / str(arrays.STEP)),
            checkpoint,
            done=tuple(journal.done),
            finished=_progress(journal, len(checkpoint.files), log),
        )
        manifest.write(
            staged / str(arrays.STEP),
            [arrays.PARAMS],
            {arrays.CONFIG: provenance.plain(config)},
        )
        os.replace(staged, target)
        shutil.rmtree(staging)
    log(f"{checkpoint.layout} weights are in {workdir}; train with --config.init_from={workdir}")


def _find(source: str, step: int | None, fallback: bool, use_ema: bool) -> sources.Source:
    """As `sources.find`; raises UserError for a choice among the weights of a model too."""
    found = sources.find(source, step, fallback, use_ema)
    chosen = {"checkpoint_step": step is not None, "fallback": fallback, "ema": not use_ema}
    for name, is_chosen in chosen.items():
        if is_chosen and found.item is None:
            raise UserError(f"--{name}: is for a run, a model has one set of weights; drop it")
    return found


def convert_out(
    source: str,
    workdir: str,
    layout: str,
    *,
    step: int | None = None,
    fallback: bool = False,
    use_ema: bool = True,
    storage: str = "float32",
    max_shard_bytes: int = wan.MAX_SHARD_BYTES,
    merge: bool = False,
    log: Callable[[str], object] = print,
) -> None:
    """Converts a run's checkpoint into safetensors, index, config.json and card.

    Adapters of a run become files of their own.

    Args:
      source: workdir of the run, or of a conversion.
      workdir: folder to write to; may exist only with an unfinished conversion of the same.
      layout: one of `wan_keys.LAYOUTS`.
      step, fallback, use_ema: choice of weights, as `sources.find` takes them.
      storage: type of the tensors.
      max_shard_bytes: of one file.
      merge: write the whole model with the run's adapters merged into it, not the adapters.
      log: takes lines.

    Raises:
      UserError: no such run, a model that the layout cannot hold, a choice among the weights of
        a model, or `merge` without adapters.
    """
    found = _find(source, step, fallback, use_ema)
    folder, model, stored = found.folder, found.model, found.stored()
    lora = LoraConfig.of(found.config)
    if merge and not lora.rank:
        raise UserError(f"--merge: {source} has no adapters; leave it out")
    if lora.rank:
        if not merge:
            adapters.export(
                stored, model, lora, pathlib.Path(workdir), layout=layout, storage=storage, log=log
            )
            return
        stored = adapters.merged(stored, sources.base_of(source, found.config), lora)
    mapped = wan_keys.entries(model, layout)
    lost = wan.left_over(model, layout)
    log(
        table(
            {
                "matched": (len(mapped), _count(entry.shape for entry in mapped), ()),
                "new": (0, 0, ()),
                "left over": (len(lost), sum(lost.values()), sorted(lost)),
            }
        )
    )
    out = pathlib.Path(workdir)
    identity = {
        "source": stores.url(folder) or str(folder.resolve()),
        "item": found.item,
        "layout": layout,
        "storage": storage,
        "max_shard_bytes": max_shard_bytes,
        "merge": merge,
    }
    journal = Journal(out / STAGING / "journal.json", identity)
    there = out.iterdir() if out.exists() else ()
    if journal.is_fresh and any(p.name != STAGING and not is_part(p) for p in there):
        raise UserError(f"--workdir={workdir}: is not empty; name a new folder")
    journal.save()
    wan.write(
        stored,
        model,
        out,
        layout=layout,
        storage=storage,
        max_shard_bytes=max_shard_bytes,
        done=tuple(journal.done),
        finished=_progress(journal, None, log),
    )
    origin = "a run" if found.item else "a pretrained model"
    weights = manifest.ARRAYS[found.item] if found.item else "weights"
    write_card(
        out,
        model,
        layout=layout,
        storage=storage,
        made_from=f"the {weights} of step {found.step} of {origin}",
        left_over=lost,
    )
    shutil.rmtree(out / STAGING)
    log(f"step {found.step} ({weights}) of {source} is in {workdir}")


def convert_to_model(
    source: str,
    workdir: str,
    *,
    step: int | None = None,
    fallback: bool = False,
    use_ema: bool = True,
    storage: str = "float32",
    log: Callable[[str], object] = print,
) -> None:
    """Converts a run's checkpoint, or a model, into the folder of a model.

    `--pretrained` and init_from take the folder. Adapters of a run are merged into it.

    Arguments as `convert_out`; `storage` may be "int8" too.

    Raises:
      UserError: no such run, a workdir that holds something, or an adapter per modality.
    """
    found = _find(source, step, fallback, use_ema)
    config, stored = found.config, found.stored()
    if (lora := LoraConfig.of(config)).rank:
        stored = adapters.merged(stored, sources.base_of(source, config), lora)
    own_vae = None if found.item else pretrained.find_own_vae(found.folder, config)
    pretrained.save(
        workdir,
        {**parts.describe_run(config), "step": found.step},
        stored,
        vae=load_vae(own_vae or config["data"].get("vae") or None),
        storage=storage,
    )
    averaged = "" if found.item is None else f" ({manifest.ARRAYS[found.item]})"
    log(f"step {found.step}{averaged} of {source} is in {workdir}, as {storage}")


def _progress(journal: Journal, total: int | None, log):
    start = time.monotonic()

    def finished(file: pathlib.Path) -> None:
        journal.add(file)
        of = "" if total is None else f" of {total}"
        log(f"[{len(journal.done)}{of}] {file.name}: {time.monotonic() - start:.0f} s")

    return finished


def _give_back_freed_memory() -> None:
    """Makes glibc return large blocks as they are freed.

    By default it keeps those of each of TensorStore's threads for reuse, which doubles the peak.
    """
    with contextlib.suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**20)


def define_flags() -> None:
    """Called by the program alone, so that importing this module claims no flag names."""
    cli.define_path(
        "from",
        None,
        "Safetensors file or folder, or id on the hub (ORG/NAME@REVISION); a run to export.",
    )
    flags.DEFINE_enum("to", None, ("orbax", PRETRAINED, *wan_keys.LAYOUTS), "What to write.")
    cli.define_path("workdir", None, "Folder to write to.", writes="folder")
    cli.define_config("With --to=orbax: the experiment whose model takes the weights.")
    flags.DEFINE_integer("checkpoint_step", None, "Checkpoint to export; the latest if unset.")
    flags.DEFINE_bool(
        "fallback", False, "If the checkpoint is damaged, export the newest whole one before it."
    )
    flags.DEFINE_bool("ema", True, "Export the averaged weights.")
    flags.DEFINE_bool(
        "merge", False, "Of a run that trained adapters: export the whole model with them merged."
    )
    flags.DEFINE_enum(
        "storage", "float32", pretrained.STORAGE, "Type of the export; int8 with --to=pretrained."
    )
    flags.DEFINE_float("shard_gb", 5.0, "Largest exported file.", lower_bound=1e-6)


def main(argv: Sequence[str]) -> None:
    """Converts --from into --workdir."""
    del argv
    _give_back_freed_memory()
    args = flags.FLAGS
    source, workdir = args["from"].value, args.workdir
    if not source or not workdir or not args.to:
        raise UserError("give --from, --to and --workdir")
    for name, targets in READ_BY.items():
        if args.to not in targets:
            cli.refuse([name], f"is for --to={'|'.join(targets)}; leave it out")

    def log(line: str) -> None:
        print(line, flush=True)

    export = {
        "step": args.checkpoint_step,
        "fallback": args.fallback,
        "use_ema": args.ema,
        "storage": args.storage,
        "log": log,
    }
    if args.to == PRETRAINED:
        convert_to_model(source, workdir, **export)
        return
    if args.to != "orbax":
        if args.storage not in shards.STORAGE:
            raise UserError(f"--storage={args.storage}: is for --to={PRETRAINED} only")
        size = int(args.shard_gb * 10**9)
        convert_out(source, workdir, args.to, max_shard_bytes=size, merge=args.merge, **export)
        return
    config = cli.read_config(args.config)
    if config is None:
        raise UserError("--to=orbax needs --config=NAME: the model takes its sizes")
    convert_in(source, workdir, config, log)


if __name__ == "__main__":
    define_flags()
    cli.run(main)
