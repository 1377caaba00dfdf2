"""Captions: given ones, or those that a multimodal model from a local folder writes."""

import dataclasses
import functools
import itertools
import pathlib
import posixpath
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from unityvideo_jax.annotators import base
from unityvideo_jax.curation.stage import Clip, Job, Stage
from unityvideo_jax.errors import UserError
from unityvideo_jax.files import text_files
from unityvideo_jax.files.faults import list_ignored
from unityvideo_jax.files.paths import atomic_path

COLUMNS = ("video", "caption")
# Suffixes of a text beside a video: looked for one by one, since a folder may hold many thousands.
TEXTS = tuple(f".{''.join(letters)}" for letters in itertools.product("tT", "xX", "tT"))
PROMPT = (
    "Describe this video in two or three plain sentences: who or what is in it, what they do, "
    "where, and how the camera moves. Do not mention frames or images."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Captions(base.Loaded, Stage):
    """Writes `<key>.txt` beside the clip: from `<video>.txt`, from a CSV, or from a model.

    A video's given caption serves all of its clips.

    Attributes:
      file: CSV with the columns `video` (relative to the source folder, as `a.mp4` or `./a.mp4`)
        and `caption`; '' is none.
      weights: folder of an image-text-to-text model of transformers with its processor; '' is
        none. Qwen2.5-VL-7B (Apache-2.0) is a permissive choice; mind the licence of others.
      prompt: the request to the model.
      samples: frames that it sees, spread over the clip.
      max_tokens: of its answer.
      required: reject clips that end without a caption, instead of storing an empty one.
    """

    name: ClassVar[str] = "captions"
    alone: ClassVar[bool] = True
    file: str = ""
    weights: str = ""
    prompt: str = PROMPT
    samples: int = 8
    max_tokens: int = 160
    required: bool = False

    def setup(self) -> None:
        """Reads the CSV, and loads the model if it has weights."""
        self._given  # noqa: B018
        if self.weights:
            self.network  # noqa: B018

    @functools.cached_property
    def _given(self) -> Mapping[str, str]:
        """Caption by video. UserError if the CSV has a row that is not one of a video."""
        captions: dict[str, str] = {}
        if not self.file:
            return captions
        for row in text_files.read_table(self.file, required=COLUMNS, known=COLUMNS):
            video = posixpath.normpath(row.cells.get("video", "").strip())
            if fault := row.fault or (
                f"a second caption of {video!r}" if video in captions else ""
            ):
                raise UserError(f"{self.file}, line {row.line}: {fault}; fix the row")
            captions[video] = row.cells["caption"].strip()
        return captions

    def list_unused(self, job: Job) -> None:
        """Prints how many rows of the CSV name no video of the source folder, and which."""
        root = pathlib.Path(job.source)
        rows = [v for v in self._given if v.startswith("/") or not (root / v).is_file()]
        list_ignored(self.file, rows, f"rows of no video below {root}")

    @functools.cached_property
    def network(self) -> tuple[Any, Any]:
        """The processor and the model."""
        model = base.load_transformer(self.weights, "AutoModelForImageTextToText", "captions")
        processor = base.load_processor(self.weights, "AutoProcessor", "captions")
        return processor, model

    def __call__(self, clip: Clip, job: Job) -> Sequence[Clip]:
        """Adds a caption to a clip and writes it; rejects a clip whose required one is missing."""
        caption = self._find(clip, job)
        if not caption and self.weights:
            caption = self._write(job.load(clip))
        if not caption:
            if self.required:
                return [clip.reject(self.name, "no caption")]
            clip = clip.note(self.name, "no caption given and no model configured: empty")
        path = job.file(clip, ".txt")
        with atomic_path(path, shared=True) as temporary:
            temporary.write_text(caption + "\n", encoding="utf-8")
        return [clip.change(caption=caption)]

    def _find(self, clip: Clip, job: Job) -> str:
        if clip.video in self._given:
            return self._given[clip.video]
        beside = (job.video(clip).with_suffix(suffix) for suffix in TEXTS)
        path = next((p for p in beside if p.exists()), None)
        return text_files.read_text(path).strip() if path else ""

    def _write(self, clip: Clip) -> str:
        import torch

        processor, model = self.network
        picks = np.linspace(0, len(clip.frames) - 1, self.samples).round().astype(int)
        images = [Image.fromarray(clip.frames[i]) for i in picks]
        content = [{"type": "image", "image": image} for image in images]
        message = {"role": "user", "content": [*content, {"type": "text", "text": self.prompt}]}
        text = processor.apply_chat_template([message], add_generation_prompt=True)
        inputs = processor(text=text, images=images, return_tensors="pt").to(model.device)
        with torch.inference_mode():
            # Greedy, so that the same clip has the same caption.
            tokens = model.generate(**inputs, max_new_tokens=self.max_tokens, do_sample=False)
        answer = tokens[:, inputs["input_ids"].shape[1] :]
        return " ".join(processor.batch_decode(answer, skip_special_tokens=True)[0].split())
