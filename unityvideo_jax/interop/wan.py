"""Our transformer from a Wan or UnityVideo checkpoint, and back.

Weights are moved one tensor at a time between a checkpoint's files and `Arrays`: anything that is
indexed and assigned as numpy arrays are, whether it lies in memory or on disk.
"""

import dataclasses
import math
import os
import pathlib
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from unityvideo_jax.errors import UserError
from unityvideo_jax.files import hub, provenance
from unityvideo_jax.interop import identify, shards, wan_keys
from unityvideo_jax.models import build
from unityvideo_jax.models.dit import DiT, DiTConfig

Arrays = Mapping[str, Any]
STEM = "diffusion_pytorch_model"
# Ends of names beside the 8-bit weights of a checkpoint: their factors, and other tensors.
SCALES = ("scale_weight", "weight_scale")
NO_WEIGHTS = ("scale_input", "input_scale", "scaled_fp8")
MAX_SHARD_BYTES = 5 * 10**9
# Files of a repository of the hub, and those of a pipeline's other parts, which are left out.
HUB_FILES = ("*.safetensors", "*.json")
HUB_OTHERS = ("text_encoder*/*", "tokenizer*/*", "image_*/*", "vae/*", "scheduler/*", "google/*")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint that fits a model, before any tensor is read.

    Attributes:
      layout: one of `wan_keys.LAYOUTS`.
      prefix: what the file puts before every name of the layout.
      tensors: where each tensor lies, by its name without the prefix.
      entries: part of our weights that each tensor is.
      new: our weights that it lacks, with the leading indices that it leaves empty.
    """

    layout: str
    prefix: str
    tensors: Mapping[str, shards.StoredTensor | shards.ScaledTensor]
    entries: tuple[wan_keys.Entry, ...]
    new: Mapping[str, list[tuple[int, ...]]]

    @property
    def files(self) -> list[pathlib.Path]:
        """The files, in the order of reading."""
        return list(dict.fromkeys(tensor.file for tensor in self.tensors.values()))


def open_checkpoint(path: str | os.PathLike, config: DiTConfig) -> Checkpoint:
    """Finds a checkpoint's files and checks every name and shape against the model.

    Args:
      path: a .safetensors file, an index, or a folder that holds either (or a pipeline's folder,
        with the transformer in `transformer/`); or the id of such a folder on the Hugging Face hub.
      config: of our model.

    Raises:
      UserError: names the file, or the tensors and shapes that do not fit.
    """
    here = hub.local(path, HUB_FILES, HUB_OTHERS)
    stored = _scaled(shards.read_headers(shards.find_files(here)))
    if special := identify.adapter(stored):
        raise UserError(
            f"{path}: is {special}; give the transformer's own weights here, and this to `sample "
            "--lora`"
        )
    if special := identify.quantised(stored):
        raise UserError(f"{path}: is {special}; give the transformer's own weights, not quantised")
    try:
        prefix = wan_keys.common_prefix(stored)
        tensors = {name.removeprefix(prefix): tensor for name, tensor in stored.items()}
        layout = wan_keys.detect(tensors)
    except UserError as error:
        _refuse_other(path, stored)
        raise UserError(f"{path}: {error}") from error
    mapped = {entry.key: entry for entry in wan_keys.entries(config, layout)}
    faults = [f"lacks {key} {mapped[key].shape}" for key in mapped if key not in tensors]
    faults += [f"has {key} {tensors[key].shape}" for key in tensors if key not in mapped]
    faults += [
        f"{key} is {tensors[key].shape}, not {entry.shape}"
        for key, entry in mapped.items()
        if key in tensors and tensors[key].shape != entry.shape
    ]
    faults += [shards.not_float(t) for t in tensors.values() if t.kind not in shards.TYPES]
    if faults:
        _refuse_other(path, stored)
        raise UserError(
            f"{path}: {layout} weights that do not fit the model: {'; '.join(faults[:3])}"
            f"{f' and {len(faults) - 3} more' if len(faults) > 3 else ''}; choose the config of "
            "these weights, or copy them again"
        )
    return Checkpoint(
        layout=layout,
        prefix=prefix,
        tensors=tensors,
        entries=tuple(mapped.values()),
        new=wan_keys.new_weights(config, mapped.values()),
    )


def _scaled(stored: Mapping[str, shards.StoredTensor]) -> dict[str, Any]:
    """Tensors of 8-bit floats with the scales that ComfyUI stores beside them; others as they are.

    A weight is its codes times `scale_weight`. Scales of activations are left out, and so is the
    mark `scaled_fp8`: neither is a weight.
    """
    scales, found = {}, {}
    for name, tensor in stored.items():
        stem, _, end = name.rpartition(".")
        if end in SCALES:
            scales[f"{stem}.weight"] = tensor
        elif end not in NO_WEIGHTS:
            found[name] = tensor
    if not any(tensor.kind in shards.FLOAT8 for tensor in found.values()):
        return dict(stored)
    for name, tensor in found.items():
        if tensor.kind in shards.FLOAT8:
            found[name] = shards.ScaledTensor(codes=tensor, scale=scales.pop(name, None))
    # A scale of a weight that is no 8-bit float is not understood, and stays to be refused.
    return found | {tensor.name: tensor for tensor in scales.values()}


def _refuse_other(path: str | os.PathLike, names: Iterable[str]) -> None:
    other = identify.model(names)
    if other not in (None, identify.WAN):
        raise UserError(f"{path}: is {other}; give the file or folder of {identify.WAN}")


def check_values(checkpoint: Checkpoint, done: Collection[str] = ()) -> None:
    """Reads every tensor of the files that are not done.

    Raises:
      UserError: names the first that is not finite.
    """
    for tensor in checkpoint.tensors.values():
        if tensor.file.name not in done:
            tensor.read()


def fill(
    arrays: Arrays,
    checkpoint: Checkpoint,
    *,
    done: Collection[str] = (),
    finished: Callable[[pathlib.Path], None] = lambda file: None,
) -> None:
    """Reads a checkpoint into `arrays`, file by file and one tensor at a time.

    Args:
      arrays: our weights by dotted path; assigned to by leading indices.
      checkpoint: of `open_checkpoint`.
      done: names of files that need not be read again.
      finished: called with each file once all of it has been assigned.
    """
    for ours, places in checkpoint.new.items():
        for place in places:
            array = arrays[ours]
            array[place] = wan_keys.new_value(ours, tuple(array.shape[len(place) :]))
    for file in checkpoint.files:
        if file.name in done:
            continue
        for entry in checkpoint.entries:
            tensor = checkpoint.tensors[entry.key]
            if tensor.file == file:
                part = entry.to_ours(tensor.read())
                for place in entry.places:
                    arrays[entry.ours][place] = part
        finished(file)


def load_dit(path: str | os.PathLike, config: DiTConfig) -> DiT:
    """Loads a checkpoint's weights into our transformer, float32, on the default device.

    Weights that the checkpoint lacks (a Wan has one modality) start so that the RGB stream's output
    is the checkpoint's own: tables, patch embeddings and heads as copies, the rest as zero.

    Args:
      path, config: as `open_checkpoint` takes them.

    Raises:
      UserError: as `open_checkpoint`.
    """
    checkpoint = open_checkpoint(path, config)
    arrays = {
        ours: np.empty(weight.shape, np.float32)
        for ours, weight in wan_keys.weights(config).items()
    }
    fill(arrays, checkpoint)
    graph, state = build.abstract_transformer(config)
    loaded = {
        path: leaf.replace(jnp.asarray(arrays.pop(".".join(map(str, path)))))
        for path, leaf in nnx.to_flat_state(state)
    }
    return nnx.merge(graph, nnx.from_flat_state(loaded))


def save_dit(
    model: DiT,
    folder: str | os.PathLike,
    *,
    layout: str = "diffusers",
    storage: str = "float32",
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> list[str]:
    """Writes a transformer as safetensors shards, their index and config.json.

    Args:
      model: its RGB stream is written; with layout "unityvideo" its modalities too.
      folder: made if missing.
      layout: one of `wan_keys.LAYOUTS`.
      storage: "float32", "float16" or "bfloat16".
      max_shard_bytes: of one file.

    Returns:
      Our weights that the layout cannot hold, wholly or in part.

    Raises:
      UserError: a model that the layout cannot hold, or weights that are not finite.
    """
    arrays = {
        ".".join(map(str, path)): np.asarray(leaf[...])
        for path, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param))
    }
    return write(
        arrays,
        model.config,
        pathlib.Path(folder),
        layout=layout,
        storage=storage,
        max_shard_bytes=max_shard_bytes,
    )


def write(
    arrays: Arrays,
    config: DiTConfig,
    folder: pathlib.Path,
    *,
    layout: str,
    storage: str,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    done: Collection[str] = (),
    finished: Callable[[pathlib.Path], None] = lambda file: None,
) -> list[str]:
    """Writes arrays in memory or on disk as `save_dit` does.

    Args:
      arrays: our weights by dotted path.
      config: of the model.
      folder: made if missing.
      layout, storage, max_shard_bytes: as `save_dit` takes them.
      done, finished: as `fill` takes them.

    Returns:
      Our weights that the layout cannot hold, wholly or in part.

    Raises:
      UserError: an unknown storage, or as `save_dit`.
    """
    if storage not in shards.STORAGE:
        raise UserError(f"storage {storage!r} is unknown: choose one of {list(shards.STORAGE)}")
    mapped = {entry.key: entry for entry in wan_keys.entries(config, layout)}
    itemsize = shards.TYPES[shards.STORAGE[storage]].itemsize
    shapes = {key: entry.shape for key, entry in mapped.items()}
    plan = shards.plan_shards(shapes, STEM, itemsize, max_shard_bytes)
    folder.mkdir(parents=True, exist_ok=True)
    for shard in plan:
        if shard.name not in done:
            shards.write_shard(folder, shard, storage, lambda key: _give(arrays, mapped[key]))
            finished(folder / shard.name)
    shards.write_index(folder, STEM, plan, itemsize)
    provenance.write_json(folder / "config.json", diffusers_config(config))
    return sorted(left_over(config, layout))


def _give(arrays: Arrays, entry: wan_keys.Entry) -> np.ndarray:
    part = np.asarray(arrays[entry.ours][entry.places[0]])
    table = wan_keys.FOLDS.get(entry.ours)
    if table in arrays and entry.places[0] in ((), (0,)):
        vector = np.asarray(arrays[table][0])
        # Adding zeros would turn -0 into 0, and a round trip would not give the same bits.
        part = part + vector if vector.any() else part
    return entry.to_theirs(part)


def left_over(config: DiTConfig, layout: str) -> dict[str, int]:
    """Counts the parameters that a layout cannot hold, by our weight; folded ones are held."""
    given: dict[str, set[tuple[int, ...]]] = {}
    for entry in wan_keys.entries(config, layout):
        given.setdefault(entry.ours, set()).add(entry.places[0])
    lost = {}
    for ours, weight in wan_keys.weights(config).items():
        places = given.get(ours, set())
        depth = len(next(iter(places), (0,)))
        held = len(places) + (ours in wan_keys.FOLDS.values())
        if missing := math.prod(weight.shape[:depth]) - held:
            lost[ours] = missing * math.prod(weight.shape[depth:])
    return lost


def diffusers_config(config: DiTConfig) -> dict[str, Any]:
    """The config.json of diffusers' WanTransformer3DModel."""
    return {
        "_class_name": "WanTransformer3DModel",
        "added_kv_proj_dim": None,
        "attention_head_dim": config.head_dim,
        "cross_attn_norm": True,
        "eps": config.eps,
        "ffn_dim": config.ffn_dim,
        "freq_dim": config.freq_dim,
        "image_dim": None,
        "in_channels": config.in_channels,
        "num_attention_heads": config.num_heads,
        "num_layers": config.num_layers,
        "out_channels": config.in_channels,
        "patch_size": list(config.patch_size),
        "pos_embed_seq_len": None,
        "qk_norm": "rms_norm_across_heads",
        "rope_max_seq_len": 1024,
        "text_dim": config.text_dim,
    }
