"""PyTorch's own checkpoints (.pth), as the original Wan ships its autoencoder and text encoder."""

import dataclasses
import pathlib
import pickle
import zipfile
from typing import Any

import ml_dtypes
import numpy as np
from jaxtyping import Shaped

from unityvideo_jax.errors import UserError

SUFFIXES = (".pth", ".pt")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PickledTensor:
    """A tensor that PyTorch maps from its file; like `shards.StoredTensor`."""

    tensor: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    @property
    def dtype(self) -> np.dtype:
        name = str(self.tensor.dtype).removeprefix("torch.")
        return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)

    def read(self) -> Shaped[np.ndarray, "..."]:
        """The tensor in its stored type."""
        import torch

        tensor = self.tensor.contiguous()
        if tensor.dtype == torch.bfloat16:  # which numpy does not know
            return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return tensor.numpy()


def read_pickle(path: pathlib.Path) -> dict[str, PickledTensor]:
    """All tensors of a checkpoint by name; no code that the file may hold is run.

    Raises:
      UserError: PyTorch is not installed, or the file is no plain dictionary of tensors.
    """
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{path}: PyTorch reads .pth files; pip install torch, or convert the file with "
            "safetensors.torch.save_file where it is installed"
        ) from error
    try:
        # Only archives, its format since 2020, can be mapped.
        mapped = zipfile.is_zipfile(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise UserError(f"{path}: truncated, or no plain checkpoint ({reason}); copy it") from error
    if not (isinstance(loaded, dict) and all(torch.is_tensor(t) for t in loaded.values())):
        raise UserError(f"{path}: holds more than tensors by name; save its state_dict alone")
    return {name: PickledTensor(tensor=tensor) for name, tensor in loaded.items()}
