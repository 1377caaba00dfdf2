"""Videos of any length, window after window in bounded memory.

Windows share some frames. Joined windows are sampled each for itself and put together by what their
modality knows of windows (`modalities.joining`); continued ones start from the last frames of the
window before, which they keep.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped, UInt8

from unityvideo_jax import media, modalities
from unityvideo_jax.errors import UserError
from unityvideo_jax.modalities import joining
from unityvideo_jax.runtime import seeds
from unityvideo_jax.sampling.samples import Samples
from unityvideo_jax.sampling.windows import check_window

# Key frames of a window: the first frame of a video has a latent frame of its own.
KEYS = 1
# Frames of a given stream, in [0, 255] or [-1, 1].
Frames = Iterator[Shaped[np.ndarray, "h w 3"]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chunk:
    """Frames that are final.

    Attributes:
      arrays: decoded, by sampled stream.
      videos: pixels by stream, given ones too.
      seams: by sampled stream, the number that its metric's headline names, of this window against
        those before over the frames they share; empty for the first window.
    """

    arrays: dict[str, dict[str, np.ndarray]]
    videos: dict[str, UInt8[np.ndarray, "t h w 3"]]
    seams: dict[str, float] = dataclasses.field(default_factory=dict)


def sample_long(
    pipeline: Any,
    prompt: str,
    *,
    given: Mapping[str, Frames],
    wanted: tuple[str, ...],
    num_frames: int | None,
    continued: bool,
    window: int,
    overlap: int,
    seed: int = 0,
    first_frame: Any = None,
    **call: Any,
) -> Iterator[Chunk]:
    """Samples a video of any length.

    Args:
      pipeline: a `Pipeline`.
      prompt: of every window.
      given: frames of the streams that are given, of one size; they are read as they are needed.
      wanted: streams to sample.
      num_frames: how many to sample; None takes all that are given.
      continued: whether a window starts from the last frames of the one before, which are kept;
        else windows are sampled each for itself, from the same noise, and joined.
      window, overlap: frames of a window, and those that it shares with the one before, 4n+1.
      seed: of the first window; continued windows take the next ones.
      first_frame: as the pipeline's call takes it, of the first window.
      call: further arguments of the pipeline's call, for every window.

    Raises:
      UserError: as the pipeline's call, given streams of no frame, or no length at all.
    """
    check_window(window, overlap)
    if not given and num_frames is None:
        raise UserError("num_frames: nothing is given, so say how many frames to sample")
    kinds = {name: modalities.get(name).joiner or joining.Joiner for name in wanted}
    # Windows that are sampled each for itself see the same key frame only if it is given.
    anchored = bool(given) and not continued and overlap > KEYS
    asks = any(kind.needs_keys(pipeline.codec(name)) for name, kind in kinds.items())
    keys = KEYS if anchored and asks else 0
    joiners = {name: kind(pipeline.codec(name), overlap, keys) for name, kind in kinds.items()}
    read = {name: joining.Joiner(pipeline.codec(name), overlap, keys) for name in given}
    kept: dict[str, np.ndarray] = {}
    done = 0
    windows = _windows(given, num_frames, window, overlap, keys)
    for number, (clips, fresh, is_last) in enumerate(windows):
        samples = pipeline(
            prompt,
            given=clips | kept,
            wanted=wanted,
            masks={name: _first(overlap, video) for name, video in kept.items()},
            num_frames=window,
            seed=[seeds.after(seed, number)] if continued else [seed],
            first_frame=None if number else first_frame,
            **call,
        )
        length = fresh + (overlap if number else 0)
        chunk = _joined(samples, joiners, length, is_last)
        for name, clip in clips.items():
            ready, _ = read[name].add({"video": clip[:length]})
            parts = [ready["video"], *([read[name].end()["video"]] if is_last else [])]
            chunk.videos[name] = media.to_uint8(np.concatenate(parts))
        done += fresh
        if continued:
            kept = {name: _held(samples.videos[name][0], overlap) for name in wanted}
        yield chunk
    if not done:
        raise UserError(f"given {', '.join(given)}: no frame; give a longer video")


def _windows(
    given: Mapping[str, Frames], num_frames: int | None, window: int, overlap: int, keys: int
) -> Iterator[tuple[dict[str, Float[np.ndarray, "t h w 3"]], int, bool]]:
    """Clips of every window, how many of its frames are new, and whether it is the last one.

    Every window but the first begins with the key frames and the last frames of the one before,
    `overlap` in all. The last window is filled up with its last frame.
    """
    clips: dict[str, list[np.ndarray]] = {name: [] for name in given}
    key: dict[str, list[np.ndarray]] = {}
    left = num_frames
    ahead = {name: _limited(frames, num_frames) for name, frames in given.items()}
    following = {name: next(frames, None) for name, frames in ahead.items()}
    first = True
    while True:
        room = window if first else window - overlap
        fresh = room if left is None else min(room, left)
        for count in range(fresh):
            if any(frame is None for frame in following.values()):
                fresh = count
                break
            for name, frames in ahead.items():
                clips[name].append(following[name])
                following[name] = next(frames, None)
        if not fresh:
            return
        left = None if left is None else left - fresh
        is_last = left == 0 or (bool(given) and any(f is None for f in following.values()))
        filled = {name: _filled(clip, window) for name, clip in clips.items()}
        yield filled, fresh, is_last
        if is_last:
            return
        key = key or {name: clip[:keys] for name, clip in clips.items()}
        clips = {name: [*key[name], *clip[keys - overlap :]] for name, clip in clips.items()}
        first = False


def _limited(frames: Frames, count: int | None) -> Frames:
    return itertools.islice(frames, count)


def _filled(clip: list[np.ndarray], window: int) -> Float[np.ndarray, "t h w 3"]:
    video = np.stack([*clip, *[clip[-1]] * (window - len(clip))])
    return media.to_float(video) if video.dtype == np.uint8 else video.astype(np.float32)


def _first(count: int, video: Shaped[np.ndarray, "t h w 3"]) -> np.ndarray:
    """A mask of the first frames."""
    mask = np.zeros(video.shape[:3], bool)
    mask[:count] = True
    return mask


def _held(video: Float[np.ndarray, "t h w 3"], overlap: int) -> Float[np.ndarray, "t h w 3"]:
    """The last frames, and then the last of them standing still, which no mask keeps."""
    rest = len(video) - overlap
    return np.concatenate([video[-overlap:], np.repeat(video[-1:], rest, axis=0)])


def _joined(
    samples: Samples, joiners: Mapping[str, joining.Joiner], length: int, is_last: bool
) -> Chunk:
    """What is final after a window, of which so many frames count."""
    chunk = Chunk(arrays={}, videos={})
    for name, joiner in joiners.items():
        window = joining.frames(samples.arrays(name), slice(length))
        size = samples.videos[name].shape[2:4]
        ready, seam = joiner.add(window)
        if is_last:
            ready = joining.concatenated([ready, joiner.end()]) if _count(ready) else joiner.end()
        if seam is not None:
            chunk.seams.update(_disagreement(name, *seam))
        if _count(ready):
            chunk.arrays[name] = ready
            chunk.videos[name] = joiner.draw(ready, size)
    return chunk


def _count(arrays: Mapping[str, np.ndarray]) -> int:
    return next(len(array) for array in arrays.values() if np.ndim(array))


def _disagreement(name: str, before: Any, after: Any) -> dict[str, float]:
    """The headline of the modality's metric, with the earlier window as the truth."""
    metric = modalities.get(name).metric
    if metric is None:
        return {}
    mean, weight = metric().score(after, before, "overlap").means.get(metric.headline, (0.0, 0.0))
    return {name: mean} if weight > 0 else {}
