"""Reading one frame of the codec's drawing: blobs of the joints' colours, then people."""

import dataclasses

import numpy as np
import scipy
from jaxtyping import Float, Int

from unityvideo_jax.modalities.palette import nearest_colour
from unityvideo_jax.modalities.skeleton_drawing import (
    JOINT_COLOURS,
    LIMB,
    LIMBS,
    NUM_JOINTS,
    OCCLUDED,
    VISIBLE,
    joint_radius,
)

# Brightness above which a pixel belongs to a joint, and above which the joint is visible. Limbs are
# dimmer than the former; an occluded joint stays brighter when it is blurred.
JOINT_LEVEL = 0.42
VISIBLE_LEVEL = (OCCLUDED + VISIBLE) / 2
# Dimmer pixels have no reliable hue.
HUE_LEVEL = 0.1
# A blob dimmer, or smaller than this share of its disc, is a blend of two colours, not a joint.
MIN_PEAK = 0.45
MIN_COVER = 0.15
# Blobs below these may be blends still: dimmer ones count only where the frames around expect a
# joint, smaller ones join people, but do not hold them together.
SURE_PEAK = 0.5
SURE_COVER = 0.35
# Share of a limb's pixels that must have the colour of its joints, or, as weaker evidence, any.
MIN_LINK = 0.5
MIN_LIT = 0.8
# Far more people than a frame of any training size shows.
MOST_BLOBS = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """One blob of a joint's colour.

    Attributes:
      joint: COCO index.
      point: (x, y) in pixels.
      visibility: 1 or 2.
      peak: its greatest brightness.
      radius: that of a disc of its area.
      cover: its area as a share of the smallest disc's.
    """

    joint: int
    point: Float[np.ndarray, "2"]
    visibility: int
    peak: float
    radius: float
    cover: float


def hues(
    frame: Float[np.ndarray, "h w 3"],
) -> tuple[Int[np.ndarray, "h w"], Float[np.ndarray, "h w"]]:
    """Returns each pixel's joint of nearest hue (-1 where it is too dark), and its brightness."""
    light = frame.max(axis=-1)
    hue = frame / np.maximum(light, 1e-6)[..., None]
    joint, _ = nearest_colour(hue, JOINT_COLOURS)
    return np.where(light > HUE_LEVEL, joint, -1), light


def find_joints(
    joint_map: Int[np.ndarray, "h w"], light: Float[np.ndarray, "h w"]
) -> list[Candidate]:
    """Finds the bright blobs of each joint's colour, with centroids weighted by coverage.

    At most the `MOST_BLOBS` largest per joint, which bounds the time that noise takes.

    Args:
      joint_map, light: as `hues` gives them.
    """
    smallest = np.asarray(joint_radius(0.0, *light.shape))
    found = []
    for joint in range(NUM_JOINTS):
        mask = (joint_map == joint) & (light > JOINT_LEVEL)
        if not mask.any():
            continue
        blobs, _ = scipy.ndimage.label(mask, np.ones((3, 3)))
        sizes = np.bincount(blobs.ravel())[1:]
        for blob in sorted(np.argsort(-sizes, kind="stable")[:MOST_BLOBS] + 1):
            y, x = np.nonzero(blobs == blob)
            peak = light[y, x].max()
            # The rim's pixels are part joint, part limb or background.
            weight = np.clip((light[y, x] - LIMB) / max(peak - LIMB, 1e-6), 0.0, 1.0)
            cover = float(weight.sum() / (np.pi * smallest[joint] ** 2))
            if cover < MIN_COVER or peak < MIN_PEAK:
                continue
            centre = np.asarray([(weight * (x + 0.5)).sum(), (weight * (y + 0.5)).sum()])
            area_radius = float(np.sqrt(weight.sum() / np.pi))
            found.append(
                Candidate(
                    joint=joint,
                    point=(centre / weight.sum()).astype(np.float32),
                    visibility=2 if peak > VISIBLE_LEVEL else 1,
                    peak=float(peak),
                    radius=max(float(smallest[joint]), area_radius),
                    cover=cover,
                )
            )
    return found


