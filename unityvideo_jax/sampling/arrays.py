"""Videos and images that a caller passes, checked and made alike."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped

from unityvideo_jax import media
from unityvideo_jax.errors import UserError
from unityvideo_jax.runtime import seeds


def as_batch(name: str, video: Shaped[np.ndarray, "..."], batch: int) -> Float[np.ndarray, "..."]:
    """A given video as f32 [B,T,H,W,3] in [-1, 1]; one video serves a whole batch of prompts.

    Raises:
      UserError: a shape, type or number that is no video's, or another count than `batch`.
    """
    video = np.asarray(video)
    if video.ndim not in (4, 5) or video.shape[-1] != 3 or not video.size:
        raise UserError(f"{name}: shape {video.shape} is not [T,H,W,3] or [B,T,H,W,3]")
    if video.dtype == np.uint8:
        video = media.to_float(video)
    elif not np.issubdtype(video.dtype, np.floating):
        raise UserError(f"{name}: dtype {video.dtype} is neither uint8 nor float in [-1, 1]")
    if not np.isfinite(video).all():
        raise UserError(f"{name}: holds NaN or infinity; fix the video")
    if np.abs(video).max() > 1.01:
        raise UserError(
            f"{name}: values reach {np.abs(video).max():.3g}; pass uint8 or floats in [-1, 1]"
        )
    video = video.astype(np.float32)
    if video.ndim == 4:
        video = np.broadcast_to(video, (batch, *video.shape))
    if len(video) != batch:
        raise UserError(f"{name}: {len(video)} videos for {batch} prompts; make them agree")
    return video


def as_masks(
    name: str, mask: Shaped[np.ndarray, "..."], size: tuple[int, int, int], batch: int
) -> Bool[np.ndarray, "b t h w"]:
    """Returns a mask [H,W], [T,H,W] or [B,T,H,W] as one per sample and frame.

    Args:
      name: of its stream.
      mask: bool.
      size: (frames, height, width) of the videos.
      batch: how many videos.

    Raises:
      UserError: another type or shape.
    """
    mask = np.asarray(mask)
    if mask.dtype != bool or mask.shape not in (size[1:], size, (batch, *size)):
        raise UserError(
            f"masks[{name!r}]: {mask.dtype}{list(mask.shape)} is not bool [H,W], [T,H,W] or "
            f"[B,T,H,W] of (frames, height, width) {size}; resize it, or compare it with a number"
        )
    return np.broadcast_to(mask, (batch, *size))


def common_size(
    videos: Mapping[str, Float[np.ndarray, "b t h w 3"]],
    asked: tuple[int | None, int | None, int | None],
    default: tuple[int, int, int],
) -> tuple[int, int, int]:
    """(frames, height, width) of a call: asked for, else the given videos', else the default.

    Raises:
      UserError: given videos that differ, or differ from what was asked for.
    """
    sizes = {name: video.shape[1:4] for name, video in videos.items()}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise UserError(f"given videos differ in (frames, height, width): {listed}")
    default = next(iter(sizes.values()), default)
    size = tuple(int(d if a is None else a) for a, d in zip(asked, default, strict=True))
    for name, given_size in sizes.items():
        if size != tuple(given_size):
            raise UserError(
                f"given {name}: {given_size} but {size} (frames, height, width) was asked for; "
                "resize the video or leave the size out"
            )
    return size


def sample_keys(seed: int | Sequence[int] | np.ndarray, batch: int) -> Array:
    """Returns one key per sample, from one seed and its place or from a seed of its own.

    Raises:
      UserError: another number of seeds than of samples, or one out of range.
    """
    for one in np.atleast_1d(seed).tolist():
        seeds.check(one, "seed")
    if np.ndim(seed) == 0:
        return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(int(seed)), jnp.arange(batch))
    if len(seed) != batch:
        raise UserError(f"seed: {len(seed)} seeds for {batch} prompts; give one, or one per prompt")
    return jnp.stack([jax.random.key(int(s)) for s in seed])
