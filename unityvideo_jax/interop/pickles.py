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
from unityvideo_jax.interop import shards

SUFFIXES = (".pth", ".pt")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PickledTensor:
    """A tensor that PyTorch maps from its file; like `shards.StoredTensor`.

    Attributes:
      file: of the checkpoint.
      name: in the file.
      tensor: a torch tensor.
    """

    file: pathlib.Path
    name: str
    tensor: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the tensor."""
        return tuple(self.tensor.shape)

    @property
    def kind(self) -> str:
        """Its type as safetensors names it, or, of others, as PyTorch does."""
        name = str(self.tensor.dtype).removeprefix("torch.")
        return shards.STORAGE.get(name, name)

    def read(self) -> Shaped[np.ndarray, "..."]:
        """Reads the tensor in its stored type.

        Raises:
          UserError: it is no 16- or 32-bit float, or not finite.
        """
        import torch

        if self.kind not in shards.TYPES:
            raise UserError(f"{self.file}: {shards.not_float(self)}")
        tensor = self.tensor.contiguous()
        if tensor.dtype == torch.bfloat16:  # which numpy does not know
            values = tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        else:
            values = tensor.numpy()
        shards.check_finite(self.file, self.name, values)
        return values


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
    except pickle.UnpicklingError as error:  # its text advises to run the code
        raise UserError(
            f"{path}: truncated, or no plain checkpoint (it holds more than tensors, which could "
            "run code); copy it, or save its state_dict alone"
        ) from error
    except Exception as error:  # its reader raises whatever a damaged archive makes it raise
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise UserError(f"{path}: truncated, or no plain checkpoint ({reason}); copy it") from error
    named = isinstance(loaded, dict) and all(isinstance(name, str) for name in loaded)
    if not named or not all(torch.is_tensor(tensor) for tensor in loaded.values()):
        raise UserError(f"{path}: holds more than tensors by name; save its state_dict alone")
    for name, tensor in loaded.items():
        plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
        if not plain or tensor.is_quantized:
            raise UserError(f"{path}: {name} is not a plain tensor (sparse, quantised or empty)")
        # A view may repeat its values, and claim terabytes of them.
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise UserError(f"{path}: {name} is {tuple(tensor.shape)}, more than the file holds")
    return {
        name: PickledTensor(file=path, name=name, tensor=tensor) for name, tensor in loaded.items()
    }
