"""Buckets: the shapes that the batches of a run may have, and how often each one comes.

A step is compiled for one shape: streams, frames, height, width and samples. A run without buckets
is a run with one, of the size of `config.data`.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from unityvideo_jax.errors import UserError
from unityvideo_jax.models.sizes import TIME_STRIDE, check_frames, check_pixels
from unityvideo_jax.settings.sections import check_keys, check_values

# Each bucket is a program to compile. Records of bucket n have numbers from n * RECORDS on: more
# than a run draws, and few enough for 32 bits.
MOST = 20
RECORDS = 10**8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bucket:
    """One shape of a batch; an entry of `config.data.buckets`.

    Attributes:
      frames: of a clip, 4n+1; an image is one frame.
      height, width: pixels.
      streams: S of every sample; 0 draws it by `config.data.streams`.
      batch_size: samples per step, over all devices; 0 is chosen by `with_batch_sizes`.
      weight: relative frequency of its steps.
    """

    frames: int
    height: int
    width: int
    streams: int = 0
    batch_size: int = 0
    weight: float | int = 1.0

    @property
    def size(self) -> tuple[int, int, int]:
        """Frames, height and width."""
        return self.frames, self.height, self.width

    @property
    def label(self) -> str:
        """Size and streams in words."""
        return f"{count_streams(self.streams)} of {size_name(self.size)}"

    @property
    def volume(self) -> int:
        """A number proportional to the tokens of a sample, whatever the autoencoder in space."""
        latents = (self.frames - 1) // TIME_STRIDE + 1
        return self.streams * latents * self.height * self.width


def size_name(size: Sequence[int]) -> str:
    """A size as people write it, such as 17x64x64."""
    return "x".join(map(str, size))


def count_streams(streams: int) -> str:
    """A number of streams in words."""
    return f"{streams} stream{'s' * (streams != 1)}"


def parse(entries: Iterable[Any], where: str) -> tuple[Bucket, ...]:
    """Makes buckets from the entries of a configuration.

    Args:
      entries: dicts with the attributes of `Bucket`, or buckets.
      where: their key, such as "config.data.buckets".

    Raises:
      UserError: an entry that is not a dict, a key that is missing or does not exist, a value out
        of range, or the same shape twice.
    """
    fields = dataclasses.fields(Bucket)
    needed = [field.name for field in fields if field.default is dataclasses.MISSING]
    found: list[Bucket] = []
    for number, entry in enumerate(entries):
        here = f"{where}[{number}]"
        if not isinstance(entry, Bucket):
            if not isinstance(entry, Mapping) and not hasattr(entry, "items"):
                raise UserError(
                    f"{here}={entry!r}: give a dict such as dict(frames=17, height=64, width=64)"
                )
            values = dict(entry.items())
            check_keys(values, [field.name for field in fields], f"{here}.", needed)
            check_values(Bucket, values, f"{here}.")
            entry = Bucket(**values)
        check_frames(entry.frames, f"{here}.frames")
        check_pixels(entry.height, f"{here}.height")
        check_pixels(entry.width, f"{here}.width")
        for name in ("streams", "batch_size", "weight"):
            if getattr(entry, name) < 0:
                raise UserError(f"{here}.{name}={getattr(entry, name)}: must be at least 0")
        if any((entry.size, entry.streams) == (one.size, one.streams) for one in found):
            raise UserError(f"{here}: {size_name(entry.size)} stands there twice; keep one")
        found.append(entry)
    if found and not any(bucket.weight for bucket in found):
        raise UserError(f"{where}: every weight is 0; give one bucket more")
    return tuple(found)


def by_streams(
    buckets: Iterable[Bucket], stream_weights: Mapping[int, float]
) -> tuple[Bucket, ...]:
    """The buckets with a weight, one for each number of streams that their steps may have.

    Args:
      buckets: as the configuration has them.
      stream_weights: relative frequency by number of streams, for those that name none.

    Raises:
      UserError: more than `MOST`, or one shape twice.
    """
    total = sum(stream_weights.values())
    found = [
        dataclasses.replace(bucket, streams=streams, weight=bucket.weight * weight)
        for bucket in buckets
        for streams, weight in (
            {bucket.streams: 1.0}
            if bucket.streams
            else {n: weight / total for n, weight in stream_weights.items()}
        ).items()
        if bucket.weight
    ]
    labels = [bucket.label for bucket in found]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise UserError(
            f"config.data.buckets: {twice[0]} come of two entries, one of which draws its streams "
            "by config.data.streams; give both their streams"
        )
    if len(found) > MOST:
        raise UserError(
            f"config.data.buckets: {len(found)} shapes, each a step to compile; give at most {MOST}"
        )
    return tuple(found)


def with_batch_sizes(buckets: Iterable[Bucket], like: Bucket, multiple: int) -> tuple[Bucket, ...]:
    """Chooses the batch sizes that are 0, for about as many tokens per step as `like` has.

    They are as many times `multiple` as have no more tokens, at least once.

    Args:
      buckets: with streams.
      like: with streams and a batch size, which a bucket of the same volume takes as it is.
      multiple: number of parts that the mesh and accumulation divide a batch into.
    """
    tokens = like.batch_size * like.volume

    def rows(bucket: Bucket) -> int:
        if bucket.volume == like.volume:
            return like.batch_size
        return max(tokens // (bucket.volume * multiple), 1) * multiple

    return tuple(
        dataclasses.replace(bucket, batch_size=bucket.batch_size or rows(bucket))
        for bucket in buckets
    )


def nearest(
    size: tuple[int, int], frames: int, sizes: Iterable[tuple[int, int, int]]
) -> tuple[int, int, int] | None:
    """The size that a clip fills best; None if it is too short for all.

    First the most frames that the clip has, then the nearest aspect by its logarithm, then the
    largest pixels that need no enlarging, or else the smallest.

    Args:
      size: height and width of the clip.
      frames: that it has.
      sizes: frames, height and width, to choose from.
    """

    def rank(one: tuple[int, int, int]) -> tuple:
        aspect = abs(math.log(size[0] / size[1] * one[2] / one[1]))
        enlarged = max(one[1] / size[0], one[2] / size[1]) > 1
        pixels = one[1] * one[2]
        return (-one[0], round(aspect, 6), enlarged, pixels if enlarged else -pixels)

    return min((one for one in sizes if one[0] <= frames), key=rank, default=None)
