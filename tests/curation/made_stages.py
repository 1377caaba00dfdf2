"""Stages that misbehave, importable by worker processes."""

import dataclasses
import os
import time
from collections.abc import Sequence
from typing import ClassVar

from unityvideo_jax.curation.stage import Clip, Job, Stage
from unityvideo_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kills(Stage):
    """Ends the process at one video, as a decoder that crashes does."""

    name: ClassVar[str] = "kills"
    video: str

    def __call__(self, clip: Clip, job: Job) -> Sequence[Clip]:
        if clip.video == self.video:
            os._exit(11)
        return [clip]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slow(Stage):
    """A stage that is slow."""

    name: ClassVar[str] = "slow"
    seconds: float

    def __call__(self, clip: Clip, job: Job) -> Sequence[Clip]:
        time.sleep(self.seconds)
        return [clip.score(slow=True)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fails(Stage):
    """A stage with a defect that one video shows."""

    name: ClassVar[str] = "fails"
    video: str

    def __call__(self, clip: Clip, job: Job) -> Sequence[Clip]:
        if clip.video == self.video:
            raise KeyError("oops")
        return [clip]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unready(Stage):
    """A stage that cannot be set up."""

    name: ClassVar[str] = "unready"

    def setup(self) -> None:
        raise UserError("config.unready: no weights")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mark(Stage):
    """A stage that adds a score and a modality to a clip, independent of other stages."""

    name: ClassVar[str] = "mark"
    alone: ClassVar[bool] = True
    value: int = 0
    off: bool = False

    def skipped(self) -> str:
        return "it is off" if self.off else ""

    def __call__(self, clip: Clip, job: Job) -> Sequence[Clip]:
        return [clip.score(mark=self.value).change(modalities=(*clip.modalities, "flow"))]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Later(Mark):
    """A second independent stage."""

    name: ClassVar[str] = "later"

    def __call__(self, clip: Clip, job: Job) -> Sequence[Clip]:
        return [clip.score(later=self.value).change(modalities=(*clip.modalities, "depth"))]
