"""Depth: metric depth as grey disparity."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from unityvideo_jax.errors import UserError
from unityvideo_jax.modalities import checks
from unityvideo_jax.modalities.base import Clip, Modality, Side, register

# Share of the grey range between the sky (black) and the farthest surface, so that a VAE's error
# does not turn a far wall into sky.
SKY_GAP = 0.08
# Bounds for video without a record: surfaces from 1 m to 50 m. Scores of such video align scale
# and shift in disparity first, so these only have to be finite and ordered.
DEFAULT_BOUNDS = (1.0 / 50.0, 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DepthCodec:
    """Disparity (1/depth) stretched to the clip's own range, grey in all three channels.

    One pair of bounds serves the whole clip, so that nothing flickers; near is white. Sky (+inf)
    is black, and the farthest surface lies `SKY_GAP` of the grey range above it. The grey level is
    linear in disparity: equal pixel errors are equal disparity errors, and the relative error of a
    depth d is the disparity error times d.

    Clip: depth f32[T, H, W], metres along the camera's z axis, > 0, +inf where nothing was hit.
    Side: bounds f32[2], the least and the greatest finite disparity in 1/m (equal for constant
    depth; (1, 1) if all is sky).
    """

    keys: ClassVar[tuple[str, ...]] = ("depth",)
    version: ClassVar[str] = "depth-disparity-1"
    # As a share of the clip's disparity range.
    error_floor: ClassVar[Mapping[str, float]] = {
        "disparity_share": 1e-6,
        "disparity_share_8bit": 0.5 / 255 / (1 - SKY_GAP) + 1e-6,
    }

    @property
    def default_side(self) -> Side:
        return {"bounds": np.asarray(DEFAULT_BOUNDS, np.float32)}

    def check(self, clip: Clip, source: str) -> None:
        depth = checks.array(clip, "depth", source)
        checks.finite(depth, f"{source}: depth", allow_inf=True)
        if (depth <= 0).any():
            raise UserError(
                f"{source}: depth has values <= 0 m (least {depth.min():g}); "
                "set pixels without a surface to +inf"
            )

    def encode(self, clip: Clip) -> tuple[Float[Array, "t h w 3"], dict[str, Float[Array, "..."]]]:
        depth = jnp.asarray(clip["depth"], jnp.float32)
        surface = jnp.isfinite(depth)
        disparity = 1.0 / jnp.where(surface, depth, 1.0)
        any_surface = surface.any()
        low = jnp.where(any_surface, jnp.min(disparity, where=surface, initial=jnp.inf), 1.0)
        high = jnp.where(any_surface, jnp.max(disparity, where=surface, initial=0.0), 1.0)
        span = high - low
        share = jnp.where(span > 0, (disparity - low) / jnp.where(span > 0, span, 1.0), 1.0)
        grey = jnp.where(surface, SKY_GAP + (1.0 - SKY_GAP) * share, 0.0)
        video = jnp.broadcast_to((2.0 * grey - 1.0)[..., None], (*depth.shape, 3))
        return video, {"bounds": jnp.stack([low, high])}

    def decode(
        self, video: Float[Array, "t h w 3"] | Float[np.ndarray, "t h w 3"], side: Side, **_: Any
    ) -> dict[str, np.ndarray]:
        """Returns depth f32[T, H, W] in metres, +inf for grey below half of `SKY_GAP`."""
        low, high = np.asarray(side["bounds"], np.float32)
        # The mean of three channels averages a VAE's colour noise away.
        grey = (np.clip(np.asarray(video, np.float32), -1.0, 1.0).mean(axis=-1) + 1.0) / 2.0
        share = np.clip((grey - SKY_GAP) / (1.0 - SKY_GAP), 0.0, 1.0)
        disparity = np.maximum(low + (high - low) * share, 1e-6)
        depth = np.where(grey < SKY_GAP / 2, np.inf, 1.0 / disparity)
        return {"depth": depth.astype(np.float32)}


DEPTH = register(
    Modality(
        name="depth",
        prompt="a depth map: the distance of every pixel from the camera, bright is near",
        pixel_aligned=True,
        sampling_weight=1 / 7,
        codec=DepthCodec(),
    )
)
