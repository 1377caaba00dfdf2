"""The pairs of clips: drawn and simulated in float64 NumPy, before anything is rendered.

A pair is one scene twice: a ball that falls or rolls, with something that stands still beside it.
The second clip breaks one law from some frame on. `KINDS` lists the violations; those of `RAISING`
raise the amount of motion on average, the others lower it, so that a preference for more or for
less motion is right as often as wrong.
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Bool, Float, Int

from unityvideo_jax.errors import UserError
from unityvideo_jax.worlds import looks
from unityvideo_jax.worlds.ballistics import Bodies, Laws, State, simulate
from unityvideo_jax.worlds.objects import GRAVITY

SEED = 251011512  # LikePhys's number on arXiv; no other world has it
PAIRS = 64  # of each kind
MIN_FRAMES = 9
# Frames that both clips share at the least, and that differ at the least.
BEFORE, AFTER = 3, 3
STILL, BALL = 0, 1  # slots
BRIGHT = ("red", "orange", "yellow", "blue", "pink", "white", "purple")
DULL = ("gray", "brown", "green", "teal", "black")
VIEW = 0.9  # share of the frame that a ball's centre stays in while it matters


@dataclasses.dataclass(frozen=True, kw_only=True)
class Camera:
    """A camera at (0, -distance, height) that looks at (0, 0, target), as `worlds.camera` has it.

    `focal` is in units of the frame's shorter side.
    """

    distance: float
    height: float
    target: float
    focal: float = 0.9

    def axes(self) -> Float[np.ndarray, "3 3"]:
        """Rows: image right, image down and forward in the world."""
        forward = np.array([0.0, self.distance, self.target - self.height])
        forward /= np.sqrt((forward * forward).sum())
        right = np.array([1.0, 0.0, 0.0])
        return np.stack([right, np.cross(forward, right), forward])

    def project(self, points: Float[np.ndarray, "*s 3"]) -> Float[np.ndarray, "*s 2"]:
        """Places in units of the shorter side, from the middle of the frame; y is down."""
        seen = (points - self.position) @ self.axes().T
        return self.focal * seen[..., :2] / np.maximum(seen[..., 2:], 0.05)

    def on_plane(
        self, places: Float[np.ndarray, "*s 2"], depth: float
    ) -> Float[np.ndarray, "*s 3"]:
        """Places where rays through `places`, as `project` gives them, meet the plane y = depth."""
        rays = np.concatenate([places / self.focal, np.ones((*places.shape[:-1], 1))], axis=-1)
        rays = rays @ self.axes()
        return self.position + rays * ((depth - self.position[1]) / rays[..., 1:2])

    @property
    def position(self) -> Float[np.ndarray, "3"]:
        """Place of the camera in the world, in metres."""
        return np.array([0.0, -self.distance, self.height])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two clips: the slots `STILL` and `BALL`, over T + 1 frames.

    Attributes:
      active, shape, colour: whether a slot is there; indices of `looks`.
      half: half extents in metres.
      centre, caster: where it is seen, and from where it throws its shadow, in metres.
    """

    active: Bool[np.ndarray, "2"]
    shape: Int[np.ndarray, "2"]
    colour: Int[np.ndarray, "2"]
    half: Float[np.ndarray, "2 3"]
    centre: Float[np.ndarray, "t 2 3"]
    caster: Float[np.ndarray, "t 2 3"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
    """A valid clip and an invalid one.

    Attributes:
      kind, number: name; number below `PAIRS`.
      begins: the first frame that differs.
      valid, invalid: the invalid clip is the valid one before `begins`, and shows `invalid` after.
      rolls: whether the ball rolls, for the caption; else it falls.
      camera: of both.
    """

    kind: str
    number: int
    begins: int
    valid: Side
    invalid: Side
    rolls: bool
    camera: Camera

    @property
    def name(self) -> str:
        """Name of the pair in files."""
        return f"{self.kind}_{self.number:02d}"


class Start:
    """A drawn scene whose ball is not simulated yet."""

    def __init__(self, rng: np.random.Generator, frames: int, fps: float, rolls: bool):
        self.rng, self.frames, self.fps, self.rolls = rng, frames, fps, rolls
        radius = self.between(0.24, 0.34)
        side = 1.0 if rng.random() < 0.5 else -1.0
        depth = self.between(-0.3, 0.4)
        if rolls:
            place = [-side * self.between(0.8, 1.2), depth, radius]
            velocity = [side * self.between(0.8, 1.4), 0.0, 0.0]
        else:
            place = [-side * self.between(0.2, 0.9), depth, radius + self.between(1.0, 1.9)]
            velocity = [side * self.between(0.2, 0.6), 0.0, 0.0]
        box = rng.random() < 0.5
        size = self.between(0.2, 0.32)
        self.still = bool(rng.random() < 0.7)
        self.shape = np.array([looks.BOX if box else looks.CYLINDER, looks.BALL])
        self.half = np.array([[size, size, self.between(0.2, 0.4)], [radius] * 3])
        behind = [self.between(-1.3, 1.3), self.between(1.4, 2.0), self.half[STILL, 2]]
        self.place = np.array([behind, place])
        self.velocity = np.array([[0.0] * 3, velocity])
        self.bounce = self.between(0.65, 0.85)
        self.colour = np.array([self.pick(DULL), self.pick(BRIGHT)])
        self.camera = Camera(
            distance=self.between(3.4, 3.9), height=self.between(0.9, 1.7), target=0.8
        )

    def between(self, low: float, high: float) -> float:
        """Draws a number between two."""
        return low + (high - low) * self.rng.random()

    def pick(self, names: tuple[str, ...]) -> int:
        """Draws the index of a colour among `names`, in the table of all colours."""
        return looks.COLOUR_NAMES.index(names[int(self.rng.integers(len(names)))])

    def frame(self, low: float, high: float) -> int:
        """Draws a frame between two shares of the clip."""
        return int(self.rng.integers(round(low * self.frames), round(high * self.frames) + 1))

    def run(self, laws: Laws, state: State | None = None, done: int = 0) -> State:
        """Returns the states from `state` on, `done` frames into the clip, up to frame T."""
        bodies = Bodies(
            half=self.half,
            fixed=np.array([True, False]),
            bounce=np.array([0.0, self.bounce]),
        )
        start = state or State(self.place, self.velocity)
        return simulate(bodies, start, self.frames + 1 - done, self.fps, laws)

    def side(self, centre: Float[np.ndarray, "t 2 3"], **changes) -> Side:
        """Returns a clip of both slots along these centres, with some other fields."""
        parts = dict(
            active=np.array([self.still, True]),
            shape=self.shape,
            colour=self.colour,
            half=self.half,
            centre=centre,
            caster=centre,
        )
        return Side(**{**parts, **changes})


def _ball(values: np.ndarray, ball) -> np.ndarray:
    """Values of both slots with another one for the ball."""
    changed = values.copy()
    changed[..., BALL, :] = ball
    return changed


# A kind draws the valid side, the invalid side and the frame where they part; None if they never
# part, or where nothing would be seen of it.
Drawn = tuple[Side, Side, int] | None


def _other_laws(
    start: Start, valid: State, frame: int, laws: Laws, state: State | None = None
) -> Drawn:
    """From the moment of a frame on other laws hold, or another state."""
    after = start.run(laws, state or valid.at(frame), done=frame).place
    centre = np.concatenate([valid.place[:frame], after])
    parted = np.flatnonzero(np.abs(centre - valid.place).max(axis=(1, 2)) > 1e-3)
    if not len(parted):
        return None
    return start.side(valid.place), start.side(centre), int(parted[0])


def _gravity_reversed(start: Start) -> Drawn:
    start.velocity[BALL] *= 0.5
    valid = start.run(Laws())
    return _other_laws(start, valid, start.frame(0.2, 0.5), Laws(gravity=-GRAVITY))


def _gravity_absent(start: Start) -> Drawn:
    valid = start.run(Laws())
    rise = np.abs(valid.velocity[:, BALL, 2]) + 10.0 * (
        valid.place[:, BALL, 2] < 1.5 * start.half[BALL, 2]
    )
    usable = np.arange(len(rise))[BEFORE : start.frames - AFTER - 1]
    # At the top of its way: it hangs there.
    return _other_laws(start, valid, int(usable[np.argmin(rise[usable])]), Laws(gravity=0.0))


def _bounces(valid: State) -> np.ndarray:
    """Frames of which the ball has bounced since the frame before."""
    rising = np.diff(valid.velocity[:, BALL, 2]) > 0.5
    return np.flatnonzero(rising) + 1


def _at_bounce(start: Start, laws: Laws) -> Drawn:
    valid = start.run(Laws())
    frames = [f for f in _bounces(valid) if BEFORE <= f < start.frames - AFTER]
    return _other_laws(start, valid, int(frames[0]) - 1, laws) if frames else None


def _through_ground(start: Start) -> Drawn:
    return _at_bounce(start, Laws(ground=False))


def _energy_gain(start: Start) -> Drawn:
    return _at_bounce(start, Laws(bounce=start.between(1.08, 1.22) / start.bounce))


def _through_body(start: Start) -> Drawn:
    side = np.sign(start.velocity[BALL, 0])
    start.still = True
    start.shape[STILL] = looks.BOX
    start.half[STILL] = (
        start.between(0.08, 0.12),
        start.between(0.35, 0.45),
        start.between(0.35, 0.5),
    )
    start.velocity[BALL, 0] = side * start.between(1.1, 1.7)
    gap = start.half[BALL, 0] + start.between(0.5, 0.9)
    start.place[STILL] = start.place[BALL] + [side * gap, 0.0, 0.0]
    start.place[STILL, 2] = start.half[STILL, 2]
    return _other_laws(start, start.run(Laws()), 0, Laws(contacts=False))


def _vanishing(start: Start) -> Drawn:
    path = start.run(Laws()).place
    gone = start.side(path, active=np.array([start.still, False]))
    return start.side(path), gone, start.frame(0.3, 0.5)


def _appearing(start: Start) -> Drawn:
    path = start.run(Laws()).place
    none = start.side(path, active=np.array([start.still, False]))
    return none, start.side(path), start.frame(0.3, 0.5)


def _colour(start: Start) -> Drawn:
    path = start.run(Laws()).place
    changed = start.side(path, colour=np.array([start.colour[STILL], start.pick(DULL)]))
    return start.side(path), changed, start.frame(0.25, 0.4)


def _shape(start: Start) -> Drawn:
    path = start.run(Laws()).place
    radius = start.half[BALL, 0]
    changed = start.side(
        path,
        shape=np.array([start.shape[STILL], looks.BOX]),
        half=_ball(start.half, np.array([0.4, 0.4, 1.0]) * radius),
    )
    return start.side(path), changed, start.frame(0.25, 0.4)


def _teleport(start: Start) -> Drawn:
    path = start.run(Laws()).place
    frame = start.frame(0.3, 0.6)
    way = start.between(0.8, 1.5) * (1.0 if start.rng.random() < 0.5 else -1.0)
    moved = path.copy()
    moved[frame:, BALL, 0] += way
    return start.side(path), start.side(moved), frame


def _time_reversed(start: Start) -> Drawn:
    valid = start.run(Laws())
    # While it rises from its first bounce all velocities turn round, so that it falls the way it
    # rose, and bounces once more from there: it loses motion.
    frame = int(_bounces(valid)[0]) + 1
    now = valid.at(frame)
    drawn = _other_laws(start, valid, frame, Laws(), State(now.place, -now.velocity))
    way, way_back = (np.abs(np.diff(side.centre[frame:, BALL], axis=0)).sum() for side in drawn[:2])
    return drawn if way_back < 0.95 * way else None


def _shadow(start: Start) -> Drawn:
    start.velocity[BALL] *= 2.0
    path = start.run(Laws()).place
    frame = start.frame(0.2, 0.4)
    # One frame does not show where the shadow of a ball in the air must lie.
    if path[frame, BALL, 2] < start.half[BALL, 2] + 0.3:
        return None
    caster = path.copy()
    caster[frame:, BALL] = path[frame - 1, BALL]
    return start.side(path), start.side(path, caster=caster), frame


FALLS, ROLLS, EITHER = "falls", "rolls", "either"
# What the ball does, and how a pair is drawn.
KINDS: Mapping[str, tuple[str, Callable[[Start], Drawn]]] = {
    "gravity_reversed": (ROLLS, _gravity_reversed),
    "gravity_absent": (FALLS, _gravity_absent),
    "through_ground": (FALLS, _through_ground),
    "through_body": (ROLLS, _through_body),
    "energy_gain": (FALLS, _energy_gain),
    "vanishing": (EITHER, _vanishing),
    "appearing": (EITHER, _appearing),
    "colour": (EITHER, _colour),
    "shape": (EITHER, _shape),
    "teleport": (ROLLS, _teleport),
    "time_reversed": (FALLS, _time_reversed),
    "shadow": (FALLS, _shadow),
}
RAISING = (
    "gravity_reversed", "through_body", "energy_gain", "appearing", "colour", "teleport",
)  # fmt: skip


def draw(kind: str, number: int, frames: int, fps: float) -> Pair:
    """Draws the pair of this kind and number, for clips of `frames` frames.

    Draws again, from the next seed, until both clips share `BEFORE` frames and differ in `AFTER`,
    and the ball is in view where they part.

    Raises:
      UserError: too few frames for a violation to be seen.
    """
    if frames < MIN_FRAMES:
        raise UserError(
            f"num_frames={frames}: the physics benchmark takes {MIN_FRAMES} frames or more; use a "
            "model of longer clips"
        )
    what, draw_sides = KINDS[kind]
    for attempt in range(1000):
        rng = np.random.default_rng([SEED, [*KINDS].index(kind), number, attempt])
        rolls = what == ROLLS or (what == EITHER and number % 2 == 1)
        start = Start(rng, frames, fps, rolls)
        drawn = draw_sides(start)
        if drawn is None:
            continue
        valid, invalid, begins = drawn
        if not BEFORE <= begins <= frames - AFTER:
            continue
        if _in_view(start, valid, invalid, begins):
            return Pair(
                kind=kind,
                number=number,
                begins=begins,
                valid=valid,
                invalid=invalid,
                rolls=rolls,
                camera=start.camera,
            )
    raise UserError(
        f"{kind}: no such pair in {frames} frames at {fps:g} frames/s; use another length or rate"
    )


def _in_view(start: Start, valid: Side, invalid: Side, begins: int) -> bool:
    """Whether the ball is in the frame just before, and in both clips where they part."""
    points = [
        side.centre[frame, BALL] for side in (valid, invalid) for frame in (begins - 1, begins)
    ]
    return bool((np.abs(start.camera.project(np.stack(points))) < VIEW / 2).all())
