"""Streams as a user sees them: names in the model's order, and sizes that it takes."""

from collections.abc import Sequence

from unityvideo_jax.errors import UserError
from unityvideo_jax.modalities import RGB
from unityvideo_jax.models.sizes import TOKEN_PIXELS, check_frames, check_pixels
from unityvideo_jax.runtime import capacity

# A pixel of a video in [-1, 1]: three numbers in float32.
PIXEL_BYTES = 12


def check_size(
    num_frames: int, height: int, width: int, multiple: tuple[int, int] = (TOKEN_PIXELS,) * 2
) -> None:
    """Raises UserError unless the VAE and the model's patches can take this size, and the memory.

    Args:
      num_frames, height, width: of the video.
      multiple: height and width of a token in pixels.
    """
    check_frames(num_frames, "num_frames")
    for name, size, pixels in zip(("height", "width"), (height, width), multiple, strict=True):
        check_pixels(size, name, pixels)
    capacity.check_host(
        num_frames * height * width * PIXEL_BYTES,
        f"num_frames={num_frames}, height={height}, width={width}",
        "give fewer frames or pixels",
    )


def stream_order(names: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """RGB first, then the order of the model's modalities, whatever order a user names them in.

    Raises:
      UserError: a name that the model does not have, or one named twice.
    """
    for name in names:
        if name not in known:
            raise UserError(f"modality {name!r}: this model knows {', '.join(known)}")
    if len(set(names)) != len(names):
        raise UserError(f"streams {', '.join(names)}: a modality is either given or wanted, once")
    return tuple(sorted(names, key=known.index))


def stream_groups(
    streams: Sequence[str], given: Sequence[str], wanted: Sequence[str], separate: bool
) -> list[tuple[str, ...]]:
    """The streams that the model sees together: all of them, or RGB and one wanted stream each.

    Args:
      streams: names of all in the model's order.
      given, wanted: of them.
      separate: whether each wanted stream is estimated from RGB without the others.

    Raises:
      UserError: several streams are wanted separately, but it is no estimation from RGB.
    """
    if not separate or len(wanted) == 1:
        return [tuple(streams)]
    if tuple(given) != (RGB,) or RGB in wanted:
        raise UserError(
            f"separate: estimates modalities from {RGB} alone, but given are "
            f"{', '.join(given) or 'none'} and wanted {', '.join(wanted)}; switch it off (it is "
            "part of the preset one_pass), or want one stream"
        )
    return [(RGB, name) for name in streams if name != RGB]
