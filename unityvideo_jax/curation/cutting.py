"""From raw videos to short clips: facts of a file, scene cuts, and windows cut out."""

import collections
import dataclasses
import hashlib
import os
import pathlib
import re
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from jaxtyping import UInt8

from unityvideo_jax import media
from unityvideo_jax.curation.stage import Clip, Job, Stage
from unityvideo_jax.errors import UserError
from unityvideo_jax.files.faults import list_ignored, shown
from unityvideo_jax.files.names import UNPRINTED, has_unprinted
from unityvideo_jax.models.sizes import check_frames

# Faults of a video that can be fixed and hence accepted.
FIXABLE = ("variable_frame_rate", "rotated", "odd_size")
# A file that holds less than this share of the time that its header states was cut off.
COMPLETE = 0.97


def find(folder: str) -> list[Clip]:
    """Lists all videos below a folder as clips that were not cut yet, in order of their keys.

    Links are followed, each folder once; hidden files and folders are skipped. Files that are no
    videos, nor texts beside one, are listed as ignored. A folder that cannot be listed is set
    aside, as a link to nothing is when it is opened.

    Raises:
      UserError: no such folder, or no video in it.
    """
    root = pathlib.Path(folder)
    if not root.is_dir():
        raise UserError(f"--source={folder}: no such folder")
    files: list[pathlib.Path] = []
    ignored: list[str] = []
    found: list[Clip] = []
    # Links come last, so that a folder has the name of its own place.
    waiting, seen = collections.deque([root]), set()
    while waiting:
        place = waiting.popleft()
        if (real := place.resolve()) in seen:
            continue
        seen.add(real)
        try:
            there = sorted(place.iterdir())
        except OSError as error:
            reason = f"cannot be listed ({error.strerror})"
            found.append(_video(place.relative_to(root)).reject(Probe.name, reason))
            continue
        for path in there:
            if path.name.startswith("."):
                ignored.append(f"{path.relative_to(root)}{'/' * path.is_dir()}")
            elif not path.is_dir():
                files.append(path.relative_to(root))
            elif path.is_symlink():
                waiting.append(path)
            else:
                waiting.appendleft(path)
    videos = {path for path in files if media.is_video(root / path)}
    texts = {(video.with_suffix(""), ".txt") for video in videos}
    others = {path for path in files if (path.with_suffix(""), path.suffix.lower()) not in texts}
    list_ignored(folder, sorted([*ignored, *map(str, others - videos)]))
    found += [_video(path) for path in videos]
    if not found:
        raise UserError(
            f"--source={folder}: no videos below it ({', '.join(media.VIDEO_SUFFIXES)})"
        )
    return sorted(found, key=lambda clip: clip.key)


