"""Parts that annotators share: optional packages, weights on disk, devices and batches."""

import dataclasses
import importlib
import pathlib
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from unityvideo_jax.errors import UserError

Frames = UInt8[np.ndarray, "t h w 3"]
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@runtime_checkable
class Annotator(Protocol):
    """Draws one modality from the frames of one clip.

    Attributes:
      licence: of the weights that it is written for.
    """

    licence: str

    def setup(self) -> None:
        """Loads its packages and weights; raises UserError if they do not load."""
        ...

    def __call__(self, frames: Frames) -> dict[str, np.ndarray]:
        """Returns the arrays of the modality's codec, at the size of the frames (0..255)."""
        ...


class Loaded:
    """Base of frozen dataclasses that load `network` at first use, and pickle without it."""

    def setup(self) -> None:
        """Loads the network; raises UserError if it does not load."""
        self.network  # noqa: B018

    def __getstate__(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}


def library(name: str, what: str) -> Any:
    """Imports an optional package; UserError if it is not installed or does not load."""
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError) as error:
        raise UserError(
            f"{what} needs {name} ({error}); pip install 'unityvideo_jax[annotate]', or take it "
            "out of config.stages"
        ) from error


def device() -> str:
    """'cuda' if torch sees a GPU, else 'cpu'."""
    return "cuda" if library("torch", "an annotator").cuda.is_available() else "cpu"


def weights_path(weights: str, what: str) -> pathlib.Path:
    """Returns the path of a folder or file of weights; UserError if it is not there."""
    path = pathlib.Path(weights)
    if not weights or not path.exists():
        raise UserError(
            f"{what}: no weights at {weights!r}; give a local folder (docs/curation.md)"
        )
    return path


def load_transformer(weights: str, model: str, what: str, **options: Any) -> Any:
    """Loads a transformers model of the class `model` from a folder, never from the net.

    Raises:
      UserError: a package or the folder is missing, or holds another model.
    """
    library("torch", what)
    transformers = library("transformers", what)
    path = weights_path(weights, what)
    try:
        loaded = getattr(transformers, model).from_pretrained(
            str(path), local_files_only=True, trust_remote_code=False, **options
        )
    except (OSError, ValueError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(f"{what}: {path} does not load as {model} ({first})") from error
    return loaded.eval().to(device())


def load_processor(weights: str, kind: str, what: str) -> Any:
    """Loads a transformers processor of the class `kind` from the same folder.

    Raises:
      UserError: the folder holds none.
    """
    transformers = library("transformers", what)
    try:
        return getattr(transformers, kind).from_pretrained(
            weights, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, ImportError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(f"{what}: {weights} holds no preprocessor ({first})") from error


def load_script(weights: str, what: str) -> Any:
    """Loads a TorchScript file onto the device.

    Raises:
      UserError: the file is missing or does not load.
    """
    torch = library("torch", what)
    path = weights_path(weights, what)
    try:
        return torch.jit.load(str(path), map_location=device()).eval()
    except (RuntimeError, OSError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(f"{what}: {path} does not load as TorchScript ({first})") from error


def batches(frames: Frames, size: int) -> Iterator[Any]:
    """Yields torch tensors f32 [n, 3, h, w] in [0, 255] on the device, up to `size` frames each."""
    import torch

    where = device()
    for first in range(0, len(frames), size):
        part = np.ascontiguousarray(frames[first : first + size].transpose(0, 3, 1, 2))
        yield torch.from_numpy(part).to(where).float()


def resize(images: Any, height: int, width: int, mode: str = "bilinear") -> Any:
    """Resizes [n, c, h, w] as Pillow does: antialiased, pixel centres at one half."""
    import torch

    return torch.nn.functional.interpolate(
        images, size=(height, width), mode=mode, align_corners=False, antialias=True
    )


def normalise(images: Any, statistics: tuple[tuple[float, ...], ...] = IMAGENET) -> Any:
    """Maps [0, 255] to zero mean and unit deviation of a data set."""
    import torch

    mean, std = (torch.tensor(s, device=images.device).view(1, 3, 1, 1) for s in statistics)
    return (images / 255.0 - mean) / std
