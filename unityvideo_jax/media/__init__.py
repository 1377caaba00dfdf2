"""Videos, animations, images and folders of images: pixels and numbers in, pixels out.

One reader serves every program. `read` takes frames by time, by number or all of them;
`read_numbers` takes what single-channel images store. `docs/media.md` says what is honoured and
what is refused.
"""

from unityvideo_jax.media.pixels import fit, to_float, to_uint8
from unityvideo_jax.media.reading import (
    CLOCK,
    IMAGE_SUFFIXES,
    NUMBERS,
    SUFFIXES,
    VIDEO_SUFFIXES,
    Video,
    is_video,
    open_source,
    read,
    read_at,
    read_numbers,
    read_video,
    stored_kind,
    stream,
    video_info,
)
from unityvideo_jax.media.sheets import contact_sheet
from unityvideo_jax.media.source import DEFAULT_FPS, MAX_PIXELS, VideoInfo
from unityvideo_jax.media.writing import VideoWriter, check_videos, write_lossless, write_video

__all__ = [
    "CLOCK",
    "DEFAULT_FPS",
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "NUMBERS",
    "SUFFIXES",
    "VIDEO_SUFFIXES",
    "Video",
    "VideoInfo",
    "VideoWriter",
    "check_videos",
    "contact_sheet",
    "fit",
    "is_video",
    "open_source",
    "read",
    "read_at",
    "read_numbers",
    "read_video",
    "stored_kind",
    "stream",
    "to_float",
    "to_uint8",
    "video_info",
    "write_lossless",
    "write_video",
]
