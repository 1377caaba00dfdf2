"""The result of one call of a pipeline: videos, decoded arrays, and the files that hold both."""

import dataclasses
import os
import pathlib
import types
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from unityvideo_jax import media, modalities
from unityvideo_jax.errors import UserError
from unityvideo_jax.files import paths, provenance, stores
from unityvideo_jax.files.paths import atomic_path
from unityvideo_jax.metrics.depth_units import UNIT
from unityvideo_jax.modalities import RGB
from unityvideo_jax.modalities.base import Codec, Side
from unityvideo_jax.sampling.leftovers import SHEET, note_leftovers
from unityvideo_jax.settings.sections import check_instance, check_value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Samples:
    """The result of one call.

    Attributes:
      videos: per stream, f32 [B,T,H,W,3] in [-1, 1]: sampled and decoded where wanted, as passed in
        where given.
      latents: per stream, f32 [B,t,h,w,C].
      streams: names in the model's order.
      wanted: the streams that were sampled.
      fps: frames per second of the videos.
      codecs: that drew the streams, by modality; the modality's own where there is none.
      sides: side records of given streams whose truth is known; a stream without one is decoded
        with the codec's default.
      units: of given depth; "m" where a side record comes without one.
      records: per sample, what `sample.json` says of how it was made.
    """

    videos: dict[str, Float[np.ndarray, "b t h w 3"]]
    latents: dict[str, Float[np.ndarray, "b lt lh lw c"]]
    streams: tuple[str, ...]
    wanted: tuple[str, ...] = ()
    fps: float = 8.0
    codecs: Mapping[str, Codec] = dataclasses.field(default_factory=dict)
    sides: Mapping[str, Side] = dataclasses.field(default_factory=dict)
    units: Mapping[str, str] = dataclasses.field(default_factory=dict)
    records: Sequence[Mapping[str, Any]] = ()

    def __len__(self) -> int:
        """The number of samples, one per prompt."""
        return len(self.videos[self.streams[0]])

    def video(self, stream: str, index: int = 0) -> UInt8[np.ndarray, "t h w 3"]:
        """Returns one stream of one sample as pixels in 0..255.

        Raises:
          UserError: no such stream, or no such sample.
        """
        return media.to_uint8(self._float_video(stream, index))

    def arrays(self, stream: str, index: int = 0) -> dict[str, np.ndarray]:
        """Returns the decoded arrays of a stream of one sample: the keys of its codec.

        Depth f32 [T,H,W] with its `unit` ("m", or "relative": up to a scale and an offset in
        1/depth), flow f32 [T,H,W,2] in pixels, and so on.

        Raises:
          UserError: as `video`.
        """
        video = self._float_video(stream, index)
        codec = self.codecs.get(stream, modalities.get(stream).codec)
        if stream not in self.sides:
            return modalities.decode_alone(codec, video)
        arrays = codec.decode(video, self.sides[stream])
        if "depth" in arrays:
            arrays[UNIT] = np.asarray(self.units.get(stream, "m"))
        return arrays

    def save(
        self,
        folder: str | os.PathLike,
        *,
        index: int | None = None,
        record: Mapping[str, Any] = types.MappingProxyType({}),
    ) -> list[str]:
        """Writes `<stream>.mp4`, `<modality>.npz`, `sheet.png` and, last, `sample.json`.

        The npz holds what `arrays` returns.

        Args:
          folder: made if missing.
          index: which sample; None writes all, several into folders `0000`, `0001`, ... of it.
          record: what `sample.json` says beside `records`.

        Returns:
          The names of the files, below `folder`.

        Raises:
          UserError: no such sample, an argument of another type, or a disk that refuses.
        """
        folder = paths.argument("folder", folder)
        check_instance(Mapping, record, "record", "a dict")
        paths.check_output(f"folder={folder}", folder, "folder")
        with stores.output(folder) as place:
            return self._save(place, index, record)

    def _save(
        self, folder: pathlib.Path, index: int | None, record: Mapping[str, Any]
    ) -> list[str]:
        if index is None and len(self) > 1:
            names = []
            for i in range(len(self)):
                below = self._save(folder / f"{i:04d}", i, record)
                names += [f"{i:04d}/{name}" for name in below]
            return names
        index = index or 0
        files, rows, units = [], {}, {}
        for name in self.streams:
            frames = self.video(name, index)
            folder.mkdir(parents=True, exist_ok=True)
            media.write_video(folder / f"{name}.mp4", frames, self.fps)
            files.append(f"{name}.mp4")
            rows[f"{name} ({'sampled' if name in self.wanted else 'given'})"] = frames
            if name == RGB:
                continue
            arrays = self.arrays(name, index)
            if UNIT in arrays:
                units[name] = str(arrays[UNIT])
            _save_npz(folder / f"{name}.npz", arrays)
            files.append(f"{name}.npz")
        height = next(iter(rows.values())).shape[1]
        media.contact_sheet(rows, folder / SHEET, scale=max(1, 128 // height))
        files.append(SHEET)
        said = {**(self.records[index] if self.records else {}), **record}
        provenance.write_json(folder / "sample.json", {**said, "units": units, "files": files})
        note_leftovers(folder, files)
        return [*files, "sample.json"]

    def _float_video(self, stream: str, index: int) -> Float[np.ndarray, "t h w 3"]:
        if stream not in tuple(self.videos):  # which compares, and so takes what has no hash
            raise UserError(f"stream {stream!r}: this call made {', '.join(self.streams)}")
        check_value(int, index, "index")
        if not -len(self) <= index < len(self):
            raise UserError(f"index={index}: there are {len(self)} samples, 0 to {len(self) - 1}")
        return self.videos[stream][index]


def _save_npz(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **{k: np.asarray(v) for k, v in arrays.items()})
