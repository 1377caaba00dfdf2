"""Does a model continue a fall as the simulation does?

The first frames of a clip and its caption are given, the rest is sampled, and the ball is followed
in the RGB. Four sets: `in_distribution` (heights, speeds and gravity as worlds have them), `faster`
(thrown sideways two to four times as fast), `higher` (dropped from higher up) and `gravity`
(4 or 16 m/s^2). The frames that are given show the ball fall.

The ball is found by what is known of it: the scene without the ball (the camera stands still) and
the ball's mean colour in the first frame, where it is known. A pixel is the ball's if it differs
from the empty scene and is nearer to that colour; the largest connected patch of them is the ball,
if it has a quarter of the ball's first area or more. Its centre, on the plane in which balls move,
is the place in metres.

Protocol `continued_<n>`: n frames are given, at every noise level on the straight path from their
noise to their value, so that every solver and model can be given them; a model that was not trained
to continue videos has not learned to read them.

  <set>/position_error  metres between the ball and the simulation's, over sampled frames in which
    it is found and the simulation's is in view.
  <set>/found           share of those frames in which it is found.
  <set>/gravity         m/s^2, fitted by least squares (a parabola in height) to the longest flight
    without a bounce among the sampled frames in which the ball is found in `LEAST` frames or more.
  <set>/gravity_error   |gravity / true - 1| of each clip.

Beside the model stand the truth through the VAE (the column of the round trip) and a ball that
stays where it was last given (the column of the trivial prediction).
"""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array, Bool, Float, Int, Key

from unityvideo_jax.errors import UserError
from unityvideo_jax.evaluation.physics.kinds import BALL, Camera, Side, Start
from unityvideo_jax.flow_matching.path import VelocityFn
from unityvideo_jax.metrics.scores import ClipScore
from unityvideo_jax.sampling.generate import SamplerConfig, generate
from unityvideo_jax.sampling.known import ALWAYS, NEVER, Known
from unityvideo_jax.worlds.ballistics import Laws
from unityvideo_jax.worlds.objects import GRAVITY

