"""Samples that do not fit a device: refused by their sizes, or in words when the device does."""

import contextlib
import dataclasses
import math

import jax.numpy as jnp

from unityvideo_jax.kernels.attention import resolve
from unityvideo_jax.models.config import DiTConfig
from unityvideo_jax.parallel import device_memory

BFLOAT16, FLOAT32 = 2, 4  # bytes
# Arrays of the tokens' width that a block holds at once, at least: its input, and queries, keys and
# values.
WORKING = 4
FIX = "sample fewer frames, pixels or samples at once, or a long video in windows (docs/long.md)"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Load:
    """What a device works on in one call of the model.

    Attributes:
      model: that is called.
      latent_shape: (time, height, width) of one stream's latents, those of a window if there are
        windows.
      streams: of a sample.
      batch: samples of one device at once.
    """

    model: DiTConfig
    latent_shape: tuple[int, int, int]
    streams: int
    batch: int

    @property
    def tokens(self) -> int:
        """Tokens of all streams of one sample."""
        return self.streams * math.prod(self.model.token_grid(self.latent_shape))

    def check(self) -> None:
        """Raises UserError if the least that a block holds at once is more than a device has."""
        model, tokens = self.model, self.batch * self.tokens
        needed = WORKING * BFLOAT16 * tokens * model.dim
        kernel = resolve(model.attention, jnp.dtype(model.dtype), model.head_dim)
        if kernel == "xla":  # which stores the score of each pair of tokens
            needed += FLOAT32 * model.num_heads * tokens * self.tokens
        device_memory.check_device(needed, str(self), FIX)

    def explained(self) -> contextlib.AbstractContextManager[None]:
        """Raises UserError where a device refuses memory inside, see `device_memory.explained`."""
        return device_memory.explained(str(self), FIX)

    def __str__(self) -> str:
        tokens = self.batch * self.tokens
        return f"{self.batch} samples of {self.streams} streams, {tokens:,} tokens"
