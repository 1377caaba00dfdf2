"""The interface of every metric of RGB video, and the loading of its networks from disk."""

import abc
import importlib
import math
import pathlib
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from jaxtyping import UInt8

from unityvideo_jax.errors import UserError
from unityvideo_jax.metrics.scores import ClipScore

Frames = UInt8[np.ndarray, "t h w 3"]
# The real video may have another length and size.
Reference = UInt8[np.ndarray, "rt rh rw 3"] | None


class VideoMetric(abc.ABC):
    """Scores one RGB video, perhaps against a caption or a real one.

    Attributes:
      name: of the dimension, as in "vbench/<name>".
      needs: files or folders below the weights folder.
      protocols: definition of each protocol, by its name in the keys.
      min_frames: shorter videos are not scored, but counted.
      needs_caption, needs_reference: a clip without it is not scored, but counted.
    """

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    protocols: ClassVar[Mapping[str, str]]
    min_frames: ClassVar[int] = 1
    needs_caption: ClassVar[bool] = False
    needs_reference: ClassVar[bool] = False

    def __init__(self, weights: pathlib.Path | None = None) -> None:
        """Loads the networks; UserError names the file that is missing or does not fit."""
        self.weights = weights

    @abc.abstractmethod
    def measure(self, video: Frames, fps: float, caption: str, reference: Reference) -> ClipScore:
        """Scores a video that has all that the metric needs.

        Args:
          video: RGB in 0..255.
          fps: frames per second.
          caption: text of the video; "" if there is none.
          reference: the real video; None if there is none.
        """

    def score(self, video: Frames, *, fps: float, caption: str, reference: Reference) -> ClipScore:
        """Returns the score, or a count under "<name>/clips_..." that says why there is none."""
        lengths = [len(video)]
        if self.needs_reference and reference is not None:
            lengths.append(len(reference))
        reasons = {
            "clips_too_short": min(lengths) < self.min_frames,
            "clips_without_caption": self.needs_caption and not caption.strip(),
            "clips_without_reference": self.needs_reference and reference is None,
        }
        found = [reason for reason, holds in reasons.items() if holds]
        if found:
            return ClipScore(counts={f"video/{self.name}/{reason}": 1 for reason in found})
        return self.measure(video, fps, caption, reference)


def missing(metric: type[VideoMetric], weights: pathlib.Path | None) -> str | None:
    """Returns why a metric cannot be loaded, in words; None if everything it needs is there."""
    if not metric.needs:
        return None
    where = "no --weights folder is given" if weights is None else f"not in {weights}"
    lost = [n for n in metric.needs if weights is None or not (weights / n).exists()]
    if not lost:
        return None
    return f"{metric.name} is skipped: {', '.join(lost)} ({where}; docs/evaluation.md says what)"


def library(name: str, what: str) -> Any:
    """Imports an optional package; UserError if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"{what} needs {name}; pip install 'unityvideo_jax[annotate]', or leave --weights out"
        ) from error


def load_script(weights: pathlib.Path, name: str) -> Any:
    """Loads a TorchScript module in inference mode; UserError if the file does not load."""
    torch = library("torch", name)
    try:
        return torch.jit.load(str(weights / name), map_location="cpu").eval()
    except (RuntimeError, OSError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(f"{weights / name}: does not load as TorchScript ({first})") from error


def load_transformer(weights: pathlib.Path, folder: str, model: str, **options: Any) -> Any:
    """Loads a transformers model of the class `model` from a local folder, never from the net.

    Raises:
      UserError: transformers is not installed, or the folder does not hold such a model.
    """
    library("torch", folder)
    transformers = library("transformers", folder)
    path = weights / folder
    try:
        loaded = getattr(transformers, model).from_pretrained(
            str(path), local_files_only=True, trust_remote_code=False, **options
        )
    except (OSError, ValueError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(f"{path}: does not load as {model} ({first})") from error
    return loaded.eval()


class ScriptMetric(VideoMetric):
    """A metric of one network, the TorchScript file `needs[0]`."""

    def __init__(self, weights: pathlib.Path | None = None) -> None:
        super().__init__(weights)
        self.network = load_script(weights, self.needs[0])


def percent(key: str, value: float, weight: float = 1.0) -> ClipScore:
    """A score in [0, 1] times 100, as VBench's tables print it; UserError if it is not finite."""
    if not math.isfinite(value):
        raise UserError(f"{key}: the network gives {value}; look at the video and the weights")
    return ClipScore(means={key: (100.0 * value, weight)})
