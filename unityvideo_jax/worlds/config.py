"""Configuration of procedural worlds."""

import dataclasses

from unityvideo_jax.errors import UserError
from unityvideo_jax.runtime import capacity, seeds
from unityvideo_jax.settings.sections import check_values

# A scene's numbers depend on its split's place here: new splits come last.
SPLITS = ("train", "validation", "heldout_animals", "heldout_objects", "closeup")
# Counts up whenever worlds can show something new. Splits and settings of an earlier version keep
# their scenes to the bit. 2: cameras close to people.
VERSION = 2
# Bytes that a rendered pixel takes at least: colour, depth, flow, two ids, body part, coordinates.
PIXEL_BYTES = 40


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """Size, length and split of procedural clips.

    Attributes:
      height, width: pixels, at least 8.
      num_frames: frames T of a clip.
      fps: frames per second; it scales how far things move between frames.
      split: one of SPLITS. `train` and `validation` show people and objects and ask for people;
        `heldout_animals` shows animals; `heldout_objects` asks for two objects; `closeup` is
        like `validation` with the camera close to a person in every clip.
      closeup: share of the other splits' clips whose camera is close to a person, in [0, 1].
      seed: worlds of two seeds have nothing in common.
      supersample: RGB is averaged over supersample^2 rays per pixel; ground truth is always that of
        the pixel's centre.

    Raises:
      UserError: a value that cannot be rendered.
    """

    height: int = 64
    width: int = 64
    num_frames: int = 17
    fps: float = 8.0
    split: str = "train"
    seed: int = 0
    supersample: int = 1
    closeup: float = 0.0

    def __post_init__(self):
        check_values(type(self), vars(self), "")
        if self.split not in SPLITS:
            raise UserError(f"split={self.split!r}: no such worlds; use one of {', '.join(SPLITS)}")
        for name, least in (("height", 8), ("width", 8), ("num_frames", 1), ("supersample", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{name}={getattr(self, name)}: must be at least {least}")
        pixels = self.num_frames * self.height * self.width
        capacity.check_host(
            pixels * PIXEL_BYTES,
            f"num_frames={self.num_frames}, height={self.height}, width={self.width}",
            "render fewer frames or pixels",
        )
        if self.fps <= 0:
            raise UserError(f"fps={self.fps}: must be greater than 0")
        if not 0 <= self.closeup <= 1:
            raise UserError(f"closeup={self.closeup}: is a share of the clips, in [0, 1]")
        seeds.check(self.seed, "seed")

    @property
    def duration(self) -> float:
        """Seconds from the first frame to the last."""
        return (self.num_frames - 1) / self.fps
