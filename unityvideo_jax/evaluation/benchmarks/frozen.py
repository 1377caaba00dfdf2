"""Comparison of a benchmark's clips with the frozen ones."""

import pathlib
from collections.abc import Callable

from unityvideo_jax.evaluation.benchmarks import real_clips, unibench
from unityvideo_jax.inputs.clip_folders import Clip


def verifier(benchmark: pathlib.Path) -> Callable[[Clip], None]:
    """A function that raises UserError for a clip that differs from the frozen one.

    Rendered clips of UniBench are known by their pictures, real ones by the checksums in their
    folder's card; other benchmarks freeze nothing.
    """
    card = real_clips.read_card(benchmark)
    known = unibench.frozen()

    def verify(clip: Clip) -> None:
        if card is not None:
            real_clips.verify_clip(clip, card)
        elif "unibench" in clip.record:
            unibench.verify_clip(clip, known)

    return verify
