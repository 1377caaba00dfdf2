"""Numbers of single-channel images as they are stored, where Pillow gives them as a picture.

Pillow multiplies grey of 2 and 4 bits to 255, scales what a PGM file counts to its own maximum,
inverts TIFF files in which 0 is white, and has no unsigned 32 or signed 8 bits.
"""

import pathlib
import re
from collections.abc import Callable

import numpy as np
from jaxtyping import Shaped
from PIL import Image, ImageOps

from unityvideo_jax.errors import UserError
from unityvideo_jax.media.images import NUMBERS, bits, opened, raw_mode

# Formats, and compressions of TIFF, that change numbers, or do not say whether they did.
LOSSY = ("JPEG", "MPO", "AVIF", "JPEG2000")
LOSSY_TIFF = ("jpeg", "tiff_jpeg", "webp", "lerc")
# Factors of grey of 2 and 4 bits.
STRETCHED = {"2": 85, "4": 17}
# What TIFF's tag 339 says of the kind of its numbers.
SAMPLE_FORMAT, UNSIGNED, SIGNED = 339, 1, 2


def kind(path: pathlib.Path) -> tuple[str, int]:
    """Reads Pillow's mode and the bits per channel of an image file.

    Raises:
      UserError: not a readable image.
    """
    with opened(path) as image:
        return image.mode, bits(image)


def read_numbers(path: pathlib.Path, page: int = 0) -> Shaped[np.ndarray, "h w"]:
    """Reads the numbers of a page of a single-channel image, upright.

    They are palette indices, integers or floats.

    Raises:
      UserError: it is coloured, compressed with loss, or damaged.
    """
    with opened(path) as image:
        image.seek(page)
        if image.mode not in NUMBERS:
            raise UserError(
                f"{path}: {image.mode} colours, where one channel of numbers is wanted; write "
                "every frame with one channel"
            )
        compression = image.info.get("compression")
        if image.format in LOSSY or compression in LOSSY_TIFF:
            what = image.format if image.format in LOSSY else f"{image.format} by {compression}"
            raise UserError(f"{path}: {what} changes the numbers that it stores; write PNG")
        undo = _as_stored(image)
        array = np.asarray(ImageOps.exif_transpose(image))
    array = array.astype(np.uint8 if array.dtype == bool else array.dtype.newbyteorder("="))
    return undo(array)


def _as_stored(image: Image.Image) -> Callable[[np.ndarray], np.ndarray]:
    """How to undo what Pillow does to the numbers of an image that is not yet decoded."""
    raw, more = raw_mode(image)
    if image.format == "PPM" and more:
        (most,) = more
        scale = 65535 if image.mode == "I" else 255
        return lambda x: np.rint(x * (most / scale)).astype(x.dtype)
    sample = getattr(image, "tag_v2", {}).get(SAMPLE_FORMAT, (UNSIGNED,))
    sample = sample[0] if isinstance(sample, tuple) else sample
    if image.mode == "I" and image.format == "TIFF" and bits(image) == 32 and sample == UNSIGNED:
        return lambda x: x.view(np.uint32)
    if image.mode == "L" and sample == SIGNED:
        return lambda x: x.view(np.int8)
    if found := re.fullmatch(r"[1LP](?:;([24]?)(I?)R?)?", raw):
        factor = np.uint8(1 if image.mode == "P" else STRETCHED.get(found[1], 1))
        top = 1 if image.mode == "1" else 255
        return lambda x: (top - x if found[2] else x) // factor
    return lambda x: x
