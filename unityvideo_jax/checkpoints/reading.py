"""Reading checkpoints: which one, whether it is whole, and its weights."""

import functools
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import ml_collections
import orbax.checkpoint as ocp
from flax import nnx

from unityvideo_jax.checkpoints import manifest, orbax_stores, run_folder
from unityvideo_jax.errors import UserError, reason
from unityvideo_jax.files import disk, paths, provenance, stores
from unityvideo_jax.files.stores import AnyPath
from unityvideo_jax.models import lora
from unityvideo_jax.parallel import hosts

Read = TypeVar("Read")
# Orbax logs the traceback of whatever it raises; here that becomes one line.
logging.getLogger("absl").addFilter(lambda r: not (r.exc_info and "orbax" in r.pathname))


def find(
    workdir: str | os.PathLike, step: int | None = None, fallback: bool = False
) -> tuple[ml_collections.ConfigDict, AnyPath]:
    """A run's configuration, and the folder of one of its checkpoints (its name is the step).

    Args:
      workdir: of the run.
      step: of the checkpoint; None is the latest.
      fallback: reads it all first, and takes the newest earlier one that is whole if it is not.

    Raises:
      UserError: no run, or no such checkpoint.
    """
    workdir = paths.expand(os.fspath(workdir))
    config = run_folder.read_config(workdir)
    folder = _absolute(run_folder.checkpoints(workdir))
    steps = run_folder.checkpoint_steps(workdir)
    if not steps:
        raise UserError(
            f"{workdir}: no checkpoint yet; train until config.train.checkpoint_every, or name a "
            "model's folder by --pretrained"
        )
    step = steps[-1] if step is None else step
    if step not in steps:
        raise UserError(f"{folder}: no checkpoint of step {step}; there are {steps}")
    if fallback:
        step = find_whole(folder, [s for s in steps if s <= step], _say)
    return config, folder / str(step)


def _absolute(folder: AnyPath) -> AnyPath:
    """A folder whose name holds in any working folder; URLs do as they are."""
    return folder if stores.is_url(folder) else folder.absolute()


def _say(line: str) -> None:
    if hosts.is_first():
        print(line, flush=True)


def weights_item(folder: AnyPath, use_ema: bool) -> str:
    """Returns the item of a checkpoint's weights: "ema" if asked for and saved, else "params".

    Raises:
      UserError: a damaged manifest.
    """
    saved = guarded(folder, lambda: manifest.items(folder, manifest.read(folder)))
    return "ema" if use_ema and "ema" in saved else "params"


def verify_item(folder: AnyPath, item: str) -> None:
    """Reads one item from disk and compares it with its digests.

    Raises:
      UserError: it is damaged.
    """
    guarded(folder, lambda: manifest.verify(folder, (item, "config")))


def fingerprint(folder: AnyPath) -> str | None:
    """Names the weights of a checkpoint, whatever its path; None if it has no digests."""
    held = guarded(folder, lambda: manifest.read(folder))
    if held is None:
        return None
    arrays = held["arrays"]
    return provenance.config_hash(arrays["ema" if "ema" in arrays else "params"])[:16]


def refuse_adapters(source: str | os.PathLike, config: Any) -> None:
    """Raises UserError if the run `source`, with its `config`, holds adapters, not weights."""
    if lora.LoraConfig.of(config).rank:
        raise UserError(
            f"config.init_from={source}: holds adapters, not weights; merge them first with "
            f"`convert --from={source} --to=pretrained`, and name what that writes"
        )


def restore_weights(folder: AnyPath, target: Any, use_ema: bool) -> Any:
    """The weights of one checkpoint, laid out as `target` (a state of shapes and shardings) is.

    Only what is asked for is read: neither the other copy nor the optimiser's state.
    """
    item = weights_item(folder, use_ema)

    def read() -> Any:
        held = manifest.read(folder)
        manifest.require(folder, (item,))
        manifest.check_records(folder, held)
        args = ocp.args.Composite(**{item: ocp.args.StandardRestore(nnx.to_pure_dict(target))})
        with manager(folder.parent) as opened:
            found = opened.restore(int(folder.name), args=args)[item]
        manifest.check_arrays(folder, held, {item: found})
        return found

    return refill(target, guarded(folder, read))


def manager(folder: AnyPath, options: Any = None) -> ocp.CheckpointManager:
    """Orbax's manager of a run's folder of checkpoints, whatever characters the path holds.

    In an object store Orbax marks a checkpoint by `stores.LAST`, stored when all else is, where on
    a disk it renames the folder: one that lacks the mark is never listed.
    """
    if stores.is_url(folder):
        orbax_stores.enable()
        return ocp.CheckpointManager(folder, options=options)
    return ocp.CheckpointManager(
        paths.without_patterns(folder.parent) / folder.name, options=options
    )


def refill(state: Any, values: dict) -> Any:
    """Returns `values` (a pure dict) in the structure of `state`."""
    return jax.tree.unflatten(jax.tree.structure(state), jax.tree.leaves(values))


def guarded(folder: AnyPath, read: Callable[[], Read]) -> Read:
    """Returns what `read` gives; a damaged checkpoint becomes one line that says what to do.

    Raises:
      UserError: names what is damaged, and the newest earlier checkpoint that is whole.
    """
    hide_abandoned_work()
    try:
        return read()
    except (MemoryError, jax.errors.JaxRuntimeError):
        raise
    except manifest.DamagedError as error:
        fault = str(error)
    except Exception as error:  # whatever the storage libraries raise for damaged files
        disk.raise_if_refused(error, folder)
        fault = f"{folder}: does not load ({reason(error)})"
    if not hosts.is_first():
        raise UserError(f"{fault}; the first process's error says what to do")
    # Reading it once more from disk says which array it was, and whether it is damage at all.
    try:
        manifest.verify(folder)
    except manifest.DamagedError as error:
        fault = str(error)
    else:
        raise UserError(
            f"{fault}; its files are whole: check that config.model is what it was saved with"
        )
    whole = manifest.newest_whole(folder.parent, before=int(folder.name))
    advice = (
        "no earlier checkpoint is whole; restore it from a copy"
        if whole is None
        else f"the checkpoint of step {whole} is whole: pass --fallback to take it, or restore "
        "this one from a copy"
    )
    raise UserError(f"{fault}; {advice}")


@functools.cache
def hide_abandoned_work() -> None:
    """Hides messages of Orbax's other reads and writes once one of them has failed."""
    logging.getLogger("asyncio").disabled = True
    hook = sys.unraisablehook

    def others(unraisable: Any) -> None:
        trace = unraisable.exc_traceback
        while trace is not None:
            if any(name in trace.tb_frame.f_code.co_filename for name in ("orbax", "asyncio")):
                return
            trace = trace.tb_next
        hook(unraisable)

    sys.unraisablehook = others


def find_whole(folder: AnyPath, steps: Sequence[int], log: Callable[[str], None]) -> int:
    """Returns the newest of these steps whose checkpoint is whole; logs which are not, and why.

    Raises:
      UserError: none is whole.
    """
    for step in sorted(steps, reverse=True):
        try:
            manifest.verify(folder / str(step))
        except manifest.DamagedError as error:
            log(f"{error}; trying the checkpoint before it")
        else:
            log(f"the checkpoint of step {step} is whole")
            return step
    raise UserError(f"{folder}: none of the checkpoints {sorted(steps)} is whole; restore a copy")
