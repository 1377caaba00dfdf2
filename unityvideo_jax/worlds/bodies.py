"""Limbs: rigid capsules with elliptical cross-sections, and the inverse kinematics of legs."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unityvideo_jax.worlds.pytree import pytree
from unityvideo_jax.worlds.vector import compose, rotate_x, rotate_y, rotate_z, times

PARTS = 18  # capsules per actor
# Height of capsules that a body does not need: far below the ground, seen by no ray.
PARKED = -500.0


@pytree
class Limbs:
    """Capsules: in local units of `radii`, all points within 1 of a segment along local z.

    Attributes:
      centre: metres.
      rotation: columns are the local axes in the world.
      radii: metres along local x, y, z.
      half: half length of the inner segment in metres; 0 makes an ellipsoid.
    """

    centre: Float[Array, "*b t p 3"]
    rotation: Float[Array, "*b t p 3 3"]
    radii: Float[Array, "*b p 3"]
    half: Float[Array, "*b p"]


class LimbBuilder:
    """Collects capsules of one body over `frames` and fills up to PARTS."""

    def __init__(self, frames: int):
        self._frames = frames
        self._limbs: list[tuple[Array, Array, Array, Array]] = []

    def add(
        self,
        centre: Float[Array, "t 3"],
        rotation: Float[Array, "t 3 3"],
        radii: Any,
        half: Any = 0.0,
    ) -> None:
        """Adds a capsule; the arguments are the fields of `Limbs`, in metres."""
        radii = jnp.stack([jnp.asarray(r, jnp.float32) for r in radii])
        self._limbs.append((centre, rotation, radii, jnp.asarray(half, jnp.float32)))

    def hang(
        self, joint: Float[Array, "t 3"], rotation: Float[Array, "t 3 3"], length: Any, radii: Any
    ) -> Float[Array, "t 3"]:
        """Adds a limb from a joint along local -z; returns its far end. Lengths are metres."""
        down = jnp.asarray([0.0, 0.0, -1.0])
        self.add(joint + 0.5 * length * times(rotation, down), rotation, radii, 0.5 * length)
        return joint + length * times(rotation, down)

    def hang_pair(
        self,
        joints: Float[Array, "2 t 3"],
        rotations: Sequence[Float[Array, "2 t 3 3"]],
        lengths: Sequence[Any],
        radii: Sequence[Any],
    ) -> list[Float[Array, "2 t 3"]]:
        """Adds a chain of limbs on the left and one on the right, all of the left first.

        Args:
          joints: points from which the first limbs hang.
          rotations: one per limb of a chain.
          lengths, radii: of each limb, in metres.

        Returns:
          The far end of each limb.
        """
        ends = [joints]
        down = jnp.asarray([0.0, 0.0, -1.0])
        for rotation, length in zip(rotations, lengths, strict=True):
            ends.append(ends[-1] + length * times(rotation, down))
        for side in range(2):
            for limb, rotation in enumerate(rotations):
                middle = 0.5 * (ends[limb][side] + ends[limb + 1][side])
                self.add(middle, rotation[side], radii[limb], 0.5 * lengths[limb])
        return ends[1:]

    def build(self) -> Limbs:
        """Returns all limbs; missing ones are parked out of sight."""
        parked = (
            jnp.broadcast_to(jnp.asarray([0.0, 0.0, PARKED]), (self._frames, 3)),
            jnp.broadcast_to(jnp.eye(3), (self._frames, 3, 3)),
            jnp.full(3, 0.1),
            jnp.zeros(()),
        )
        limbs = self._limbs + [parked] * (PARTS - len(self._limbs))
        assert len(limbs) == PARTS
        limbs = settle(limbs)
        return Limbs(
            centre=jnp.stack([l[0] for l in limbs], axis=1),
            rotation=jnp.stack([l[1] for l in limbs], axis=1),
            radii=jnp.stack([l[2] for l in limbs]),
            half=jnp.stack([l[3] for l in limbs]),
        )


def settle(values: Any) -> Any:
    """Computes values once: otherwise XLA fuses them again into each of their many users.

    This halves the time to compile and changes no value.
    """
    return jax.lax.optimization_barrier(values)


def smooth(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns the smooth step: 0 below 0, 1 above 1, a cubic between."""
    x = jnp.clip(x, 0.0, 1.0)
    return x * x * (3.0 - 2.0 * x)


