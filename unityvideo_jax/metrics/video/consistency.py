"""VBench's subject and background consistency, and flickering: does the picture stay the same?

Consistency of features f_t over a video = mean over t >= 1 of
(max(0, cos(f_t, f_t-1)) + max(0, cos(f_t, f_0))) / 2; over videos, frames are pooled.
Flickering = (255 - mean absolute difference of neighbouring frames) / 255. (VBench selects static
videos for it; here every video counts, which the key cannot distinguish: compare like with like.)
"""

import itertools
import pathlib
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from unityvideo_jax.metrics.scores import ClipScore
from unityvideo_jax.metrics.video import frames
from unityvideo_jax.metrics.video.base import (
    Frames,
    Reference,
    VideoMetric,
    load_transformer,
    percent,
)


def consistency(features: Float[np.ndarray, "t d"]) -> float:
    """Returns the formula above, in [0, 1]; needs two frames.

    Args:
      features: of each frame, in order.
    """
    features = features.astype(np.float64)
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-8)
    previous = np.maximum((unit[1:] * unit[:-1]).sum(axis=1), 0.0)
    first = np.maximum(unit[1:] @ unit[0], 0.0)
    return float((previous + first).mean() / 2)


def key_for(name: str, config: Any, expected: Mapping[str, int], network: str) -> str:
    """Returns "vbench/<name>" if the network has the size of VBench's; else a proxy's name.

    A score from another network is another score.
    """
    if all(getattr(config, attribute) == value for attribute, value in expected.items()):
        return f"vbench/{name}"
    size = "x".join(str(getattr(config, attribute)) for attribute in expected)
    return f"vbench_proxy/{name}_{network}_{size}"


class TemporalFlickering(VideoMetric):
    """Key "vbench/temporal_flickering", times 100; 100 for a still."""

    name = "temporal_flickering"
    min_frames = 2
    protocols: ClassVar[Mapping[str, str]] = {
        "vbench/temporal_flickering": "(255 - mean |frame difference|) / 255 x 100; all videos, "
        "not only static ones"
    }

    def measure(self, video: Frames, fps: float, caption: str, reference: Reference) -> ClipScore:
        """Scores one video; `fps`, `caption` and `reference` are not read."""
        # Frame by frame: the difference of whole videos would hold them thrice, in float.
        changes = [np.abs(b.astype(np.int16) - a).mean() for a, b in itertools.pairwise(video)]
        return percent("vbench/temporal_flickering", (255.0 - float(np.mean(changes))) / 255.0)


class SubjectConsistency(VideoMetric):
    """Key "vbench/subject_consistency", times 100, on features of DINO ViT-B/16."""

    name = "subject_consistency"
    needs = ("dino-vitb16",)
    min_frames = 2
    protocols: ClassVar[Mapping[str, str]] = {
        "vbench/subject_consistency": "cosine of DINO ViT-B/16 features with the previous and the "
        "first frame x 100, shorter side 224; frames pooled"
    }

    def __init__(self, weights: pathlib.Path | None = None) -> None:
        super().__init__(weights)
        self.network = load_transformer(weights, self.needs[0], "ViTModel", add_pooling_layer=False)
        expected = {"hidden_size": 768, "num_hidden_layers": 12, "patch_size": 16}
        self.key = key_for(self.name, self.network.config, expected, "vit")

    def _features(self, images: Any) -> Any:
        images = frames.resize_shorter(images, self.network.config.image_size)
        images = frames.normalise(images, frames.IMAGENET)
        states = self.network(images, interpolate_pos_encoding=True).last_hidden_state
        return states[:, 0]

    def measure(self, video: Frames, fps: float, caption: str, reference: Reference) -> ClipScore:
        """Scores one video; `fps`, `caption` and `reference` are not read."""
        value = consistency(frames.features(video, self._features))
        return percent(self.key, value, len(video) - 1.0)


class BackgroundConsistency(VideoMetric):
    """Key "vbench/background_consistency", times 100, on features of CLIP ViT-B/32."""

    name = "background_consistency"
    needs = ("clip-vit-base-patch32",)
    min_frames = 2
    protocols: ClassVar[Mapping[str, str]] = {
        "vbench/background_consistency": "cosine of CLIP ViT-B/32 features with the previous and "
        "the first frame x 100, 224 centre crop; frames pooled"
    }

    def __init__(self, weights: pathlib.Path | None = None) -> None:
        super().__init__(weights)
        self.network = load_transformer(weights, self.needs[0], "CLIPVisionModelWithProjection")
        expected = {"hidden_size": 768, "num_hidden_layers": 12, "patch_size": 32}
        self.key = key_for(self.name, self.network.config, expected, "clip")

    def _features(self, images: Any) -> Any:
        return self.network(frames.for_clip(images, self.network.config.image_size)).image_embeds

    def measure(self, video: Frames, fps: float, caption: str, reference: Reference) -> ClipScore:
        """Scores one video; `fps`, `caption` and `reference` are not read."""
        value = consistency(frames.features(video, self._features))
        return percent(self.key, value, len(video) - 1.0)
