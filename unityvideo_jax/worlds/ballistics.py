"""Balls under gravity in float64: the same numbers on every machine, under laws that change.

Constants and the integrator are those of `objects.simulate` (semi-implicit Euler, bounces of a
factor, a lower limit below which nothing bounces, rolling drag), so that lawful motion looks as in
the worlds that models are trained on. Only +, -, *, / and square roots are used, which IEEE 754
defines to the last bit.
"""

import dataclasses
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from unityvideo_jax.worlds.objects import GRAVITY, STEP

ROLLING_DRAG = 0.25  # m/s^2
LEAST_BOUNCE = 0.35  # m/s; a ball that falls more slowly stays on the ground
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
    """Positions and velocities of bodies at one moment or in several frames.

    Attributes:
      place: centres in metres.
      velocity: m/s.
    """

    place: Float[np.ndarray, "*t n 3"]
    velocity: Float[np.ndarray, "*t n 3"]

    def at(self, frame: int) -> "State":
        """Returns the state in one frame."""
        return State(self.place[frame], self.velocity[frame])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Laws:
    """The laws of motion of a clip.

    Attributes:
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
    """Returns the states in `frames` frames, the first of which is `state`.

    Args:
      bodies: balls and boxes.
      state: of the first frame.
      frames: number of frames.
      fps: frames per second.
      laws: in force from the first frame on.
    """
    substeps = max(1, round(1.0 / (fps * STEP) + 0.499))
    dt = 1.0 / (fps * substeps)
    shape = (frames, *state.place.shape)
    path = State(np.broadcast_to(state.place, shape).copy(), np.zeros(shape))
    boxes = [
        (state.place[i].tolist(), bodies.half[i].tolist()) for i in np.flatnonzero(bodies.fixed)
    ]
    for ball in np.flatnonzero(~bodies.fixed):
        # Plain numbers: arrays of three cost ten times as much.
        place, velocity = state.place[ball].tolist(), state.velocity[ball].tolist()
        radius, bounce = float(bodies.half[ball, 2]), laws.bounce * float(bodies.bounce[ball])
        for frame in range(frames):
            path.place[frame, ball], path.velocity[frame, ball] = place, velocity
            for _ in range(substeps):
                _step(place, velocity, radius, bounce, dt, laws)
                if laws.contacts:
                    for centre, half in boxes:
                        _meet(place, velocity, radius, centre, half)
    return path


def _step(
    place: list[float],
    velocity: list[float],
    radius: float,
    bounce: float,
    dt: float,
    laws: Laws,
) -> None:
    velocity[2] -= laws.gravity * dt
    for axis in range(3):
        place[axis] += velocity[axis] * dt
    if laws.ground and place[2] <= radius:
        place[2] = radius
        if velocity[2] < 0:
            velocity[2] = -bounce * velocity[2] if velocity[2] < -LEAST_BOUNCE else 0.0
        speed = math.sqrt(velocity[0] * velocity[0] + velocity[1] * velocity[1] + 1e-12)
        slower = max(1.0 - ROLLING_DRAG * dt / speed, 0.0)
        velocity[0] *= slower
        velocity[1] *= slower


def _meet(
    place: list[float],
    velocity: list[float],
    radius: float,
    centre: list[float],
    half: list[float],
) -> None:
    """A ball that is inside a box leaves it by the nearest way, and bounces off."""
    gap = [a - b for a, b in zip(place, centre, strict=True)]
    out = [g - min(max(g, -h), h) for g, h in zip(gap, half, strict=True)]
    distance = math.sqrt(out[0] * out[0] + out[1] * out[1] + out[2] * out[2])
    if distance >= radius or distance == 0.0:
        return
    normal = [o / distance for o in out]
    closing = velocity[0] * normal[0] + velocity[1] * normal[1] + velocity[2] * normal[2]
    for axis in range(3):
        place[axis] += (radius - distance) * normal[axis]
        if closing < 0:
            velocity[axis] -= (1.0 + CONTACT_BOUNCE) * closing * normal[axis]
