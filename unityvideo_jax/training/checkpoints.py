"""Checkpoints: parameters, average, optimiser and input position, saved together by Orbax."""

import contextlib
import dataclasses
import logging
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import orbax.checkpoint as ocp
from flax import nnx
from jax.sharding import SingleDeviceSharding

from unityvideo_jax import disk, paths
from unityvideo_jax.errors import UserError
from unityvideo_jax.models.dit import DiT, DiTConfig
from unityvideo_jax.sections import section
from unityvideo_jax.training import workdir as workdir_lib
from unityvideo_jax.training.state import TrainState, abstract_state

FOLDER = workdir_lib.CHECKPOINTS
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
                reason = (str(error).strip().splitlines() or [repr(error)])[0][:200]
                raise UserError(f"{self._path / str(step)}: was not saved ({reason})") from error
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
        items = {name: ocp.args.StandardSave(tree) for name, tree in _items(state).items()}
        items |= {"inputs": ocp.args.JsonSave(inputs), "config": ocp.args.JsonSave(config)}
        self.wait()
        self._saving = int(state.step)
        self._manager.save(self._saving, args=ocp.args.Composite(**items))

    def restore(self, like: TrainState, step: int) -> tuple[TrainState, dict[str, Any]]:
        """The state and input position saved at `step`, laid out as `like` is.

        Raises:
          UserError: the checkpoint is damaged, or holds weights alone.
        """
        if not (self._path / str(step) / "optimizer").is_dir():
            raise UserError(
                f"{self._path.parent}: holds converted weights, which a run starts from and does "
                f"not go on from; set config.init_from={self._path.parent} and name another "
                "--workdir"
            )
        items = {name: ocp.args.StandardRestore(tree) for name, tree in _items(like).items()}
        args = ocp.args.Composite(**items, inputs=ocp.args.JsonRestore())
        found = _guarded(self._path / str(step), lambda: self._manager.restore(step, args=args))
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


def _guarded(path: pathlib.Path, read: Any) -> Any:
    try:
        return read()
    except (ValueError, OSError, KeyError, TypeError) as error:
        disk.raise_if_refused(error, path)
        reason = str(error).strip().splitlines()
        raise UserError(
            f"{path}: the checkpoint does not load ({reason[0][:200] if reason else error!r}); "
            "remove that folder to go on from the one before, or restore it from a copy"
        ) from error


def find(
    workdir: str | os.PathLike, step: int | None = None
) -> tuple[ml_collections.ConfigDict, pathlib.Path]:
    """Configuration of a run, and the folder of one of its checkpoints (its name is the step).

    Args:
      workdir: of the run.
      step: of the checkpoint; None is the latest.

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
    return config, folder / str(step)


def weights_item(folder: pathlib.Path, use_ema: bool) -> str:
    """Item of a checkpoint's weights: "ema" if asked for and there, as it is not if converted."""
    return "ema" if use_ema and (folder / "ema").is_dir() else "params"


def _restore_weights(folder: pathlib.Path, target: Any, use_ema: bool) -> Any:
    """The weights of one checkpoint, laid out as `target` (a state of shapes and shardings) is.

    Only what is asked for is read: neither the other copy nor the optimiser's state.
    """
    item = weights_item(folder, use_ema)
    args = ocp.args.Composite(**{item: ocp.args.StandardRestore(nnx.to_pure_dict(target))})
    with _manager(folder.parent) as manager:
        found = _guarded(folder, lambda: manager.restore(int(folder.name), args=args))
    return _refill(target, found[item])


def _abstract(model: DiTConfig) -> Any:
    return nnx.state(nnx.eval_shape(lambda: DiT(model, rngs=nnx.Rngs(0))))


def load_for_inference(
    workdir: str | os.PathLike, step: int | None = None, use_ema: bool = True
) -> tuple[ml_collections.ConfigDict, Any, int]:
    """Configuration, parameters and step of a run, onto the first device.

    Args:
      workdir: of the run, or of a conversion.
      step: of the checkpoint; None is the latest.
      use_ema: the averaged parameters, if there are any, rather than those of the last step.

    Raises:
      UserError: no run, no such checkpoint, or a damaged one.
    """
    config, folder = find(workdir, step)
    device = SingleDeviceSharding(jax.local_devices()[0])
    target = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device),
        _abstract(section(DiTConfig, config, "model")),
    )
    return config, _restore_weights(folder, target, use_ema), int(folder.name)


def start_from(state: TrainState, model: DiTConfig, source: str | os.PathLike) -> TrainState:
    """A fresh state with the weights of a conversion, or the averaged ones of another run.

    Args:
      state: as `state.create` makes it; its parameters are freed first, so that the devices never
        hold both.
      model: of `state`.
      source: workdir of the conversion or run.

    Raises:
      UserError: no checkpoint there, or one of another model.
    """
    config, folder = find(source)
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
