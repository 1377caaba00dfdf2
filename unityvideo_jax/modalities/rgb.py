"""RGB: the video itself."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from unityvideo_jax.modalities import checks
from unityvideo_jax.modalities.base import RGB, Clip, Modality, Side, register


@dataclasses.dataclass(frozen=True, kw_only=True)
class RGBCodec:
    """Maps colour in [0, 1] to [-1, 1] and back; exact up to float32 rounding."""

    keys: ClassVar[tuple[str, ...]] = ("rgb",)
    version: ClassVar[str] = "rgb-1"
    error_floor: ClassVar[Mapping[str, float]] = {"rgb": 1e-6, "rgb_8bit": 0.5 / 255 + 1e-6}

    @property
    def default_side(self) -> Side:
        """An empty record: the video holds everything."""
        return {}

    def check(self, clip: Clip, source: str) -> None:
        """Raises UserError for rgb that is not [T, H, W, 3] in [0, 1]."""
        rgb = checks.array(clip, "rgb", source, (3,))
        checks.finite(rgb, f"{source}: rgb")
        checks.within(rgb, 0.0, 1.0, f"{source}: rgb")

    def encode(self, clip: Clip) -> tuple[Float[Array, "t h w 3"], dict[str, Array]]:
        """Scales rgb f32[T, H, W, 3] to [-1, 1]; the side record is empty."""
        return 2.0 * jnp.asarray(clip["rgb"], jnp.float32) - 1.0, {}

    def decode(
        self, video: Float[Array, "t h w 3"] | Float[np.ndarray, "t h w 3"], side: Side, **_: Any
    ) -> dict[str, np.ndarray]:
        """Returns rgb f32[T, H, W, 3] in [0, 1]."""
        return {"rgb": np.clip((np.asarray(video, np.float32) + 1.0) / 2.0, 0.0, 1.0)}


register(
    Modality(
        name=RGB,
        prompt="a natural color video",
        pixel_aligned=True,
        sampling_weight=1.0,
        codec=RGBCodec(),
    )
)
