"""Stages that do to a worker what the worst videos do."""

import dataclasses
import os
import pathlib
import time
from typing import ClassVar

from unityvideo_jax.curation.stage import Stage
from unityvideo_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Poison(Stage):
    """Dies, never ends or raises for videos of these names; counts the clips that it saw."""

    name: ClassVar[str] = "poison"
    count_in: str = ""

    def __call__(self, clip, job):
        with open(pathlib.Path(self.count_in) / clip.key, "a") as handle:
            handle.write("seen\n")
        if "crash" in clip.key:
            os.kill(os.getpid(), 11)
        if "hang" in clip.key:
            time.sleep(600)
        if "raise" in clip.key:
            raise ValueError("poisoned")
        return [clip.score(seen=True)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unready(Stage):
    """A stage that cannot be set up."""

    name: ClassVar[str] = "unready"

    def setup(self):
        raise UserError("config.unready.weights: no such folder; download them")

    def __call__(self, clip, job):
        return [clip]
