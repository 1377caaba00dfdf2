"""An autoencoder as a folder: `model.safetensors` and `config.json`; Wan's own are read too.

Tensor names are the modules' paths joined by dots (`encoder.downsamples.0.conv1.weight`); kernels
lie as they are used, [kt, kh, kw, in, out].
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax import nnx

from unityvideo_jax.errors import UserError
from unityvideo_jax.models.wan_vae import VAEConfig, WanVAE

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
SHIPPED = pathlib.Path(__file__).resolve().parent.parent / "assets" / "vae_worlds"
MEND = "train one with `python -m unityvideo_jax.train_vae`, or give a folder that holds one"


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
    paths = {name: directory / name for name in (WEIGHTS_FILE, CONFIG_FILE)}
    architecture = "wan_vae_2.2" if vae.config.residual else "wan_vae_2.1"
    config = {"architecture": architecture, **dataclasses.asdict(vae.config)}
    _replace(paths[WEIGHTS_FILE], safetensors.numpy.save(arrays, metadata={"format": "np"}))
    _replace(paths[CONFIG_FILE], (json.dumps(config, indent=2) + "\n").encode())
    return paths


def _replace(path: pathlib.Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def load_vae(directory: str | os.PathLike | None = None, *, dtype: str = "float32") -> WanVAE:
    """Reads an autoencoder.

    Args:
      directory: holds `model.safetensors` and `config.json` as `save_vae` writes them, or a
        download of Wan's autoencoder (see `interop.vae`); None is the one that ships with the
        package, trained on the procedural worlds.
      dtype: compute type of the result; its parameters are float32 always.

    Raises:
      UserError: files that are missing, truncated, or do not match each other.
    """
    source = SHIPPED if directory is None else pathlib.Path(directory)
    if _is_foreign(source):
        # Here, so that our own files need nothing of it.
        from unityvideo_jax.interop.vae import load_wan_vae

        return load_wan_vae(source, dtype=dtype)
    config = _read_config(source / CONFIG_FILE)
    tensors = _read_tensors(source / WEIGHTS_FILE)
    # No initial weights are drawn: shapes come from an abstract module.
    vae = nnx.eval_shape(lambda: WanVAE(config, rngs=nnx.Rngs(0), dtype=dtype))
    graph, state = nnx.split(vae)
    _check_tensors(source / WEIGHTS_FILE, flatten(state), tensors)
    loaded = {
        path: leaf.replace(jnp.asarray(tensors[".".join(map(str, path))], jnp.float32))
        for path, leaf in nnx.to_flat_state(state)
    }
    return nnx.merge(graph, nnx.from_flat_state(loaded))


def _is_foreign(source: pathlib.Path) -> bool:
    """Whether these are Wan's files: diffusers' config names a class, the original has none."""
    config = source / CONFIG_FILE
    if config.exists():
        return '"_class_name"' in config.read_text()
    return source.is_file() or any(source.glob("*.safetensors"))


def _read_config(path: pathlib.Path) -> VAEConfig:
    if not path.exists():
        raise UserError(f"{path}: the autoencoder's weights are missing; {MEND}.")
    try:
        values = json.loads(path.read_text())
        values.pop("architecture", None)
        return VAEConfig(**values)
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not an autoencoder's configuration ({error}); {MEND}.") from error


def _read_tensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    if not path.exists():
        raise UserError(f"{path}: the autoencoder's weights are missing; {MEND}.")
    try:
        return safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{path}: truncated, or not a safetensors file ({error}); copy it again, or {MEND}."
        ) from error


def _check_tensors(
    path: pathlib.Path, expected: Mapping[str, object], tensors: Mapping[str, np.ndarray]
) -> None:
    missing = sorted(set(expected) - set(tensors))
    unknown = sorted(set(tensors) - set(expected))
    wrong = [
        f"{name} is {tensors[name].shape}, not {expected[name].shape}"
        for name in sorted(set(expected) & set(tensors))
        if tensors[name].shape != expected[name].shape
    ]
    if missing or unknown or wrong:
        faults = [f"lacks {name}" for name in missing]
        faults += [f"has unknown {name}" for name in unknown] + wrong
        raise UserError(
            f"{path}: does not match {CONFIG_FILE} beside it: {'; '.join(faults[:3])}"
            f"{f' and {len(faults) - 3} more' if len(faults) > 3 else ''}; "
            "put the two files of one autoencoder together."
        )
