"""Balls under gravity in float64 NumPy: the same numbers on every machine, under laws that change.

Constants and the integrator are those of `objects.simulate` (semi-implicit Euler, bounces of a
factor, a lower limit below which nothing bounces, rolling drag), so that what is lawful here looks
as worlds look that models are trained on. Only +, -, *, / and square roots are used, which IEEE 754
defines to the last bit.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from unityvideo_jax.worlds.objects import GRAVITY, STEP

ROLLING_DRAG = 0.25  # m/s^2
LEAST_BOUNCE = 0.35  # m/s; what falls more slowly stays on the ground
CONTACT_BOUNCE = 0.6  # of bodies that meet


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bodies:
    """Balls that move, and boxes that stand still.

    Attributes:
      half: half extents in metres; a ball's three are its radius.
      fixed: bodies that nothing moves; the others are balls.
      bounce: share of the vertical speed that is left after meeting the ground.
    """

    half: Float[np.ndarray, "n 3"]
    fixed: Bool[np.ndarray, " n"]
    bounce: Float[np.ndarray, " n"]


class State(NamedTuple):
    """Centres in metres and velocities in m/s, of one moment or of several frames."""

    place: Float[np.ndarray, "*t n 3"]
    velocity: Float[np.ndarray, "*t n 3"]

    def at(self, frame: int) -> "State":
        """The moment of one frame."""
        return State(self.place[frame], self.velocity[frame])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Laws:
    """Attributes:
    gravity: m/s^2, downwards.
    bounce: factor on every body's own bounce.
    ground: whether there is one.
    contacts: whether bodies meet.
    """

    gravity: float = GRAVITY
    bounce: float = 1.0
    ground: bool = True
    contacts: bool = True


def simulate(bodies: Bodies, state: State, frames: int, fps: float, laws: Laws) -> State:
    """The moments of `frames` frames, the first of which is the state itself.

    Args:
      bodies: what moves.
      state: of the first frame.
      frames: how many.
      fps: frames per second.
      laws: what holds from the first frame on.
    """
    substeps = max(1, round(1.0 / (fps * STEP) + 0.499))
    dt = 1.0 / (fps * substeps)
    place, velocity = state.place.copy(), state.velocity.copy()
    places, velocities = [], []
    for _ in range(frames):
        places.append(place.copy())
        velocities.append(velocity.copy())
        for _ in range(substeps):
            _step(bodies, place, velocity, dt, laws)
    return State(np.stack(places), np.stack(velocities))


def _step(bodies: Bodies, place: np.ndarray, velocity: np.ndarray, dt: float, laws: Laws) -> None:
    moving = ~bodies.fixed
    velocity[moving, 2] -= laws.gravity * dt
    place[moving] += velocity[moving] * dt
    if laws.ground:
        rest = bodies.half[:, 2]
        landed = moving & (place[:, 2] <= rest)
        falling = landed & (velocity[:, 2] < 0)
        back = np.where(
            velocity[:, 2] < -LEAST_BOUNCE, -laws.bounce * bodies.bounce * velocity[:, 2], 0.0
        )
        velocity[falling, 2] = back[falling]
        place[landed, 2] = rest[landed]
        speed = np.sqrt(velocity[:, 0] ** 2 + velocity[:, 1] ** 2 + 1e-12)
        slower = np.maximum(1.0 - ROLLING_DRAG * dt / speed, 0.0)
        velocity[landed, :2] *= slower[landed, None]
    if laws.contacts:
        for ball in np.flatnonzero(moving):
            for box in np.flatnonzero(bodies.fixed):
                _meet(bodies, place, velocity, ball, box)


def _meet(
    bodies: Bodies, place: np.ndarray, velocity: np.ndarray, ball: np.intp, box: np.intp
) -> None:
    """A ball that is inside a box leaves it by the nearest way, and bounces off."""
    radius = bodies.half[ball, 0]
    gap = place[ball] - place[box]
    nearest = np.clip(gap, -bodies.half[box], bodies.half[box])
    out = gap - nearest
    distance = np.sqrt((out * out).sum())
    if distance >= radius or distance == 0.0:
        return
    normal = out / distance
    place[ball] += (radius - distance) * normal
    closing = (velocity[ball] * normal).sum()
    if closing < 0:
        velocity[ball] -= (1.0 + CONTACT_BOUNCE) * closing * normal
