"""Boxes: detectors of fixed classes, and detectors that take text."""

import dataclasses
import functools
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from unityvideo_jax.annotators import base
from unityvideo_jax.annotators.base import Frames
from unityvideo_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Detector(base.Loaded):
    """RT-DETR, DETR or YOLOS for fixed classes; Grounding DINO or OWLv2 for text.

    Attributes:
      weights: a folder of transformers.
      labels: names of the classes to return; () is all. Fixed classes only.
      prompt: things to look for, divided by '. '; '' is a detector of fixed classes.
      threshold: least score.
      batch_size: frames at once.
      licence: of the weights.
    """

    weights: str
    labels: tuple[str, ...] = ()
    prompt: str = ""
    threshold: float | int = 0.5
    batch_size: int = 8
    licence: ClassVar[str] = "RT-DETR, DETR, YOLOS, Grounding DINO, OWLv2: Apache-2.0"

    @functools.cached_property
    def network(self) -> tuple[Any, Any]:
        """The processor and the model.

        Raises:
          UserError: a class that the model lacks, or weights that do not load.
        """
        kind = (
            "AutoModelForZeroShotObjectDetection" if self.prompt else "AutoModelForObjectDetection"
        )
        model = base.load_transformer(self.weights, kind, "detection")
        names = set(model.config.id2label.values())
        if not self.prompt and (lost := set(self.labels) - names):
            shown = ", ".join(sorted(names)[:8])
            raise UserError(
                f"detection: {self.weights} knows no class {sorted(lost)[0]!r} (but {shown}, ...)"
            )
        kind = "AutoProcessor" if self.prompt else "AutoImageProcessor"
        return base.load_processor(self.weights, kind, "detection"), model

    def __call__(self, frames: Frames) -> list[Float[np.ndarray, "n 4"]]:
        """Returns boxes of every frame, (left, top, right, bottom) in pixels, the surest first."""
        import torch

        found = []
        with torch.inference_mode():
            for first in range(0, len(frames), self.batch_size):
                found += self._detect(frames[first : first + self.batch_size])
        return found

    def _detect(self, frames: Frames) -> list[Float[np.ndarray, "n 4"]]:
        processor, model = self.network
        sizes = [frames.shape[1:3]] * len(frames)
        if self.prompt:
            things = [thing.strip() for thing in self.prompt.split(".") if thing.strip()]
            inputs = processor(
                images=list(frames), text=[things] * len(frames), padding=True, return_tensors="pt"
            ).to(model.device)
            results = processor.post_process_grounded_object_detection(
                model(**inputs), threshold=self.threshold, target_sizes=sizes
            )
        else:
            inputs = processor(images=list(frames), return_tensors="pt").to(model.device)
            results = processor.post_process_object_detection(
                model(**inputs), threshold=self.threshold, target_sizes=sizes
            )
        return [self._boxes(result, sizes[0], model.config.id2label) for result in results]

    def _boxes(
        self, result: Any, size: tuple[int, ...], names: dict[int, str]
    ) -> Float[np.ndarray, "n 4"]:
        scores, boxes = (result[k].float().cpu().numpy() for k in ("scores", "boxes"))
        keep = np.ones(len(scores), bool)
        if self.labels and not self.prompt:
            keep = np.asarray([names[int(n)] in self.labels for n in result["labels"]], bool)
        boxes = np.clip(boxes, 0.0, np.asarray([*size[::-1], *size[::-1]], np.float32))
        keep &= ((boxes[:, 2:] - boxes[:, :2]) >= 1.0).all(axis=1)
        order = np.argsort(-scores[keep], kind="stable")
        return boxes[keep][order].astype(np.float32)