def _video(path: pathlib.Path) -> Clip:
    name = path.as_posix()
    # Two videos may share their stem; the digest of the path distinguishes them.
    stem = re.sub(r"[^A-Za-z0-9]+", "_", path.stem)[:40].strip("_")
    key = f"{stem}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}"
    source = path.parts[0] if len(path.parts) > 1 else ""
    clip = Clip(key=key, video=shown(name), source=shown(source))
    if any(has_unprinted(part) for part in path.parts):
        return clip.reject(Probe.name, f"its path {UNPRINTED}; rename it")
    return clip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probe(Stage):
    """Sets aside files that cannot be read or would mislead what follows.

    Scores: width and height of the picture as it is shown, fps, seconds, kilobits per second.

    Attributes:
      accept: faults of `FIXABLE` to accept: a variable frame rate is then resampled by time
        stamps, a rotated picture turned upright, an odd size cropped by a pixel.
    """

    name: ClassVar[str] = "probe"
    accept: tuple[str, ...] = ()

    def __post_init__(self):
        if unknown := set(self.accept) - set(FIXABLE):
            raise UserError(
                f"config.probe.accept: {sorted(unknown)[0]!r} is none of {', '.join(FIXABLE)}"
            )

    def __call__(self, clip: Clip, job: Job) -> Sequence[Clip]:
        """Scores a video; rejects it if truncated, of high dynamic range, or otherwise faulty."""
        facts = media.video_info(job.video(clip))
        width, height = facts.width, facts.height
        clip = clip.change(end=round(facts.seconds, 6)).score(
            width=width,
            height=height,
            fps=facts.fps,
            seconds=facts.seconds,
            kilobits=job.video(clip).stat().st_size * 8e-3 / max(facts.seconds, 1e-3),
        )
        if facts.seconds < COMPLETE * facts.stated_seconds:
            reason = f"truncated: {facts.seconds:.2f} s of {facts.stated_seconds:.2f} s are there"
            return [clip.reject(self.name, reason)]
        if facts.is_hdr:
            return [clip.reject(self.name, "high dynamic range: needs tone mapping first")]
        faults = {
            "variable_frame_rate": facts.has_variable_rate,
            "rotated": not facts.is_upright,
            "odd_size": bool(width % 2 or height % 2),
        }
        for fault, found in faults.items():
            if found and fault not in self.accept:
                detail = {"rotated": f" by {facts.rotation} degrees"}.get(fault, "")
                detail = f" {width}x{height}" if fault == "odd_size" else detail
                return [clip.reject(self.name, fault.replace("_", " ") + detail)]
        return [clip]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scenes(Stage):
    """Cuts one clip per scene, between the cuts that PySceneDetect finds.

    Attributes:
      detector: 'content' (a jump in colour between neighbouring frames) or 'adaptive' (a jump
        beside the average around it, for a fast camera).
      threshold: of the detector; 0 takes its own: 27 for content, 3 for adaptive.
      margin: seconds left out on both sides of a cut, where fades and blended frames are.
    """

    name: ClassVar[str] = "scenes"
    detector: str = "content"
    threshold: float | int = 0.0
    margin: float | int = 0.0

    def __post_init__(self):
        if self.detector not in ("content", "adaptive"):
            raise UserError(f"config.scenes.detector={self.detector!r}: 'content' or 'adaptive'")

    def setup(self) -> None:
        """Checks that PySceneDetect is installed."""
        from unityvideo_jax.annotators.base import library

        library("scenedetect", "config.scenes")

    def __call__(self, clip: Clip, job: Job) -> Sequence[Clip]:
        """Returns one clip per scene of a video."""
        import scenedetect

        from unityvideo_jax.curation.scene_frames import SceneFrames

        detectors = scenedetect.ContentDetector, scenedetect.AdaptiveDetector
        detector = detectors[self.detector == "adaptive"]
        manager = scenedetect.SceneManager()
        manager.add_detector(detector(self.threshold) if self.threshold else detector())
        manager.detect_scenes(SceneFrames(job.video(clip)))
        found = manager.get_scene_list(start_in_scene=True)
        bounds = [(start.seconds, end.seconds) for start, end in found]
        if not bounds:
            return [clip.reject(self.name, "no frame decodes")]
        if bounds[-1][1] < COMPLETE * clip.end:
            reason = f"broken inside: decodes to {bounds[-1][1]:.2f} s of {clip.end:.2f} s"
            return [clip.reject(self.name, reason)]
        scenes = []
        for n, (start, end) in enumerate(bounds):
            start += self.margin if n else 0.0
            end -= self.margin if n + 1 < len(bounds) else 0.0
            scene = clip.change(
                key=f"{clip.key}-s{n:03d}", start=round(start, 6), end=round(max(start, end), 6)
            )
            scenes.append(scene.score(scene=n, scenes=len(bounds)))
        return scenes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cut(Stage):
    """Windows of one length, one after the other, resampled by time stamps and written as mp4.

    The stages that follow see the pixels of the written file, so that one added later sees them
    too.

    Attributes:
      num_frames: 4n+1, as the causal VAE takes them.
      fps: frames per second of the clips.
      short_side: larger clips are scaled down to this shorter side; 0 keeps their size.
      max_clips: windows of one scene at most; 0 is all that fit.
      crf: quality of the written file.
    """

    name: ClassVar[str] = "cut"
    num_frames: int = 77
    fps: float | int = 15.0
    short_side: int = 0
    max_clips: int = 0
    crf: int = 12

    def __post_init__(self):
        check_frames(self.num_frames, "config.cut.num_frames")
        if self.fps <= 0:
            raise UserError(f"config.cut.fps={self.fps}: must be positive")

    def __call__(self, clip: Clip, job: Job) -> Sequence[Clip]:
        """Writes the windows of a scene and returns them as clips."""
        seconds = self.num_frames / self.fps
        # The last frame need not last to the end of its window, give or take a rounded time stamp.
        count = int((clip.end - clip.start + 0.5 / self.fps) / seconds)
        if not count:
            reason = f"{clip.end - clip.start:.2f} s are too short for a clip of {seconds:.2f} s"
            return [clip.reject(self.name, reason)]
        count = min(count, self.max_clips or count)
        return [self._window(clip, n, clip.start + n * seconds, job) for n in range(count)]

    def _window(self, scene: Clip, n: int, start: float, job: Job) -> Clip:
        clip = scene.change(
            key=f"{scene.key}-c{n:03d}",
            start=round(start, 6),
            end=round(start + self.num_frames / self.fps, 6),
            fps=self.fps,
            frame_count=self.num_frames,
        )
        times = start + np.arange(self.num_frames) / self.fps
        frames = _shrink(media.read_at(job.video(clip), times), self.short_side)
        path = job.file(clip, ".mp4")
        media.write_video(path, frames, self.fps, self.crf, reproducible=True)
        clip = clip.change(frames=media.read_video(path)[0])
        return clip.score(clip_width=frames.shape[2], clip_height=frames.shape[1])


def _shrink(
    frames: UInt8[np.ndarray, "t h w 3"], short_side: int
) -> UInt8[np.ndarray, "t nh nw 3"]:
    """Scaled down to a shorter side, never up; even in both directions."""
    height, width = frames.shape[1:3]
    scale = short_side / min(height, width) if short_side else 1.0
    if scale >= 1.0:
        return frames[:, : height // 2 * 2, : width // 2 * 2]
    even = [2 * round(n * scale / 2) for n in (height, width)]
    return media.fit(frames, height=even[0], width=even[1])
