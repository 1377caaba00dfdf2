"""DensePose from an exported network."""

import contextlib
import dataclasses
import functools
from typing import Any, ClassVar

import numpy as np

from unityvideo_jax.annotators import base
from unityvideo_jax.annotators.base import Frames
from unityvideo_jax.errors import UserError

FIELDS = (
    "pred_boxes",
    "scores",
    "pred_densepose_coarse_segm",
    "pred_densepose_fine_segm",
    "pred_densepose_u",
    "pred_densepose_v",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DensePoseScript(base.Loaded):
    """DensePose R-CNN (Guler et al. 2018; detectron2) exported to TorchScript.

    The export takes one image u8 [H, W, 3] in BGR and gives a dict: pred_boxes [n, 4] (left, top,
    right, bottom), scores [n], and the chart outputs of every box, pred_densepose_coarse_segm
    [n, 2 or 15, s, s], _fine_segm, _u and _v [n, 25, s, s]. That is what the public exports of
    detectron2's chart models give (their operators come from torchvision).

    Attributes:
      weights: the TorchScript file.
      threshold: least score of a person.
      licence: of detectron2's code and weights.
    """

    weights: str
    threshold: float | int = 0.7
    licence: ClassVar[str] = (
        "detectron2's code: Apache-2.0; its weights: CC-BY-SA-3.0, learnt from annotations under "
        "CC-BY-NC-2.0 (DensePose-COCO): none is free of conditions"
    )

    @functools.cached_property
    def network(self) -> Any:
        """The script."""
        # Registers the operators (non-maximum suppression, pooling) that exports refer to.
        with contextlib.suppress(ImportError, RuntimeError):
            import torchvision  # noqa: F401
        return base.load_script(self.weights, "DensePose")

    def __call__(self, frames: Frames) -> dict[str, np.ndarray]:
        """Returns part i32[T, H, W] and uv f32[T, H, W, 2] of all people."""
        import torch

        part = np.zeros(frames.shape[:3], np.int32)
        uv = np.zeros((*frames.shape[:3], 2), np.float32)
        with torch.inference_mode():
            for t, frame in enumerate(frames):
                image = torch.from_numpy(np.ascontiguousarray(frame[..., ::-1])).to(base.device())
                found = self.network(image)
                if lost := [name for name in FIELDS if name not in found]:
                    raise UserError(
                        f"DensePose: {self.weights} gives no {lost[0]}; export a chart model"
                    )
                # The surest last, so that it lies on top where people overlap.
                for n in torch.argsort(found["scores"]).tolist():
                    if float(found["scores"][n]) >= self.threshold:
                        self._paint({name: found[name][n] for name in FIELDS}, part[t], uv[t])
        return {"part": part, "uv": uv}

    @staticmethod
    def _paint(person: dict[str, Any], part: np.ndarray, uv: np.ndarray) -> None:
        """Draws one person's charts into a frame, in place."""
        import torch

        height, width = part.shape
        left, top, right, bottom = (int(n) for n in person["pred_boxes"].tolist())
        size = max(bottom - top, 1), max(right - left, 1)
        coarse, fine, u, v = (
            torch.nn.functional.interpolate(
                person[name][None].float(), size=size, mode="bilinear", align_corners=False
            )[0]
            for name in FIELDS[2:]
        )
        label = fine.argmax(dim=0) * (coarse.argmax(dim=0) > 0)
        charts = [x.gather(0, label[None])[0].clamp(0.0, 1.0).cpu().numpy() for x in (u, v)]
        label = label.cpu().numpy().astype(np.int32)
        # The part of the box that lies inside the frame.
        rows = slice(max(top, 0), min(top + size[0], height))
        columns = slice(max(left, 0), min(left + size[1], width))
        inner = (
            slice(rows.start - top, rows.stop - top),
            slice(columns.start - left, columns.stop - left),
        )
        seen = label[inner] > 0
        part[rows, columns][seen] = label[inner][seen]
        uv[rows, columns][seen] = np.stack([c[inner] for c in charts], axis=-1)[seen]
