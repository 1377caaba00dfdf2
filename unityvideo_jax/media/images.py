"""Image files, still and animated, and folders of them, as Pillow reads them."""

import contextlib
import dataclasses
import functools
import pathlib
import struct
import warnings
from collections.abc import Iterator

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from unityvideo_jax.errors import UserError
from unityvideo_jax.media.order import in_order
from unityvideo_jax.media.source import (
    DEFAULT_FPS,
    Shown,
    VideoInfo,
    check_pixels,
    note,
    on_black,
    rate_of,
)

SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"),
    *(".ppm", ".pgm", ".jpe", ".jfif"),
)
TIFF = (".tif", ".tiff")
# Suffixes of these that people also use for videos.
ANIMATED = (".gif", ".webp", ".apng")
# Browsers and FFmpeg show frames of animations that state less than this for a tenth of a second.
LEAST_DELAY, USUAL_DELAY = 0.011, 0.1
# Errors of Pillow for files that are no images, or damaged ones.
FAULTS = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
# Single-channel modes.
NUMBERS = ("1", "L", "P", "I;16", "I;16B", "I;16L", "I", "F")
# Our own limit is lower.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@contextlib.contextmanager
def opened(path: pathlib.Path) -> Iterator[Image.Image]:
    """An image whose header is read; errors inside name the file.

    Raises:
      UserError: no such file, not an image, a damaged one, or one of more than `MAX_PIXELS`.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such image; check the path")
    try:
        # Pillow maps a TIFF that it opens by name into memory, in rows of the size when upright.
        with path.open("rb") as file, Image.open(file) as image:
            check_pixels(path, image.width, image.height)
            yield image
    except UserError:
        raise
    except FAULTS as error:
        kinds = "with 8 or 16 bits or 32-bit floats " if path.suffix.lower() in TIFF else ""
        raise UserError(
            f"{path}: not a readable image ({error}); write it again {kinds}or leave it out"
        ) from error


def raw_mode(image: Image.Image) -> tuple[str, tuple]:
    """Returns Pillow's name of the stored pixels before they are decoded, and what follows it."""
    arguments = image.tile[0][3] if image.tile else ""
    name, *more = arguments if isinstance(arguments, tuple) else (arguments,)
    return str(name), tuple(more)


def bits(image: Image.Image) -> int:
    """Bits of one channel of one pixel."""
    raw, _ = raw_mode(image)
    if image.mode in ("I", "F"):
        return 32
    return 16 if "16" in image.mode or "16" in raw else 1 if image.mode == "1" else 8


def _count(image: Image.Image) -> int:
    """How many frames an image has; a camera's further pictures of the same scene are none."""
    return 1 if image.format == "MPO" else getattr(image, "n_frames", 1)


