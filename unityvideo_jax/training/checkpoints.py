"""Checkpoints: parameters, average, optimiser and input position, saved together by Orbax.

Each is saved with digests of all that it holds, and compared with them whenever it is read.
"""

import contextlib
import dataclasses
import functools
import logging
import os
import pathlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import ml_collections
import orbax.checkpoint as ocp
from flax import nnx
from jax.sharding import SingleDeviceSharding

from unityvideo_jax import disk, paths
from unityvideo_jax.errors import UserError, reason
from unityvideo_jax.models.dit import DiT, DiTConfig
from unityvideo_jax.parallel import hosts
from unityvideo_jax.sections import section
from unityvideo_jax.training import manifest as manifest_lib
from unityvideo_jax.training import workdir as workdir_lib
from unityvideo_jax.training.state import TrainState, abstract_state

FOLDER = workdir_lib.CHECKPOINTS
# Where `Checkpointer.fall_back` moves checkpoints that a run does not go on from.
ASIDE = "set_aside"
Read = TypeVar("Read")
# Orbax logs the traceback of whatever it raises; here that becomes one line.
logging.getLogger("absl").addFilter(lambda r: not (r.exc_info and "orbax" in r.pathname))


class Checkpointer:
    """Saves asynchronously and keeps the last `keep`; a checkpoint appears only when it is whole.

    As a context it waits on leaving for what is being saved, and raises what became of that unless
    the block has failed itself.

    Args:
      workdir: of the run.
      keep: checkpoints to keep.
    """

    def __init__(self, workdir: str | os.PathLike, keep: int):
        self._path = pathlib.Path(workdir).absolute() / FOLDER
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, enable_async_checkpointing=True, cleanup_tmp_directories=True
        )
        self._manager = _manager(self._path, options)
        self._saving: int | None = None

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        with contextlib.nullcontext() if kind is None else contextlib.suppress(Exception):
            self.wait()
        with contextlib.suppress(Exception):  # what is being saved has been waited for
            self._manager.close()

    def latest(self) -> int | None:
        """The newest whole checkpoint's step."""
        return self._manager.latest_step()

    def check(self) -> None:
        """Raises what became of a save that has ended by now; cheap enough for every step.

        Raises:
          UserError: it failed.
        """
        if self._saving is not None and not self._manager.is_saving_in_progress():
            self.wait()

    def wait(self) -> None:
        """Waits for what is being saved; raises as `check`."""
        step, self._saving = self._saving, None
        if step is None:
            return
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            try:
                disk.raise_if_refused(error, self._path)
                raise UserError(
                    f"{self._path / str(step)}: was not saved ({reason(error)})"
                ) from error
            finally:
                for half in self._path.glob(f"{step}.*"):
                    shutil.rmtree(half, ignore_errors=True)

    def save(self, state: TrainState, inputs: dict[str, Any], config: Any) -> None:
        """Starts saving; the caller may donate `state` as soon as this returns.

        Args:
          state: what to save; its step names the checkpoint.
          inputs: JSON-able position of the input pipeline after that step.
          config: the run's configuration, kept beside the weights.
        """
        trees, records = _items(state), {"inputs": inputs, "config": config}
        items = {name: ocp.args.StandardSave(tree) for name, tree in trees.items()}
        items |= {name: ocp.args.JsonSave(record) for name, record in records.items()}
        items[manifest_lib.ITEM] = ocp.args.JsonSave(manifest_lib.make(trees, records))
        self.wait()
        _hide_abandoned_work()
        self._saving = int(state.step)
        self._manager.save(self._saving, args=ocp.args.Composite(**items))

    def fall_back(self, log: Callable[[str], None]) -> None:
        """Moves checkpoints that are newer than the newest whole one out of the way.

        Args:
          log: takes a line for each.

        Raises:
          UserError: none is whole.
        """
        with hosts.first_only(self._set_aside(log)):
            self._manager.reload()

    @contextlib.contextmanager
    def _set_aside(self, log: Callable[[str], None]) -> Iterator[None]:
        steps = sorted(self._manager.all_steps())
        whole = _fall_back(self._path, steps, log) if steps else 0
        for step in (step for step in steps if step > whole):
            target = self._path.parent / ASIDE / f"{step}_{time.time_ns()}"
            target.parent.mkdir(exist_ok=True)
            os.replace(self._path / str(step), target)
            log(f"step {step} is moved to {target}")
        yield

    def restore(self, like: TrainState, step: int) -> tuple[TrainState, dict[str, Any]]:
        """The state and input position saved at `step`, laid out as `like` is.

        Raises:
          UserError: the checkpoint is damaged, or holds weights alone.
        """
        folder = self._path / str(step)
        manifest = _guarded(folder, lambda: manifest_lib.read(folder))
        trees = _items(like)
        if "optimizer" not in manifest_lib.items(folder, manifest):
            raise UserError(
                f"{self._path.parent}: holds converted weights, which a run starts from and does "
                f"not go on from; set config.init_from={self._path.parent} and name another "
                "--workdir"
            )

        def read() -> Any:
            manifest_lib.require(folder, (*trees, "inputs", "config"))
            manifest_lib.check_records(folder, manifest)
            items = {name: ocp.args.StandardRestore(tree) for name, tree in trees.items()}
            args = ocp.args.Composite(**items, inputs=ocp.args.JsonRestore())
            found = self._manager.restore(step, args=args)
            manifest_lib.check_arrays(folder, manifest, {name: found[name] for name in trees})
            return found

        found = _guarded(folder, read)
        state = TrainState(
            step=jax.device_put(jax.numpy.int32(step), like.step.sharding),
            params=_refill(like.params, found.params),
            ema=None if like.ema is None else _refill(like.ema, found.ema),
            opt_state=jax.tree.unflatten(jax.tree.structure(like.opt_state), found.optimizer),
        )
        return state, found.inputs

    @contextlib.contextmanager
    def position_of(self, step: int) -> Iterator[None]:
        """Raises UserError for an input position, restored in this block, that is not one."""
        try:
            yield
        except UserError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{self._path / str(step) / 'inputs'}: not the position of the input "
                f"({error!r}); remove {self._path / str(step)} to go on from the checkpoint before"
            ) from error


