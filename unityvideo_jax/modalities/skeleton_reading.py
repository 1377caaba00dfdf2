"""Reading keypoints back from the codec's drawing: joints, then people, then tracks."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import scipy.ndimage
import scipy.optimize
from jaxtyping import Bool, Float, Int

from unityvideo_jax.modalities.palette import nearest_colour
from unityvideo_jax.modalities.skeleton_drawing import (
    JOINT_COLOURS,
    LIMB,
    LIMBS,
    NUM_JOINTS,
    OCCLUDED,
    VISIBLE,
    joint_radius,
    person_extent,
)

# Brightness above which a pixel belongs to a joint, and above which the joint is visible.
JOINT_LEVEL = (LIMB + OCCLUDED) / 2
VISIBLE_LEVEL = (OCCLUDED + VISIBLE) / 2
# Dimmer pixels have no reliable hue.
HUE_LEVEL = 0.18
# A blob dimmer, or smaller than this share of its disc, is a blend of two colours, not a joint.
MIN_PEAK = 0.58
MIN_COVER = 0.15
# Smaller ones may be blends still: they join people, but do not hold them together.
SURE_COVER = 0.35
# Share of a limb's pixels that must have the colour of its joints.
MIN_LINK = 0.5


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


def _hues(
    frame: Float[np.ndarray, "h w 3"],
) -> tuple[Int[np.ndarray, "h w"], Float[np.ndarray, "h w"]]:
    """Per pixel: the joint whose hue is nearest (-1 where too dark), and the brightness."""
    light = frame.max(axis=-1)
    hue = frame / np.maximum(light, 1e-6)[..., None]
    joint, _ = nearest_colour(hue, JOINT_COLOURS)
    return np.where(light > HUE_LEVEL, joint, -1), light


def find_joints(
    joint_map: Int[np.ndarray, "h w"], light: Float[np.ndarray, "h w"]
) -> list[Candidate]:
    """The bright blobs of each joint's colour, with centroids weighted by coverage."""
    smallest = np.asarray(joint_radius(0.0, *light.shape))
    found = []
    for joint in range(NUM_JOINTS):
        mask = (joint_map == joint) & (light > JOINT_LEVEL)
        if not mask.any():
            continue
        blobs, count = scipy.ndimage.label(mask, np.ones((3, 3)))
        for blob in range(1, count + 1):
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


def _fit_disc(
    joint_map: Int[np.ndarray, "h w"],
    light: Float[np.ndarray, "h w"],
    candidate: Candidate,
    radius: float,
) -> Float[np.ndarray, "2"]:
    """Moves a centroid to where the joint's disc best explains the pixels around it.

    The centroid of a disc that another joint or the frame's edge cuts is off by up to a radius.
    Least squares on the coverage, by Gauss-Newton, ignores pixels that other joints have taken; the
    radius is known.
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


def _link_score(joint_map: Int[np.ndarray, "h w"], a: Candidate, b: Candidate) -> float:
    """Share of the segment from a to b whose pixels have the limb's colours, outside the discs."""
    length = float(np.linalg.norm(b.point - a.point))
    start, end = a.radius + 0.5, length - b.radius - 0.5
    if end - start < 1.0:  # the discs touch: nothing is left to look at
        return 0.75
    place = np.linspace(start, end, max(3, int(end - start) + 1)) / length
    points = a.point + place[:, None] * (b.point - a.point)
    x, y = (points - 0.5).round().astype(int).T
    height, width = joint_map.shape
    seen = joint_map[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)]
    # Around the middle either colour will do.
    fits = ((seen == a.joint) & (place < 0.6)) | ((seen == b.joint) & (place > 0.4))
    return float(fits.mean())


def group_people(
    joint_map: Int[np.ndarray, "h w"], found: list[Candidate], min_joints: int
) -> list[dict[int, Candidate]]:
    """Joins candidates into people along the limbs, the best supported first.

    Parts that no limb connects (a joint between them is missing), and blobs that are hardly seen,
    are then given to the nearest person that lacks those joints; what remains with fewer than
    `min_joints` is dropped.
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
                    score = _link_score(joint_map, a, b)
                    if score >= MIN_LINK:
                        length = float(np.linalg.norm(a.point - b.point))
                        links.append((-score, length, i, j))
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
            home.update(group)
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
    """The person nearest to the group that lacks its joints, within 0.75 of that person's size."""
    middle = np.mean([c.point for c in group.values()], axis=0)
    best, best_distance = None, np.inf
    for person in people:
        points = np.stack([c.point for c in person.values()])
        if person.keys() & group.keys() or len(points) < 3:
            continue
        distance = np.linalg.norm(points - middle, axis=-1).min()
        if distance < min(best_distance, 0.75 * np.linalg.norm(np.ptp(points, axis=0))):
            best, best_distance = person, distance
    return best


def _distance(
    points: Float[np.ndarray, "17 2"],
    seen: Bool[np.ndarray, "17"],
    other: Float[np.ndarray, "17 2"],
    other_seen: Bool[np.ndarray, "17"],
) -> float:
    """Mean distance of the joints that both have, or of the centroids if there are none."""
    both = seen & other_seen
    if both.any():
        return float(np.linalg.norm(points[both] - other[both], axis=-1).mean())
    return float(np.linalg.norm(points[seen].mean(axis=0) - other[other_seen].mean(axis=0)))


