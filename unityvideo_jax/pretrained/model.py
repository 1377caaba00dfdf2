"""A transformer as a folder, which `Pipeline.from_pretrained` and `--pretrained` read.

    config.json        the model, the codecs of its clips, and settings to sample with
    model.safetensors  weights by dotted path: `blocks.ffn.up.kernel`
    vae/               the autoencoder, unless it is the one that ships with this package
    README.md          a card for people
    SHA256SUMS         checksums of the three files

Kernels stored as "int8" are divided by one float32 scale per output channel, `<path>_scale`, so
that the largest of a channel is 127; all other weights stay float32 then. Kernels are
[..., in, out], and a stack of them (layers, modalities) has scales for each.
"""

import dataclasses
import functools
import math
import os
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float, Int8, Shaped

from unityvideo_jax.errors import UserError
from unityvideo_jax.files import checksums, hub, paths, provenance, stores, strict_json
from unityvideo_jax.files.assets import ASSETS
from unityvideo_jax.interop import shards
from unityvideo_jax.interop.tensors import TensorFiles
from unityvideo_jax.models import build
from unityvideo_jax.models.dit import DiTConfig
from unityvideo_jax.models.vae.wan_vae import WanVAE
from unityvideo_jax.pretrained.vae import SHIPPED, flatten, load_vae, save_vae
from unityvideo_jax.runtime import threads
from unityvideo_jax.settings.sections import check_keys, section

FORMAT = 1
CONFIG_FILE, WEIGHTS_FILE, CARD, VAE = "config.json", "model.safetensors", "README.md", "vae"
HUB_FILES = (CONFIG_FILE, WEIGHTS_FILE, checksums.SUMS, f"{VAE}/*")
SECTIONS = ("model", "data", "sampling")
KEYS = {"format": int, "storage": str, "step": int, **dict.fromkeys(SECTIONS, dict)}
INT8 = "int8"
STORAGE = (*shards.STORAGE, INT8)
SCALE = "_scale"
LARGEST = 127
READ_AT_ONCE = 3  # tensors: of a large model one is gigabytes
FIX = "copy the folder again, or convert the run again"


def names() -> tuple[str, ...]:
    """The models that ship with the package."""
    return tuple(sorted(path.parent.name for path in ASSETS.glob(f"*/{CONFIG_FILE}") if _is(path)))


def _is(config: pathlib.Path) -> bool:
    try:
        return "storage" in strict_json.read_object(config)
    except (OSError, UserError):
        return False


def is_model(name: str | os.PathLike) -> bool:
    """Whether a folder of this name is a model's, or else a shipped model has the name."""
    folder = stores.local(paths.expand(os.fspath(name)))
    return (folder / WEIGHTS_FILE).is_file() if folder.exists() else os.fspath(name) in names()


def find(name: str | os.PathLike) -> pathlib.Path:
    """The folder of a model.

    Args:
      name: of a folder, which comes first, of a model that ships with the package, or its id on the
        Hugging Face hub, as `hub.local` takes it.

    Raises:
      UserError: none of them, a folder that holds no model, or an argument of another type.
    """
    given = paths.argument("name", name)
    if given in names() and not stores.local(given).exists():
        return ASSETS / given
    folder = hub.local(given, HUB_FILES)
    for file in (CONFIG_FILE, WEIGHTS_FILE, checksums.SUMS):
        if (folder / file).is_file():
            continue
        if not folder.exists():
            known = f"those that ship: {', '.join(names())}" if names() else "none ships"
            raise UserError(f"{name}: no such folder, and no model of that name ({known})")
        raise UserError(
            f"{folder}: no pretrained model, it lacks {file}; name a training run by --workdir "
            "or Pipeline.from_workdir; it becomes a model by `convert --to=pretrained`"
        )
    return folder


def read_config(folder: pathlib.Path) -> dict[str, Any]:
    """Reads `config.json` of a model: the keys of `KEYS`.

    Raises:
      UserError: a damaged file, another format, or a key too many or missing.
    """
    file = folder / CONFIG_FILE
    checksums.check(file, FIX)
    config = strict_json.read_object(file)
    if "format" not in config:
        raise UserError(
            f"{file}: not of a pretrained model, which states a format; name a folder that "
            "`convert --to=pretrained` wrote"
        )
    if config["format"] != FORMAT:
        raise UserError(
            f"{file}: format {config['format']}, this version reads {FORMAT}; use the "
            "unityvideo_jax that wrote it"
        )
    check_keys(config, KEYS, f"{file}: ", needed=KEYS)
    for key, kind in KEYS.items():
        if type(config[key]) is not kind:
            raise UserError(f"{file}: {key}={config[key]!r}: not of type {kind.__name__}; {FIX}")
    if config["storage"] not in STORAGE:
        raise UserError(
            f"{file}: storage={config['storage']!r}: known are {', '.join(STORAGE)}; {FIX}"
        )
    return config


