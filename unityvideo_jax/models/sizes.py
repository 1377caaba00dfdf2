"""Sizes of videos that Wan's autoencoders and the transformer's patches take."""

from unityvideo_jax.errors import UserError

# Of Wan's autoencoders in time: the first frame alone, then groups of four.
TIME_STRIDE = 4
# Latents of a token in height and width.
PATCH = 2
# Pixels of a token of Wan 2.1, whose autoencoder halves space three times; Wan 2.2 has 32.
TOKEN_PIXELS = 8 * PATCH


def check_frames(num_frames: int, name: str) -> None:
    """Raises UserError, which starts with `name`, unless the causal VAE takes so many (4n+1)."""
    if num_frames < 1 or num_frames % TIME_STRIDE != 1:
        below = max(num_frames - 1, 0) // TIME_STRIDE * TIME_STRIDE + 1
        raise UserError(
            f"{name}={num_frames}: the VAE takes 4n+1 frames; use {below} or {below + TIME_STRIDE}"
        )


def check_pixels(size: int, name: str, multiple: int = TOKEN_PIXELS) -> None:
    """Raises UserError, which starts with `name`, unless a height or width is of whole tokens."""
    if size < multiple or size % multiple:
        below = max(size // multiple, 1) * multiple
        raise UserError(
            f"{name}={size}: must be a multiple of {multiple} pixels; "
            f"use {below} or {below + multiple}"
        )
