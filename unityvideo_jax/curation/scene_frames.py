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
        """Path of the video."""
        return str(self._path)

    @property
    def name(self) -> str:
        """Name of the video without its suffix."""
        return self._path.stem

    @property
    def is_seekable(self) -> bool:
        """False: frames are read in order only."""
        return False

    @property
    def frame_rate(self) -> Fraction:
        """Frames per second."""
        return Fraction(self._info.fps).limit_denominator(1001)

    @property
    def duration(self) -> FrameTimecode:
        """Length of the video."""
        return self.base_timecode + self._info.num_frames

    @property
    def frame_size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self._info.width, self._info.height

    @property
    def aspect_ratio(self) -> float:
        """Width of a pixel over its height."""
        return 1.0

    @property
    def position(self) -> FrameTimecode:
        """Time of the frame read last."""
        stamp = Timecode(pts=round(self._time / MICROSECONDS), time_base=MICROSECONDS)
        return FrameTimecode(timecode=stamp, fps=self.frame_rate)

    @property
    def position_ms(self) -> float:
        """Milliseconds of the frame read last."""
        return self._time * 1e3

    @property
    def frame_number(self) -> int:
        """Frames read so far."""
        return self._count

    def read(self, decode: bool = True) -> np.ndarray | bool:
        """The next frame u8 [H, W, 3] in BGR, or True without decoding; False at the end."""
        shown = next(self._frames, None)
        if shown is None:
            return False
        self._time, self._count = shown.time, self._count + 1
        return np.ascontiguousarray(shown.pixels()[..., ::-1]) if decode else True

    def reset(self) -> None:
        """Returns to the first frame."""
        self._frames, self._time, self._count = self._source.frames(), 0.0, 0

    def seek(self, target: object) -> None:
        """Raises SeekError: frames are read in order only."""
        raise SeekError(f"{self._path}: read in order only")
