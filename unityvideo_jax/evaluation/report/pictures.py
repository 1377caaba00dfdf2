"""Truth, prediction and error of a clip as one picture and as a small video."""

import itertools
import math
import pathlib
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import matplotlib
import numpy as np
from jaxtyping import Float, Int, Shaped, UInt8
from PIL import Image, ImageDraw

from unityvideo_jax import media, modalities
from unityvideo_jax.metrics import depth, flow, segmentation
from unityvideo_jax.metrics.base import Arrays
from unityvideo_jax.metrics.table import METRICS
from unityvideo_jax.modalities import skeleton_drawing
from unityvideo_jax.modalities.palette import instance_palette

COLUMNS = 4
# The most that is drawn: a page shows no more.
HEIGHT, FRAMES = 192, 48
SMALL = 96  # rows below which pixels are magnified
PREVIEW = {"crf": 30, "preset": "veryfast"}
# What the brightest colour of an error map stands for.
WORST_ABS_REL, WORST_PIXELS = 0.5, 5.0
SMOOTH = 2  # people are drawn so much larger and averaged, which smooths their edges
MISSED, INVENTED, CONFUSED = (80, 140, 255), (255, 90, 70), (255, 220, 60)


def heat(error: Float[np.ndarray, "t h w"], worst: float) -> UInt8[np.ndarray, "t h w 3"]:
    """Errors from 0 (black) to `worst` or more (bright yellow); NaN, where nothing counts, grey."""
    share = np.clip(np.nan_to_num(error / worst, nan=0.0), 0.0, 1.0)
    image = (255.0 * matplotlib.colormaps["inferno"](share)[..., :3]).astype(np.uint8)
    image[np.isnan(error)] = 90
    return image


def label_errors(
    prediction: Int[np.ndarray, "t h w"], truth: Int[np.ndarray, "t h w"]
) -> UInt8[np.ndarray, "t h w 3"]:
    """Blue where a label is missed, red where invented, yellow where it is another one."""
    image = np.zeros((*truth.shape, 3), np.uint8)
    image[(truth > 0) & (prediction == truth)] = 60
    image[(truth > 0) & (prediction == 0)] = MISSED
    image[(truth == 0) & (prediction > 0)] = INVENTED
    image[(truth > 0) & (prediction > 0) & (prediction != truth)] = CONFUSED
    return image


def draw(modality: str, arrays: Arrays) -> UInt8[np.ndarray, "t h w 3"]:
    """The arrays in their codec's colours."""
    codec = modalities.get(modality).codec
    video, _ = codec.encode({key: jnp.asarray(arrays[key]) for key in codec.keys})
    return media.to_uint8(np.asarray(video))


def match_labels(
    prediction: Shaped[np.ndarray, "t h w"],
    truth: Shaped[np.ndarray, "t h w"],
) -> tuple[Int[np.ndarray, "t h w"], Int[np.ndarray, "t h w"]]:
    """Both renumbered so that matched instances share a number that the palette has."""
    partner = segmentation.match(*segmentation.overlaps(prediction, truth))
    predicted_ids, true_ids = (segmentation.identities(a) for a in (prediction, truth))
    known, found = np.count_nonzero(true_ids), np.count_nonzero(predicted_ids)
    number = {m: n for n, m in partner.items()}
    free = itertools.count(int(known))
    numbers = [number[m] if m in number else next(free) for m in range(found)]

    def renumbered(labels: np.ndarray, ids: np.ndarray, numbers: Sequence[int]) -> np.ndarray:
        colours = np.zeros(len(ids), np.int64)
        colours[ids != 0] = np.asarray(numbers, np.int64) % (len(instance_palette()) - 1) + 1
        return colours[np.searchsorted(ids, labels)]

    return renumbered(prediction, predicted_ids, numbers), renumbered(truth, true_ids, range(known))


def people(
    keypoints: Float[np.ndarray, "t p 17 2"],
    visibility: Int[np.ndarray, "t p 17"],
    height: int,
    width: int,
) -> UInt8[np.ndarray, "t {height} {width} 3"]:
    """Joints over limbs in the codec's colours; its exact drawing is much work to look at once."""
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


Rows = dict[str, UInt8[np.ndarray, "t h w 3"]]


def _every(array: Shaped[np.ndarray, "t h w *c"], step: int) -> Shaped[np.ndarray, "t _ _ *c"]:
    return np.asarray(array)[:, ::step, ::step]


def _depth(prediction: Arrays, truth: Arrays, step: int) -> Rows:
    predicted, true = (_every(a["depth"], step) for a in (prediction, truth))
    if any(depth.valid_pixels(frame).any() for frame in true):
        aligned = depth.aligner(predicted, true, depth.ALIGNMENTS[0])
        predicted = np.stack([aligned(t) for t in range(len(true))])
    pairs = zip(predicted, true, strict=True)
    error = np.stack([np.abs(depth.relative_error(p, t)) for p, t in pairs])
    return {
        "truth": draw("depth", {"depth": true}),
        "prediction, aligned": draw("depth", {"depth": predicted.astype(np.float32)}),
        f"relative error, 0 to {WORST_ABS_REL:g}": heat(error, WORST_ABS_REL),
    }


def _flow(prediction: Arrays, truth: Arrays, step: int) -> Rows:
    predicted, true = (_every(a["flow"], step) for a in (prediction, truth))
    # Colours stand for motion as a share of the frame that is drawn.
    return {
        "truth": draw("flow", {"flow": true / step}),
        "prediction": draw("flow", {"flow": predicted / step}),
        f"error, 0 to {WORST_PIXELS:g} px": heat(
            flow.end_point_error(predicted, true), WORST_PIXELS
        ),
    }


