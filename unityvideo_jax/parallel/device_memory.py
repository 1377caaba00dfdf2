"""The memory of a device, and whether something can fit it."""

import jax

from unityvideo_jax.errors import UserError
from unityvideo_jax.parallel.chips import chip_of
from unityvideo_jax.runtime import capacity


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
