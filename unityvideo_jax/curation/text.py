"""Clips free of burnt-in text, by Tesseract."""

import csv
import dataclasses
import io
import os
import shutil
import subprocess
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from unityvideo_jax.curation.stage import Clip, Job, Stage
from unityvideo_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Text(Stage):
    """Rejects clips of which words cover too much. Needs the program `tesseract` (Apache-2.0).

    Score text_share: the share of the picture inside the boxes of words, the most of the frames
    looked at.

    Attributes:
      max_share: more is rejected.
      samples: frames looked at, spread over the clip.
      languages: of tesseract, such as 'eng' or 'eng+chi_sim'.
      confidence: words below it (0 to 100) do not count; texture reads as words of low confidence.
      min_side: smaller frames are enlarged to this shorter side; small print is not read otherwise.
      program: name or path of tesseract; '' skips the stage.
    """

    name: ClassVar[str] = "text"
    max_share: float | int = 0.01
    samples: int = 3
    languages: str = "eng"
    confidence: float | int = 70.0
    min_side: int = 480
    program: str = "tesseract"

    def skipped(self) -> str:
        """Says that tesseract is missing; '' if it is there."""
        if not self.program:
            return "config.text.program is empty"
        return "" if shutil.which(self.program) else f"no program {self.program!r}"

    def setup(self) -> None:
        """Checks that tesseract has the languages.

        Raises:
          UserError: it lacks one.
        """
        listed = subprocess.run([self.program, "--list-langs"], capture_output=True, text=True)
        lost = set(self.languages.split("+")) - set(listed.stdout.split())
        if lost:
            raise UserError(f"config.text.languages: tesseract has no {', '.join(sorted(lost))}")

    def __call__(self, clip: Clip, job: Job) -> Sequence[Clip]:
        """Scores text_share, and rejects a clip with more than `max_share`."""
        clip = job.load(clip)
        picks = np.linspace(0, len(clip.frames) - 1, self.samples).round().astype(int)
        share = max(self._share(clip.frames[i]) for i in np.unique(picks))
        clip = clip.score(text_share=share)
        if share > self.max_share:
            return [clip.reject(self.name, f"text covers {share:.1%} of a frame")]
        return [clip]

    def _share(self, frame: UInt8[np.ndarray, "h w 3"]) -> float:
        image = Image.fromarray(frame)
        scale = max(1.0, self.min_side / min(image.size))
        image = image.resize(tuple(round(n * scale) for n in image.size), Image.Resampling.BICUBIC)
        encoded = io.BytesIO()
        image.save(encoded, format="PNG")
        # 11: sparse text, in no particular order. One thread: clips run side by side already.
        command = [self.program, "stdin", "stdout", "-l", self.languages, "--psm", "11", "tsv"]
        read = subprocess.run(
            command,
            input=encoded.getvalue(),
            capture_output=True,
            env={**os.environ, "OMP_THREAD_LIMIT": "1"},
        )
        if read.returncode:
            raise RuntimeError(f"tesseract: {read.stderr.decode(errors='replace').strip()}")
        rows = csv.DictReader(
            io.StringIO(read.stdout.decode()), delimiter="\t", quoting=csv.QUOTE_NONE
        )
        covered = np.zeros(image.size[::-1], bool)
        for row in rows:
            word = (row["text"] or "").strip()
            # Single characters are found in any texture.
            if float(row["conf"]) < self.confidence or sum(map(str.isalnum, word)) < 2:
                continue
            left, top, width, height = (int(row[k]) for k in ("left", "top", "width", "height"))
            covered[top : top + height, left : left + width] = True
        return float(covered.mean())