SETS = ("in_distribution", "faster", "higher", "gravity")
CLIPS = 16  # of each set
SEED = 20251011
LEAST = 4  # frames of a flight that a parabola is fitted to
DIFFERENT = 0.08  # distance from the empty scene in RGB of [0, 1]
PROTOCOL = {
    "continued_<n>": "n frames and the caption given, the rest sampled; the ball's path against "
    "the simulation's, in metres, and the gravity of its longest flight",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Throw:
    """One clip to continue.

    Attributes:
      name: of its set and number.
      group: its set.
      side: what is there, on the simulation's path.
      camera: from where it is seen.
      gravity: m/s^2.
      place: numbers the surroundings.
    """

    name: str
    group: str
    side: Side
    camera: Camera
    gravity: float
    place: int


def draw(group: str, number: int, frames: int, fps: float, given: int) -> Throw:
    """Draws the clip of this set and number.

    Raises:
      UserError: too few frames to see a flight after those that are given.
    """
    if frames - given < LEAST + 1:
        raise UserError(
            f"num_frames={frames}: prediction gives {given} frames and follows {LEAST + 1} or "
            "more; use a model of longer clips"
        )
    for attempt in range(1000):
        rng = np.random.default_rng([SEED, SETS.index(group), number, attempt])
        start = Start(rng, frames, fps, rolls=False)
        gravity = GRAVITY
        camera = start.camera
        if group == "faster":
            start.velocity[BALL, 0] *= start.between(2.0, 4.0)
        elif group == "higher":
            start.place[BALL, 2] += start.between(0.8, 1.4)
            camera = dataclasses.replace(camera, distance=camera.distance + 1.5, target=1.3)
        elif group == "gravity":
            gravity = (4.0, 16.0)[number % 2]
        centre = start.run(Laws(gravity=gravity)).place
        side = start.side(centre)
        seen = np.abs(camera.project(centre[:frames, BALL])).max(axis=-1) < 0.48
        if seen.mean() > 0.9 and flight(side, gravity, given, frames, fps) is not None:
            return Throw(
                name=f"{group}_{number:02d}",
                group=group,
                side=side,
                camera=camera,
                gravity=gravity,
                place=SETS.index(group) * CLIPS + number,
            )
    raise UserError(f"{group}: no such clip in {frames} frames at {fps:g} frames/s")


def flight(side: Side, gravity: float, given: int, frames: int, fps: float) -> range | None:
    """The longest run of sampled frames between two bounces; None if shorter than `LEAST`."""
    change = np.diff(side.centre[:frames, BALL, 2], n=2)
    # Between bounces the second difference of the height is gravity's, to the last digits.
    free = np.concatenate([[False], np.abs(change + gravity / fps**2) < 1e-6, [False]])
    best = range(0)
    first = given
    for frame in range(given, frames + 1):
        if frame < frames and free[frame]:
            continue
        # The frames on either side of free ones belong to the same parabola.
        run = range(max(first - 1, given), min(frame + 1, frames))
        best = max(best, run, key=len)
        first = frame + 1
    return best if len(best) >= LEAST else None


def find_ball(
    rgb: Float[np.ndarray, "t h w 3"],
    empty: Float[np.ndarray, "h w 3"],
    colour: Float[np.ndarray, "3"],
    area: float,
) -> Float[np.ndarray, "t 2"]:
    """Finds the ball's centre in every frame.

    Args:
      rgb: frames in [0, 1].
      empty: the scene without the ball.
      colour: of the ball, in [0, 1].
      area: of the ball in the first frame, in pixels.

    Returns:
      (x, y) in pixels, centres at integers + 0.5; NaN where the ball is lost.
    """
    places = np.full((len(rgb), 2), np.nan)
    for t, frame in enumerate(rgb):
        from_empty = np.sqrt(np.square(frame - empty).sum(axis=-1))
        from_ball = np.sqrt(np.square(frame - colour).sum(axis=-1))
        mask = (from_empty > DIFFERENT) & (from_ball < from_empty)
        patches, count = scipy.ndimage.label(mask)
        if not count:
            continue
        sizes = np.bincount(patches.ravel())[1:]
        if sizes.max() >= 0.25 * area:
            y, x = np.nonzero(patches == sizes.argmax() + 1)
            places[t] = x.mean() + 0.5, y.mean() + 0.5
    return places


def to_metres(
    places: Float[np.ndarray, "t 2"], throw: Throw, height: int, width: int
) -> Float[np.ndarray, "t 3"]:
    """Maps pixels to places on the plane in which the ball moves."""
    middle = np.array([width / 2, height / 2])
    shares = (places - middle) / min(height, width)
    return throw.camera.on_plane(shares, float(throw.side.centre[0, BALL, 1]))


def fitted_gravity(heights: Float[np.ndarray, " t"], frames: range, fps: float) -> float | None:
    """Fits g of the parabola through the heights of a flight; None of fewer than `LEAST` found."""
    chosen = np.array([f for f in frames if np.isfinite(heights[f])], int)
    if len(chosen) < LEAST:
        return None
    return float(-2.0 * np.polyfit(chosen / fps, heights[chosen], 2)[0])


def score(
    throw: Throw,
    found: Float[np.ndarray, "t 3"],
    given: int,
    fps: float,
    seen: Bool[np.ndarray, " t"],
) -> ClipScore:
    """Scores a path.

    Args:
      throw: the clip.
      found: places in metres, NaN where the ball is lost.
      given: frames that were not sampled.
      fps: frames per second.
      seen: frames in which the simulation's ball is in view.
    """
    frames = len(found)
    gap = np.sqrt(np.square(found - throw.side.centre[:frames, BALL])[:, [0, 2]].sum(axis=-1))
    asked = seen & (np.arange(frames) >= given)
    there = asked & np.isfinite(gap)
    gravity = fitted_gravity(
        found[:, 2], flight(throw.side, throw.gravity, given, frames, fps) or range(0), fps
    )
    key = f"prediction/continued_{given}/{throw.group}"
    return ClipScore(
        means={
            f"{key}/position_error": (
                float(gap[there].mean()) if there.any() else 0.0,
                float(there.sum()),
            ),
            f"{key}/found": (float(there.sum() / max(asked.sum(), 1)), float(asked.sum())),
            f"{key}/gravity": (gravity or 0.0, float(gravity is not None)),
            f"{key}/gravity_error": (
                abs((gravity or 0.0) / throw.gravity - 1.0),
                float(gravity is not None),
            ),
        },
        counts={f"{key}/clips": 1},
    )


def continued(
    velocity_fn: VelocityFn,
    given: Float[Array, "b s t h w c"],
    frames: int,
    *,
    modality: Int[Array, "b s"],
    context: Float[Array, "b s l d"],
    null_context: Float[Array, "b s l d"],
    key: Key[Array, "..."],
    config: SamplerConfig,
) -> Float[Array, "b s t h w c"]:
    """Samples all streams, of which the first `frames` latent frames of RGB are given.

    Args:
      velocity_fn: the model.
      given: clean latents, RGB first; only the given frames are read.
      frames: how many latent frames.
      modality, context, null_context, key, config: as `generate` takes them.
    """
    streams = given.shape[1]
    held = (jnp.arange(streams) == 0)[:, None] & (jnp.arange(given.shape[2]) < frames)
    until = jnp.where(held[None, :, :, None, None], ALWAYS, NEVER)
    return generate(
        velocity_fn,
        given=given,
        wanted=(True,) * streams,
        modality=modality,
        context=context,
        null_context=null_context,
        key=key,
        config=config,
        known=Known(until=jnp.broadcast_to(until, given.shape[:-1])),
    )


def names(count: int) -> Sequence[tuple[str, int]]:
    """Sets and numbers of the first `count` clips of every set."""
    return [(group, number) for group in SETS for number in range(min(count, CLIPS))]
