"""Checkpoints: parameters, average, optimiser and input position, saved together by Orbax.

Each is saved with digests of all that it holds, and compared with them whenever it is read.
"""

import contextlib
import dataclasses
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp
from flax import nnx

from unityvideo_jax.checkpoints import manifest, reading, run_folder
from unityvideo_jax.errors import UserError, reason
from unityvideo_jax.files import disk, provenance, store_lock, stores
from unityvideo_jax.parallel import hosts
from unityvideo_jax.training.state import TrainState

FOLDER = run_folder.CHECKPOINTS
# Folder to which `Checkpointer.fall_back` moves checkpoints that a run does not continue from.
ASIDE = "set_aside"


class Checkpointer:
    """Saves asynchronously and keeps the last `keep`; a checkpoint appears when it is whole.

    As a context it waits on leaving for what is being saved, and raises what became of that unless
    the block has failed itself.

    Args:
      workdir: of the run.
      keep: checkpoints to keep.
    """

    def __init__(self, workdir: str | os.PathLike, keep: int):
        self._workdir = pathlib.Path(workdir)
        self._path = run_folder.checkpoints(self._workdir.absolute())
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, enable_async_checkpointing=True, cleanup_tmp_directories=True
        )
        self._manager = reading.manager(self._path, options)
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
        """Raises the error of a save that has ended; cheap enough for every step.

        Raises:
          UserError: it failed.
        """
        if self._saving is not None and not self._manager.is_saving_in_progress():
            self.wait()

    def wait(self) -> None:
        """Waits for a save in progress; raises UserError if it failed.

        A save that waited for a process that is gone ends this one, as a broken collective does.
        """
        step, self._saving = self._saving, None
        if step is None:
            return
        try:
            with hosts.stops_without_peers():
                self._manager.wait_until_finished()
        except Exception as error:
            try:
                disk.raise_if_refused(error, self._path)
                raise UserError(
                    f"{self._path / str(step)}: was not saved ({reason(error)})"
                ) from error
            finally:
                # In a store Orbax deletes what lacks its mark when the run starts again.
                for half in [] if stores.is_url(self._path) else self._path.glob(f"{step}.*"):
                    shutil.rmtree(half, ignore_errors=True)

    def save(self, state: TrainState, inputs: dict[str, Any], config: Any) -> None:
        """Starts saving; the caller may donate `state` as soon as this returns.

        Args:
          state: what to save; its step names the checkpoint.
          inputs: JSON-able position of the input pipeline after that step.
          config: the run's configuration, stored beside the weights.
        """
        trees, records = saved_items(state), provenance.plain({"inputs": inputs, "config": config})
        items = {name: ocp.args.StandardSave(tree) for name, tree in trees.items()}
        items |= {name: ocp.args.JsonSave(record) for name, record in records.items()}
        items[manifest.ITEM] = ocp.args.JsonSave(manifest.make(trees, records))
        self.wait()
        # Where a kill can follow: the records of steps up to a checkpoint are there before it is.
        store_lock.check(self._workdir)
        stores.push(self._workdir)
        reading.hide_abandoned_work()
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
        whole = reading.find_whole(self._path, steps, log) if steps else 0
        for step in (step for step in steps if step > whole):
            target = self._path.parent / ASIDE / f"{step}_{time.time_ns()}"
            stores.move(self._path / str(step), target)
            log(f"step {step} is moved to {target}")
        yield

    def restore(self, like: TrainState, step: int) -> tuple[TrainState, dict[str, Any]]:
        """The state and input position saved at `step`, laid out as `like` is.

        Raises:
          UserError: the checkpoint is damaged, or holds weights alone.
        """
        folder = self._path / str(step)
        held = reading.guarded(folder, lambda: manifest.read(folder))
        trees = saved_items(like)
        if "optimizer" not in manifest.items(folder, held):
            raise UserError(
                f"{self._path.parent}: holds converted weights, which a run can start from but "
                f"not resume from; set config.init_from={self._path.parent} and name another "
                "--workdir"
            )

        def read() -> Any:
            manifest.require(folder, (*trees, "inputs", "config"))
            manifest.check_records(folder, held)
            items = {name: ocp.args.StandardRestore(tree) for name, tree in trees.items()}
            args = ocp.args.Composite(**items, inputs=ocp.args.JsonRestore())
            found = self._manager.restore(step, args=args)
            manifest.check_arrays(folder, held, {name: found[name] for name in trees})
            return found

        found = reading.guarded(folder, read)
        state = dataclasses.replace(
            like,
            step=jax.device_put(jax.numpy.int32(step), like.step.sharding),
            params=reading.refill(like.params, found.params),
            ema=None if like.ema is None else reading.refill(like.ema, found.ema),
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
                f"({error!r}); remove {self._path / str(step)} to continue from the one before"
            ) from error


def last_whole(workdir: str | os.PathLike) -> str:
    """Returns the newest whole checkpoint of a run, in words, from the names alone."""
    folder = run_folder.checkpoints(workdir)
    try:
        whole = run_folder.checkpoint_steps(workdir)
    except Exception:  # the folder has failed already and cannot be listed
        return f"the checkpoints are in {folder}"
    if not whole:
        return "no checkpoint was saved yet"
    return f"the last whole checkpoint is {folder / str(max(whole))}"


def saved_items(state: TrainState) -> dict[str, Any]:
    """Returns the saved parts of a state, each as a tree of plain dictionaries and lists."""
    items = {
        "params": nnx.to_pure_dict(state.params),
        "optimizer": jax.tree.leaves(state.opt_state),
    }
    return items if state.ema is None else items | {"ema": nnx.to_pure_dict(state.ema)}
