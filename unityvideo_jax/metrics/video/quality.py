"""VBench's aesthetic and imaging quality, averaged over frames: how good does a frame look?"""

import pathlib
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from unityvideo_jax.errors import UserError
from unityvideo_jax.metrics.scores import ClipScore
from unityvideo_jax.metrics.video import frames
from unityvideo_jax.metrics.video.base import (
    Frames,
    Reference,
    ScriptMetric,
    VideoMetric,
    library,
    load_transformer,
    percent,
)
from unityvideo_jax.metrics.video.consistency import key_for

MUSIQ_SIDE = 512


class AestheticQuality(VideoMetric):
    """Key "vbench/aesthetic_quality", times 100: LAION's linear head on CLIP ViT-L/14, over 10."""

    name = "aesthetic_quality"
    needs = ("clip-vit-large-patch14", "sa_0_4_vit_l_14_linear.pth")
    protocols: ClassVar[Mapping[str, str]] = {
        "vbench/aesthetic_quality": "LAION linear head on unit CLIP ViT-L/14 features, / 10 x 100"
    }

    def __init__(self, weights: pathlib.Path | None = None) -> None:
        super().__init__(weights)
        torch = library("torch", self.name)
        self.network = load_transformer(weights, self.needs[0], "CLIPVisionModelWithProjection")
        path = weights / self.needs[1]
        try:
            head = torch.load(path, map_location="cpu", weights_only=True)
            self.weight, self.bias = head["weight"].float(), head["bias"].float()
        except Exception as error:
            raise UserError(f"{path}: not a linear head with weight and bias ({error})") from error
        width = self.network.config.projection_dim
        if self.weight.shape != (1, width):
            raise UserError(
                f"{path}: weight is {tuple(self.weight.shape)} but {self.needs[0]} gives {width} "
                "features; use the head of the same network"
            )
        expected = {"hidden_size": 1024, "num_hidden_layers": 24, "patch_size": 14}
        self.key = key_for(self.name, self.network.config, expected, "clip")

    def _scores(self, images: Any) -> Any:
        import torch

        images = frames.for_clip(images, self.network.config.image_size)
        unit = torch.nn.functional.normalize(self.network(images).image_embeds.float(), dim=-1)
        return unit @ self.weight.T + self.bias

    def measure(self, video: Frames, fps: float, caption: str, reference: Reference) -> ClipScore:
        """Scores one video; `fps`, `caption` and `reference` are not read."""
        return percent(self.key, float(frames.features(video, self._scores).mean()) / 10.0)


class ImagingQuality(ScriptMetric):
    """Key "vbench/imaging_quality", 0..100: MUSIQ (SPAQ) on frames of at most 512 pixels.

    musiq_spaq.pt: TorchScript, f32[1,3,H,W] in [0, 1] to one number in [0, 100].
    """

    name = "imaging_quality"
    needs = ("musiq_spaq.pt",)
    protocols: ClassVar[Mapping[str, str]] = {
        "vbench/imaging_quality": "MUSIQ (SPAQ), 0..100, longer side at most 512"
    }

    def measure(self, video: Frames, fps: float, caption: str, reference: Reference) -> ClipScore:
        """Scores one video; `fps`, `caption` and `reference` are not read."""
        import torch

        scores = []
        with torch.inference_mode():
            for frame in video:
                image = frames.tensor(frame[None])
                height, width = image.shape[-2:]
                scale = MUSIQ_SIDE / max(height, width)
                if scale < 1.0:
                    image = frames.resize(image, int(scale * height), int(scale * width))
                scores.append(float(self.network(image / 255.0)))
        return percent("vbench/imaging_quality", float(np.mean(scores)) / 100.0)
