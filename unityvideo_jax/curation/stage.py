"""The interface of every step of the curation of raw video, whatever runs it.

A `Clip` is a small record: the place of its pixels, and all facts about it. A stage is a function
of a clip to clips; it may score, note, cut or reject them. A `Collective` sees all clips at once,
without their pixels, as near-duplicates and balancing need. Both are frozen dataclasses of plain
values, so that they pickle, print and compare; they load models in `setup`, once per process.
"""

import dataclasses
import math
import pathlib
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from jaxtyping import UInt8

from unityvideo_jax import media
from unityvideo_jax.errors import UserError
from unityvideo_jax.files.faults import reason_of
from unityvideo_jax.files.names import safe_path

Score = float | int | str | bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip:
    """A clip, or a whole video that was not cut yet.

    Attributes:
      key: unique; letters, digits, '-' and '_', so that it names files.
      video: the file that it comes from, relative to the source folder.
      source: the collection that the video belongs to: the first folder of `video`, or ''.
      start, end: seconds of the video, end exclusive; end 0 is not known yet.
      fps: frames per second of the cut clip; 0 before.
      frame_count: of the cut clip; 0 before.
      caption: what the video shows.
      group: name of the balanced group that it is stored in.
      scores: what stages measured, by name.
      notes: reasons of stages without a result, by stage.
      modalities: those that are annotated.
      wanted: modalities that its group stores; () is all.
      rejected_by: name of the stage that set it aside; '' while it is in.
      reason: in words.
      frames: its pixels while a phase has them in memory; never stored.
    """

    key: str
    video: str
    source: str = ""
    start: float | int = 0.0
    end: float | int = 0.0
    fps: float | int = 0.0
    frame_count: int = 0
    caption: str = ""
    group: str = ""
    scores: Mapping[str, Score] = dataclasses.field(default_factory=dict)
    notes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    modalities: tuple[str, ...] = ()
    wanted: tuple[str, ...] = ()
    rejected_by: str = ""
    reason: str = ""
    frames: UInt8[np.ndarray, "t h w 3"] | None = dataclasses.field(
        default=None, compare=False, repr=False
    )

    def change(self, **values: Any) -> "Clip":
        """Returns the same clip with other values."""
        return dataclasses.replace(self, **values)

    def score(self, **scores: Score) -> "Clip":
        """Adds further scores, floats rounded to six digits: rows are compared and read.

        Raises:
          UserError: a score that is not finite, which no row can hold.
        """
        for name, value in scores.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"the score {name} is {value}")
        rounded = {k: round(v, 6) if isinstance(v, float) else v for k, v in scores.items()}
        return self.change(scores={**self.scores, **rounded})

    def note(self, stage: str, text: str) -> "Clip":
        """Adds a stage's remark."""
        return self.change(notes={**self.notes, stage: text})

    def reject(self, stage: str, reason: str) -> "Clip":
        """Sets the clip aside by a stage; the reason is for people."""
        return self.change(rejected_by=stage, reason=reason)

    def row(self) -> dict[str, Any]:
        """Converts to plain JSON, without the pixels."""
        values = dataclasses.asdict(self.change(frames=None))
        del values["frames"]
        return values

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Clip":
        """Restores what `row` gave, also through JSON."""
        tuples = {name: tuple(row[name]) for name in ("modalities", "wanted")}
        return cls(**{**row, **tuples})

    def absorb(self, later: "Clip") -> "Clip":
        """Adds the results of a stage that ran alone to this clip, whatever ran between."""
        new = tuple(m for m in later.modalities if m not in self.modalities)
        return self.change(
            scores={**self.scores, **later.scores},
            notes={**self.notes, **later.notes},
            modalities=self.modalities + new,
            caption=later.caption or self.caption,
            rejected_by=self.rejected_by or later.rejected_by,
            reason=self.reason or later.reason,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """The folders of a job; every worker must see both.

    Attributes:
      source: the folder of raw videos.
      workdir: the folder of everything that is made.
    """

    source: str
    workdir: str

    def video(self, clip: Clip) -> pathlib.Path:
        """Path of the raw video that a clip comes from."""
        return pathlib.Path(self.source) / clip.video

    def file(self, clip: Clip, suffix: str) -> pathlib.Path:
        """Path of a file of a cut clip: '.mp4', '.txt', '.depth.npz', as `inputs.folder` has it.

        Raises:
          UserError: a key, such as one from a journal, that leads out of the folder.
        """
        return safe_path(self.clips, f"{clip.key}{suffix}", where="clip key")

    @property
    def clips(self) -> pathlib.Path:
        """The folder of cut clips with their captions and annotations."""
        return pathlib.Path(self.workdir) / "clips"

    def load(self, clip: Clip) -> Clip:
        """Returns the cut clip with its frames in memory.

        Raises:
          UserError: the clip was not cut, or its file does not decode.
        """
        if clip.frames is not None:
            return clip
        return clip.change(frames=media.read_video(self.file(clip, ".mp4"))[0])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """A function of one clip, and of nothing else but the files it names.

    The same clip gives the same clips and files each time, so that work which was killed is simply
    done again. A subclass is registered by its `name`.

    Attributes:
      alone: a phase of its own, that makes one clip of one; it can be added to a finished job.
    """

    name: ClassVar[str]
    alone: ClassVar[bool] = False

    def skipped(self) -> str:
        """Reason why it cannot run as it is configured, as a note for every clip; '' if it can."""
        return ""

    def list_unused(self, job: Job) -> None:
        """Prints what of the stage's own files no video of the job uses; called once per job."""

    def setup(self) -> None:
        """Loads its models; called once per process before the first clip, unless it is skipped.

        Raises:
          UserError: missing packages or weights; this stops the job.
        """

    def __call__(self, clip: Clip, job: Job) -> Sequence[Clip]:
        """Returns the clips that this clip becomes: usually itself with scores, or rejected.

        Raises:
          Exception: anything; `run` turns it into a rejection of this clip.
        """
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collective:
    """A decision over all clips together, from their records alone.

    Attributes:
      name: by which a configuration names it.
    """

    name: ClassVar[str]

    def __call__(self, clips: Sequence[Clip]) -> Sequence[Clip]:
        """Decides on all clips that are still in, in order of key; returns them, some rejected."""
        raise NotImplementedError


@dataclasses.dataclass(kw_only=True)
class Outcome:
    """The results of a chain of stages for one clip.

    Attributes:
      clips: without pixels, rejected ones too.
      seconds: wall time in each stage.
      seen: clips that entered each stage.
    """

    clips: list[Clip] = dataclasses.field(default_factory=list)
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    seen: dict[str, int] = dataclasses.field(default_factory=dict)


def set_up(stages: Iterable[Stage]) -> None:
    """Sets up every stage that is not skipped; call it once per process."""
    for stage in stages:
        if not stage.skipped():
            stage.setup()


def run(stages: Iterable[Stage], clip: Clip, job: Job) -> Outcome:
    """Runs one clip through a chain of stages; never raises for a clip's sake.

    A rejected clip skips the stages that follow. A clip whose stage fails is rejected by it, the
    error is the reason; earlier results of the stage are dropped.

    Raises:
      UserError: the disk refuses, which is no fault of the clip.
    """
    outcome = Outcome()
    waiting = [(0, clip)]
    chain = tuple(stages)
    # Depth first, so that one cut clip at a time holds its pixels.
    while waiting:
        place, current = waiting.pop()
        if place == len(chain) or current.rejected_by:
            outcome.clips.append(current.change(frames=None))
            continue
        stage = chain[place]
        if why := stage.skipped():
            waiting.append((place + 1, current.note(stage.name, f"skipped: {why}")))
            continue
        begun = time.perf_counter()
        try:
            made = list(stage(current, job))
        except Exception as error:
            made = [current.reject(stage.name, reason_of(error))]
        took = time.perf_counter() - begun
        outcome.seconds[stage.name] = outcome.seconds.get(stage.name, 0.0) + took
        outcome.seen[stage.name] = outcome.seen.get(stage.name, 0) + 1
        waiting.extend((place + 1, c) for c in reversed(made))
    return outcome
