"""Targets for a person's feet, hips, trunk and arms in each motion, as functions of time."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from unityvideo_jax.worlds import looks
from unityvideo_jax.worlds.bodies import smooth, step_cycle
from unityvideo_jax.worlds.pytree import pytree


@pytree
class Pose:
    """Targets over time, in units of the person's height.

    `ball_*` is the ball of the foot relative to where it stands upright, `hips_x` and `hips_z` the
    middle of the hips (z above the ground, lowered further if the legs do not reach), `air` lifts
    the whole body. Angles are those of `bend_arm`; `lean` is forwards. Limbs come in pairs, left
    first.
    """

    ball_x: Float[Array, "2 t"]
    ball_z: Float[Array, "2 t"]
    pitch: Float[Array, "2 t"]
    hips_x: Float[Array, " t"]
    hips_z: Float[Array, " t"]
    air: Float[Array, " t"]
    lean: Float[Array, " t"]
    turn: Float[Array, " t"]
    nod: Float[Array, " t"]
    raised: Float[Array, "2 t"]
    swing: Float[Array, "2 t"]
    twist: Float[Array, "2 t"]
    elbow: Float[Array, "2 t"]


TALL = 0.533  # height of the hips over the ground when standing, by height
SEAT = 0.285  # of the hips when sitting
KICK_CYCLE = 2.6
CADENCE = {looks.WALK: 0.95, looks.RUN: 1.45}  # steps of one foot per second, by sqrt(height)
_DUTY = {looks.WALK: 0.6, looks.RUN: 0.36}


def pose_of(
    motion: Int[Array, ""], times: Float[Array, " t"], *, height: Any, speed: Any, phase: Any,
    event: Any, side: Any,
) -> Pose:  # fmt: skip
    """Computes all motions at these times and returns the pose of `motion`.

    Args:
      motion: index into looks.MOTIONS; may be traced.
      times: seconds from the first frame.
      height: of the person, in metres.
      speed: m/s.
      phase: place in the motion's cycle at time 0; a cycle is 1.
      event: seconds at which the ball is kicked; sitting down starts at half of it.
      side: 1 for the left foot or hand, -1 for the right.
    """
    zero = jnp.zeros_like(times)
    poses = {
        looks.WALK: _gait(looks.WALK, times, zero, height, speed, phase),
        looks.RUN: _gait(looks.RUN, times, zero, height, speed, phase),
        looks.WAVE: _wave(times, zero, phase, side),
        looks.JUMP: _jump(times, zero, phase),
        looks.SIT: _sit(times, zero, event),
        looks.KICK: _kick(times, zero, event, side),
    }
    assert len(poses) == len(looks.MOTIONS)

    def chosen(*values: Array) -> Array:
        return jnp.select([motion == m for m in poses], list(values))

    fields = {}
    for field in dataclasses.fields(Pose):
        fields[field.name] = chosen(*[getattr(p, field.name) for p in poses.values()])
    return Pose(**fields)


def _both(value: Array) -> Float[Array, "2 t"]:
    return jnp.stack([value, value])


def _one(side: Any, active: Array, rest: Any = 0.0) -> Float[Array, "2 t"]:
    """Gives `active` to the limb on `side` (1 left, -1 right), and `rest` to the other."""
    return jnp.where((jnp.asarray([1.0, -1.0]) == side)[:, None], active, rest)


def _standing(zero: Array, **changes: Any) -> Pose:
    still = _both(zero)
    base = Pose(
        ball_x=still, ball_z=still, pitch=still, hips_x=zero, hips_z=zero + TALL, air=zero,
        lean=zero + 0.02, turn=zero, nod=zero, raised=_both(zero + 0.12), swing=still,
        twist=still, elbow=_both(zero + 0.15),
    )  # fmt: skip
    return dataclasses.replace(base, **changes)


def _gait(which: int, times: Array, zero: Array, height: Any, speed: Any, phase: Any) -> Pose:
    running = which == looks.RUN
    cadence, duty = CADENCE[which] / jnp.sqrt(height / 1.7), _DUTY[which]
    cycle = phase + cadence * times
    stride = duty * speed / cadence / height
    x, z, pitch = step_cycle(
        jnp.stack([cycle, cycle + 0.5]), stride, duty, 0.13 if running else 0.055,
        0.9 if running else 0.6,
    )  # fmt: skip
    # Arms swing against the legs: furthest forward when the foot on their side is furthest back.
    wave = jnp.cos(2 * jnp.pi * (cycle + 0.02))
    swing = (0.75 if running else 0.42) * jnp.stack([-wave, wave])
    return _standing(
        zero,
        ball_x=x,
        ball_z=z,
        pitch=pitch,
        hips_z=zero + (0.515 if running else TALL),
        air=(0.018 * (1 - jnp.cos(4 * jnp.pi * (cycle + 0.1))) if running else zero),
        lean=zero + (0.2 if running else 0.05),
        turn=-0.12 * wave,
        swing=swing,
        elbow=(1.45 if running else 0.3) + 0.6 * swing,
    )


def _wave(times: Array, zero: Array, phase: Any, side: Any) -> Pose:
    beat = jnp.sin(2 * jnp.pi * (1.5 * times + phase))
    return _standing(
        zero,
        raised=_one(side, 1.75 + 0.1 * beat, 0.12),
        swing=_one(side, 0.1 + zero, 0.05),
        twist=_one(side, jnp.pi / 2 + zero),
        elbow=_one(side, 0.85 + 0.5 * beat, 0.15),
        turn=0.05 * beat,
        nod=0.06 * jnp.sin(jnp.pi * times),
    )


def _jump(times: Array, zero: Array, phase: Any) -> Pose:
    t = jnp.mod(times / 1.35 + phase, 1.0)
    take_off, land = 0.42, 0.78
    flight = jnp.clip((t - take_off) / (land - take_off), 0.0, 1.0)
    air = 4.0 * flight * (1.0 - flight)
    crouch = smooth(t / 0.25) * (1.0 - smooth((t - 0.28) / (take_off - 0.28)))
    give = smooth((t - land) / 0.07) * (1.0 - smooth((t - land - 0.08) / 0.14))
    arms = -0.7 * crouch + 2.3 * smooth((t - 0.3) / 0.16) * (1.0 - smooth((t - land) / 0.2))
    point = 0.5 * smooth((t - take_off + 0.05) / 0.08) * (1 - smooth((t - land + 0.08) / 0.08))
    tuck = 0.05 * air
    return _standing(
        zero,
        ball_z=_both(tuck),
        pitch=_both(point),
        hips_x=-0.05 * crouch - 0.03 * give,
        hips_z=TALL - 0.13 * crouch - 0.07 * give,
        air=0.17 * air,
        lean=0.5 * crouch + 0.25 * give,
        swing=_both(arms),
        raised=_both(0.2 + zero),
        elbow=_both(0.3 + 0.5 * crouch),
    )


def _sit(times: Array, zero: Array, event: Any) -> Pose:
    down = smooth((times - 0.5 * event) / 0.9)
    lean = 0.55 * jnp.sin(jnp.pi * jnp.clip(down, 0.0, 1.0)) + 0.05
    return _standing(
        zero,
        hips_x=-0.235 * down,
        hips_z=TALL + (SEAT - TALL) * down,
        lean=lean,
        swing=_both(0.1 + 0.5 * down),
        elbow=_both(0.2 + 0.75 * down),
        nod=0.1 * jnp.sin(2.0 * times) * down,
    )


def _kick(times: Array, zero: Array, event: Any, side: Any) -> Pose:
    """The foot meets the ball at `event`; later kicks, every KICK_CYCLE, meet nothing."""
    t = jnp.mod(times - event + 0.45, KICK_CYCLE) - 0.45
    back = smooth((t + 0.45) / 0.25) * (1.0 - smooth((t + 0.2) / 0.2))
    forth = smooth((t + 0.2) / 0.26) * (1.0 - smooth((t - 0.14) / 0.35))
    x = -0.2 * back + 0.3 * forth
    z = 0.09 * back + 0.16 * forth**2
    pitch = 0.7 * back - 0.25 * forth
    arm = 0.7 * forth - 0.3 * back
    return _standing(
        zero,
        ball_x=_one(side, x),
        ball_z=_one(side, z),
        pitch=_one(side, pitch),
        hips_z=zero + 0.52,
        lean=0.12 * back - 0.16 * forth,
        turn=side * (0.2 * back - 0.2 * forth),
        swing=_one(side, -arm, arm),
        raised=_both(0.3 + 0.25 * back),
        elbow=_both(0.5 + zero),
    )
