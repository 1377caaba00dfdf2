"""Instance segmentation frame by frame by Mask2Former, linked over time by overlap."""

import dataclasses
import functools
from typing import Any, ClassVar

import numpy as np

from unityvideo_jax.annotators import base
from unityvideo_jax.annotators.base import Frames
from unityvideo_jax.annotators.tracking import Tracks, mask_iou
from unityvideo_jax.errors import UserError
from unityvideo_jax.modalities.segmentation import CAPACITY


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mask2Former(base.Loaded):
    """Mask2Former (Cheng et al. 2022) of transformers, trained on instances.

    Attributes:
      weights: a folder of transformers, such as mask2former-swin-large-coco-instance.
      labels: names of the classes to return; () is all.
      threshold: least score of an instance.
      batch_size: frames at once.
      least_overlap: of masks in neighbouring frames that are the same instance.
      licence: of the weights.
    """

    weights: str
    labels: tuple[str, ...] = ()
    threshold: float | int = 0.5
    batch_size: int = 4
    least_overlap: float | int = 0.3
    licence: ClassVar[str] = "Mask2Former: MIT; its COCO annotations: CC-BY-4.0"

    @functools.cached_property
    def network(self) -> tuple[Any, Any]:
        """The processor and the model.

        Raises:
          UserError: a class that the model lacks, or weights that do not load.
        """
        kind = "Mask2FormerForUniversalSegmentation"
        model = base.load_transformer(self.weights, kind, "segmentation")
        names = set(model.config.id2label.values())
        if lost := set(self.labels) - names:
            raise UserError(f"segmentation: {self.weights} knows no class {sorted(lost)[0]!r}")
        return base.load_processor(self.weights, "AutoImageProcessor", "segmentation"), model

    def __call__(self, frames: Frames) -> dict[str, np.ndarray]:
        """Returns segments i32[T, H, W], 0 for background."""
        import torch

        processor, model = self.network
        tracks = Tracks(mask_iou, least=float(self.least_overlap))
        segments = np.zeros(frames.shape[:3], np.int32)
        with torch.inference_mode():
            for first in range(0, len(frames), self.batch_size):
                images = frames[first : first + self.batch_size]
                inputs = processor(images=list(images), return_tensors="pt").to(model.device)
                results = processor.post_process_instance_segmentation(
                    model(**inputs),
                    threshold=self.threshold,
                    target_sizes=[frames.shape[1:3]] * len(images),
                )
                for t, result in enumerate(results, first):
                    masks = self._masks(result, model.config.id2label)
                    for number, mask in zip(tracks.update(masks), masks, strict=True):
                        if number < CAPACITY:
                            segments[t][mask] = number + 1
        return {"segments": segments}

    def _masks(self, result: Any, names: dict[int, str]) -> list[np.ndarray]:
        """The instances of a frame, the surest first."""
        if result["segmentation"] is None:
            return []
        ids = result["segmentation"].cpu().numpy()
        found = sorted(result["segments_info"], key=lambda s: -s["score"])
        wanted = [s for s in found if not self.labels or names[s["label_id"]] in self.labels]
        masks = [ids == s["id"] for s in wanted]
        return [mask for mask in masks if mask.any()]