def step_cycle(
    phase: Float[Array, "*n t"], stride: Any, duty: Any, lift: Any, roll: float = 0.6
) -> tuple[Float[Array, "*n t"], Float[Array, "*n t"], Float[Array, "*n t"]]:
    """Returns one foot of a gait: its place along the way, and height and pitch of its ball.

    In stance the ball moves back at the body's pace, so it rests on the ground.

    Args:
      phase: of the gait; a cycle is 1, and it starts with stance.
      stride: distance that the body covers in one stance, in any unit of length.
      duty: share of the cycle in stance, in (0, 1).
      lift: greatest height of the foot, in the unit of `stride`.
      roll: greatest pitch in radians.
    """
    phase = jnp.mod(phase, 1.0)
    u, w = phase / duty, (phase - duty) / (1.0 - duty)
    stance = phase < duty
    x = jnp.where(stance, stride * (0.5 - u), stride * (smooth(w) - 0.5))
    z = jnp.where(stance, 0.0, lift * jnp.sin(jnp.pi * jnp.clip(w, 0.0, 1.0)))
    pitch = jnp.where(stance, roll * smooth((u - 0.6) / 0.4), roll * (1.0 - smooth(w / 0.7)))
    return x, z, pitch


def bend_leg(
    root: Float[Array, "t 3 3"],
    reach: Float[Array, "*n t 3"],
    upper: Any,
    lower: Any,
    knee_forward: float = 1.0,
) -> tuple[Float[Array, "*n t 3 3"], Float[Array, "*n t 3 3"]]:
    """Rotations of the two bones of a leg that ends at `reach` from its hip, in root axes.

    A target out of reach is pointed at.
    """
    roll = jnp.arctan2(reach[..., 1], -reach[..., 2])
    drop = jnp.sqrt(reach[..., 1] ** 2 + reach[..., 2] ** 2)
    length = jnp.sqrt(reach[..., 0] ** 2 + drop**2)
    length = jnp.clip(length, jnp.abs(upper - lower) + 0.15 * upper, 0.9995 * (upper + lower))
    pitch = jnp.arctan2(reach[..., 0], drop)
    alpha = jnp.arccos((upper**2 + length**2 - lower**2) / (2 * upper * length))
    beta = jnp.arccos((lower**2 + length**2 - upper**2) / (2 * lower * length))
    plane = compose(root, rotate_x(roll))
    thigh = compose(plane, rotate_y(-(pitch + knee_forward * alpha)))
    shin = compose(plane, rotate_y(-(pitch - knee_forward * beta)))
    return thigh, shin


def bend_arm(
    chest: Float[Array, "t 3 3"],
    side: Float[Array, "n 1"],
    raised: Any,
    swing: Any,
    twist: Any,
    elbow: Any,
) -> tuple[Float[Array, "n t 3 3"], Float[Array, "n t 3 3"]]:
    """Returns rotations of upper arm and forearm.

    Args:
      chest: rotation of the chest.
      side: 1 for the left arm, -1 for the right.
      raised: sideways from hanging, in radians, as are all angles.
      swing: forwards.
      twist: turns the elbow's hinge; 0 flexes forwards, pi/2 upwards when the arm is out sideways.
      elbow: flexion.
    """
    upper = compose(compose(chest, rotate_x(side * raised)), rotate_y(-swing))
    lower = compose(compose(upper, rotate_z(side * twist)), rotate_y(-elbow))
    return upper, lower
