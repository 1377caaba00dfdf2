"""Refusal of samples that cannot fit a device at all, from their sizes alone."""

import math

from unityvideo_jax.models.config import DiTConfig
from unityvideo_jax.parallel.device_memory import check_device

BFLOAT16 = 2  # bytes
# Arrays of the tokens' width that a block holds at once, at least: its input, and queries, keys and
# values.
WORKING = 4


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
