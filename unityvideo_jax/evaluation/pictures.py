"""Truth, prediction and error of a clip as one picture."""

import itertools
import pathlib
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import matplotlib
import numpy as np
from jaxtyping import Float, Int, Shaped, UInt8

from unityvideo_jax import media, modalities
from unityvideo_jax.evaluation import depth, flow, segmentation
from unityvideo_jax.evaluation.metric import Arrays
from unityvideo_jax.modalities.palette import instance_palette

COLUMNS = 4
# What the brightest colour of an error map stands for.
WORST_ABS_REL, WORST_PIXELS = 0.5, 5.0
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
    picks: Int[np.ndarray, " n"],
) -> tuple[Int[np.ndarray, "n h w"], Int[np.ndarray, "n h w"]]:
    """Some frames of both, renumbered so that what is matched over the clip shares a number.

    The numbers are those that the palette has.
    """
    partner = segmentation.match(*segmentation.overlaps(prediction, truth))
    predicted_ids, true_ids = (segmentation.identities(a) for a in (prediction, truth))
    known, found = np.count_nonzero(true_ids), np.count_nonzero(predicted_ids)
    number = {m: n for n, m in partner.items()}
    free = itertools.count(int(known))
    numbers = [number[m] if m in number else next(free) for m in range(found)]

    def renumbered(labels: np.ndarray, ids: np.ndarray, numbers: Sequence[int]) -> np.ndarray:
        colours = np.zeros(len(ids), np.int64)
        colours[ids != 0] = np.asarray(numbers, np.int64) % (len(instance_palette()) - 1) + 1
        return colours[np.searchsorted(ids, labels[picks])]

    return renumbered(prediction, predicted_ids, numbers), renumbered(truth, true_ids, range(known))


Rows = dict[str, UInt8[np.ndarray, "t h w 3"]]


def _depth(prediction: Arrays, truth: Arrays, picks: np.ndarray) -> Rows:
    predicted, true = np.asarray(prediction["depth"]), np.asarray(truth["depth"])
    if any(depth.valid_pixels(frame).any() for frame in true):
        aligned = depth.aligner(predicted, true, depth.ALIGNMENTS[0])
        predicted = np.stack([aligned(int(t)) for t in picks])
    else:
        predicted = predicted[picks]
    true = true[picks]
    error = np.stack(
        [np.abs(depth.relative_error(p, t)) for p, t in zip(predicted, true, strict=True)]
    )
    return {
        "truth": draw("depth", {"depth": true}),
        "prediction, aligned": draw("depth", {"depth": predicted.astype(np.float32)}),
        f"relative error, 0 to {WORST_ABS_REL:g}": heat(error, WORST_ABS_REL),
    }


def _flow(prediction: Arrays, truth: Arrays, picks: np.ndarray) -> Rows:
    predicted, true = (np.asarray(a["flow"])[picks] for a in (prediction, truth))
    return {
        "truth": draw("flow", {"flow": true}),
        "prediction": draw("flow", {"flow": predicted}),
        f"error, 0 to {WORST_PIXELS:g} px": heat(
            flow.end_point_error(predicted, true), WORST_PIXELS
        ),
    }


def _segmentation(prediction: Arrays, truth: Arrays, picks: np.ndarray) -> Rows:
    segments = (np.asarray(a["segments"]) for a in (prediction, truth))
    predicted, true = match_labels(*segments, picks)
    return {
        "truth": draw("segmentation", {"segments": true}),
        "prediction": draw("segmentation", {"segments": predicted}),
        "missed blue, invented red, confused yellow": label_errors(predicted, true),
    }


def _densepose(prediction: Arrays, truth: Arrays, picks: np.ndarray) -> Rows:
    parts = [np.asarray(a["part"])[picks].astype(np.int64) for a in (prediction, truth)]
    uvs = [np.clip(np.asarray(a["uv"])[picks], 0.0, 1.0) for a in (prediction, truth)]
    drawn = [draw("densepose", {"part": p, "uv": u}) for p, u in zip(parts, uvs, strict=True)]
    return {
        "truth": drawn[1],
        "prediction": drawn[0],
        "missed blue, invented red, confused yellow": label_errors(*parts),
    }


def _skeleton(prediction: Arrays, truth: Arrays, picks: np.ndarray) -> Rows:
    pairs = [
        (np.asarray(a["keypoints"], np.float32)[picks], np.asarray(a["visibility"])[picks])
        for a in (truth, prediction)
    ]
    # Keypoints know no frame size: the true people must fit, give or take a margin.
    seen = [k[v > 0] for k, v in pairs if (v > 0).any()]
    far = seen[0].max(axis=0) if seen else np.array([64.0, 64.0])
    width, height = (int(16 * np.ceil(1.1 * max(side, 16.0) / 16)) for side in far)
    blank = np.zeros((len(picks), height, width, 3), np.float32)
    rows = {}
    for label, (keypoints, visibility) in zip(("truth", "prediction"), pairs, strict=True):
        keypoints = np.where(visibility[..., None] > 0, keypoints, 0.0)
        rows[label] = draw(
            "skeleton", {"keypoints": keypoints, "visibility": visibility, "rgb": blank}
        )
    return rows


DRAWINGS: dict[str, Callable[[Arrays, Arrays, np.ndarray], Rows]] = {
    "depth": _depth,
    "flow": _flow,
    "segmentation": _segmentation,
    "skeleton": _skeleton,
    "densepose": _densepose,
}


def write_comparison(path: pathlib.Path, modality: str, prediction: Arrays, truth: Arrays) -> None:
    """Writes a PNG: a row each for truth, prediction and (but for skeletons) error.

    Depth is drawn after the headline's alignment, and instances in the colours of their partners.
    """
    length = len(next(iter(truth.values())))
    picks = np.unique(np.linspace(0, length - 1, COLUMNS).round().astype(int))
    _write(path, DRAWINGS[modality](prediction, truth, picks))


def write_videos(
    path: pathlib.Path,
    video: UInt8[np.ndarray, "t h w 3"],
    reference: UInt8[np.ndarray, "rt rh rw 3"] | None,
) -> None:
    """Writes a PNG: frames of a generated video, and of the real one if there is one."""
    real = {} if reference is None else {"real": reference}
    _write(path, {"generated": video} | real)


def _write(path: pathlib.Path, rows: Rows) -> None:
    height = next(iter(rows.values())).shape[1]
    media.contact_sheet(rows, path, columns=COLUMNS, scale=max(1, 96 // height))
