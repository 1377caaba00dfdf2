"""Requests of any length, sampled window after window from their videos into files."""

import dataclasses
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

from unityvideo_jax import modalities
from unityvideo_jax.errors import UserError
from unityvideo_jax.sampling import files
from unityvideo_jax.sampling.generate import SamplerConfig
from unityvideo_jax.sampling.long import sample_long
from unityvideo_jax.sampling.long_files import write_chunks
from unityvideo_jax.sampling.requests import Request

WAYS = ("joined", "continued")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LongVideos:
    """How requests become long videos.

    Attributes:
      way: one of WAYS; "joined" samples each window for itself, "continued" starts it from the last
        frames of the one before.
      num_frames: of each video; None takes the length of what is given.
      fps: frames per second.
      size: (height, width) in pixels.
      depth_unit: of given depth, as `files.read_given` takes it.
      record: what every `sample.json` says beside its request.
    """

    way: str
    num_frames: int | None
    fps: float
    size: tuple[int, int]
    depth_unit: str
    record: Mapping[str, Any]

    def check(self, requests: Sequence[Request]) -> None:
        """Raises UserError for what only a single window takes, or a file that does not read."""
        for request in requests:
            for name in ("masks", "strength", "last_frame"):
                if getattr(request, name):
                    raise UserError(f"--long={self.way}: {name} is of one window; leave it out")
            for frames in self._given(request).values():
                next(frames, None)

    def sample(
        self, pipeline: Any, request: Request, sampler: SamplerConfig, folder: pathlib.Path
    ) -> None:
        """Samples one request into a folder, and prints how far it is and how seams fit.

        Raises:
          UserError: as `sample_long` and `write_chunks`.
        """
        start, (height, width) = time.monotonic(), self.size
        window = sampler.window or pipeline.num_frames
        first = request.first_frame
        chunks = sample_long(
            pipeline,
            request.prompt,
            given=self._given(request),
            wanted=request.wanted,
            num_frames=self.num_frames,
            continued=self.way == "continued",
            window=window,
            overlap=sampler.overlap,
            seed=request.seed,
            first_frame=files.read_image(first, height=height, width=width) if first else None,
            weights=request.weights,
            negative_prompt=request.negative_prompt,
            modality_prompts=request.modality_prompts,
            sampler=dataclasses.replace(sampler, window=0),
            height=height,
            width=width,
        )
        record = {
            "request": dataclasses.asdict(request),
            "sampler": dataclasses.asdict(sampler),
            "long": {"way": self.way, "window": window, "overlap": sampler.overlap},
            "fps": self.fps,
            **self.record,
        }

        def progress(done: int) -> None:
            print(f"  {done} frames, {time.monotonic() - start:.0f} s", flush=True)

        said = write_chunks(folder, chunks, fps=self.fps, record=record, progress=progress)
        print(f"{request.name or 'sample'}: {said['num_frames']} frames, {folder}", flush=True)
        for name, seam in said["seams"].items():
            headline = modalities.get(name).metric.headline
            print(
                f"  {name}: {headline} in {seam['count']} overlaps: mean {seam['mean']:.4g}, "
                f"largest {seam['largest']:.4g}",
                flush=True,
            )

    def _given(self, request: Request) -> dict[str, Any]:
        """The frames of each given stream."""
        options = {"fps": self.fps, "size": self.size, "depth_unit": self.depth_unit}
        return {n: files.stream_given(n, path, **options) for n, path in request.given.items()}
