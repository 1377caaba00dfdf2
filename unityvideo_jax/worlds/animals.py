"""Quadrupeds and birds, held out of training: the same capsules as people, other skeletons."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from unityvideo_jax.worlds import looks
from unityvideo_jax.worlds.bodies import PARTS, LimbBuilder, Limbs, bend_leg, step_cycle
from unityvideo_jax.worlds.scene import Actors
from unityvideo_jax.worlds.vector import compose, rotate_x, rotate_y, rotate_z, times


def _ground(actor: Actors, seconds: Array, middle: float) -> Array:
    way = actor.speed * (seconds - middle)
    x = actor.place[0] + way * jnp.cos(actor.heading)
    y = actor.place[1] + way * jnp.sin(actor.heading)
    return jnp.stack([x, y, jnp.zeros_like(way)], axis=-1)


def _by_species(actor: Actors, dog: float, cat: float, horse: float, sheep: float) -> Array:
    return jnp.asarray([dog, cat, horse, sheep])[actor.species]


def pose_quadruped(actor: Actors, seconds: Float[Array, " t"], middle: float) -> Limbs:
    """Poses the 16 limbs of a walking or trotting animal.

    Args:
      actor: one slot of Actors; its `height` is that of the back.
      seconds: times from the first frame.
      middle: when a walker passes its place.
    """
    tall, wide = actor.height, actor.build
    root = rotate_z(jnp.broadcast_to(actor.heading, seconds.shape))
    ground = _ground(actor, seconds, middle)
    cadence = 1.25 / jnp.sqrt(tall) * jnp.where(actor.motion == looks.RUN, 1.5, 1.0)
    cycle = actor.phase + cadence * seconds
    duty = jnp.where(actor.motion == looks.RUN, 0.45, 0.6)
    stride = jnp.minimum(duty * actor.speed / cadence, 0.75 * tall)
    girth = _by_species(actor, 0.19, 0.17, 0.17, 0.29) * tall * wide
    length = _by_species(actor, 0.42, 0.48, 0.38, 0.34) * tall  # half of the trunk
    hip_height = _by_species(actor, 0.60, 0.56, 0.70, 0.55) * tall
    bone = 0.52 * hip_height
    paw = _by_species(actor, 0.042, 0.036, 0.032, 0.036) * tall
    hips_z = hip_height + 0.012 * tall * jnp.cos(4 * jnp.pi * cycle)
    builder = LimbBuilder(len(seconds))

    def at(x: Any, y: Any, z: Any) -> Array:
        local = jnp.stack(jnp.broadcast_arrays(x, y, z, seconds)[:3], axis=-1)
        return ground + times(root, local)

    level = compose(root, rotate_y(jnp.full_like(seconds, jnp.pi / 2)))
    builder.add(at(0.0, 0.0, hips_z + 0.08 * tall), level, (girth, 0.85 * girth, girth), length)
    neck_length = _by_species(actor, 0.24, 0.16, 0.42, 0.2) * tall
    nod = 0.08 * jnp.sin(2 * jnp.pi * cycle)
    neck_tilt = compose(root, rotate_y(_by_species(actor, 0.7, 0.9, 0.75, 0.85) + nod))
    base = at(length + 0.5 * girth, 0.0, hips_z + 0.16 * tall)
    up = jnp.asarray([0.0, 0.0, 1.0])
    thick = _by_species(actor, 0.085, 0.075, 0.085, 0.12) * tall
    builder.add(base + times(neck_tilt, 0.5 * neck_length * up), neck_tilt,
                (thick, thick, thick), 0.5 * neck_length)  # fmt: skip
    crown = base + times(neck_tilt, (neck_length + 0.03 * tall) * up)
    gaze = compose(root, rotate_y(0.25 + nod))
    skull = _by_species(actor, 0.12, 0.13, 0.105, 0.11) * tall
    builder.add(crown, gaze, (skull, 0.85 * skull, skull))
    muzzle = _by_species(actor, 0.11, 0.035, 0.2, 0.09) * tall
    forward = compose(gaze, rotate_y(jnp.full_like(seconds, jnp.pi / 2)))
    reach = jnp.stack([0.8 * skull + 0.5 * muzzle, 0.0 * skull, -0.25 * skull])
    builder.add(crown + times(gaze, jnp.broadcast_to(reach, crown.shape)), forward,
                (0.5 * skull, 0.5 * skull, 0.5 * skull), 0.5 * muzzle)  # fmt: skip
    ear = _by_species(actor, 0.11, 0.09, 0.09, 0.08) * tall
    for side in (1.0, -1.0):
        spot = jnp.stack([-0.2 * skull, side * 0.6 * skull, skull])
        droop = compose(gaze, rotate_x(jnp.full_like(seconds, -0.5 * side)))
        builder.add(crown + times(gaze, jnp.broadcast_to(spot, crown.shape)), droop,
                    (0.3 * ear, 0.45 * ear, ear))  # fmt: skip
    wag = compose(rotate_z(0.5 * jnp.sin(9.0 * seconds)),
                  rotate_y(jnp.full_like(seconds, -2.3)))  # fmt: skip
    tail = _by_species(actor, 0.26, 0.34, 0.36, 0.08) * tall
    tail_up = jnp.where(actor.species >= 2, 3.6, 0.0)  # horses and sheep let it hang
    wag = compose(wag, rotate_y(jnp.broadcast_to(-0.25 * tail_up, seconds.shape)))
    back = at(-length - 0.7 * girth, 0.0, hips_z + 0.15 * tall)
    direction = compose(root, wag)
    builder.add(back + times(direction, 0.5 * tail * up), direction, (0.04 * tall,) * 3, 0.5 * tail)

    # Diagonal legs step together.
    for end, side, offset in ((1, 1, 0.0), (1, -1, 0.5), (-1, 1, 0.55), (-1, -1, 0.05)):
        x, z, _ = step_cycle(cycle + offset, stride, duty, 0.09 * tall)
        hip = jnp.stack(jnp.broadcast_arrays(end * length, side * 0.62 * girth, hips_z), axis=-1)
        foot = jnp.stack(jnp.broadcast_arrays(end * length + x, side * 0.55 * girth, z + paw), -1)
        # Elbows bend backwards, knees forwards.
        upper, lower = bend_leg(root, foot - hip, bone, bone, -1.0 if end > 0 else 1.0)
        joint = ground + times(root, hip)
        joint = builder.hang(joint, upper, bone, (1.9 * paw, 1.5 * paw, 1.5 * paw))
        builder.hang(joint, lower, bone, (paw, paw, paw))
    return builder.build()


def pose_bird(actor: Actors, seconds: Float[Array, " t"], middle: float) -> Limbs:
    """Poses the 13 limbs of a bird that walks, or flies waist-high.

    Args:
      actor: one slot of Actors; its `height` is to the crown.
      seconds: times from the first frame.
      middle: when a walker passes its place.
    """
    tall, wide = actor.height, actor.build
    flies = actor.motion == looks.BIRD_FLIES
    root = rotate_z(jnp.broadcast_to(actor.heading, seconds.shape))
    cadence = 2.2 / jnp.sqrt(tall)
    cycle = actor.phase + cadence * seconds
    flap = 2 * jnp.pi * (actor.phase + 2.1 * seconds)
    altitude = jnp.where(flies, 0.85 + 0.06 * jnp.sin(flap + 1.2), 0.0)
    ground = _ground(actor, seconds, middle) + altitude[:, None] * jnp.asarray([0.0, 0.0, 1.0])
    stand = 0.42 * tall
    pitch = jnp.where(flies, 1.45, 1.05)
    body = compose(root, rotate_y(jnp.broadcast_to(pitch, seconds.shape)))
    builder = LimbBuilder(len(seconds))
    up = jnp.asarray([0.0, 0.0, 1.0])

    def at(frame: Array, x: Any, y: Any, z: Any) -> Array:
        local = jnp.stack(jnp.broadcast_arrays(x, y, z, seconds)[:3], axis=-1)
        return times(frame, local)

    middle_of_body = ground + at(root, 0.0, 0.0, stand + 0.12 * tall)
    girth = 0.15 * tall * wide
    builder.add(middle_of_body, body, (girth, girth, 0.27 * tall))
    bob = 0.03 * tall * jnp.sin(4 * jnp.pi * cycle) * jnp.where(flies, 0.0, 1.0)
    neck_foot = middle_of_body + at(body, -0.3 * girth, 0.0, 0.2 * tall)
    head = neck_foot + at(root, 0.13 * tall + bob, 0.0, jnp.where(flies, 0.06, 0.2) * tall)
    spine = head - neck_foot
    span = jnp.linalg.norm(spine, axis=-1)
    # Neck: straight from body to head, its hinge across the body.
    local = times(jnp.swapaxes(root, -1, -2), spine)
    lean = compose(root, rotate_y(jnp.arctan2(local[:, 0], local[:, 2])))
    builder.add(neck_foot + 0.5 * spine, lean, (0.065 * tall,) * 3, 0.5 * jnp.mean(span))
    builder.add(head, root, (0.085 * tall, 0.075 * tall, 0.08 * tall))
    ahead = compose(root, rotate_y(jnp.full_like(seconds, jnp.pi / 2)))
    builder.add(head + at(root, 0.11 * tall, 0.0, -0.01 * tall), ahead,
                (0.022 * tall, 0.022 * tall, 0.06 * tall))  # fmt: skip
    builder.add(middle_of_body + at(body, 0.02 * tall, 0.0, -0.33 * tall), body,
                (0.025 * tall, 0.09 * tall, 0.17 * tall))  # fmt: skip
    for side in (1.0, -1.0):
        beat = 0.75 * jnp.sin(flap)
        shoulder = middle_of_body + at(body, -0.5 * girth, side * 0.75 * girth, 0.08 * tall)
        # Flying: the wing's long axis points sideways and beats; standing: it lies along the body.
        spread = compose(root, rotate_x(-side * (jnp.pi / 2 - beat)))
        tip = compose(root, rotate_x(-side * (jnp.pi / 2 - 1.3 * jnp.sin(flap - 0.7))))
        inner = jnp.where(flies, spread, body)
        outer = jnp.where(flies, tip, body)
        arm = jnp.where(flies, 0.24, -0.12) * tall
        inner_radii = jnp.where(
            flies, jnp.asarray([0.13, 0.025, 0.2]), jnp.asarray([0.1, 0.03, 0.2])
        )
        outer_radii = jnp.where(
            flies, jnp.asarray([0.10, 0.02, 0.22]), jnp.asarray([0.06, 0.025, 0.16])
        )
        builder.add(shoulder + times(inner, 0.7 * arm * up), inner, tuple(tall * inner_radii))
        elbow = shoulder + times(inner, 1.35 * arm * up)
        builder.add(elbow + times(outer, 0.7 * arm * up), outer, tuple(tall * outer_radii))
    for side, offset in ((1.0, 0.0), (-1.0, 0.5)):
        stride = 0.62 * actor.speed / cadence
        x, z, _ = step_cycle(cycle + offset, jnp.minimum(stride, 0.5 * tall), 0.62, 0.1 * tall)
        hip = jnp.stack(jnp.broadcast_arrays(0.0, side * 0.07 * tall, stand + 0.0 * x), axis=-1)
        thin = 0.018 * tall
        toe_x = jnp.where(flies, -0.3 * tall, x + 0.02 * tall)
        toe_z = jnp.where(flies, stand - 0.05 * tall, z + thin)
        toe = jnp.stack(jnp.broadcast_arrays(toe_x, side * 0.07 * tall, toe_z), axis=-1)
        upper, lower = bend_leg(root, toe - hip, 0.22 * tall, 0.22 * tall, -1.0)
        joint = builder.hang(
            ground + times(root, hip), upper, 0.22 * tall, (2 * thin, 2 * thin, thin)
        )
        builder.hang(joint, lower, 0.22 * tall, (thin, thin, thin))
    return builder.build()


def animal_colours(actor: Actors) -> tuple[Float[Array, "p 3"], Float[Array, "p 3"]]:
    """Base colours of the limbs of a quadruped and of a bird; `shirt` holds the fur's colour."""
    fur = actor.shirt
    dark = 0.45 * fur
    feet = jnp.asarray([0.75, 0.38, 0.05])
    quadruped = [fur, fur, fur, 0.6 * fur, dark, dark, dark] + [fur, 0.7 * fur] * 4
    bird = [fur, fur, 0.8 * fur, feet, dark, 0.75 * fur, dark, 0.75 * fur, dark] + [feet] * 4
    fill = [jnp.zeros(3)]
    return (
        jnp.stack(quadruped + fill * (PARTS - len(quadruped))),
        jnp.stack(bird + fill * (PARTS - len(bird))),
    )
