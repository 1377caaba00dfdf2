"""VBench's motion smoothness and dynamic degree: how does the video move?"""

import itertools
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from unityvideo_jax.metrics.scores import ClipScore
from unityvideo_jax.metrics.video import frames
from unityvideo_jax.metrics.video.base import Frames, Reference, ScriptMetric, percent

# VBench: a pair of frames moves if the fastest 5 % of its pixels do, by 6 pixels at a side of 256.
FAST_SHARE = 0.05
FAST_PIXELS = 6.0 / 256.0
DYNAMIC_FPS = 8.0


class MotionSmoothness(ScriptMetric):
    """Key "vbench/motion_smoothness", times 100: are dropped frames what AMT-S would put there?

    Every second frame is interpolated from its neighbours; the score is
    (255 - mean absolute difference) / 255.
    amt_s.pt: TorchScript, (f32[1,3,H,W], f32[1,3,H,W], time f32[1,1,1,1]) to f32[1,3,H,W], all in
    [0, 1], H and W multiples of 16.
    """

    name = "motion_smoothness"
    needs = ("amt_s.pt",)
    min_frames = 3
    protocols: ClassVar[Mapping[str, str]] = {
        "vbench/motion_smoothness": "odd frames against their interpolation by AMT-S, "
        "(255 - MAE) / 255 x 100"
    }

    def _middle(self, first: Any, last: Any) -> Float[np.ndarray, "h w 3"]:
        import torch

        (first, inside), (last, _) = (frames.pad_to_multiple(x / 255.0, 16) for x in (first, last))
        middle = self.network(first, last, torch.full((1, 1, 1, 1), 0.5))
        image = middle[0][:, *inside].permute(1, 2, 0).numpy()
        # To 8 bits by truncation, as AMT's own writer does.
        return np.trunc(np.clip(255.0 * image, 0.0, 255.0))

    def measure(self, video: Frames, fps: float, caption: str, reference: Reference) -> ClipScore:
        """Scores one video; `fps`, `caption` and `reference` are not read."""
        import torch

        errors = []
        with torch.inference_mode():
            for t in range(1, len(video) - 1, 2):
                around = (frames.tensor(video[s : s + 1]) for s in (t - 1, t + 1))
                errors.append(np.abs(self._middle(*around) - video[t]).mean())
        return percent(f"vbench/{self.name}", (255.0 - float(np.mean(errors))) / 255.0)


def fast_motion(flow: Float[np.ndarray, "2 h w"]) -> float:
    """Returns the mean speed of the fastest 5 % of the pixels, in pixels per frame."""
    speed = np.sort(np.linalg.norm(flow, axis=0).ravel())[::-1]
    return float(speed[: max(int(speed.size * FAST_SHARE), 1)].mean())


def is_dynamic(motions: list[float], num_frames: int, side: int) -> bool:
    """Whether round(n / 4) pairs or more are fast; n counts frames, `side` is the shorter one.

    At least one pair must be: of two frames VBench asks for none, so that a still would count.
    """
    fast = sum(motion > FAST_PIXELS * side for motion in motions)
    return fast >= max(round(4 * num_frames / 16), 1)


class DynamicDegree(ScriptMetric):
    """Key "vbench/dynamic_degree": share of videos that move, times 100, by RAFT at about 8 fps.

    raft_things.pt: TorchScript, (f32[1,3,H,W], f32[1,3,H,W]) in [0, 255], H and W multiples of 8,
    to the flow f32[1,2,H,W] after 20 iterations.
    """

    name = "dynamic_degree"
    needs = ("raft_things.pt",)
    min_frames = 2
    protocols: ClassVar[Mapping[str, str]] = {
        "vbench/dynamic_degree": "share of videos x 100 in which round(n/4) of the n - 1 pairs of "
        "frames at ~8 fps move: top 5 % of RAFT flow above 6 min(H, W) / 256"
    }

    def measure(self, video: Frames, fps: float, caption: str, reference: Reference) -> ClipScore:
        """Scores one video at about 8 of its `fps`; `caption` and `reference` are not read."""
        import torch

        video = video[:: max(round(fps / DYNAMIC_FPS), 1)]
        motions = []
        with torch.inference_mode():
            for pair in itertools.pairwise(video):
                padded = [frames.pad_to_multiple(frames.tensor(f[None]), 8)[0] for f in pair]
                # The padding's flow counts too, as in VBench.
                motions.append(fast_motion(self.network(*padded)[0].float().numpy()))
        dynamic = is_dynamic(motions, len(video), min(video.shape[1:3]))
        return percent(f"vbench/{self.name}", float(dynamic))
