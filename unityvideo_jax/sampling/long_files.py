"""Files of a long video, written while it is sampled."""

import contextlib
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from unityvideo_jax.files import provenance
from unityvideo_jax.files.npz_writer import NpzWriter
from unityvideo_jax.media import VideoWriter
from unityvideo_jax.modalities import RGB
from unityvideo_jax.sampling.leftovers import note_leftovers
from unityvideo_jax.sampling.long import Chunk


def write_chunks(
    folder: str | os.PathLike,
    chunks: Iterator[Chunk],
    *,
    fps: float,
    record: Mapping[str, Any],
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Writes `<stream>.mp4`, `<modality>.npz` and, last, `sample.json`, and holds one chunk.

    The files appear when all are whole.

    Args:
      folder: made if missing.
      chunks: of `sample_long`.
      fps: frames per second.
      record: what `sample.json` says beside the seams.
      progress: called after each chunk with the frames that are done.

    Returns:
      What `sample.json` says: also `num_frames`, and per modality the mean, the largest and the
      number of the seams.

    Raises:
      UserError: as the chunks do, or a disk that refuses.
    """
    folder = pathlib.Path(folder)
    seams: dict[str, list[float]] = {}
    writers: dict[str, Any] = {}
    done = 0
    with contextlib.ExitStack() as stack:

        def writer(name: str, make: Callable[[pathlib.Path], Any]) -> Any:
            if name not in writers:
                folder.mkdir(parents=True, exist_ok=True)
                writers[name] = stack.enter_context(make(folder / name))
            return writers[name]

        for chunk in chunks:
            for name, frames in chunk.videos.items():
                writer(f"{name}.mp4", lambda path: VideoWriter(path, fps)).add(frames)
            for name, arrays in chunk.arrays.items():
                if name != RGB:
                    writer(f"{name}.npz", NpzWriter).add(arrays)
            for name, number in chunk.seams.items():
                seams.setdefault(name, []).append(number)
            done += max((len(frames) for frames in chunk.videos.values()), default=0)
            progress(done)
    said = {
        **record,
        "num_frames": done,
        "seams": {
            name: {"mean": float(np.mean(all_)), "largest": float(np.max(all_)), "count": len(all_)}
            for name, all_ in seams.items()
        },
        "files": sorted(writers),
    }
    provenance.write_json(folder / "sample.json", said)
    note_leftovers(folder, writers)
    return said
