"""One source in several sizes: the clips of each size, and the parts cut off them."""

import dataclasses
from collections.abc import Sequence

from unityvideo_jax.errors import UserError
from unityvideo_jax.files.faults import Fault, reason_of
from unityvideo_jax.inputs.buckets import nearest, size_name
from unityvideo_jax.inputs.crop import Crop
from unityvideo_jax.inputs.video_files import VideoFiles
from unityvideo_jax.models.sizes import check_frames, check_pixels

Size = tuple[int, int, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """The clips of one size.

    Attributes:
      source: of these clips alone.
      cropped: share of the pixels of their frames, scaled to cover the size, that lie outside.
      unused: share of their frames that are more than the size has.
    """

    source: VideoFiles
    cropped: float
    unused: float


def parse_sizes(texts: Sequence[str], flag: str) -> tuple[Size, ...]:
    """Parses frames, height and width of each text such as "17x64x64".

    Raises:
      UserError: another text, a size that the autoencoder does not take, or one that is there
        twice.
    """
    sizes: list[Size] = []
    for text in texts:
        numbers = text.split("x")
        if len(numbers) != 3 or not all(number.isdigit() for number in numbers):
            raise UserError(
                f"{flag}={text}: give FRAMESxHEIGHTxWIDTH, such as 17x64x64; 1x64x64 is an image"
            )
        frames, height, width = map(int, numbers)
        check_frames(frames, f"{flag}={text}: frames")
        check_pixels(height, f"{flag}={text}: height")
        check_pixels(width, f"{flag}={text}: width")
        if (frames, height, width) in sizes:
            raise UserError(f"{flag}: {text} stands there twice; keep one")
        sizes.append((frames, height, width))
    return tuple(sizes)


def assign(source: VideoFiles, sizes: Sequence[Size], *, every: bool) -> dict[Size, Part]:
    """Gives each clip to the size that it fills best, by `buckets.nearest`.

    A clip that is too short for all sizes, or that cannot be opened, is a fault of the last part.

    Args:
      source: all clips.
      sizes: frames, height and width of each.
      every: give each clip to every size that it has the frames for.

    Raises:
      UserError: a size that no clip is given to.
    """
    found: dict[Size, list[str]] = {size: [] for size in sizes}
    lost: dict[Size, list[tuple[float, float]]] = {size: [] for size in sizes}
    faults = list(source.faults)
    for key in source.keys:
        try:
            frames, *own = source.extent(key)
        except UserError as error:
            faults.append(Fault(what=key, reason=reason_of(error)))
            continue
        best = nearest((own[0], own[1]), frames, sizes)
        if best is None:
            least = min(size[0] for size in sizes)
            reason = f"fits no size: {frames} frames, and the shortest of --sizes has {least}"
            faults.append(Fault(what=key, reason=reason))
            continue
        for size in [size for size in sizes if size[0] <= frames] if every else [best]:
            scaled = Crop(source=(own[0], own[1]), target=size[1:]).scaled
            cropped = 1 - size[1] * size[2] / (scaled[0] * scaled[1])
            found[size].append(key)
            lost[size].append((cropped, 1 - size[0] / frames))
    if empty := [size_name(size) for size, keys in found.items() if not keys]:
        raise UserError(
            f"--sizes: none of the {len(source.keys)} clips goes to {', '.join(empty)}; leave it "
            "out, or give each clip to all sizes with --every_size"
        )
    parts = {}
    for place, size in enumerate(sizes, 1):
        cropped, unused = (sum(column) / len(column) for column in zip(*lost[size], strict=True))
        own_faults = faults if place == len(sizes) else ()
        part = source.part(found[size], size, own_faults)
        parts[size] = Part(source=part, cropped=cropped, unused=unused)
    return parts


def lines(parts: dict[Size, Part]) -> list[str]:
    """A table of the number of clips per size, and of the parts cut off them."""
    width = max(len("size"), *(len(size_name(size)) for size in parts))
    return [f"{'size':<{width}}  clips  pixels cropped  frames unused"] + [
        f"{size_name(size):<{width}}  {len(part.source.keys):>5}  {part.cropped:>14.1%}  "
        f"{part.unused:>13.1%}"
        for size, part in parts.items()
    ]
