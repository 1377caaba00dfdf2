"""People: 18 rigid limbs driven by a pose, with COCO-17 keypoints and DensePose parts."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from unityvideo_jax.worlds.bodies import LimbBuilder, Limbs, bend_arm, bend_leg, settle
from unityvideo_jax.worlds.motions import pose_of
from unityvideo_jax.worlds.scene import Actors
from unityvideo_jax.worlds.vector import compose, rotate_x, rotate_y, rotate_z, times

PELVIS, TORSO, SHOULDERS, NECK, HEAD, HAIR = range(6)
ARM_L, FOREARM_L, HAND_L, ARM_R, FOREARM_R, HAND_R = range(6, 12)
THIGH_L, SHIN_L, THIGH_R, SHIN_R, FOOT_L, FOOT_R = range(12, 18)

# DensePose part of each limb on its local -x and +x side (back and front of a standing body); the
# head is divided by local y instead: right (-y) and left (+y).
DENSEPOSE = np.asarray(
    [(1, 2), (1, 2), (1, 2), (1, 2), (23, 24), (23, 24),
     (15, 17), (19, 21), (4, 4), (16, 18), (20, 22), (3, 3),
     (8, 10), (12, 14), (7, 9), (11, 13), (5, 5), (6, 6)], np.int32)  # fmt: skip

# Limbs on whose surface or inside of which each COCO-17 keypoint lies.
KEYPOINT_LIMBS = (
    (HEAD, HAIR), (HEAD, HAIR), (HEAD, HAIR), (HEAD, HAIR), (HEAD, HAIR),
    (ARM_L, SHOULDERS, TORSO), (ARM_R, SHOULDERS, TORSO), (ARM_L, FOREARM_L), (ARM_R, FOREARM_R),
    (FOREARM_L, HAND_L), (FOREARM_R, HAND_R), (THIGH_L, PELVIS), (THIGH_R, PELVIS),
    (THIGH_L, SHIN_L), (THIGH_R, SHIN_R), (SHIN_L, FOOT_L), (SHIN_R, FOOT_R),
)  # fmt: skip
_FACE = np.asarray(
    [(1.0, 0.0, -0.08), (0.9, 0.36, 0.2), (0.9, -0.36, 0.2), (0.05, 1.0, 0.0), (0.05, -1.0, 0.0)],
    np.float32,
)
_FACE = _FACE / np.linalg.norm(_FACE, axis=-1, keepdims=True)


def pose_person(
    actor: Actors, seconds: Float[Array, " t"], middle: float
) -> tuple[Limbs, Float[Array, "t 17 3"]]:
    """Poses the limbs and keypoints of one person (no slot axis) at these times.

    Args:
      actor: one slot of Actors.
      seconds: times from the first frame.
      middle: when a walker passes its place.

    Returns:
      Limbs, and COCO-17 keypoints in metres.
    """
    tall, wide = actor.height, actor.build
    pose = pose_of(
        actor.motion, seconds, height=tall, speed=actor.speed, phase=actor.phase,
        event=actor.event, side=actor.side,
    )  # fmt: skip
    pose = settle(pose)
    root = rotate_z(jnp.broadcast_to(actor.heading, seconds.shape))
    way = actor.speed * (seconds - middle)
    ground = jnp.stack(
        [
            actor.place[0] + way * jnp.cos(actor.heading),
            actor.place[1] + way * jnp.sin(actor.heading),
            jnp.zeros_like(way),
        ],
        axis=-1,
    )
    builder = LimbBuilder(len(seconds))

    thigh, shin, ankle_z = 0.245 * tall, 0.245 * tall, 0.045 * tall
    ball, hip_y = 0.0775 * tall, 0.052 * tall * (0.6 + 0.4 * wide)
    longest = 0.988 * (thigh + shin)

    sides = jnp.asarray([[1.0], [-1.0]])
    # Feet first: where the ankles must be, and how high the hips may then be.
    c, s = jnp.cos(pose.pitch), jnp.sin(pose.pitch)
    x = tall * pose.ball_x + ball - c * ball + s * ankle_z
    z = tall * (pose.ball_z + pose.air) + s * ball + c * ankle_z
    ankles = jnp.stack(jnp.broadcast_arrays(x, sides * 0.9 * hip_y, z), axis=-1)
    ahead = jnp.clip(x - tall * pose.hips_x, -0.9 * longest, 0.9 * longest)
    ceiling = z + jnp.sqrt(longest**2 - ahead**2)
    # A soft minimum: the hips must not jerk when the other leg begins to limit them.
    sharp = 80.0 / tall
    limit = -jnp.logaddexp(-sharp * ceiling[0], -sharp * ceiling[1]) / sharp
    hips_z = jnp.minimum(tall * (pose.hips_z + pose.air), limit)
    hips = jnp.stack([tall * pose.hips_x, jnp.zeros_like(hips_z), hips_z], axis=-1)
    hips_world = ground + times(root, hips)

    pelvis = compose(root, rotate_z(-0.5 * pose.turn))
    chest = compose(compose(root, rotate_y(pose.lean)), rotate_z(pose.turn))
    root, ankles, hips_world, pelvis, chest = settle((root, ankles, hips_world, pelvis, chest))
    across = rotate_x(jnp.full_like(seconds, jnp.pi / 2))
    up = jnp.asarray([0.0, 0.0, 1.0])

    def from_hips(x: float, y: float, z: float) -> Array:
        offset = jnp.asarray([x, y, z]) * tall
        return hips_world + times(chest, jnp.broadcast_to(offset, hips_world.shape))

    builder.add(
        hips_world + times(pelvis, 0.02 * tall * up), compose(pelvis, across),
        (0.062 * tall * wide, 0.062 * tall, 0.05 * tall * wide), 0.038 * tall * wide,
    )  # fmt: skip
    builder.add(
        from_hips(0.0, 0.0, 0.155), chest,
        (0.06 * tall * wide, 0.084 * tall * wide, 0.06 * tall), 0.075 * tall,
    )  # fmt: skip
    shoulder_y = 0.088 + 0.02 * (wide - 1.0)
    builder.add(
        from_hips(0.0, 0.0, 0.262), compose(chest, across),
        (0.046 * tall * wide, 0.036 * tall, 0.036 * tall), shoulder_y * tall,
    )  # fmt: skip
    gaze = compose(compose(root, rotate_z(0.6 * pose.turn)), rotate_y(0.35 * pose.lean + pose.nod))
    gaze = settle(gaze)
    large = jnp.where(tall < 1.45, 1.28, 1.05)
    neck = from_hips(0.0, 0.0, 0.30)
    builder.add(neck + times(gaze, 0.02 * tall * up), gaze, (0.027 * tall,) * 3, 0.02 * tall)
    skull = neck + times(gaze, (0.03 + 0.062 * large)[None, None] * tall * up)
    head_radii = (0.053 * tall * large, 0.043 * tall * large, 0.064 * tall * large)
    builder.add(skull, gaze, head_radii)
    long = jnp.where(actor.long_hair, 1.0, 0.0)
    back = tall * large * jnp.stack([-0.018, 0.0 * long, 0.014 - 0.034 * long])
    builder.add(
        skull + times(gaze, jnp.broadcast_to(back, skull.shape)), gaze,
        (0.051 * tall * large, (0.046 + 0.004 * long) * tall * large,
         (0.060 + 0.030 * long) * tall * large),
    )  # fmt: skip

    upper, lower = bend_arm(chest, sides, pose.raised, pose.swing, pose.twist, pose.elbow)
    upper, lower = settle((upper, lower))
    offset = [0.0, sides[:, 0] * shoulder_y * tall * 1.12, 0.262 * tall]
    offset = jnp.stack(jnp.broadcast_arrays(*offset), axis=-1)[:, None]
    shoulders = hips_world + times(chest, offset)
    thick = tall * (0.5 + 0.5 * wide)
    elbows, wrists, _ = builder.hang_pair(
        shoulders, (upper, lower, lower), (0.165 * tall, 0.15 * tall, 0.05 * tall),
        [(0.029 * thick,) * 3, (0.0235 * thick,) * 3, (0.024 * tall, 0.016 * tall, 0.022 * tall)],
    )  # fmt: skip

    offset = jnp.stack(jnp.broadcast_arrays(0.0, sides[:, 0] * hip_y, 0.0), axis=-1)[:, None]
    hip_joints = hips_world + times(pelvis, offset)
    reach = ankles - times(jnp.swapaxes(root, -1, -2), hip_joints - ground)
    upper, lower = bend_leg(root, reach, thigh, shin)
    upper, lower, hip_joints = settle((upper, lower, hip_joints))
    thick = tall * (0.3 + 0.7 * wide)
    sole = compose(root, rotate_y(pose.pitch))
    toes = compose(sole, rotate_y(jnp.full_like(seconds, jnp.pi / 2)))
    ankle_to_foot = times(sole, jnp.stack([0.035 * tall, 0.0 * tall, 0.026 * tall - ankle_z]))
    knees, ends = builder.hang_pair(
        hip_joints, (upper, lower), (thigh, shin),
        [(0.05 * thick,) * 3, (0.036 * thick,) * 3],
    )  # fmt: skip
    for leg in range(2):
        builder.add(
            ends[leg] + ankle_to_foot[leg], toes[leg],
            (0.026 * tall, 0.03 * tall, 0.03 * tall), 0.0425 * tall,
        )  # fmt: skip
    pairs = (shoulders, elbows, wrists, hip_joints, knees, ends)
    joints = {5 + 2 * n + side: pair[side] for n, pair in enumerate(pairs) for side in range(2)}
    for point, direction in enumerate(_FACE):
        spot = jnp.asarray(direction) * jnp.stack(head_radii)
        joints[point] = skull + times(gaze, jnp.broadcast_to(spot, skull.shape))
    keypoints = jnp.stack([joints[k] for k in range(17)], axis=1)
    return builder.build(), keypoints


def limb_colours(actor: Actors) -> Float[Array, "p 3"]:
    """Returns the base colour of each limb of one person, by its clothes."""
    forearm = jnp.where(actor.long_sleeves, actor.shirt, actor.skin)
    shin = jnp.where(actor.shorts, actor.skin, actor.trousers)
    arm, leg = [actor.shirt, forearm, actor.skin], [actor.trousers, shin]
    trunk = [actor.trousers, actor.shirt, actor.shirt, actor.skin, actor.skin, actor.hair]
    return jnp.stack(trunk + arm + arm + leg + leg + [actor.shoes] * 2)
