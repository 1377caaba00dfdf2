"""Whether what is sampled can fit a device at all, from its sizes alone."""

import math

import jax

from unityvideo_jax.errors import UserError
from unityvideo_jax.models.config import DiTConfig
from unityvideo_jax.parallel.chips import chip_of
from unityvideo_jax.runtime import capacity

BFLOAT16 = 2  # bytes
# Arrays of the tokens' width that a block holds at once, at least: its input, and queries, keys and
# values.
WORKING = 4


def device_bytes(device: jax.Device) -> int:
    """Memory of a device; of a CPU device its share of the host's."""
    stats = device.memory_stats() or {}
    if limit := stats.get("bytes_limit"):
        return limit
    if chip := chip_of(device.device_kind):
        return chip.memory
    local = [one for one in jax.devices() if one.process_index == device.process_index]
    return capacity.host_bytes() // len(local)


def check_sampling(
    model: DiTConfig, latent_shape: tuple[int, int, int], streams: int, batch: int
) -> None:
    """Raises UserError if the tokens of a model call are more than a device holds.

    Args:
      model: its width counts.
      latent_shape: (time, height, width) of one stream's latents.
      streams: of a sample.
      batch: samples of one device at once.
    """
    tokens = batch * streams * math.prod(model.token_grid(latent_shape))
    check_device(
        WORKING * BFLOAT16 * tokens * model.dim,
        f"{batch} samples of {streams} streams, {tokens:,} tokens",
        "sample fewer frames, pixels or samples at once",
    )


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
