"""The stages that draw modalities, one per modality, each with a choice of annotators."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from unityvideo_jax import modalities
from unityvideo_jax.annotators import ANNOTATORS, base
from unityvideo_jax.curation.stage import Clip, Job, Stage
from unityvideo_jax.errors import UserError
from unityvideo_jax.files.paths import atomic_path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Annotate(base.Loaded, Stage):
    """Writes `<key>.<modality>.npz` beside the clip: the arrays that the modality's codec reads.

    Attributes:
      model: name of an annotator of this modality (`annotators.ANNOTATORS`).
      weights: its local folder or file; '' skips the stage unless the annotator needs none.
      options: its further parameters, such as variant or batch_size.
    """

    alone: ClassVar[bool] = True
    model: str = ""
    weights: str = ""
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        known = ANNOTATORS[self.name]
        if self.model not in known:
            raise UserError(
                f"config.{self.name}.model={self.model!r}: use one of {', '.join(known)}"
            )

    @property
    def _kind(self) -> Callable[..., base.Annotator]:
        return ANNOTATORS[self.name][self.model]()

    @property
    def _needs_weights(self) -> bool:
        return "weights" in {field.name for field in dataclasses.fields(self._kind)}

    def skipped(self) -> str:
        """Says that the annotator lacks its weights; '' if it has them or needs none."""
        if self.weights or not self._needs_weights:
            return ""
        return f"config.{self.name}.weights names no folder"

    @functools.cached_property
    def network(self) -> base.Annotator:
        """The annotator, set up.

        Raises:
          UserError: an option that the annotator lacks, or weights that do not load.
        """
        options = dict(self.options) | ({"weights": self.weights} if self._needs_weights else {})
        try:
            annotator = self._kind(**options)
        except TypeError as error:
            raise UserError(f"config.{self.name}.options: {error}") from error
        annotator.setup()
        return annotator

    def __call__(self, clip: Clip, job: Job) -> Sequence[Clip]:
        """Writes the arrays of a clip, and adds the modality to it."""
        if clip.wanted and self.name not in clip.wanted:
            return [clip]
        clip = job.load(clip)
        arrays = self.network(clip.frames)
        path = job.file(clip, f".{self.name}.npz")
        colour = {"rgb": clip.frames} if "rgb" in modalities.get(self.name).codec.keys else {}
        modalities.check_clip(modalities.get(self.name).codec, {**arrays, **colour}, path.name)
        with atomic_path(path, shared=True) as temporary, open(temporary, "wb") as handle:
            np.savez_compressed(handle, **arrays)
        return [clip.change(modalities=(*clip.modalities, self.name))]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Depth(Annotate):
    """Depth in metres, or relative where the network knows no scale; `unit` says which."""

    name: ClassVar[str] = "depth"
    model: str = "depth_anything_v2"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flow(Annotate):
    """Optical flow in pixels to the next frame."""

    name: ClassVar[str] = "flow"
    model: str = "dis"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Segmentation(Annotate):
    """Instances with ids that hold over the clip."""

    name: ClassVar[str] = "segmentation"
    model: str = "sam2"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Skeleton(Annotate):
    """COCO-17 keypoints of every person."""

    name: ClassVar[str] = "skeleton"
    model: str = "vitpose"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DensePose(Annotate):
    """Body parts with surface coordinates."""

    name: ClassVar[str] = "densepose"
    model: str = "torchscript"
