"""People over the frames of a clip: tracks, and a second look that knows the frames around.

A track is one place P of `points` f32[T, P, 17, 2] and `visibility` i32[T, P, 17].
"""

import itertools

import numpy as np
import scipy
from jaxtyping import Bool, Float, Int

from unityvideo_jax.modalities.skeleton_drawing import NUM_JOINTS
from unityvideo_jax.modalities.skeleton_joints import Candidate

# Frames with sightings that a track continues from, and frames before and after of a second look.
RECENT = 4
REACH = 3
# As shares of a person's size: how far a person, a part of it, and a joint may be from where the
# track expects them; a person is at least MIN_SIZE pixels large.
PERSON_STEP = 0.6
PART_STEP = 0.4
JOINT_STEP = 0.2
MIN_SIZE = 12.0
# In the second look, the bonus of the joint that a track has, and the penalty of a faint blob.
KEEP = 0.1
FAINT = 0.1
# Brightness at which something is drawn.
LIT = 0.25


def _size(points: Float[np.ndarray, "n 2"]) -> float:
    """The diagonal of the points' box."""
    return float(np.linalg.norm(np.ptp(points, axis=0)))


def _continued(
    points: Float[np.ndarray, "t 17 2"], seen: Bool[np.ndarray, "t 17"], t: int
) -> tuple[Float[np.ndarray, "17 2"], Bool[np.ndarray, "17"], float]:
    """Where a track's joints should be in frame t by the frames before; which are known; its size.

    Each joint continues from where it was last seen by the body's median velocity.
    """
    before = np.flatnonzero(seen[:t].any(axis=-1))[-RECENT:]
    motion = np.zeros(2)
    for a, b in itertools.pairwise(before):
        both = seen[a] & seen[b]
        if both.sum() >= 3:
            motion = np.median(points[b, both] - points[a, both], axis=0) / (b - a)
    where, known, size = np.zeros((NUM_JOINTS, 2)), np.zeros(NUM_JOINTS, bool), MIN_SIZE
    for a in before:
        where[seen[a]] = points[a, seen[a]] + motion * (t - a)
        known |= seen[a]
        size = max(size, _size(points[a, seen[a]]))
    return where, known, size


def find_homes(
    points: Float[np.ndarray, "t p 17 2"],
    visibility: Int[np.ndarray, "t p 17"],
    t: int,
    groups: list[dict[int, Candidate]],
) -> list[int]:
    """Returns the track of each group of frame t: one of the P, or the next free number.

    The groups that fit best continue the tracks, one each. Another group joins the nearest track
    that lacks half of its joints (a small one, of which most may be blends, any); else it begins a
    track.

    Args:
      points, visibility: of the tracks up to frame t.
      t: the frame.
      groups: per group, the blob of each joint.
    """
    seen, tracks = visibility > 0, points.shape[1]
    cost = np.zeros((len(groups), tracks))
    for track in range(tracks):
        where, known, size = _continued(points[:, track], seen[:, track], t)
        for g, group in enumerate(groups):
            both = [joint for joint in group if known[joint]]
            if both:
                apart = [np.linalg.norm(group[joint].point - where[joint]) for joint in both]
                cost[g, track] = np.median(apart) / size
            else:
                place = np.stack([c.point for c in group.values()])
                apart = np.linalg.norm(place[:, None] - where[known], axis=-1)
                cost[g, track] = apart.min() / size
    homes = [-1] * len(groups)
    members: list[set[int]] = [set() for _ in range(tracks)]
    # Large groups choose first.
    weight = np.sqrt([[len(group)] for group in groups]).reshape(-1, 1)
    gain = weight * np.maximum(10.0 - cost, 0.0)
    for g, track in zip(*scipy.optimize.linear_sum_assignment(-gain), strict=True):
        if cost[g, track] < PERSON_STEP:
            homes[g] = int(track)
            members[track] |= groups[g].keys()
    for g in sorted(range(len(groups)), key=lambda g: -len(groups[g])):
        joints = groups[g].keys()
        for track in np.argsort(cost[g]) if homes[g] < 0 else ():
            lacks = len(joints) < 4 or len(joints & members[track]) <= len(joints) / 2
            if lacks and members[track] and cost[g, track] < PART_STEP:
                homes[g] = int(track)
                members[track] |= joints
                break
    for g, home in enumerate(homes):
        if home < 0:
            homes[g], tracks = tracks, tracks + 1
    return homes


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


