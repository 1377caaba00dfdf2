"""An autoencoder as a folder: `model.safetensors` and `config.json`; Wan's own are read too.

Those lie in a folder of diffusers (or its `vae/`), or in the original Wan's `Wan2.1_VAE.pth`.

Tensor names are the modules' paths joined by dots (`encoder.downsamples.0.conv1.weight`); kernels
lie as they are used, [kt, kh, kw, in, out].
"""

import dataclasses
import json
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import nnx

from unityvideo_jax.errors import UserError
from unityvideo_jax.files import checksums, hub, paths, strict_json
from unityvideo_jax.files.assets import ASSETS
from unityvideo_jax.interop import identify
from unityvideo_jax.interop.tensors import TensorFiles, Wanted
from unityvideo_jax.models import build
from unityvideo_jax.models.config import DTYPES
from unityvideo_jax.models.vae.wan_vae import VAEConfig, WanVAE

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
SHIPPED = ASSETS / "vae_worlds"
# Names of the original Wan's file.
HUB_FILES = ("vae/*", "*_VAE.*")
ORIGINAL_FILES = ("*_VAE.safetensors", "*_VAE.pth")
WEIGHT_FILES = ("*.safetensors", "*.pth")
# What a folder of diffusers has at its top.
DIFFUSERS_FILE = "model_index.json"
FIX = (
    "set --config.data.vae=FOLDER (train) or --vae=FOLDER (prepare, sample, evaluate) to one of "
    "`python -m unityvideo_jax.train_vae` or of Wan"
)


def flatten(state: nnx.State) -> dict[str, jax.Array | jax.ShapeDtypeStruct]:
    """Arrays (or, of an abstract module, shapes) of a module's parameters by dotted path."""
    return {
        ".".join(str(part) for part in path): leaf.get_value()
        for path, leaf in nnx.to_flat_state(state)
    }


def save_vae(
    vae: WanVAE, directory: str | os.PathLike, *, storage: str = "float16"
) -> dict[str, pathlib.Path]:
    """Writes weights and configuration; each file appears only when it is whole.

    Args:
      vae: the autoencoder; its `config` should hold the measured latent statistics.
      directory: made if missing.
      storage: type of the stored weights: "float16", "float32".

    Returns:
      The files written, by name.

    Raises:
      UserError: a weight that is not finite, or does not fit the storage type.
    """
    directory = pathlib.Path(directory)
    if storage not in ("float16", "float32"):
        raise UserError(f"storage={storage!r} is unknown: choose float16 or float32.")
    arrays = {}
    for name, value in flatten(nnx.state(vae, nnx.Param)).items():
        arrays[name] = np.asarray(value).astype(storage)
        if not np.isfinite(arrays[name]).all():
            raise UserError(f"weight {name} is not finite as {storage}: the training diverged.")
    directory.mkdir(parents=True, exist_ok=True)
    files = {name: directory / name for name in (WEIGHTS_FILE, CONFIG_FILE)}
    architecture = "wan_vae_2.2" if vae.config.residual else "wan_vae_2.1"
    config = {"architecture": architecture, **dataclasses.asdict(vae.config)}
    config["modality_statistics"] = {n: (m, s) for n, m, s in vae.config.modality_statistics}
    # The weights last: a folder that has them is whole.
    contents = {
        CONFIG_FILE: (json.dumps(config, indent=2) + "\n").encode(),
        WEIGHTS_FILE: safetensors.numpy.save(arrays, metadata={"format": "np"}),
    }
    files[checksums.SUMS] = checksums.write_sums(directory, contents)
    for name, content in contents.items():
        paths.write_bytes(files[name], content)
    return files


