"""Depth: Depth Anything V2 of transformers, frame by frame, and video networks as TorchScript."""

import dataclasses
import functools
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from unityvideo_jax.annotators import base
from unityvideo_jax.annotators.base import Frames
from unityvideo_jax.errors import UserError
from unityvideo_jax.metrics.depth_units import UNIT
from unityvideo_jax.modalities.depth import DEFAULT_BOUNDS
from unityvideo_jax.units import RELATIVE


def from_relative_disparity(disparity: Float[np.ndarray, "t h w"]) -> Float[np.ndarray, "t h w"]:
    """Converts disparity of an unknown scale and shift to relative depth.

    The clip's range of disparities becomes that of depths from 1 to 50: one map for the whole
    clip, so that the drawn modality is linear in the network's output and does not flicker more.
    """
    low, high = float(disparity.min()), float(disparity.max())
    far, near = DEFAULT_BOUNDS
    share = (disparity - low) / (high - low) if high > low else np.zeros_like(disparity)
    return (1.0 / (far + (near - far) * share)).astype(np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DepthAnything(base.Loaded):
    """Depth Anything V2 (Yang et al. 2024), relative or metric, or another of its interface.

    Relative networks give disparity up to scale and shift, metric ones metres.

    Attributes:
      weights: a folder of transformers, such as Depth-Anything-V2-Small-hf.
      batch_size: frames at once.
      licence: of the weights, by size.
    """

    weights: str
    batch_size: int = 8
    licence: ClassVar[str] = (
        "Depth-Anything-V2-Small: Apache-2.0; Base, Large and Giant: CC-BY-NC-4.0, not for trade"
    )

    @functools.cached_property
    def network(self) -> tuple[Any, Any]:
        """The processor and the model."""
        model = base.load_transformer(self.weights, "AutoModelForDepthEstimation", "depth")
        return base.load_processor(self.weights, "AutoImageProcessor", "depth"), model

    def __call__(self, frames: Frames) -> dict[str, np.ndarray]:
        """Returns depth f32[T, H, W] and its unit: "m" of metric networks, else "relative"."""
        import torch

        processor, model = self.network
        height, width = frames.shape[1:3]
        parts = []
        with torch.inference_mode():
            for first in range(0, len(frames), self.batch_size):
                images = list(frames[first : first + self.batch_size])
                inputs = processor(images=images, return_tensors="pt").to(model.device)
                predicted = model(**inputs).predicted_depth.float()[:, None]
                full = torch.nn.functional.interpolate(
                    predicted, size=(height, width), mode="bilinear", align_corners=True
                )
                parts.append(full[:, 0].cpu().numpy())
        predicted = np.concatenate(parts)
        if getattr(model.config, "depth_estimation_type", "relative") == "metric":
            return {"depth": np.maximum(predicted, 1e-3), UNIT: np.asarray("m")}
        return {"depth": from_relative_disparity(predicted), UNIT: np.asarray(RELATIVE)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoDepth(base.Loaded):
    """A network of whole videos, such as Video Depth Anything (Chen et al. 2025).

    It is not in transformers: export it once. TorchScript: f32 [1, T, 3, H, W] normalised as for
    ImageNet, H and W multiples of `multiple`, to relative disparity [1, T, H, W].

    Attributes:
      weights: the TorchScript file.
      side: shorter side that the network sees.
      multiple: of both sides; 14 for networks on DINOv2.
      window, overlap: frames at once, and those shared by neighbouring windows, over which scale
        and shift are fitted so that the windows agree.
      licence: of the weights, by size.
    """

    weights: str
    side: int = 280
    multiple: int = 14
    window: int = 32
    overlap: int = 8
    licence: ClassVar[str] = (
        "Video-Depth-Anything-Small: Apache-2.0; Base and Large: CC-BY-NC-4.0, not for trade"
    )

    def __post_init__(self):
        if not 0 < self.overlap < self.window:
            raise UserError("config.depth.options: overlap must be from 1 to window - 1")

    @functools.cached_property
    def network(self) -> Any:
        """The script."""
        return base.load_script(self.weights, "video depth")

    def __call__(self, frames: Frames) -> dict[str, np.ndarray]:
        """Returns depth f32[T, H, W] of unit "relative"."""
        whole = self._window(frames[: self.window])
        while len(whole) < len(frames):
            # The last window is as long as the others, so it may share more frames.
            first = min(len(whole) - self.overlap, len(frames) - self.window)
            part = self._window(frames[first : first + self.window])
            shared = len(whole) - first
            part = _agree(part, whole[first:], shared)
            whole = np.concatenate([whole, part[shared:]])
        return {"depth": from_relative_disparity(whole), UNIT: np.asarray(RELATIVE)}

    def _window(self, frames: Frames) -> Float[np.ndarray, "t h w"]:
        import torch

        height, width = frames.shape[1:3]
        scale = self.side / min(height, width)
        small = [max(1, round(n * scale / self.multiple)) * self.multiple for n in (height, width)]
        (images,) = base.batches(frames, len(frames))
        with torch.inference_mode():
            images = base.normalise(base.resize(images, *small, "bicubic"))
            disparity = self.network(images[None])[0][:, None].float()
            return base.resize(disparity, height, width)[:, 0].cpu().numpy()


def _agree(
    part: Float[np.ndarray, "t h w"], before: Float[np.ndarray, "n h w"], shared: int
) -> Float[np.ndarray, "t h w"]:
    """Scaled and shifted so that its first frames are the last of the window before."""
    x, y = part[:shared].ravel().astype(np.float64), before.ravel().astype(np.float64)
    spread = np.var(x)
    scale = np.mean((x - x.mean()) * (y - y.mean())) / spread if spread > 0 else 1.0
    # A negative scale would turn depth inside out; the windows share nothing to fit then.
    scale = scale if scale > 0 else 1.0
    return (scale * (part - x.mean()) + y.mean()).astype(np.float32)