def find_own_vae(folder: pathlib.Path, config: Mapping[str, Any]) -> str | None:
    """The folder of the autoencoder that came with a model; None if it is the shipped one."""
    return os.fspath(folder / VAE) if config["data"].get("vae") else None


def load(folder: pathlib.Path, config: Mapping[str, Any], target: Any = None) -> Any:
    """Loads the parameters of a model, float32, up to `READ_AT_ONCE` tensors in host memory.

    Args:
      folder: as `find` gives it.
      config: as `read_config` gives it.
      target: state of shapes and shardings to lay them out by; None is all on the first device.

    Raises:
      UserError: a damaged file; a tensor that is missing, unknown, or of another shape or type than
        the configuration says.
    """
    tensors = TensorFiles(folder / WEIGHTS_FILE, checked=False)
    state, read = _opened(tensors, config)
    loaded = threads.call_all(
        sums=tensors.check_sums,
        # The sums need no device, and until it is ready its layout is not known.
        weights=lambda: _read_all(read, build.on_one_device(state) if target is None else target),
    )
    return loaded["weights"]


def _read_all(read: Callable[[str], Float[np.ndarray, "..."]], target: nnx.State) -> nnx.State:
    """The weights, float32, laid out as `target` is; `read` gives one by dotted path."""
    flat = dict(nnx.to_flat_state(target))

    def place(path: tuple[Any, ...]) -> jax.Array:
        like = flat[path].get_value()
        value = read(".".join(map(str, path)))
        placed = jax.make_array_from_callback(like.shape, like.sharding, lambda index: value[index])
        # Widened there: half the bytes travel, and this processor's loop over bfloat16 is slow.
        return placed.astype(np.float32).block_until_ready()

    order = sorted(flat, key=lambda path: -flat[path].get_value().size)
    # Several processes run the same programs in the same order.
    workers = READ_AT_ONCE if jax.process_count() == 1 else 1
    arrays = zip(order, threads.map_all(place, order, workers), strict=True)
    return nnx.from_flat_state({path: flat[path].replace(array) for path, array in arrays})


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredWeight:
    """A weight of a model, float32, read where it is indexed or made an array.

    Attributes:
      read: gives what a leading index, or `...`, selects.
      shape: of the whole.
    """

    read: Callable[[Any], Float[np.ndarray, "..."]]
    shape: tuple[int, ...]

    def __getitem__(self, place: Any) -> Float[np.ndarray, "..."]:
        return self.read(place)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[...], dtype)


def stored(folder: pathlib.Path, config: Mapping[str, Any]) -> dict[str, StoredWeight]:
    """All weights of a model by dotted path; the one that was read last stays in memory.

    Args:
      folder, config: as `load` takes them.

    Raises:
      UserError: as `load` does.
    """
    state, by_name = _opened(TensorFiles(folder / WEIGHTS_FILE), config)

    @functools.lru_cache(maxsize=1)  # stacks of layers are read a layer at a time
    def read(name: str) -> Float[np.ndarray, "..."]:
        return by_name(name).astype(np.float32, copy=False)

    return {
        name: StoredWeight(read=lambda place, name=name: read(name)[place], shape=weight.shape)
        for name, weight in flatten(state).items()
    }


def _opened(
    tensors: TensorFiles, config: Mapping[str, Any]
) -> tuple[nnx.State, Callable[[str], Float[np.ndarray, "..."]]]:
    """The weights as shapes, and a function that reads one by dotted path in its stored type.

    Weights of 8 bits come as float32. Errors are those of `load`.
    """
    model = section(DiTConfig, {"model": config["model"]}, "model")
    state = build.abstract_transformer(model)[1]
    _check(tensors, _layout(flatten(state), config["storage"]))

    def read(name: str) -> Float[np.ndarray, "..."]:
        if name + SCALE not in tensors:
            return tensors[name]
        return tensors.read_int8(name) * np.expand_dims(tensors[name + SCALE], -2)

    return state, read


def fingerprint(folder: pathlib.Path) -> str:
    """Names the weights of a model, whatever their path; the storage counts."""
    return checksums.listed(folder / WEIGHTS_FILE)[:16]


