"""Calls side by side in threads: what reads files or waits for a device leaves Python to others."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import jax

Item = TypeVar("Item")
Result = TypeVar("Result")
MOST = 8  # calls at a time, so that what they read does not fill the memory


def map_all(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int | None = None
) -> list[Result]:
    """Returns a function's results in order; its calls put arrays where the caller's would.

    Args:
      function: may be called in any order, and by several threads at once.
      items: one for each call.
      workers: calls at a time at most; None is one for each processor, up to MOST.

    Raises:
      Exception: that of the first item whose call raised; calls that had not begun are left out.
    """
    device = jax.config.jax_default_device  # a thread has its own

    def call(item: Item) -> Result:
        with jax.default_device(device):
            return function(item)

    pool = ThreadPoolExecutor(workers or min(MOST, os.cpu_count() or 1))
    try:
        return list(pool.map(call, items))
    finally:
        pool.shutdown(cancel_futures=True)


def call_all(**calls: Callable[[], Any]) -> dict[str, Any]:
    """Returns what each of some functions returns, by name; errors as `map_all`."""
    return dict(zip(calls, map_all(lambda call: call(), calls.values(), len(calls)), strict=True))