def load_vae(directory: str | os.PathLike | None = None, *, dtype: str = "float32") -> WanVAE:
    """Reads an autoencoder.

    Args:
      directory: as `find_vae` takes it.
      dtype: compute type of the result; its parameters are float32 always.

    Raises:
      UserError: files that are missing, truncated, or do not match each other, or an argument of
        another type.
    """
    if dtype not in DTYPES:
        raise UserError(f"dtype={dtype!r}: use one of {', '.join(DTYPES)}")
    source = find_vae(directory)
    if _is_foreign(source):
        # Here, so that our own files need nothing of it.
        from unityvideo_jax.interop.vae import load_wan_vae

        return load_wan_vae(source, dtype=dtype)
    config = _read_config(source / CONFIG_FILE)
    if not (source / WEIGHTS_FILE).exists():
        raise UserError(f"{source / WEIGHTS_FILE}: the autoencoder's weights are missing; {FIX}.")
    tensors = TensorFiles(source / WEIGHTS_FILE)
    graph, state = build.abstract(WanVAE, config, dtype=dtype)
    tensors.check({name: leaf.shape for name, leaf in flatten(state).items()}, identify.VAE)
    leaves = dict(nnx.to_flat_state(state))
    arrays = tensors.load(
        {path: Wanted(name=".".join(map(str, path)), dtype=jnp.float32) for path in leaves}
    )
    loaded = {path: leaf.replace(arrays[path]) for path, leaf in leaves.items()}
    return nnx.merge(graph, nnx.from_flat_state(loaded))


def find_vae(directory: str | os.PathLike | None = None) -> pathlib.Path:
    """The folder or file of an autoencoder.

    Args:
      directory: folder of `save_vae`; diffusers' folder of Wan's autoencoder; a folder or file of
        the original Wan's; or a whole download of Wan, in which it is one part of several. None
        or "" is the one that ships with the package, trained on the procedural worlds.

    Raises:
      UserError: there is none.
    """
    given = "" if directory is None else paths.argument("directory", directory, empty=True)
    if not given:
        return SHIPPED
    path = hub.local(given, HUB_FILES)
    if path.is_file():
        return path
    if (path / "vae" / CONFIG_FILE).is_file():
        return path / "vae"
    # The transformer's files may lie beside it, with a config.json of theirs.
    original = [file for pattern in ORIGINAL_FILES for file in sorted(path.glob(pattern))]
    if original:
        return original[0]
    if not path.is_dir() or not (weight_files(path) or (path / CONFIG_FILE).is_file()):
        raise UserError(f"{directory}: holds no autoencoder; {FIX}")
    return path


def weight_files(source: pathlib.Path) -> list[pathlib.Path]:
    """The weights of what `find_vae` found."""
    if source.is_file():
        return [source]
    return [file for pattern in WEIGHT_FILES for file in sorted(source.glob(pattern))]


def check_unoccupied(folder: str | os.PathLike, flag: str) -> None:
    """Raises UserError if a folder to write to is a model's, an autoencoder's or a run's.

    Args:
      folder: need not exist.
      flag: that names it, for the message.
    """
    path = pathlib.Path(folder)
    for file in (path / CONFIG_FILE, path / DIFFUSERS_FILE, *weight_files(path)):
        if file.exists():
            raise UserError(f"{folder}: holds {file.name} already; give another {flag}")


def load_vae_config(directory: str | os.PathLike | None = None) -> VAEConfig:
    """The configuration of an autoencoder alone; arguments and errors as `load_vae`."""
    source = find_vae(directory)
    if _is_foreign(source):
        from unityvideo_jax.interop.vae import find_config

        return find_config(source)
    return _read_config(source / CONFIG_FILE)


def _is_foreign(source: pathlib.Path) -> bool:
    """Whether these are Wan's files: diffusers' config names a class, the original has none."""
    config = source / CONFIG_FILE
    if config.is_file():
        return '"_class_name"' in config.read_text()
    return bool(weight_files(source))


def _read_config(path: pathlib.Path) -> VAEConfig:
    if not path.exists():
        raise UserError(f"{path}: the autoencoder's weights are missing; {FIX}.")
    checksums.check(path)
    try:
        values = strict_json.read_object(path)
        values.pop("architecture", None)
        return VAEConfig(**values)
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not an autoencoder's configuration ({error}); {FIX}.") from error