def stitch(
    points: Float[np.ndarray, "t p 17 2"], visibility: Int[np.ndarray, "t p 17"]
) -> list[int]:
    """Moves broken tracks, in place, into longer ones that they continue or complete.

    Two tracks are one person if they never show the same joint in a frame and are half a person
    apart or less where they are closest in time. Returns where each track went.

    Args:
      points: changed in place, like `visibility`.
      visibility: of the tracks.
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
            else:  # parts of one body in one frame: the nearest two joints decide
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


def _between(
    points: Float[np.ndarray, "t 17 2"], seen: Bool[np.ndarray, "t 17"], t: int
) -> tuple[Float[np.ndarray, "17 2"], Bool[np.ndarray, "17"], float]:
    """Where a track's joints should be in frame t by the frames around; which are known; its size.

    A joint that was seen before and after lies between; one seen on one side only moves as the
    joints of frame t have moved.
    """
    where, known, size = np.zeros((NUM_JOINTS, 2)), np.zeros(NUM_JOINTS, bool), MIN_SIZE
    for a in range(max(0, t - REACH), min(len(seen), t + REACH + 1)):
        if seen[a].any():
            size = max(size, _size(points[a, seen[a]]))
    for joint in range(NUM_JOINTS):
        frames = np.flatnonzero(seen[:, joint])
        before = frames[(frames < t) & (frames >= t - REACH)]
        after = frames[(frames > t) & (frames <= t + REACH)]
        if len(before) and len(after):
            a, b = before[-1], after[0]
            where[joint] = ((b - t) * points[a, joint] + (t - a) * points[b, joint]) / (b - a)
            known[joint] = True
        elif len(before) or len(after):
            a = before[-1] if len(before) else after[0]
            both = seen[a] & seen[t] & (np.arange(NUM_JOINTS) != joint)
            if both.sum() >= 3:
                motion = np.median(points[t, both] - points[a, both], axis=0)
                where[joint] = points[a, joint] + motion
                known[joint] = True
    return where, known, size


def look_again(
    points: Float[np.ndarray, "t p 17 2"],
    visibility: Int[np.ndarray, "t p 17"],
    blobs: list[list[Candidate]],
    taken: dict[tuple[int, int, int], Candidate],
) -> dict[tuple[int, int, int], Candidate]:
    """Gives every frame's blobs to the tracks by where the frames around expect their joints.

    A joint without a blob that is expected better keeps what it has.

    Args:
      points: changed in place, like `visibility`.
      visibility: of the tracks.
      blobs: all of each frame, those dimmer than a group's too.
      taken: what the tracks have, by frame, track and joint.

    Returns:
      `taken` after it.
    """
    seen, chosen = visibility > 0, {}
    for t, found in enumerate(blobs):
        expected = [_between(points[:, p], seen[:, p], t) for p in range(seen.shape[1])]
        for joint in range(NUM_JOINTS):
            mine = [c for c in found if c.joint == joint]
            tracks = [p for p, (_, known, _) in enumerate(expected) if known[joint]]
            held = {p: taken[t, p, joint] for p in range(len(expected)) if (t, p, joint) in taken}
            cost = np.zeros((len(mine), len(tracks)))
            for j, p in enumerate(tracks):
                where, _, size = expected[p]
                for i, c in enumerate(mine):
                    cost[i, j] = np.linalg.norm(c.point - where[joint]) / size
                    cost[i, j] += FAINT * (1.0 - min(1.0, c.cover)) - KEEP * (held.get(p) is c)
            gain = np.maximum(JOINT_STEP - cost, 0.0)
            for i, j in zip(*scipy.optimize.linear_sum_assignment(-gain), strict=True):
                if gain[i, j] > 0:
                    held = {p: c for p, c in held.items() if c is not mine[i]} | {
                        tracks[j]: mine[i]
                    }
            chosen |= {(t, p, joint): c for p, c in held.items()}
    visibility[:] = 0
    for where, c in chosen.items():
        points[where], visibility[where] = c.point, c.visibility
    return chosen


def fill_gaps(
    points: Float[np.ndarray, "t p 17 2"],
    visibility: Int[np.ndarray, "t p 17"],
    lights: list[Float[np.ndarray, "h w"]],
) -> None:
    """Adds, in place, joints that are seen shortly before and after and whose place is lit between.

    Their colour is lost in a blend of others; they count as occluded. Nothing is added where
    nothing is drawn.

    Args:
      points: changed in place, like `visibility`.
      visibility: of the tracks.
      lights: brightness of each frame, as `skeleton_joints.hues` gives it.
    """
    seen = visibility > 0
    for t, light in enumerate(lights):
        height, width = light.shape
        for p in np.flatnonzero(seen[t].any(axis=-1)):
            where, _, _ = _between(points[:, p], seen[:, p], t)
            around = seen[max(0, t - REACH) : t, p].any(axis=0)
            around &= seen[t + 1 : t + 1 + REACH, p].any(axis=0)
            for joint in np.flatnonzero(around & ~seen[t, p]):
                x, y = where[joint]
                inside = 0 <= x < width and 0 <= y < height
                if inside and light[int(y), int(x)] >= LIT:
                    points[t, p, joint], visibility[t, p, joint] = where[joint], 1


def real_people(visibility: Int[np.ndarray, "t p 17"]) -> Int[np.ndarray, " real"]:
    """Returns the tracks that are more than the odd fragment of somebody else."""
    joints = (visibility > 0).sum(axis=-1)
    total = joints.sum(axis=0)
    most = total.max(initial=0)
    return np.flatnonzero((total > 0) & ((total >= 0.15 * most) | (joints.max(axis=0) >= 8)))