def last_whole(workdir: str | os.PathLike) -> str:
    """Which checkpoint of a run is the newest whole one, in words, from the names alone."""
    folder = pathlib.Path(workdir) / FOLDER
    whole = [int(p.name) for p in folder.glob("[0-9]*") if p.name.isdigit()]
    if not whole:
        return "no checkpoint was saved yet"
    return f"the last whole checkpoint is {folder / str(max(whole))}"


def _manager(folder: pathlib.Path, options: Any = None) -> ocp.CheckpointManager:
    """Orbax's manager of a run's folder of checkpoints, whatever the path holds."""
    return ocp.CheckpointManager(
        paths.without_patterns(folder.parent) / folder.name, options=options
    )


def _items(state: TrainState) -> dict[str, Any]:
    """What of a state is saved, each as a tree of plain dictionaries and lists."""
    items = {
        "params": nnx.to_pure_dict(state.params),
        "optimizer": jax.tree.leaves(state.opt_state),
    }
    return items if state.ema is None else items | {"ema": nnx.to_pure_dict(state.ema)}


def _refill(state: Any, values: dict) -> Any:
    """`values` (a pure dict) in the structure of `state`."""
    return jax.tree.unflatten(jax.tree.structure(state), jax.tree.leaves(values))


def _guarded(folder: pathlib.Path, read: Callable[[], Read]) -> Read:
    """What `read` returns; a checkpoint that is damaged is one line that says what to do.

    Raises:
      UserError: names what is damaged, and the newest earlier checkpoint that is whole.
    """
    _hide_abandoned_work()
    try:
        return read()
    except (MemoryError, jax.errors.JaxRuntimeError):
        raise
    except manifest_lib.DamagedError as error:
        fault = str(error)
    except Exception as error:  # whatever the storage libraries raise for damaged files
        disk.raise_if_refused(error, folder)
        fault = f"{folder}: does not load ({reason(error)})"
    if not hosts.is_first():
        raise UserError(f"{fault}; the first process's error says what to do")
    # Reading it once more from disk says which array it was, and whether it is damage at all.
    try:
        manifest_lib.verify(folder)
    except manifest_lib.DamagedError as error:
        fault = str(error)
    else:
        raise UserError(
            f"{fault}; its files are whole: check that config.model is what it was saved with"
        )
    whole = manifest_lib.newest_whole(folder.parent, before=int(folder.name))
    advice = (
        "no earlier checkpoint is whole; restore it from a copy"
        if whole is None
        else f"the checkpoint of step {whole} is whole: pass --fallback to take it, or restore "
        "this one from a copy"
    )
    raise UserError(f"{fault}; {advice}")


@functools.cache
def _hide_abandoned_work() -> None:
    """Hides what reads and writes that Orbax leaves behind print, when one has failed."""
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


def _fall_back(folder: pathlib.Path, steps: Sequence[int], log: Callable[[str], None]) -> int:
    """The newest of these steps whose checkpoint is whole; says which are not, and why."""
    for step in sorted(steps, reverse=True):
        try:
            manifest_lib.verify(folder / str(step))
        except manifest_lib.DamagedError as error:
            log(f"{error}; trying the checkpoint before it")
        else:
            log(f"the checkpoint of step {step} is whole")
            return step
    raise UserError(f"{folder}: none of the checkpoints {sorted(steps)} is whole; restore a copy")


