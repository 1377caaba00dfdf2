"""The frames of the one reader, as PySceneDetect takes them."""

import pathlib
from fractions import Fraction

import numpy as np
from scenedetect.common import FrameTimecode, Timecode
from scenedetect.video_stream import SeekError, VideoStream

from unityvideo_jax import media

MICROSECONDS = Fraction(1, 10**6)


class SceneFrames(VideoStream):
    """A video from its first frame to its last, in blue, green and red; it cannot seek.

    Raises:
      UserError: as `media.read` does.
    """

    BACKEND_NAME = "unityvideo_jax"

    def __init__(self, path: pathlib.Path):
        super().__init__()
        self._path, self._source = path, media.open_source(path)
        self._info = self._source.info()
        self.reset()

    @property
    def path(self) -> str:
        return str(self._path)

    @property
    def name(self) -> str:
        return self._path.stem

    @property
    def is_seekable(self) -> bool:
        return False

    @property
    def frame_rate(self) -> Fraction:
        return Fraction(self._info.fps).limit_denominator(1001)

    @property
    def duration(self) -> FrameTimecode:
        return self.base_timecode + self._info.num_frames

    @property
    def frame_size(self) -> tuple[int, int]:
        return self._info.width, self._info.height

    @property
    def aspect_ratio(self) -> float:
        return 1.0

    @property
    def position(self) -> FrameTimecode:
        stamp = Timecode(pts=round(self._time / MICROSECONDS), time_base=MICROSECONDS)
        return FrameTimecode(timecode=stamp, fps=self.frame_rate)

    @property
    def position_ms(self) -> float:
        return self._time * 1e3

    @property
    def frame_number(self) -> int:
        return self._count

    def read(self, decode: bool = True) -> np.ndarray | bool:
        shown = next(self._frames, None)
        if shown is None:
            return False
        self._time, self._count = shown.time, self._count + 1
        return np.ascontiguousarray(shown.pixels()[..., ::-1]) if decode else True

    def reset(self) -> None:
        self._frames, self._time, self._count = self._source.frames(), 0.0, 0

    def seek(self, target: object) -> None:
        raise SeekError(f"{self._path}: read in order only")
