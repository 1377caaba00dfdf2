"""The memory of a device, whether something can fit it, and what a device says if it does not."""

import contextlib
import re
from collections.abc import Iterator

import jax

from unityvideo_jax.errors import UserError
from unityvideo_jax.parallel.chips import chip_of
from unityvideo_jax.runtime import capacity

# What XLA says of memory that an allocator refuses, and of how much it was.
_REFUSED = re.compile(r"RESOURCE_EXHAUSTED|out of memory", re.IGNORECASE)
_SIZE = re.compile(r"allocat\w+ ([\d.]+) ?(bytes|[KMGT]iB)")


def device_bytes(device: jax.Device) -> int:
    """Returns the bytes of memory of a device; of a CPU device its share of the host's."""
    stats = device.memory_stats() or {}
    if limit := stats.get("bytes_limit"):
        return limit
    if chip := chip_of(device.device_kind):
        return chip.memory
    local = [one for one in jax.devices() if one.process_index == device.process_index]
    return capacity.host_bytes() // len(local)


def check_device(needed: int, what: str, fix: str) -> None:
    """Raises UserError if `needed` bytes are more than a device of this process has.

    Args:
      needed: the least that it takes.
      what: the key or flag that asks for it.
      fix: what to do about it.
    """
    device = jax.local_devices()[0]
    if needed > (have := device_bytes(device)):
        raise UserError(
            f"{what}: needs at least {capacity.show(needed)}, a device ({device.device_kind}) has "
            f"{capacity.show(have)}; {fix}"
        )


@contextlib.contextmanager
def explained(what: str, fix: str) -> Iterator[None]:
    """Raises UserError where a device refuses memory inside; other errors of XLA stay.

    XLA says so when results are waited for: wait inside.

    Args:
      what, fix: as `check_device` takes them.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not _REFUSED.search(str(error)):
            raise
        size = f" for {_said(found)} more" if (found := _SIZE.search(str(error))) else ""
        kind = jax.local_devices()[0].device_kind
        raise UserError(f"{what}: a device ({kind}) has no room{size}; {fix}") from error


def _said(size: re.Match[str]) -> str:
    """The size that XLA names, in bytes or in units of its own, by version."""
    number, unit = size.groups()
    return capacity.show(int(number)) if unit == "bytes" else f"{number} {unit}"
