"""One function over many names in several processes, with results in the order of the names."""

import functools
import multiprocessing
import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import jax

from unityvideo_jax import modalities
from unityvideo_jax.errors import UserError
from unityvideo_jax.runtime import signals

Result = TypeVar("Result")


def in_order(
    make: Callable[[], Callable[[str], Result]], names: Sequence[str], processes: int
) -> Iterator[Result]:
    """Yields `make()(name)` for each of the names.

    Args:
      make: builds the function, once per process; can be pickled, as can the function's results.
      names: what it is called with.
      processes: 1 calls it here; more call it in so many new processes, which run JAX on the CPU
        and know the modalities that this one knows.

    Raises:
      UserError: a process was killed; names what it was working on. Names that no process has
        begun are then left.
    """
    if processes == 1:
        yield from map(make(), names)
        return
    # One pool per process, since a pool whose process dies does not say at which of its tasks.
    context = multiprocessing.get_context("spawn")
    own = [modalities.get(n) for n in modalities.names() if n not in modalities.BUILT_IN]
    pools = [
        ProcessPoolExecutor(1, mp_context=context, initializer=_start, initargs=(make, own))
        for _ in range(min(processes, len(names)))
    ]
    free: queue.SimpleQueue[Executor] = queue.SimpleQueue()
    for pool in pools:
        free.put(pool)
    threads = ThreadPoolExecutor(len(pools))

    def call(name: str) -> Result:
        pool = free.get()
        try:
            return pool.submit(_call, name).result()
        except BrokenProcessPool as error:
            threads.shutdown(wait=False, cancel_futures=True)
            raise UserError(
                f"{name}: the process that worked on it was killed, perhaps for lack of memory; "
                "finished clips are stored: run again, with fewer --processes if memory was short"
            ) from error
        finally:
            free.put(pool)

    try:
        yield from threads.map(call, names)
    finally:
        threads.shutdown(cancel_futures=True)
        for pool in pools:
            pool.shutdown()


_made: Callable[[], Callable[[str], Any]]


def _start(make: Callable[[], Callable[[str], Any]], own: Sequence[modalities.Modality]) -> None:
    """Prepares a process: a user's own modalities, no accelerator, no life beyond its parent's."""
    global _made
    signals.leave_with_parent()
    jax.config.update("jax_platforms", "cpu")
    for modality in own:
        modalities.register(modality)
    # Made by the first call, whose error then reaches the parent.
    _made = functools.cache(make)


def _call(name: str) -> Any:
    return _made()(name)
