"""A stage that the disk refuses, importable by worker processes."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import ClassVar

from unityvideo_jax.curation.stage import Clip, Job, Stage
from unityvideo_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Refused(Stage):
    """Fails with an error of the system while SWITCH/<video>.refused is there.

    Attributes:
      number: of the error.
      wrapped: raise it as the cause of a UserError, as readers do.
      switch: folder; its file `calls` lists the videos that came.
    """

    name: ClassVar[str] = "refused"
    number: int
    wrapped: bool
    switch: str

    def __call__(self, clip: Clip, job: Job) -> Sequence[Clip]:
        switch = pathlib.Path(self.switch)
        with open(switch / "calls", "a") as calls:
            calls.write(f"{clip.video}\n")
        if (switch / f"{clip.video}.refused").exists():
            error = OSError(self.number, os.strerror(self.number), str(job.video(clip)))
            if not self.wrapped:
                raise error
            raise UserError(f"{clip.video}: does not decode; leave it out") from error
        return [clip]
