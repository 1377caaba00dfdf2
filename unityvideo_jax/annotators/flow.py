"""Optical flow: OpenCV's DIS, which needs no weights, and RAFT of torchvision."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from unityvideo_jax.annotators import base
from unityvideo_jax.annotators.base import Frames
from unityvideo_jax.errors import UserError

Pair = Callable[[Frames, Frames], Float[np.ndarray, "n h w 2"]]


def with_last_frame(frames: Frames, flow_between: Pair) -> Float[np.ndarray, "t h w 2"]:
    """Returns flow of every frame to the next one, in pixels.

    The last frame has no next one. Its flow is minus the flow back to the frame before, as at
    constant velocity.

    Args:
      frames: a clip.
      flow_between: (first frames, second frames) -> (dx, dy) in pixels from first to second.
    """
    if len(frames) == 1:
        return np.zeros((*frames.shape[:3], 2), np.float32)
    first = np.concatenate([frames[:-1], frames[-1:]])
    second = np.concatenate([frames[1:], frames[-2:-1]])
    flow = flow_between(first, second)
    flow[-1] *= -1.0
    return flow.astype(np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DIS:
    """Dense inverse search (Kroeger et al. 2016) as OpenCV has it. No weights; Apache-2.0.

    Attributes:
      preset: 'fast', 'medium' or 'ultrafast'.
      licence: of the method.
    """

    preset: str = "medium"
    licence: ClassVar[str] = "Apache-2.0 (OpenCV); no weights"

    def __post_init__(self):
        if self.preset not in ("ultrafast", "fast", "medium"):
            raise UserError(f"flow preset {self.preset!r}: use ultrafast, fast or medium")

    def setup(self) -> None:
        """Checks that OpenCV is there."""
        base.library("cv2", "DIS optical flow")

    def between(self, first: Frames, second: Frames) -> Float[np.ndarray, "n h w 2"]:
        """Returns flow in pixels, from each first frame to its second."""
        import cv2

        # One thread and no OpenCL: the sums must not depend on the machine's cores.
        cv2.setNumThreads(1)
        cv2.ocl.setUseOpenCL(False)
        search = cv2.DISOpticalFlow_create(
            getattr(cv2, f"DISOPTICAL_FLOW_PRESET_{self.preset.upper()}")
        )
        grey = [[cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in part] for part in (first, second)]
        return np.stack([search.calc(a, b, None) for a, b in zip(*grey, strict=True)])

    def __call__(self, frames: Frames) -> dict[str, np.ndarray]:
        """Returns flow f32[T, H, W, 2] in pixels to the next frame.

        Raises:
          UserError: frames of fewer than 16 pixels.
        """
        if min(frames.shape[1:3]) < 16:
            raise UserError(f"DIS flow: frames of {frames.shape[1:3]} are too small; 16 at least")
        return {"flow": with_last_frame(frames, self.between)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RAFT(base.Loaded):
    """RAFT (Teed and Deng 2020) of torchvision.

    Attributes:
      weights: a state dict of `raft_large` or `raft_small`, as torchvision publishes it (.pth).
      variant: 'large' or 'small'.
      updates: refinements.
      batch_size: pairs at once.
      licence: of the weights.
    """

    weights: str
    variant: str = "large"
    updates: int = 12
    batch_size: int = 8
    licence: ClassVar[str] = (
        "BSD-3-Clause (torchvision); its training sets, FlyingThings3D, Sintel and KITTI among "
        "them, are for research"
    )

    def __post_init__(self):
        if self.variant not in ("large", "small"):
            raise UserError(f"config.flow.variant={self.variant!r}: use 'large' or 'small'")

    @functools.cached_property
    def network(self) -> Any:
        """The model, with its weights.

        Raises:
          UserError: a file that holds other weights.
        """
        torch = base.library("torch", "RAFT")
        flows = base.library("torchvision.models.optical_flow", "RAFT")
        path = base.weights_path(self.weights, "RAFT")
        network = getattr(flows, f"raft_{self.variant}")(weights=None)
        try:
            network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        except Exception as error:
            first = str(error).strip().splitlines()[0]
            raise UserError(
                f"RAFT: {path} is no state dict of raft_{self.variant} ({first})"
            ) from error
        return network.eval().to(base.device())

    def between(self, first: Frames, second: Frames) -> Float[np.ndarray, "n h w 2"]:
        """Returns flow in pixels, from each first frame to its second."""
        import torch

        pairs = zip(
            base.batches(first, self.batch_size), base.batches(second, self.batch_size), strict=True
        )
        with torch.inference_mode():
            return np.concatenate([self._flow(a, b) for a, b in pairs])

    def _flow(self, first: Any, second: Any) -> Float[np.ndarray, "n h w 2"]:
        import torch

        # Sides must be multiples of 8, and the correlation pyramid needs 128 pixels.
        height, width = first.shape[-2:]
        bottom, right = (max(-n % 8, 128 - n) for n in (height, width))
        first, second = (
            torch.nn.functional.pad(x / 127.5 - 1.0, (0, right, 0, bottom), mode="replicate")
            for x in (first, second)
        )
        flow = self.network(first, second, num_flow_updates=self.updates)[-1]
        return flow[..., :height, :width].permute(0, 2, 3, 1).float().cpu().numpy()

    def __call__(self, frames: Frames) -> dict[str, np.ndarray]:
        """Returns flow f32[T, H, W, 2] in pixels to the next frame."""
        return {"flow": with_last_frame(frames, self.between)}