def _stitch(
    points: Float[np.ndarray, "t p 17 2"], visibility: Int[np.ndarray, "t p 17"]
) -> list[int]:
    """Moves broken tracks, in place, into longer ones that they continue or complete.

    Two tracks are one person if they never show the same joint in a frame and are half a person
    apart or less where they are closest in time. Returns where each track went.
    """
    seen = visibility > 0
    home = list(range(seen.shape[1]))
    order = np.argsort(-seen.sum(axis=(0, 2)), kind="stable")
    for position, small in enumerate(order):
        for large in order[:position]:
            if home[large] != large or (seen[:, small] & seen[:, large]).any():
                continue
            frames = [np.flatnonzero(seen[:, track].any(axis=-1)) for track in (small, large)]
            gap = np.abs(frames[0][:, None] - frames[1][None])
            a, b = np.unravel_index(gap.argmin(), gap.shape)
            a, b = int(frames[0][a]), int(frames[1][b])
            if a != b:
                distance = _distance(
                    points[a, small], seen[a, small], points[b, large], seen[b, large]
                )
            else:  # parts of one body in one frame: the nearest two joints tell
                parts = points[a, small][seen[a, small]], points[b, large][seen[b, large]]
                distance = np.linalg.norm(parts[0][:, None] - parts[1][None], axis=-1).min()
            size = np.linalg.norm(np.ptp(points[b, large][seen[b, large]], axis=0))
            if distance <= 0.5 * size * max(1, abs(a - b)):
                points[:, large][seen[:, small]] = points[:, small][seen[:, small]]
                visibility[:, large][seen[:, small]] = visibility[:, small][seen[:, small]]
                visibility[:, small] = 0
                seen = visibility > 0
                home = [int(large) if h == small else h for h in home]
                break
    return home


def _real_people(visibility: Int[np.ndarray, "t p 17"]) -> Int[np.ndarray, " kept"]:
    """Tracks that are more than the odd fragment of somebody else."""
    joints = (visibility > 0).sum(axis=-1)
    total = joints.sum(axis=0)
    most = total.max(initial=0)
    return np.flatnonzero((total > 0) & ((total >= 0.15 * most) | (joints.max(axis=0) >= 8)))


def read_people(
    image: Float[np.ndarray, "t h w 3"], max_people: int | None = None, min_joints: int = 2
) -> tuple[Float[np.ndarray, "t p 17 2"], Int[np.ndarray, "t p 17"]]:
    """All people of a clip, each in one place P from frame to frame.

    Args:
      image: the drawing, in [0, 1].
      max_people: keep at most so many, those with most keypoints over the clip.
      min_joints: fewer connected joints than this are not a person.
    """
    frames, height, width = image.shape[:3]
    diagonal = float(np.hypot(height, width))
    points = np.zeros((frames, 0, NUM_JOINTS, 2), np.float32)
    visibility = np.zeros((frames, 0, NUM_JOINTS), np.int32)
    last: list[int] = []  # the frame in which each track was last seen
    sightings = []  # what a joint's final fit needs
    for t in range(frames):
        joint_map, light = _hues(image[t])
        people = group_people(joint_map, find_joints(joint_map, light), min_joints)
        people.sort(key=lambda p: float(np.mean([c.point[0] for c in p.values()])))
        now = np.zeros((len(people), NUM_JOINTS, 2), np.float32)
        now_visibility = np.zeros((len(people), NUM_JOINTS), np.int32)
        for p, person in enumerate(people):
            for joint, candidate in person.items():
                now[p, joint], now_visibility[p, joint] = candidate.point, candidate.visibility
        cost = np.zeros((len(last), len(people)))
        for track, seen in enumerate(last):
            for p in range(len(people)):
                cost[track, p] = _distance(
                    points[seen, track], visibility[seen, track] > 0, now[p], now_visibility[p] > 0
                )
        rows, columns = scipy.optimize.linear_sum_assignment(cost)
        # A person does not cross a quarter of the frame in one step.
        home = {int(c): int(r) for r, c in zip(rows, columns, strict=True)
                if cost[r, c] < 0.25 * diagonal}  # fmt: skip
        for p in range(len(people)):
            track = home.get(p, len(last))
            if track == len(last):
                last.append(t)
                points = np.pad(points, ((0, 0), (0, 1), (0, 0), (0, 0)))
                visibility = np.pad(visibility, ((0, 0), (0, 1), (0, 0)))
            points[t, track], visibility[t, track], last[track] = now[p], now_visibility[p], t
            sightings += [(t, track, joint_map, light, c) for c in people[p].values()]
    home = _stitch(points, visibility)
    # Disc sizes follow from the people's, which only the whole clip tells.
    if sightings:
        extent = person_extent(jnp.asarray(points), jnp.asarray(visibility))
        radius = np.asarray(joint_radius(extent, height, width))[home]
    for t, track, joint_map, light, c in sightings:
        fitted = _fit_disc(joint_map, light, c, float(radius[track, c.joint]))
        points[t, home[track], c.joint] = fitted
    keep = _real_people(visibility)
    points, visibility = points[:, keep], visibility[:, keep]
    if max_people is not None and len(keep) > max_people:
        weight = (visibility > 0).sum(axis=(0, 2))
        keep = np.sort(np.argsort(-weight, kind="stable")[:max_people])
        points, visibility = points[:, keep], visibility[:, keep]
    return points, visibility
