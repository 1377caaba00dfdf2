"""VBench's overall consistency: does the video show what the text says?"""

import pathlib
from collections.abc import Mapping
from typing import ClassVar

from unityvideo_jax.errors import UserError
from unityvideo_jax.metrics.scores import ClipScore
from unityvideo_jax.metrics.video import frames
from unityvideo_jax.metrics.video.base import (
    Frames,
    Reference,
    VideoMetric,
    library,
    load_script,
    percent,
)

NUM_FRAMES, SIZE, TEXT_LENGTH = 8, 224, 32


class OverallConsistency(VideoMetric):
    """Key "vbench/overall_consistency", times 100: cosine of ViCLIP's video and text features.

    viclip_vision.pt: TorchScript, f32[1,8,3,224,224], normalised as for CLIP, to f32[1,D].
    viclip_text.pt: TorchScript, token ids i64[1,32] (CLIP's, zero after the end) to f32[1,D].
    clip-tokenizer: a folder with CLIP's vocab.json and merges.txt.
    """

    name = "overall_consistency"
    needs = ("viclip_vision.pt", "viclip_text.pt", "clip-tokenizer")
    needs_caption = True
    protocols: ClassVar[Mapping[str, str]] = {
        "vbench/overall_consistency": "cosine of ViCLIP video and text features x 100, 8 frames"
    }

    def __init__(self, weights: pathlib.Path | None = None) -> None:
        super().__init__(weights)
        tokenizers = library("transformers", self.name)
        self.vision, self.text = (load_script(weights, name) for name in self.needs[:2])
        try:
            self.tokenizer = tokenizers.CLIPTokenizer.from_pretrained(
                str(weights / self.needs[2]), local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError) as error:
            raise UserError(
                f"{weights / self.needs[2]}: not CLIP's tokenizer; put vocab.json and merges.txt "
                "there"
            ) from error

    def tokens(self, caption: str) -> list[int]:
        """Exactly 32 ids: start, text, end, zeros; a long text is cut before its end mark."""
        ids = self.tokenizer(caption, truncation=True, max_length=TEXT_LENGTH)["input_ids"]
        return ids + [0] * (TEXT_LENGTH - len(ids))

    def measure(self, video: Frames, fps: float, caption: str, reference: Reference) -> ClipScore:
        """Scores one video against its `caption`; `fps` and `reference` are not read."""
        import torch

        picks = frames.middle_frames(NUM_FRAMES, len(video))
        with torch.inference_mode():
            seen = self.vision(frames.for_clip(frames.tensor(video[picks]), SIZE)[None])
            read = self.text(torch.tensor([self.tokens(caption)]))
            cosine = torch.nn.functional.cosine_similarity(seen.float(), read.float())
        return percent(f"vbench/{self.name}", float(cosine[0]))