def _layout(weights: Mapping[str, Any], storage: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of every tensor of the file, by name."""
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, weight in weights.items():
        shape = tuple(weight.shape)
        if storage != INT8:
            tensors[name] = (shards.STORAGE[storage], shape)
        elif _is_kernel(name):
            tensors[name] = ("I8", shape)
            tensors[name + SCALE] = ("F32", (*shape[:-2], shape[-1]))
        else:
            tensors[name] = ("F32", shape)
    return tensors


def _is_kernel(name: str) -> bool:
    return name.rpartition(".")[2] == "kernel"


def _check(tensors: TensorFiles, expected: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    """Raises UserError unless exactly these tensors are there."""
    faults = [f"lacks {name}" for name in expected if name not in tensors]
    faults += [f"has unknown {name}" for name in tensors if name not in expected]
    for name, (kind, shape) in expected.items():
        if name in tensors and (tensors.kind(name), tensors.shape(name)) != (kind, shape):
            found = f"{tensors.kind(name)}{list(tensors.shape(name))}"
            faults.append(f"{name} is {found}, not {kind}{list(shape)}")
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise UserError(
            f"{tensors.path}: does not fit {CONFIG_FILE}: {'; '.join(faults[:3])}{more}; {FIX}"
        )


def quantise(
    kernel: Shaped[np.ndarray, "*stack i o"],
) -> tuple[Int8[np.ndarray, "*stack i o"], Float[np.ndarray, "*stack o"]]:
    """A kernel in 8 bits and its scales: `kernel` is their product within half a scale."""
    kernel = np.asarray(kernel, np.float32)
    scale = np.abs(kernel).max(axis=-2) / LARGEST
    scale = np.where(scale > 0, scale, 1.0).astype(np.float32)
    return np.rint(kernel / np.expand_dims(scale, -2)).astype(np.int8), scale


def save(
    folder: str | os.PathLike,
    config: Mapping[str, Any],
    weights: Mapping[str, Any],
    *,
    vae: WanVAE,
    storage: str = "float32",
    card: str = "",
) -> None:
    """Writes the folder of a model, one tensor in host memory at a time.

    Args:
      folder: new or empty; it appears when it is whole.
      config: the sections model, data and sampling, and `step` of the training.
      weights: arrays by dotted path, such as `flatten` gives; each is read when it is written.
      vae: its autoencoder; the shipped one is named only.
      storage: "float32" (exact), "float16", "bfloat16" or "int8".
      card: Markdown for `README.md`, below the title and the table of facts.

    Raises:
      UserError: a folder that holds something, an unknown storage, or a weight that is not finite
        in it.
    """
    folder = stores.place(paths.expand(os.fspath(folder)))
    if storage not in STORAGE:
        raise UserError(f"storage={storage!r}: choose one of {', '.join(STORAGE)}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: holds something already; name a new folder")
    paths.check_output(os.fspath(folder), os.fspath(folder), "folder")
    layout = _layout(weights, storage)

    @functools.lru_cache(maxsize=1)
    def encoded(name: str) -> dict[str, np.ndarray]:
        value = np.asarray(weights[name])
        shards.check_finite(folder, name, value)
        if layout[name][0] != "I8":
            return {name: value}
        kernel, scale = quantise(value)
        return {name: kernel, name + SCALE: scale}

    part = folder.with_name(f".{folder.name}{paths.PART}")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        own_vae = "" if _is_shipped(vae) else VAE
        data = {**config["data"], "vae": own_vae}
        record = {"format": FORMAT, "storage": storage, **config, "data": data}
        provenance.write_json(part / CONFIG_FILE, record)
        shards.write_tensors(
            part / WEIGHTS_FILE, layout, lambda name: encoded(name.removesuffix(SCALE))[name]
        )
        if own_vae:
            save_vae(vae, part / VAE, storage="float32")
        (part / CARD).write_text(_card(folder.name, record, weights, part / WEIGHTS_FILE, card))
        checksums.list_files(part, (CONFIG_FILE, WEIGHTS_FILE, CARD))
        os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _is_shipped(vae: WanVAE) -> bool:
    """Whether an autoencoder is the one of this package, weight for weight."""
    shipped = load_vae(SHIPPED)
    if vae.config != shipped.config:
        return False
    theirs, ours = (flatten(nnx.state(one, nnx.Param)) for one in (vae, shipped))
    return all(np.array_equal(theirs[name], ours[name]) for name in ours)


def _card(
    name: str, config: Mapping[str, Any], weights: Mapping[str, Any], file: pathlib.Path, text: str
) -> str:
    count = sum(math.prod(weight.shape) for weight in weights.values())
    data = config["data"]
    rows = {
        "parameters": f"{count:,}",
        "weights": f"{file.stat().st_size:,} bytes, {config['storage']}",
        "training step": f"{config['step']:,}",
        "modalities": ", ".join(config["model"]["modalities"]),
        "clips": f"{data['num_frames']} frames of {data['height']}x{data['width']} at "
        f"{data['fps']:g} frames/s",
        "text encoder": f"{data['text_encoder']}, {data['text_length']} tokens",
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    use = (
        f'import unityvideo_jax as uv\n\npipe = uv.Pipeline.from_pretrained("{name}")\n'
        'out = pipe("a dog runs", wanted=("rgb", "depth"))\nout.save("out")'
    )
    tail = f"\n{text.strip()}\n" if text.strip() else ""
    return f"# {name}\n\n| | |\n| --- | --- |\n{table}\n\n```python\n{use}\n```\n{tail}"
