"""People drawn quickly for reports: the codec's colours, without its exact shapes."""

import math

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw

from unityvideo_jax.metrics.base import Arrays
from unityvideo_jax.modalities import skeleton_drawing
from unityvideo_jax.modalities.base import Rows

SMOOTH = 2  # people are drawn larger by this factor and averaged, which smooths their edges
SMALL = 96  # lines stay thin where the people span fewer rows than this


def people(
    keypoints: Float[np.ndarray, "t p 17 2"],
    visibility: Int[np.ndarray, "t p 17"],
    height: int,
    width: int,
) -> UInt8[np.ndarray, "t {height} {width} 3"]:
    """Draws joints over limbs in the codec's colours; the codec is too slow for a report.

    Args:
      keypoints: pixels, centres at integers + 0.5.
      visibility: 0 for joints that are absent.
      height, width: of the picture, in pixels.
    """
    colours = np.round(255 * skeleton_drawing.JOINT_COLOURS)
    largest = SMOOTH * max(1.25, 0.012 * math.hypot(height, width))
    frames = []
    points = SMOOTH * np.clip(keypoints.astype(np.float64), -1e4, 1e4)
    for joints, seen in zip(points, visibility, strict=True):
        image = Image.new("RGB", (SMOOTH * width, SMOOTH * height))
        pen = ImageDraw.Draw(image)
        for person, there in zip(joints, seen, strict=True):
            if not there.any():
                continue
            size = np.linalg.norm(np.ptp(person[there > 0], axis=0))
            radius = float(np.clip(0.045 * size, SMOOTH * 1.25, largest))
            for a, b in skeleton_drawing.LIMBS:
                if there[a] and there[b]:
                    middle = (person[a] + person[b]) / 2
                    for k in (a, b):
                        colour = tuple((skeleton_drawing.LIMB * colours[k]).astype(int))
                        pen.line([*person[k], *middle], fill=colour, width=round(0.9 * radius))
            for k in np.flatnonzero(there).tolist():
                light = skeleton_drawing.VISIBLE if there[k] == 2 else skeleton_drawing.OCCLUDED
                r = radius * (0.6 if k < skeleton_drawing.FACE else 1.0)
                box = [*(person[k] - r), *(person[k] + r)]
                pen.ellipse(box, fill=tuple((light * colours[k]).astype(int)))
        frames.append(np.asarray(image.reduce(SMOOTH)))
    return np.stack(frames)


def compare(prediction: Arrays, truth: Arrays, height: int) -> Rows:
    """Draws both, in a frame that the true people fit.

    Keypoints know no frame size: the true people must fit, give or take a margin.
    """
    seen = np.asarray(truth["visibility"]) > 0
    lowest = float(np.asarray(truth["keypoints"])[..., 1][seen].max(initial=0.0))
    step = max(1, math.ceil(lowest / height))
    pairs = [
        (np.asarray(a["keypoints"], np.float32) / np.float32(step), np.asarray(a["visibility"]))
        for a in (truth, prediction)
    ]
    there = [k[v > 0] for k, v in pairs if (v > 0).any()]
    far = there[0].max(axis=0) if there else np.array([64.0, 64.0])
    larger = max(1.0, SMALL / max(far[1], 16.0))
    columns, rows = (int(16 * np.ceil(1.1 * larger * max(side, 16.0) / 16)) for side in far)
    drawn = [people(larger * k, v, rows, columns) for k, v in pairs]
    return dict(zip(("truth", "prediction"), drawn, strict=True))
