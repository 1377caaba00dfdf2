"""Reading keypoints back from the codec's drawing: joints, then people, then tracks."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from unityvideo_jax.modalities.skeleton_drawing import NUM_JOINTS, joint_radius, person_extent
from unityvideo_jax.modalities.skeleton_joints import (
    SURE_PEAK,
    Candidate,
    find_joints,
    fit_disc,
    group_people,
    hues,
)
from unityvideo_jax.modalities.skeleton_tracking import (
    fill_gaps,
    find_homes,
    look_again,
    real_people,
    stitch,
)

LOOKS = 2  # each uses the tracks of the one before


def read_people(
    image: Float[np.ndarray, "t h w 3"], max_people: int | None = None, min_joints: int = 2
) -> tuple[Float[np.ndarray, "t p 17 2"], Int[np.ndarray, "t p 17"]]:
    """Reads all people of a clip, each in one place P from frame to frame.

    Args:
      image: the drawing, in [0, 1].
      max_people: return at most so many, those with most keypoints over the clip.
      min_joints: fewer connected joints than this are not a person.

    Returns:
      Keypoints in pixels and visibility (0 absent, 1 occluded, 2 visible).
    """
    frames, height, width = image.shape[:3]
    points = np.zeros((frames, 0, NUM_JOINTS, 2), np.float32)
    visibility = np.zeros((frames, 0, NUM_JOINTS), np.int32)
    taken: dict[tuple[int, int, int], Candidate] = {}  # by frame, track and joint
    maps, lights, blobs = [], [], []
    for t in range(frames):
        joint_map, light = hues(image[t])
        maps.append(joint_map)
        lights.append(light)
        blobs.append(find_joints(joint_map, light))
        sure = [c for c in blobs[t] if c.peak >= SURE_PEAK]
        groups = group_people(joint_map, sure, min_joints)
        groups.sort(key=lambda p: float(np.mean([c.point[0] for c in p.values()])))
        homes = find_homes(points, visibility, t, groups)
        more = max([0, *(home + 1 - points.shape[1] for home in homes)])
        points = np.pad(points, ((0, 0), (0, more), (0, 0), (0, 0)))
        visibility = np.pad(visibility, ((0, 0), (0, more), (0, 0)))
        # Of a joint that parts of one person have twice, the larger part's counts.
        for home, group in sorted(zip(homes, groups, strict=True), key=lambda pair: len(pair[1])):
            for joint, c in group.items():
                points[t, home, joint], visibility[t, home, joint] = c.point, c.visibility
                taken[t, home, joint] = c
    home = stitch(points, visibility)
    taken = {(t, home[track], joint): c for (t, track, joint), c in taken.items()}
    for _ in range(LOOKS):
        taken = look_again(points, visibility, blobs, taken)
    # Disc sizes follow from the people's sizes, which are known from the whole clip only.
    if taken:
        extent = person_extent(jnp.asarray(points), jnp.asarray(visibility))
        radius = np.asarray(joint_radius(extent, height, width))
    for (t, track, joint), c in taken.items():
        fitted = fit_disc(maps[t], lights[t], c, float(radius[track, joint]))
        points[t, track, joint] = fitted
    fill_gaps(points, visibility, lights)
    keep = real_people(visibility)
    points, visibility = points[:, keep], visibility[:, keep]
    if max_people is not None and len(keep) > max_people:
        weight = (visibility > 0).sum(axis=(0, 2))
        keep = np.sort(np.argsort(-weight, kind="stable")[:max_people])
        points, visibility = points[:, keep], visibility[:, keep]
    return points, visibility
