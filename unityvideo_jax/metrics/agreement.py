"""Whether two streams of one clip agree with each other, without any truth.

A model that samples several streams at once may make each of them plausible and all of them
inconsistent. Each `Agreement` here is a number in [0, 1] of two streams of one clip, higher is
better; beside it stand the same number of the truth through the VAE (ceiling) and of streams of
different clips (floor), which `evaluation.joint` measures.

  keypoints_in_masks  share of the visible joints that lie in their person's mask, or within
    ceil(0.008 diagonal) pixels of it (DAVIS's tolerance). Over the clip, people are assigned to
    masks, at most one each, so that as many joints as possible lie inside.
  body_mask_iou  intersection over union of DensePose's bodies and the masks of people, over the
    pixels of the clip. Masks do not say what they show: those count which give the largest IoU.
  depth_edge_auc  probability that depth changes more at a pixel on a mask's border than at any
    other pixel, ties counting half (the area under the ROC curve); 0.5 is chance. The change is
    the range of disparity within ceil(0.008 diagonal) pixels, so that neither the scale nor the
    offset of depth matters.
  moved_mask_iou  IoU of a mask moved by flow with the same mask of the next frame, averaged over
    masks and frames. Beside it, masks that are not moved.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import scipy
from jaxtyping import Bool, Float, Int, Shaped

from unityvideo_jax.metrics.base import Arrays
from unityvideo_jax.metrics.boundary import TOLERANCE, outline
from unityvideo_jax.metrics.segmentation import identities

VISIBLE = 2  # of a keypoint; 1 is hidden, perhaps by another mask


@dataclasses.dataclass(frozen=True, kw_only=True)
class Agreement:
    """A measure of how far two streams of one clip agree.

    Attributes:
      name: of the protocol, part of the keys "agreement/<name>/...".
      text: the protocol's definition, for reports.
      keys: arrays that `score` reads.
      score: arrays of both streams -> value in [0, 1], or None if neither shows anything.
      unaided: a number to beat that reads only one of the streams; None where there is none.
    """

    name: str
    text: str
    keys: tuple[str, ...]
    score: Callable[[Arrays], float | None]
    unaided: Callable[[Arrays], float | None] | None = None


def _radius(shape: tuple[int, ...]) -> int:
    """Pixels within which two outlines agree, of frames [..., h, w]."""
    return math.ceil(TOLERANCE * math.hypot(*shape[-2:]))


def _masks(segments: Shaped[np.ndarray, "t h w"]) -> list[Bool[np.ndarray, "t h w"]]:
    return [segments == number for number in identities(segments) if number]


def keypoints_in_masks(
    keypoints: Float[np.ndarray, "t p 17 2"],
    visibility: Int[np.ndarray, "t p 17"],
    segments: Int[np.ndarray, "t h w"],
) -> float | None:
    """Returns the share of visible joints inside the mask of their person.

    Args:
      keypoints: pixels, centres at integers + 0.5.
      visibility: 2 of joints that count.
      segments: instance numbers, 0 for background.

    Returns:
      0 if there are joints and no masks or masks and no joints, None if there are neither.
    """
    masks = _masks(segments)
    frame, person, joint = np.nonzero(visibility == VISIBLE)
    if not masks or not len(frame):
        return 0.0 if masks or len(frame) else None
    height, width = segments.shape[1:]
    places = np.floor(keypoints[frame, person, joint]).astype(np.int64)
    x, y = (np.clip(places[:, i], 0, size - 1) for i, size in enumerate((width, height)))
    reach = 2 * _radius(segments.shape) + 1
    hits = np.zeros((keypoints.shape[1], len(masks)))
    for number, mask in enumerate(masks):
        near = scipy.ndimage.maximum_filter(mask, size=(1, reach, reach))
        hits[:, number] = np.bincount(person, near[frame, y, x], minlength=len(hits))
    pairs = scipy.optimize.linear_sum_assignment(hits, maximize=True)
    return float(hits[pairs].sum() / len(frame))


def body_mask_iou(
    part: Int[np.ndarray, "t h w"], segments: Int[np.ndarray, "t h w"]
) -> float | None:
    """Returns the IoU of bodies with the masks, of those masks that give the largest one.

    Args:
      part: body part, 0 for background.
      segments: instance numbers, 0 for background.

    Returns:
      0 if only one of the two shows anything, None if neither does.
    """
    body, masks = part > 0, _masks(segments)
    if not masks or not body.any():
        return 0.0 if masks or body.any() else None
    areas = np.array([mask.sum() for mask in masks], np.float64)
    inside = np.array([(mask & body).sum() for mask in masks], np.float64)
    # IoU is a ratio of sums over the chosen masks, so that the best choice takes all masks above
    # some share of body.
    order = np.argsort(-inside / areas, kind="stable")
    both, outside = np.cumsum(inside[order]), np.cumsum((areas - inside)[order])
    return float((both / (body.sum() + outside)).max())


def depth_edge_auc(
    depth: Float[np.ndarray, "t h w"], segments: Int[np.ndarray, "t h w"]
) -> float | None:
    """Returns the probability that disparity changes more on masks' borders than elsewhere.

    Args:
      depth: > 0 in any unit, +inf for sky.
      segments: instance numbers, 0 for background.

    Returns:
      None if no mask has a border.
    """
    border = np.zeros(segments.shape, bool)
    for mask in _masks(segments):
        border |= np.stack([outline(frame) for frame in mask])
    if not border.any() or border.all():
        return None
    disparity = 1.0 / depth.astype(np.float64)
    reach = 2 * _radius(segments.shape) + 1
    most, least = (
        rank(disparity, size=(1, reach, reach))
        for rank in (scipy.ndimage.maximum_filter, scipy.ndimage.minimum_filter)
    )
    change = most - least
    elsewhere = np.sort(change[~border])
    below, upto = (np.searchsorted(elsewhere, change[border], side) for side in ("left", "right"))
    return float((below + upto).mean() / (2 * len(elsewhere)))


def moved_mask_iou(
    flow: Float[np.ndarray, "t h w 2"], segments: Int[np.ndarray, "t h w"]
) -> float | None:
    """The IoU of masks moved by flow with those of the next frame, over masks and frames.

    A mask's pixels are spread over the four pixels around their targets; those of which half or
    more is covered are in the moved mask. Pairs of frames count where the mask is in the second
    and some of it, moved, is inside the frame.

    Args:
      flow: (dx, dy) in pixels to the next frame.
      segments: instance numbers, 0 for background; a number is one instance in all frames.

    Returns:
      None if no mask is in two frames that follow each other.
    """
    values = []
    for mask in _masks(segments):
        for t in np.flatnonzero(mask[:-1].any(axis=(1, 2)) & mask[1:].any(axis=(1, 2))):
            moved = _moved(mask[t], flow[t])
            if moved.any():
                values.append((moved & mask[t + 1]).sum() / (moved | mask[t + 1]).sum())
    return float(np.mean(values)) if values else None


def _moved(
    mask: Bool[np.ndarray, "h w"], flow: Float[np.ndarray, "h w 2"]
) -> Bool[np.ndarray, "h w"]:
    height, width = mask.shape
    y, x = np.nonzero(mask)
    target = np.stack([x, y], axis=-1) + flow[y, x].astype(np.float64)
    low = np.floor(target).astype(np.int64)
    share = target - low
    covered = np.zeros(height * width)
    for right in (0, 1):
        for below in (0, 1):
            column, row = low[:, 0] + right, low[:, 1] + below
            weight = np.abs(1 - right - share[:, 0]) * np.abs(1 - below - share[:, 1])
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            place = (row * width + column)[inside]
            covered += np.bincount(place, weight[inside], minlength=len(covered))
    return covered.reshape(mask.shape) >= 0.5


def _still(arrays: Arrays) -> float | None:
    flow = np.zeros((*np.shape(arrays["segments"]), 2), np.float32)
    return moved_mask_iou(flow, arrays["segments"])


KEYPOINTS_IN_MASKS = Agreement(
    name="keypoints_in_masks",
    text="share of visible joints inside the mask of their person, within ceil(0.008 diagonal) "
    "pixels; people assigned to masks over the clip",
    keys=("keypoints", "visibility", "segments"),
    score=lambda a: keypoints_in_masks(a["keypoints"], a["visibility"], a["segments"]),
)
BODY_MASK_IOU = Agreement(
    name="body_mask_iou",
    text="IoU of DensePose's bodies and the masks over the clip, of those masks that give the "
    "largest IoU",
    keys=("part", "segments"),
    score=lambda a: body_mask_iou(a["part"], a["segments"]),
)
DEPTH_EDGE_AUC = Agreement(
    name="depth_edge_auc",
    text="probability that disparity changes more (its range within ceil(0.008 diagonal) pixels) "
    "on a mask's border than elsewhere; 0.5 is chance",
    keys=("depth", "segments"),
    score=lambda a: depth_edge_auc(a["depth"], a["segments"]),
)
MOVED_MASK_IOU = Agreement(
    name="moved_mask_iou",
    text="IoU of a mask moved by flow with the next frame's, mean over masks and frames; `still` "
    "is that of masks that do not move",
    keys=("flow", "segments"),
    score=lambda a: moved_mask_iou(a["flow"], a["segments"]),
    unaided=_still,
)