def _segmentation(prediction: Arrays, truth: Arrays, step: int) -> Rows:
    predicted, true = match_labels(*(_every(a["segments"], step) for a in (prediction, truth)))
    # Not drawn by the codec, which orders the instances of each picture by themselves.
    palette = instance_palette()
    return {
        "truth": media.to_uint8(palette[true]),
        "prediction": media.to_uint8(palette[predicted]),
        "missed blue, invented red, confused yellow": label_errors(predicted, true),
    }


def _densepose(prediction: Arrays, truth: Arrays, step: int) -> Rows:
    parts = [_every(a["part"], step).astype(np.int64) for a in (prediction, truth)]
    uvs = [np.clip(_every(a["uv"], step), 0.0, 1.0) for a in (prediction, truth)]
    drawn = [draw("densepose", {"part": p, "uv": u}) for p, u in zip(parts, uvs, strict=True)]
    return {
        "truth": drawn[1],
        "prediction": drawn[0],
        "missed blue, invented red, confused yellow": label_errors(*parts),
    }


def _skeleton(prediction: Arrays, truth: Arrays, step: int) -> Rows:
    pairs = [
        (np.asarray(a["keypoints"], np.float32) / np.float32(step), np.asarray(a["visibility"]))
        for a in (truth, prediction)
    ]
    # Keypoints know no frame size: the true people must fit, give or take a margin.
    seen = [k[v > 0] for k, v in pairs if (v > 0).any()]
    far = seen[0].max(axis=0) if seen else np.array([64.0, 64.0])
    larger = max(1.0, SMALL / max(far[1], 16.0))  # lines stay thin where pixels would be magnified
    width, height = (int(16 * np.ceil(1.1 * larger * max(side, 16.0) / 16)) for side in far)
    drawn = [people(larger * k, v, height, width) for k, v in pairs]
    return dict(zip(("truth", "prediction"), drawn, strict=True))


DRAWINGS: dict[str, Callable[[Arrays, Arrays, int], Rows]] = {
    "depth": _depth,
    "flow": _flow,
    "segmentation": _segmentation,
    "skeleton": _skeleton,
    "densepose": _densepose,
}


def write_comparison(
    stem: pathlib.Path, modality: str, prediction: Arrays, truth: Arrays, fps: float
) -> None:
    """Writes `stem`.png and `stem`.mp4: truth, prediction and (but for skeletons) error.

    Depth is drawn after the headline's alignment, and instances in the colours of their partners.
    Of more than `HEIGHT` rows or `FRAMES` frames only every n-th is drawn.
    """
    if modality == "depth":
        truth = {"depth": depth.in_protocol_units(truth)}
    every = _stride(len(next(iter(truth.values()))))
    prediction, truth = (
        {key: np.asarray(arrays[key])[::every] for key in METRICS[modality].keys}
        for arrays in (prediction, truth)
    )
    step = max(1, math.ceil(_height(modality, truth) / HEIGHT))
    _write(stem, DRAWINGS[modality](prediction, truth, step), fps / every)


def _stride(frames: int) -> int:
    return math.ceil(frames / FRAMES)


def _height(modality: str, truth: Arrays) -> float:
    """Of the frames; for joints, which know no frame, of what they span."""
    if modality != "skeleton":
        return float(np.shape(truth[METRICS[modality].keys[0]])[1])
    y = np.asarray(truth["keypoints"])[..., 1][np.asarray(truth["visibility"]) > 0]
    return float(y.max()) if y.size else 0.0


def write_videos(
    stem: pathlib.Path,
    video: UInt8[np.ndarray, "t h w 3"],
    reference: UInt8[np.ndarray, "rt rh rw 3"] | None,
    fps: float,
) -> None:
    """Writes `stem`.png and `stem`.mp4: a generated video, and the real one if there is one."""
    every = _stride(len(video))
    real = {} if reference is None else {"real": reference[::every]}
    _write(stem, {"generated": video[::every]} | real, fps / every)


def _write(stem: pathlib.Path, rows: Rows, fps: float) -> None:
    """A contact sheet of the rows, and a small video of them side by side."""
    height = min(HEIGHT, next(iter(rows.values())).shape[1])
    rows = {label: _fit(frames, height) for label, frames in rows.items()}
    scale = max(1, SMALL // height)
    media.contact_sheet(rows, stem.with_name(f"{stem.name}.png"), columns=COLUMNS, scale=scale)
    length = min(len(frames) for frames in rows.values())
    joined = np.concatenate([frames[:length] for frames in rows.values()], axis=2)
    joined = joined.repeat(scale, axis=1).repeat(scale, axis=2)
    odd = [(0, joined.shape[axis] % 2) for axis in (1, 2)]
    joined = np.pad(joined, [(0, 0), *odd, (0, 0)], mode="edge")
    media.write_video(stem.with_name(f"{stem.name}.mp4"), joined, fps, **PREVIEW)


def _fit(frames: UInt8[np.ndarray, "t h w 3"], height: int) -> UInt8[np.ndarray, "t {height} _ 3"]:
    if frames.shape[1] == height:
        return frames
    width = max(1, round(frames.shape[2] * height / frames.shape[1]))
    return media.fit(frames, height=height, width=width)
