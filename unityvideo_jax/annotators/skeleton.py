"""Skeletons by ViTPose on the boxes of a person detector, linked over time."""

import dataclasses
import functools
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from unityvideo_jax.annotators import base
from unityvideo_jax.annotators.base import Frames
from unityvideo_jax.annotators.detection import Detector
from unityvideo_jax.annotators.tracking import Tracks, box_iou
from unityvideo_jax.errors import UserError

NUM_JOINTS = 17


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTPose(base.Loaded):
    """ViTPose (Xu et al. 2022) of transformers, on COCO-17 joints.

    Attributes:
      weights: a folder of transformers, such as vitpose-base-simple or vitpose-plus-base.
      detector: folder of a person detector, such as rtdetr_r50vd_coco_o365.
      label: its class of people.
      threshold: its least score.
      visible: least score of a joint that is seen (COCO visibility 2).
      present: least score of a joint that is placed but not seen (1); lower ones are absent (0).
      max_people: the people seen in most frames.
      batch_size: people at once.
      licence: of the weights.
    """

    weights: str
    detector: str
    label: str = "person"
    threshold: float | int = 0.5
    visible: float | int = 0.5
    present: float | int = 0.3
    max_people: int = 8
    batch_size: int = 16
    licence: ClassVar[str] = "ViTPose, ViTPose+, RT-DETR: Apache-2.0; COCO annotations: CC-BY-4.0"

    @functools.cached_property
    def network(self) -> tuple[Any, Any, Detector]:
        """The processor, the model and the detector.

        Raises:
          UserError: a model of other joints, or weights that do not load.
        """
        model = base.load_transformer(self.weights, "VitPoseForPoseEstimation", "skeleton")
        if model.config.num_labels != NUM_JOINTS:
            raise UserError(
                f"skeleton: {self.weights} gives {model.config.num_labels} joints; use one of "
                f"COCO's {NUM_JOINTS}"
            )
        detector = Detector(weights=self.detector, labels=(self.label,), threshold=self.threshold)
        detector.setup()
        return base.load_processor(self.weights, "AutoImageProcessor", "skeleton"), model, detector

    def __call__(self, frames: Frames) -> dict[str, np.ndarray]:
        """Returns keypoints f32[T, P, 17, 2] in pixels and visibility i32[T, P, 17]."""
        boxes = self.network[2](frames)
        tracks = Tracks(box_iou)
        numbers = [tracks.update(list(found)) for found in boxes]
        seen = np.bincount([n for frame in numbers for n in frame], minlength=tracks.count)
        # Those seen the longest, in the order of their first sight.
        chosen = sorted(np.argsort(-seen, kind="stable")[: self.max_people].tolist())
        place = {number: n for n, number in enumerate(chosen)}
        wanted = [
            (t, place[number], box)
            for t, found in enumerate(boxes)
            for number, box in zip(numbers[t], found, strict=True)
            if number in place
        ]
        keypoints = np.zeros((len(frames), len(chosen), NUM_JOINTS, 2), np.float32)
        visibility = np.zeros((len(frames), len(chosen), NUM_JOINTS), np.int32)
        for first in range(0, len(wanted), self.batch_size):
            batch = wanted[first : first + self.batch_size]
            for (t, person, _), (points, scores) in zip(
                batch, self._poses(frames, batch), strict=True
            ):
                keypoints[t, person] = points
                visibility[t, person] = np.where(
                    scores >= self.visible, 2, np.where(scores >= self.present, 1, 0)
                )
        return {"keypoints": keypoints, "visibility": visibility}

    def _poses(
        self, frames: Frames, people: list[tuple[int, int, np.ndarray]]
    ) -> list[tuple[Float[np.ndarray, "17 2"], Float[np.ndarray, " 17"]]]:
        import torch

        processor, model, _ = self.network
        # One image per person, and its box as (left, top, width, height).
        boxes = [np.asarray([[*b[:2], *(b[2:] - b[:2])]], np.float32) for _, _, b in people]
        images = [frames[t] for t, _, _ in people]
        inputs = processor(images=images, boxes=boxes, return_tensors="pt").to(model.device)
        if getattr(model.config.backbone_config, "num_experts", 1) > 1:
            # ViTPose+ has one expert per data set; 0 is COCO.
            inputs["dataset_index"] = torch.zeros(len(people), dtype=torch.int64).to(model.device)
        with torch.inference_mode():
            outputs = model(**inputs)
        found = processor.post_process_pose_estimation(outputs, boxes=boxes)
        # Its positions count from the centre of the first pixel, ours from its corner.
        return [
            (
                (person["keypoints"].numpy() + 0.5).astype(np.float32),
                person["scores"].numpy().astype(np.float32),
            )
            for (person,) in found
        ]
