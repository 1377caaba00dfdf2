"""A checkpoint's weights on disk as arrays: written part by part, and read part by part.

Orbax saves and restores whole trees, which a host that converts 14 billion weights cannot hold. A
checkpoint of Orbax without OCDBT is a folder of zarr arrays, one per weight; so Orbax writes the
checkpoint's frame here and TensorStore the arrays in it. `CheckpointManager` restores the result
like any other, onto any sharding.
"""

import itertools
import json
import math
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from absl import logging

from unityvideo_jax.checkpoints import orbax_stores
from unityvideo_jax.errors import UserError, reason
from unityvideo_jax.files import disk, paths, stores
from unityvideo_jax.files.stores import AnyPath
from unityvideo_jax.interop.wan_keys import Weight

PARAMS = "params"
CONFIG = "config"
STEP = 0
# Hosts read the chunks that their devices' shards touch; smaller ones spare them the rest.
CHUNK_BYTES = 16 * 2**20


def create(folder: pathlib.Path, weights: Mapping[str, Weight], config: Any) -> None:
    """Makes the checkpoint `folder`/0 with empty arrays; the folder appears when it is whole.

    Args:
      folder: of checkpoints; does not exist.
      weights: shapes by dotted path.
      config: JSON-able, stored beside the weights.
    """
    temporary = paths.without_patterns(folder.parent) / f".{folder.name}{paths.PART}"
    shutil.rmtree(temporary, ignore_errors=True)
    frame: dict[str, Any] = {}
    for name in weights:
        *parents, leaf = name.split(".")
        node = frame
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = np.zeros((1,), np.float32)
    handlers = {
        PARAMS: ocp.PyTreeCheckpointHandler(use_ocdbt=False),
        CONFIG: ocp.JsonCheckpointHandler(),
    }
    # Orbax warns that there is no OCDBT to merge, which is what was asked for.
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    with ocp.CheckpointManager(temporary, item_handlers=handlers) as manager:
        items = {PARAMS: ocp.args.PyTreeSave(frame), CONFIG: ocp.args.JsonSave(config)}
        manager.save(STEP, args=ocp.args.Composite(**items))
        manager.wait_until_finished()
    logging.set_verbosity(verbosity)
    for name, weight in weights.items():
        place = temporary / str(STEP) / PARAMS / name
        shutil.rmtree(place)
        metadata = {
            "shape": list(weight.shape),
            "chunks": chunk_shape(weight),
            "dtype": "<f4",
            "compressor": {"id": "zstd", "level": 1},
        }
        ts.open(_spec(place) | {"metadata": metadata}, create=True).result()
    os.replace(temporary, folder)


def _spec(place: AnyPath) -> dict[str, Any]:
    return {
        "driver": "zarr",
        "kvstore": orbax_stores.kvstore(place),
        # Zeros are stored too: to Orbax a chunk that is missing is damage.
        "store_data_equal_to_fill_value": True,
    }


def chunk_shape(weight: Weight) -> list[int]:
    """Returns the shape of a chunk: one layer and one modality, and at most `CHUNK_BYTES`."""
    shape = [
        1 if axis in ("layers", "modality") else size
        for axis, size in zip(weight.axes, weight.shape, strict=True)
    ]
    while math.prod(shape) * 4 > CHUNK_BYTES:
        largest = shape.index(max(shape))
        shape[largest] = -(-shape[largest] // 2)
    return shape


def open_arrays(step: AnyPath, item: str = PARAMS) -> dict[str, ts.TensorStore]:
    """Returns the arrays of one item of a checkpoint, by dotted path.

    Args:
      step: folder of the checkpoint.
      item: "params", "ema" or "optimizer".

    Raises:
      UserError: no such checkpoint, or a damaged one.
    """
    folder = step / item
    if stores.is_url(folder):
        orbax_stores.enable()
        plain = folder
    else:
        folder = folder.absolute()
        plain = paths.without_patterns(folder)
    try:
        for file in folder.glob("array_metadatas/*"):  # which Orbax reads too, when it restores
            for row in json.loads(file.read_text()).get("array_metadatas", []):
                keys = ("param_name", "write_shape", "chunk_shape")
                [len(row["array_metadata"][key]) for key in keys]
        tree = ocp.PyTreeCheckpointHandler().metadata(plain).tree
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
        if (folder / "manifest.ocdbt").exists():
            base = orbax_stores.folder(folder)
            specs = {
                name: {
                    "driver": "zarr",
                    "kvstore": {"driver": "ocdbt", "base": base, "path": f"{name}/"},
                }
                for name in names
            }
        else:
            specs = {name: _spec(folder / name) for name in names}
        opened = {name: ts.open(spec, open=True) for name, spec in specs.items()}
        return {name: future.result() for name, future in opened.items()}
    except Exception as error:  # whatever the storage libraries raise for damaged files
        disk.raise_if_refused(error, folder)
        raise UserError(f"{folder}: does not open ({reason(error)})") from error


def chunks(array: ts.TensorStore) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """Yields an array's stored chunks, one in memory at a time, each with its first index.

    Raises:
      UserError: a chunk that is missing or does not decompress.
    """
    sizes = array.chunk_layout.read_chunk.shape or ()  # None of an array without axes
    steps = (range(0, whole, size) for whole, size in zip(array.shape, sizes, strict=True))
    for origin in itertools.product(*steps):
        ends = (min(o + size, n) for o, size, n in zip(origin, sizes, array.shape, strict=True))
        place = tuple(slice(o, end) for o, end in zip(origin, ends, strict=True))
        try:
            yield origin, array[place].read().result()
        except Exception as error:  # likewise
            disk.raise_if_refused(error)
            raise UserError(f"does not read ({reason(error)})") from error