def fit_disc(
    joint_map: Int[np.ndarray, "h w"],
    light: Float[np.ndarray, "h w"],
    candidate: Candidate,
    radius: float,
) -> Float[np.ndarray, "2"]:
    """Moves a centroid to where the joint's disc best explains the pixels around it.

    The centroid of a disc that another joint or the frame's edge cuts is off by up to a radius.
    Least squares on the coverage, by Gauss-Newton, ignores pixels that other joints have taken; the
    radius is known.

    Args:
      joint_map, light: as `hues` gives them.
      candidate: the blob.
      radius: of the joint's disc, in pixels.

    Returns:
      (x, y) in pixels.
    """
    joint, peak = candidate.joint, candidate.peak
    centre = candidate.point.astype(np.float64)
    height, width = light.shape
    reach = radius + 2.0
    x0, x1 = max(0, int(centre[0] - reach)), min(width, int(centre[0] + reach) + 1)
    y0, y1 = max(0, int(centre[1] - reach)), min(height, int(centre[1] + reach) + 1)
    y, x = np.mgrid[y0:y1, x0:x1] + 0.5
    window = light[y0:y1, x0:x1]
    mine = joint_map[y0:y1, x0:x1] == joint
    usable = mine | (window < JOINT_LEVEL)
    # What both a limb and a dark background leave of the disc's edge.
    seen = np.where(mine, np.clip((window - LIMB) / (peak - LIMB), 0.0, 1.0), 0.0)[usable]
    x, y = x[usable], y[usable]
    start, point = centre, centre
    for _ in range(8):
        dx, dy = x - point[0], y - point[1]
        distance = np.maximum(np.hypot(dx, dy), 1e-6)
        cover = np.clip(radius + 0.5 - distance, 0.0, 1.0) * peak
        model = np.clip((cover - LIMB) / (peak - LIMB), 0.0, 1.0)
        # The derivative of a clipped ramp, a little wider than the ramp so that it catches.
        edge = np.abs(distance - radius) < 1.0
        slope = np.stack([dx / distance * edge, dy / distance * edge], axis=1)
        normal = slope.T @ slope + 1e-3 * np.eye(2)
        step = np.linalg.solve(normal, slope.T @ (seen - model))
        point = point + np.clip(step, -0.5, 0.5)
        if np.abs(step).max() < 1e-3:
            break
    # Too little of the disc was seen to say where it is.
    return (point if np.linalg.norm(point - start) < radius else start).astype(np.float32)


def _link_score(
    joint_map: Int[np.ndarray, "h w"], a: Candidate, b: Candidate
) -> tuple[float, float]:
    """Shares of the segment between two discs with the limb's colours, and with any colour."""
    length = float(np.linalg.norm(b.point - a.point))
    start, end = a.radius + 0.5, length - b.radius - 0.5
    if end - start < 1.0:  # the discs touch: nothing is left to look at
        return 0.75, 1.0
    place = np.linspace(start, end, max(3, int(end - start) + 1)) / length
    points = a.point + place[:, None] * (b.point - a.point)
    x, y = (points - 0.5).round().astype(int).T
    height, width = joint_map.shape
    seen = joint_map[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)]
    # Around the middle either colour will do.
    fits = ((seen == a.joint) & (place < 0.6)) | ((seen == b.joint) & (place > 0.4))
    return float(fits.mean()), float((seen >= 0).mean())


def group_people(
    joint_map: Int[np.ndarray, "h w"], found: list[Candidate], min_joints: int
) -> list[dict[int, Candidate]]:
    """Joins candidates into people along the limbs, the best supported first.

    Parts that no limb connects (a joint between them is missing), and blobs that are hardly seen,
    are then given to the nearest person that lacks most of those joints; of a joint seen twice, the
    larger blob counts. What remains with fewer than `min_joints` is dropped.

    Args:
      joint_map: as `hues` gives it.
      found: all blobs of the frame.
      min_joints: fewer joints than this are not a person.

    Returns:
      Per person, the blob of each joint.
    """
    faint = [c for c in found if c.cover < SURE_COVER]
    found = [c for c in found if c.cover >= SURE_COVER]
    links = []
    for first, second in LIMBS:
        for i, a in enumerate(found):
            if a.joint != first:
                continue
            for j, b in enumerate(found):
                if b.joint == second:
                    fits, lit = _link_score(joint_map, a, b)
                    # Where limbs lie on each other the colours blend: such links come last.
                    score = fits * min(1.0, a.cover, b.cover) if fits >= MIN_LINK else 0.0
                    if score or lit >= MIN_LIT:
                        links.append((-score, float(np.linalg.norm(a.point - b.point)), i, j))
    groups = [{c.joint: c} for c in found]
    owner = list(range(len(found)))
    for _, _, i, j in sorted(links):
        a, b = owner[i], owner[j]
        if a != b and not groups[a].keys() & groups[b].keys():
            groups[a].update(groups[b])
            groups[b] = {}
            owner = [a if o == b else o for o in owner]
    groups = sorted((g for g in groups if g), key=len, reverse=True)
    people: list[dict[int, Candidate]] = []
    for group in groups:
        home = _nearest_home(people, group)
        if home is not None:
            for joint, candidate in group.items():
                if joint not in home or home[joint].cover < candidate.cover:
                    home[joint] = candidate
        else:
            people.append(dict(group))
    for candidate in sorted(faint, key=lambda c: -c.cover):
        home = _nearest_home(people, {candidate.joint: candidate})
        if home is not None:
            home[candidate.joint] = candidate
    return [p for p in people if len(p) >= min_joints]


def _nearest_home(
    people: list[dict[int, Candidate]], group: dict[int, Candidate]
) -> dict[int, Candidate] | None:
    """The nearest person that lacks two thirds of the group's joints, within 0.75 of its size."""
    middle = np.mean([c.point for c in group.values()], axis=0)
    best, best_distance = None, np.inf
    for person in people:
        points = np.stack([c.point for c in person.values()])
        if 3 * len(person.keys() & group.keys()) > len(group) or len(points) < 3:
            continue
        distance = np.linalg.norm(points - middle, axis=-1).min()
        if distance < min(best_distance, 0.75 * np.linalg.norm(np.ptp(points, axis=0))):
            best, best_distance = person, distance
    return best
