"""Segmentation over video by SAM 2, from given boxes, or detected by class or by text."""

import dataclasses
import functools
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Int

from unityvideo_jax.annotators import base
from unityvideo_jax.annotators.base import Frames
from unityvideo_jax.annotators.detection import Detector
from unityvideo_jax.annotators.tracking import box_iou
from unityvideo_jax.errors import UserError
from unityvideo_jax.modalities.segmentation import CAPACITY


@dataclasses.dataclass(frozen=True, kw_only=True)
class SAM2(base.Loaded):
    """SAM 2 (Ravi et al. 2024) tracks the objects in boxes.

    Boxes are looked for in every `every`-th frame; one that no tracked mask fills becomes a new
    instance from there on. Ids are in the order of first appearance, the surest first.

    Attributes:
      weights: a folder of transformers' Sam2Video, such as sam2.1-hiera-large.
      boxes: (left, top, right, bottom) as shares of the frame, for frame 0; then no detector is
        needed.
      detector: folder of a detector, see `detection.Detector`.
      prompt: text for it; '' with a detector of fixed classes.
      labels: its classes to return; () is all.
      threshold: its least score.
      every: frames between detections; 0 looks at the first frame only.
      max_instances: the palette has 26 colours.
      licence: of the weights.
    """

    weights: str
    boxes: tuple[tuple[float | int, ...], ...] = ()
    detector: str = ""
    prompt: str = ""
    labels: tuple[str, ...] = ()
    threshold: float | int = 0.5
    every: int = 16
    max_instances: int = CAPACITY
    licence: ClassVar[str] = "SAM 2 and SAM 2.1: Apache-2.0"

    def __post_init__(self):
        if bool(self.boxes) == bool(self.detector):
            raise UserError("config.segmentation.options: give either boxes or a detector's folder")
        if any(len(box) != 4 or not all(0 <= n <= 1 for n in box) for box in self.boxes):
            raise UserError("config.segmentation.options.boxes: four shares from 0 to 1 each")

    @functools.cached_property
    def network(self) -> tuple[Any, Detector | None]:
        """The model and the detector."""
        model = base.load_transformer(self.weights, "Sam2VideoModel", "segmentation")
        if not self.detector:
            return model, None
        detector = Detector(
            weights=self.detector,
            prompt=self.prompt,
            labels=tuple(self.labels),
            threshold=self.threshold,
        )
        detector.setup()
        return model, detector

    def _prompts(self, frames: Frames) -> dict[int, Float[np.ndarray, "n 4"]]:
        """Boxes in pixels by frame."""
        _, detector = self.network
        height, width = frames.shape[1:3]
        if detector is None:
            scale = np.asarray([width, height, width, height], np.float32)
            return {0: np.asarray(self.boxes, np.float32) * scale}
        looked = list(range(0, len(frames), self.every)) if self.every else [0]
        return dict(zip(looked, detector(frames[looked]), strict=True))

    def __call__(self, frames: Frames) -> dict[str, np.ndarray]:
        """Returns segments i32[T, H, W], 0 for background."""
        import torch
        from transformers import Sam2VideoInferenceSession

        model, _ = self.network
        prompts = self._prompts(frames)
        size = model.config.image_size
        video = torch.cat(
            [base.normalise(base.resize(b, size, size)).cpu() for b in base.batches(frames, 8)]
        )
        session = Sam2VideoInferenceSession(
            video=video,
            video_height=frames.shape[1],
            video_width=frames.shape[2],
            inference_device=model.device,
            inference_state_device=model.device,
            dtype=model.dtype,
        )
        segments = np.zeros(frames.shape[:3], np.int32)
        with torch.inference_mode():
            for t in range(len(frames)):
                if session.get_obj_num():
                    segments[t] = self._track(session, t, frames.shape[1:3])
                if t in prompts and (new := self._new(prompts[t], segments[t], session)):
                    self._add(session, t, new, size, frames.shape[1:3])
                    segments[t] = self._track(session, t, frames.shape[1:3])
        return {"segments": segments}

    def _new(
        self, boxes: Float[np.ndarray, "n 4"], segments: Int[np.ndarray, "h w"], session: Any
    ) -> list[np.ndarray]:
        """The boxes that no tracked instance fills."""
        known = []
        for instance in np.unique(segments[segments > 0]):
            rows, columns = np.nonzero(segments == instance)
            known.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        tracked = np.asarray(known, np.float32).reshape(-1, 4)
        fresh = [b for b in boxes if not len(tracked) or box_iou(b[None], tracked).max() < 0.5]
        return fresh[: self.max_instances - session.get_obj_num()]

    def _add(
        self, session: Any, t: int, boxes: list[np.ndarray], size: int, frame: tuple[int, ...]
    ) -> None:
        import torch

        ids = list(range(session.get_obj_num() + 1, session.get_obj_num() + len(boxes) + 1))
        scale = size / np.asarray(frame[::-1], np.float32)
        for instance, box in zip(ids, boxes, strict=True):
            corners = torch.from_numpy(box.reshape(1, 1, 2, 2) * scale).float()
            # 2 and 3: the top left and the bottom right corner of a box.
            inputs = {
                "point_coords": corners,
                "point_labels": torch.tensor([[[2, 3]]], dtype=torch.int32),
            }
            session.add_point_inputs(session.obj_id_to_idx(instance), t, inputs)
        session.obj_with_new_inputs = ids

    def _track(self, session: Any, t: int, size: tuple[int, ...]) -> Int[np.ndarray, "h w"]:
        import torch

        model, _ = self.network
        logits = model(session, frame_idx=t).pred_masks.float()
        full = torch.nn.functional.interpolate(logits, size=size, mode="bilinear")[:, 0]
        best, instance = full.max(dim=0)
        return torch.where(best > 0, instance + 1, 0).cpu().numpy().astype(np.int32)