def _rgb(path: pathlib.Path, image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """The colours of an image or of its current frame, upright."""
    if image.mode in NUMBERS and bits(image) > 8:
        raise UserError(
            f"{path}: one channel of {bits(image)} bits, which holds numbers such as depth, not "
            "colours; give it as that modality, or write it with 8 bits"
        )
    upright = ImageOps.exif_transpose(image)
    if upright.has_transparency_data:
        return on_black(path, np.asarray(upright.convert("RGBA")))
    return np.asarray(upright.convert("RGB"))


@dataclasses.dataclass(frozen=True)
class Animation:
    """An image file: one frame if it is still, else all frames of its first loop.

    Attributes:
      path: of the file.

    Raises (all methods):
      UserError: no such file, damage, or too many pixels.
    """

    path: pathlib.Path

    @functools.cached_property
    def has_rate(self) -> bool:
        """Whether the image moves, or says how long its one frame stays.

        Writers of animations join frames that are alike, be it all of them.
        """
        with opened(self.path) as image:
            if image.format == "TIFF":
                return False
            return _count(image) > 1 or image.info.get("duration", 0) > 0

    def info(self) -> VideoInfo:
        """Decodes every frame, since delays lie between them."""
        with opened(self.path) as image:
            width, height = ImageOps.exif_transpose(image).size
        spans = [(time, seconds) for _, time, seconds in self._pages()]
        times, end = [time for time, _ in spans], sum(spans[-1])
        step, varies = rate_of([*times, end])
        if len(times) == 1:
            step, varies = 1 / DEFAULT_FPS, step > 1 / DEFAULT_FPS
        return VideoInfo(
            fps=1 / step,
            num_frames=len(times),
            height=height,
            width=width,
            seconds=end,
            has_variable_rate=varies,
        )

    def frames(self, start: float = 0.0) -> Iterator[Shown]:
        """Yields every frame: each is drawn over the one before it."""
        del start
        for image, time, seconds in self._pages():
            # Converted now, since the next frame takes its place.
            pixels = _rgb(self.path, image)
            yield Shown(time=time, seconds=seconds, pixels=pixels.copy)

    def _pages(self) -> Iterator[tuple[Image.Image, float, float]]:
        """The image at each of its frames, with the time and the seconds that it stays."""
        with opened(self.path) as image:
            now = 0.0
            # The still picture that stands for an APNG where it cannot be played is no frame.
            first = int(bool(getattr(image, "default_image", False)))
            for number in range(first, _count(image)):
                image.seek(number)
                image.load()
                delay = float(image.info.get("duration", 0)) / 1000
                delay = delay if delay >= LEAST_DELAY else USUAL_DELAY
                seconds = delay if self.has_rate else 1 / DEFAULT_FPS
                yield image, now, seconds
                now += seconds


@dataclasses.dataclass(frozen=True)
class ImageFolder:
    """A folder of still images of one size, one frame each, in the order of their numbers.

    Attributes:
      path: of the folder.

    Raises (all methods):
      UserError: no images, an order that names leave open, animations, or damage.
    """

    path: pathlib.Path
    has_rate = False

    @functools.cached_property
    def files(self) -> list[pathlib.Path]:
        """Paths of the images in order; other files are counted in a printed note.

        Raises:
          UserError: no images, or an order that their names leave open.
        """
        found = sorted(p for p in self.path.iterdir() if not p.name.startswith("."))
        images = [p for p in found if p.suffix.lower() in SUFFIXES and not p.is_dir()]
        if not images:
            raise UserError(f"{self.path}: no images ({', '.join(SUFFIXES)}) in this folder")
        if broken := [p for p in images if not p.exists()]:
            raise UserError(f"{broken[0]}: a link to nothing; restore its file or remove it")
        if others := [p.name for p in found if p not in set(images)]:
            note(
                "not images",
                f"{self.path}: {len(others)} files that are not read as images are left out, such "
                f"as {others[0]}",
            )
        return in_order(images)

    def info(self) -> VideoInfo:
        """Reads the facts from the first image's header and the names of all."""
        with opened(self.files[0]) as image:
            _check_still(self.files[0], image)
            width, height = ImageOps.exif_transpose(image).size
        count = len(self.files)
        return VideoInfo(
            fps=DEFAULT_FPS,
            num_frames=count,
            height=height,
            width=width,
            seconds=count / DEFAULT_FPS,
        )

    def frames(self, start: float = 0.0) -> Iterator[Shown]:
        """Yields one frame per image, at `DEFAULT_FPS`."""
        del start
        for number, file in enumerate(self.files):
            yield Shown(
                time=number / DEFAULT_FPS,
                seconds=1 / DEFAULT_FPS,
                pixels=functools.partial(_read_still, file),
            )


def _read_still(path: pathlib.Path) -> UInt8[np.ndarray, "h w 3"]:
    with opened(path) as image:
        _check_still(path, image)
        return _rgb(path, image)


def _check_still(path: pathlib.Path, image: Image.Image) -> None:
    if _count(image) > 1:
        raise UserError(
            f"{path}: {_count(image)} pictures in one file of a folder of images; write one file "
            "per frame"
        )
