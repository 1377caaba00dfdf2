"""Distances between the sets of predicted and real videos: FVD (arXiv 1812.01717), and a proxy.

FVD is the Fréchet distance of I3D features; few videos bias it upwards, and below 256 it says
little. The proxy is the same distance of features that need no network; it is not FVD and cannot be
compared with one.
"""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import scipy
from jaxtyping import Float
from PIL import Image

from unityvideo_jax.errors import UserError
from unityvideo_jax.metrics.scores import ClipScore
from unityvideo_jax.metrics.video import frames
from unityvideo_jax.metrics.video.base import Frames, Reference, ScriptMetric, VideoMetric

# Fewer videos than this make FVD too noisy to compare.
ENOUGH_VIDEOS = 256
PROXY = "frechet_proxy/dct3d_64"


class FVD(ScriptMetric):
    """Key "fvd/i3d_kinetics400" over features of I3D.

    i3d_torchscript.pt: TorchScript, called with a video f32[1,3,T,224,224] in [-1, 1] and
    rescale=False, resize=False, return_features=True; gives f32[1,400].
    """

    name = "fvd"
    needs = ("i3d_torchscript.pt",)
    min_frames = 10  # the network halves time until nothing is left of fewer
    needs_reference = True
    protocols: ClassVar[Mapping[str, str]] = {
        "fvd/i3d_kinetics400": "Fréchet distance of I3D (Kinetics-400) features, shorter side 224, "
        f"centre crop; biased below {ENOUGH_VIDEOS} videos; no interval, since it is not a mean"
    }

    def features(self, video: Frames) -> Float[np.ndarray, " d"]:
        """Returns I3D's feature vector of a video in 0..255.

        Raises:
          UserError: the network gives something else than one finite vector.
        """
        import torch

        with torch.inference_mode():
            parts = [
                frames.centre_crop(frames.resize_shorter(frames.tensor(part), 224), 224)
                for part in frames.batches(video)
            ]
            clip = torch.cat(parts).permute(1, 0, 2, 3)[None] / 127.5 - 1.0
            found = self.network(clip, rescale=False, resize=False, return_features=True)
        vector = found[0].float().numpy()
        if vector.ndim != 1 or not np.isfinite(vector).all():
            raise UserError(
                f"{self.weights / self.needs[0]}: gives features of shape {vector.shape}; one "
                "finite vector per video is needed"
            )
        return vector

    def measure(self, video: Frames, fps: float, caption: str, reference: Reference) -> ClipScore:
        """The features of the video and of its reference; `fps` and `caption` are not read."""
        pair = tuple(self.features(v).tolist() for v in (video, reference))
        return ClipScore(features={"fvd/i3d_kinetics400": pair})


class FrechetProxy(VideoMetric):
    """Key "frechet_proxy/dct3d_64": Fréchet distance of log |low frequencies|. A proxy.

    16 frames spread over the video, luminance of 32 x 32 pixels, orthonormal 3-D cosine transform;
    the features are log(1 + |c|) of the lowest 4 x 4 x 4 coefficients.
    """

    name = "frechet_proxy"
    min_frames = 2
    needs_reference = True
    protocols: ClassVar[Mapping[str, str]] = {
        PROXY: "a proxy, not FVD: Fréchet distance of log magnitudes of the 64 lowest 3-D cosine "
        "coefficients of 16 frames of 32 x 32"
    }

    def features(self, video: Frames) -> Float[np.ndarray, "64"]:
        """Returns the 64 log magnitudes of a video in 0..255."""
        picks = np.linspace(0, len(video) - 1, 16).round().astype(int)
        small = [
            Image.fromarray(video[t]).convert("L").resize((32, 32), Image.Resampling.BOX)
            for t in picks
        ]
        block = np.stack([np.asarray(image, np.float64) for image in small]) / 255.0
        low = scipy.fft.dctn(block, norm="ortho")[:4, :4, :4]
        return np.log1p(np.abs(low)).ravel()

    def measure(self, video: Frames, fps: float, caption: str, reference: Reference) -> ClipScore:
        """The features of the video and of its reference; `fps` and `caption` are not read."""
        pair = tuple(self.features(v).tolist() for v in (video, reference))
        return ClipScore(features={PROXY: pair})
