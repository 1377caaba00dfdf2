"""Near-duplicates: a perceptual hash per clip, and one clip selected from those that are alike."""

import collections
import dataclasses
import itertools
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from PIL import Image

from unityvideo_jax.annotators import base
from unityvideo_jax.curation.stage import Clip, Collective, Job, Stage
from unityvideo_jax.errors import UserError

# Frames that are hashed, as shares of the clip, and bits of each hash.
PLACES, BITS = (0.0, 0.5, 1.0), 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fingerprint(Stage):
    """Score phash: the 64-bit perceptual hashes of the first, middle and last frame, in hex."""

    name: ClassVar[str] = "fingerprint"

    def setup(self) -> None:
        """Checks that the package of the hash is installed."""
        base.library("imagehash", "config.fingerprint")

    def __call__(self, clip: Clip, job: Job) -> Sequence[Clip]:
        """Scores a clip's hashes."""
        import imagehash

        clip = job.load(clip)
        picks = [round(p * (len(clip.frames) - 1)) for p in PLACES]
        hashes = [str(imagehash.phash(Image.fromarray(clip.frames[i]))) for i in picks]
        return [clip.score(phash="".join(hashes))]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Duplicates(Collective):
    """Keeps the best of those clips whose hashes differ in few bits.

    The best has the most pixels, then the most bits per second, then the first key.

    Hashes that differ in at most d of their bits agree wholly in one of d + 1 bands, so that only
    clips which share a band are compared and none is missed.

    Attributes:
      max_bits: of 192, up to which clips are alike.
    """

    name: ClassVar[str] = "duplicates"
    max_bits: int = 12

    def __post_init__(self):
        if not 0 <= self.max_bits < len(PLACES) * BITS // 4:
            raise UserError(f"config.duplicates.max_bits={self.max_bits}: give 0 to 47")

    def __call__(self, clips: Sequence[Clip]) -> Sequence[Clip]:
        """Rejects all but the best of clips that are alike."""
        edges = np.linspace(0, len(PLACES) * BITS, self.max_bits + 2).round().astype(int)
        bands = list(itertools.pairwise(edges))
        tables: list[dict[int, list[int]]] = [collections.defaultdict(list) for _ in bands]
        distinct: list[tuple[int, str]] = []
        result = []
        for clip in sorted(clips, key=_rank):
            bits = int(str(clip.scores["phash"]), 16)
            parts = [bits >> int(low) & (1 << int(high - low)) - 1 for low, high in bands]
            near = {n for table, part in zip(tables, parts, strict=True) for n in table[part]}
            distances = [((bits ^ distinct[n][0]).bit_count(), n) for n in near]
            distance, first = min(distances, default=(self.max_bits + 1, -1))
            if distance <= self.max_bits:
                reason = f"{distance} of {len(PLACES) * BITS} bits from {distinct[first][1]}"
                result.append(clip.reject(self.name, reason))
                continue
            for table, part in zip(tables, parts, strict=True):
                table[part].append(len(distinct))
            distinct.append((bits, clip.key))
            result.append(clip)
        return sorted(result, key=lambda clip: clip.key)


def _rank(clip: Clip) -> tuple[float, float, str]:
    pixels = float(clip.scores["width"]) * float(clip.scores["height"])
    return -pixels, -float(clip.scores["kilobits"]), clip.key
