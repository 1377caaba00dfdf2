"""Models over videos longer than they were trained on: windows of frames that overlap."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from unityvideo_jax.errors import UserError
from unityvideo_jax.flow_matching.path import VelocityFn
from unityvideo_jax.models.sizes import check_frames


def check_window(window: int, overlap: int) -> None:
    """Raises UserError unless windows of these sizes lie on latent frames and move on.

    Args:
      window, overlap: frames, 4n+1 each, so that a latent frame is one in both windows.
    """
    check_frames(window, "window")
    check_frames(overlap, "overlap")
    if overlap >= window:
        raise UserError(f"overlap={overlap}: must be less than window={window}")


def starts(length: int, size: int, overlap: int) -> list[int]:
    """First frames of windows that cover a video and share `overlap` or, the last ones, more.

    Args:
      length: of the video.
      size: of a window, above `overlap`.
      overlap: frames that a window shares with the one before.
    """
    if length <= size:
        return [0]
    return [*range(0, length - size, size - overlap), length - size]


def ramps(length: int, size: int, overlap: int) -> Float[np.ndarray, "n size"]:
    """Returns the weight of each frame of each window; the weights of a frame sum to 1."""
    begins = starts(length, size, overlap)
    rise = np.minimum(np.arange(1, size + 1), overlap + 1) / (overlap + 1.0)
    weights = np.stack([np.minimum(rise, rise[::-1])] * len(begins))
    total = np.zeros(length)
    for begin, weight in zip(begins, weights, strict=True):
        total[begin : begin + size] += weight
    return np.stack([w / total[b : b + size] for b, w in zip(begins, weights, strict=True)])


def windowed(velocity_fn: VelocityFn, size: int, overlap: int) -> VelocityFn:
    """Makes a model that sees windows of latent frames in turn and blends its velocities.

    All windows share the noise and every step of the solver (MultiDiffusion, Bar-Tal et al. 2023,
    over time), so the video is one sample. Where a window is not the first, its first latent frame
    is of four frames and not of one as in training. Videos of at most one window are as ever.

    Args:
      velocity_fn: the model.
      size, overlap: latent frames.
    """

    def velocity(
        latents: Float[Array, "b s t h w c"],
        timestep: Float[Array, "b s"],
        modality: Int[Array, "b s"],
        context: Float[Array, "b s l d"],
        *,
        clean: Bool[Array, "b s t"] | None = None,
    ) -> Float[Array, "b s t h w c"]:
        length = latents.shape[2]
        if length <= size:
            more = {} if clean is None else {"clean": clean}
            return velocity_fn(latents, timestep, modality, context, **more)

        def add(total: Array, window: tuple[Array, Array]) -> tuple[Array, None]:
            begin, weight = window
            part = jax.lax.dynamic_slice_in_dim(latents, begin, size, axis=2)
            more = (
                {}
                if clean is None
                else {"clean": jax.lax.dynamic_slice_in_dim(clean, begin, size, axis=2)}
            )
            found = velocity_fn(part, timestep, modality, context, **more).astype(jnp.float32)
            found *= weight[:, None, None, None]
            so_far = jax.lax.dynamic_slice_in_dim(total, begin, size, axis=2)
            return jax.lax.dynamic_update_slice_in_dim(total, so_far + found, begin, axis=2), None

        begins = jnp.array(starts(length, size, overlap))
        weights = jnp.asarray(ramps(length, size, overlap), jnp.float32)
        zero = jnp.zeros(latents.shape, jnp.float32)
        return jax.lax.scan(add, zero, (begins, weights))[0]

    return velocity