def find(
    workdir: str | os.PathLike, step: int | None = None, fallback: bool = False
) -> tuple[ml_collections.ConfigDict, pathlib.Path]:
    """Configuration of a run, and the folder of one of its checkpoints (its name is the step).

    Args:
      workdir: of the run.
      step: of the checkpoint; None is the latest.
      fallback: reads it all first, and takes the newest earlier one that is whole if it is not.

    Raises:
      UserError: no run, or no such checkpoint.
    """
    workdir = paths.expand(os.fspath(workdir))
    config = workdir_lib.read_config(workdir)
    folder = pathlib.Path(workdir).absolute() / FOLDER
    steps = workdir_lib.checkpoint_steps(workdir)
    if not steps:
        raise UserError(f"{workdir}: no checkpoint yet; train until config.train.checkpoint_every")
    step = steps[-1] if step is None else step
    if step not in steps:
        raise UserError(f"{folder}: no checkpoint of step {step}; there are {steps}")
    if fallback:
        step = _fall_back(folder, [s for s in steps if s <= step], _say)
    return config, folder / str(step)


def _say(line: str) -> None:
    if hosts.is_first():
        print(line, flush=True)


def weights_item(folder: pathlib.Path, use_ema: bool) -> str:
    """Item of a checkpoint's weights: "ema" if asked for and saved, as it is not if converted.

    Raises:
      UserError: a damaged manifest.
    """
    saved = _guarded(folder, lambda: manifest_lib.items(folder, manifest_lib.read(folder)))
    return "ema" if use_ema and "ema" in saved else "params"


def verify_item(folder: pathlib.Path, item: str) -> None:
    """Reads one item from disk and compares it with its digests.

    Raises:
      UserError: it is damaged.
    """
    _guarded(folder, lambda: manifest_lib.verify(folder, (item, "config")))


def _restore_weights(folder: pathlib.Path, target: Any, use_ema: bool) -> Any:
    """The weights of one checkpoint, laid out as `target` (a state of shapes and shardings) is.

    Only what is asked for is read: neither the other copy nor the optimiser's state.
    """
    item = weights_item(folder, use_ema)

    def read() -> Any:
        manifest = manifest_lib.read(folder)
        manifest_lib.require(folder, (item,))
        manifest_lib.check_records(folder, manifest)
        args = ocp.args.Composite(**{item: ocp.args.StandardRestore(nnx.to_pure_dict(target))})
        with _manager(folder.parent) as manager:
            found = manager.restore(int(folder.name), args=args)[item]
        manifest_lib.check_arrays(folder, manifest, {item: found})
        return found

    return _refill(target, _guarded(folder, read))


def _abstract(model: DiTConfig) -> Any:
    return nnx.state(nnx.eval_shape(lambda: DiT(model, rngs=nnx.Rngs(0))))


def load_for_inference(
    workdir: str | os.PathLike,
    step: int | None = None,
    use_ema: bool = True,
    fallback: bool = False,
) -> tuple[ml_collections.ConfigDict, Any, int]:
    """Configuration, parameters and step of a run, onto the first device.

    Args:
      workdir: of the run, or of a conversion.
      step: of the checkpoint; None is the latest.
      use_ema: the averaged parameters, if there are any, rather than those of the last step.
      fallback: as `find` takes it.

    Raises:
      UserError: no run, no such checkpoint, or a damaged one.
    """
    config, folder = find(workdir, step, fallback)
    device = SingleDeviceSharding(jax.local_devices()[0])
    target = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device),
        _abstract(section(DiTConfig, config, "model")),
    )
    return config, _restore_weights(folder, target, use_ema), int(folder.name)


def start_from(
    state: TrainState, model: DiTConfig, source: str | os.PathLike, fallback: bool = False
) -> TrainState:
    """A fresh state with the weights of a conversion, or the averaged ones of another run.

    Args:
      state: as `state.create` makes it; its parameters are freed first, so that the devices never
        hold both.
      model: of `state`.
      source: workdir of the conversion or run.
      fallback: as `find` takes it.

    Raises:
      UserError: no checkpoint there, or one of another model.
    """
    config, folder = find(source, fallback=fallback)
    theirs = dict(nnx.to_flat_state(_abstract(section(DiTConfig, config, "model"))))
    ours = dict(nnx.to_flat_state(_abstract(model)))
    for path in sorted({*theirs, *ours}):
        shapes = [tree[path].shape if path in tree else None for tree in (theirs, ours)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"config.init_from={source}: {'.'.join(path)} is {shapes[0]} there and {shapes[1]} "
                "in config.model; use the config that it was made with"
            )
    target = abstract_state(state).params
    for array in jax.tree.leaves((state.params, state.ema)):
        array.delete()
    params = _restore_weights(folder, target, use_ema=True)
    ema = None if state.ema is None else jax.tree.map(jnp.copy, params)
    return dataclasses.replace(state, params=params, ema=ema)
