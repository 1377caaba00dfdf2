"""The one key map: places of a Wan or UnityVideo checkpoint's tensors in our transformer.

Three layouts, distinguished by their names:
  diffusers   Wan 2.1 and 2.2 as diffusers' WanTransformer3DModel has them.
  wan         the names of the original Wan release.
  unityvideo  the public UnityVideo release: Wan's names under `base.`, and for the modalities
              `flow_patch_embedding`, `flow_in`, `modality_embeddings.<name>` and `flow_head`. It is
              our model with switcher="additive" and heads="shared".
"""

import collections
import dataclasses
import functools
import itertools
import types
from collections.abc import Iterable, Mapping

import numpy as np
from flax import nnx
from jaxtyping import Float, Shaped

from unityvideo_jax.errors import UserError
from unityvideo_jax.models import build
from unityvideo_jax.models.dit import DiTConfig

LAYOUTS = ("diffusers", "wan", "unityvideo")
# A name that only checkpoints of this layout have.
MARKS = {
    "unityvideo": "base.time_projection.",
    "diffusers": "condition_embedder.time_proj.",
    "wan": "time_projection.",
}


def _linear(ours: str, diffusers: str, wan: str) -> tuple[tuple[str, str, str, str], ...]:
    return (
        (f"{ours}.kernel", "turned", f"{diffusers}.weight", f"{wan}.weight"),
        (f"{ours}.bias", "same", f"{diffusers}.bias", f"{wan}.bias"),
    )


def _attention(ours: str, diffusers: str, wan: str) -> Iterable[tuple[str, str, str, str]]:
    for name in "qkv":
        yield from _linear(f"{ours}.{name}", f"{diffusers}.to_{name}", f"{wan}.{name}")
    yield from _linear(f"{ours}.o", f"{diffusers}.to_out.0", f"{wan}.o")
    for name in "qk":
        key = f"norm_{name}.weight"
        yield f"{ours}.{name}_norm.scale", "same", f"{diffusers}.{key}", f"{wan}.{key}"


# Our weight, how it lies there, its name in diffusers, its name in the original Wan.
EDGES = (
    ("patch_embedding.kernel", "patches", "patch_embedding.weight", "patch_embedding.weight"),
    ("patch_embedding.bias", "same", "patch_embedding.bias", "patch_embedding.bias"),
    *_linear("text_embedding.up", "condition_embedder.text_embedder.linear_1", "text_embedding.0"),
    *_linear(
        "text_embedding.down", "condition_embedder.text_embedder.linear_2", "text_embedding.2"
    ),
    *_linear("time_embedding.up", "condition_embedder.time_embedder.linear_1", "time_embedding.0"),
    *_linear(
        "time_embedding.down", "condition_embedder.time_embedder.linear_2", "time_embedding.2"
    ),
    *_linear("time_projection", "condition_embedder.time_proj", "time_projection.1"),
    ("heads.modulation.table", "table", "scale_shift_table", "head.modulation"),
    *_linear("heads", "proj_out", "head.head"),
)
# The same inside each block. diffusers calls the norm before cross-attention norm2, Wan norm3.
BLOCK = (
    ("modulation.table", "table", "scale_shift_table", "modulation"),
    *_attention("self_attention", "attn1", "self_attn"),
    ("cross_norm.scale", "same", "norm2.weight", "norm3.weight"),
    ("cross_norm.bias", "same", "norm2.bias", "norm3.bias"),
    *_attention("cross_attention", "attn2", "cross_attn"),
    *_linear("ffn.up", "ffn.net.0.proj", "ffn.0"),
    *_linear("ffn.down", "ffn.net.2", "ffn.2"),
)
# The modalities of the public release, and its names for them.
RELEASE_MODALITIES = {
    "depth": "depth",
    "flow": "raft",
    "segmentation": "segmentation",
    "skeleton": "skeleton",
    "densepose": "densepose",
}
# First values of the modalities' own weights if a checkpoint lacks them: RGB's output is unchanged.
IDENTITY = "additive_switch.projection.kernel"  # all others are zero
# The RGB row of a weight that only we have, and the bias that takes it in without any change.
FOLDS = {
    "time_embedding.down.bias": "modality_embedding.table",
    "patch_embedding.bias": "additive_switch.vectors",
}


# The first parts of all names, in all layouts.
BEGINNINGS = frozenset(
    [name.split(".")[0] for _, _, *theirs in EDGES for name in theirs]
    + ["blocks", "base", "modality_embeddings"]
    + ["flow_in", "flow_head", "flow_patch_embedding"]
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weight:
    """One of our weights.

    Attributes:
      shape: sizes of its axes.
      axes: their logical names.
    """

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]


@functools.cache
def weights(config: DiTConfig) -> Mapping[str, Weight]:
    """Our weights by dotted path; no array is made."""
    state = build.abstract_transformer(config)[1]
    return types.MappingProxyType(
        {
            ".".join(map(str, path)): Weight(
                shape=tuple(leaf.shape), axes=tuple(leaf.get_metadata("logical_axes"))
            )
            for path, leaf in nnx.to_flat_state(state)
        }
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """One tensor of a checkpoint and the part of our weight that it is.

    Attributes:
      key: name in the checkpoint.
      shape: shape there.
      ours: dotted path of our weight.
      places: indices into our weight; each receives the tensor, and the first gives it back.
      turn: "same"; "turned", a transposed matrix; "table", with one leading axis more; "patches",
        a convolution [dim, channel, time, height, width] over patches.
      patch: (time, height, width, channel) of a patch.
    """

    key: str
    shape: tuple[int, ...]
    ours: str
    places: tuple[tuple[int, ...], ...]
    turn: str
    patch: tuple[int, int, int, int]

    def to_ours(self, tensor: Shaped[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """Converts a checkpoint's tensor to a part of our weight, float32."""
        if self.turn == "patches":
            tensor = tensor.transpose(2, 3, 4, 1, 0).reshape(-1, tensor.shape[0])
        elif self.turn == "turned":
            tensor = tensor.T
        elif self.turn == "table":
            tensor = tensor[0]
        return tensor.astype(np.float32)

    def to_theirs(self, part: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """The inverse of `to_ours`."""
        return _to_theirs(part, self.turn, self.patch)


def _to_theirs(part: np.ndarray, turn: str, patch: tuple[int, int, int, int]) -> np.ndarray:
    if turn == "patches":
        return part.reshape(*patch, -1).transpose(4, 3, 0, 1, 2)
    if turn == "turned":
        return part.T
    return part[None] if turn == "table" else part


def detect(names: Iterable[str]) -> str:
    """Detects the layout of these names.

    Raises:
      UserError: none's.
    """
    names = list(names)
    for layout, mark in MARKS.items():
        if any(name.startswith(mark) for name in names):
            return layout
    raise UserError(
        f"no checkpoint of a Wan transformer: its names ({', '.join(sorted(names)[:3])}, ...) have "
        f"none of {list(MARKS.values())}; give the transformer's own file or folder"
    )


def common_prefix(names: Iterable[str]) -> str:
    """Finds the prefix that a repackaged checkpoint puts before all of its names.

    An example is "model.diffusion_model.".

    Raises:
      UserError: several prefixes, as in a file that holds more than the transformer.
    """
    found = collections.Counter(prefix_of(name) for name in names)
    if len(found) > 1:
        listed = ", ".join(f"{prefix or 'none'} ({n} names)" for prefix, n in found.most_common(3))
        raise UserError(
            f"no one prefix before the transformer's names, but {listed}; give a file with the "
            "transformer alone"
        )
    return next(iter(found), "")


def prefix_of(name: str) -> str:
    """The text before the first part of a name that the layouts' names begin with."""
    parts = name.split(".")
    begin = next((n for n, part in enumerate(parts) if part in BEGINNINGS), 0)
    return "".join(f"{part}." for part in parts[:begin])


def entries(config: DiTConfig, layout: str) -> list[Entry]:
    """Every tensor of a checkpoint in this layout, for a model of these sizes.

    Raises:
      UserError: the model has not the switches of the public release.
    """
    return list(_Mapper(config, layout).entries())


class _Mapper:
    def __init__(self, config: DiTConfig, layout: str) -> None:
        if layout not in LAYOUTS:
            raise UserError(f"layout {layout!r} is unknown: choose one of {list(LAYOUTS)}")
        has = (config.switcher, config.heads, config.num_inputs)
        if layout == "unityvideo" and has != ("additive", "shared", 2):
            raise UserError(
                f"model.switcher={config.switcher!r}, model.heads={config.heads!r}, model.inputs="
                f"{config.inputs!r}: the public UnityVideo release has 'additive', 'shared' and "
                "'shared'; use --config=unityvideo_release_5b"
            )
        self._config, self._layout = config, layout
        self._weights = weights(config)

    def entries(self) -> Iterable[Entry]:
        is_release = self._layout == "unityvideo"
        column, prefix = (0, "") if self._layout == "diffusers" else (1, "")
        prefix = "base." if is_release else prefix
        for ours, turn, *theirs in EDGES:
            rows = self._rows(ours)
            if is_release and len(rows) > 1:
                yield self._entry(f"base.{theirs[1]}", ours, turn, [(0,)])
                yield self._entry(f"flow_{theirs[1]}", ours, turn, [(1,)])
            else:
                yield self._entry(prefix + theirs[column], ours, turn, rows)
        for layer in range(self._config.num_layers):
            for name, turn, *theirs in BLOCK:
                ours, key = f"blocks.{name}", f"{prefix}blocks.{layer}.{theirs[column]}"
                places = [(layer, *row) for row in self._rows(ours)]
                yield self._entry(key, ours, turn, places)
        if is_release:
            yield self._entry("flow_in.weight", IDENTITY, "turned", [()])
            yield self._entry("flow_in.bias", "additive_switch.projection.bias", "same", [()])
            for row, name in enumerate(self._config.modalities):
                if name in RELEASE_MODALITIES:
                    key = f"modality_embeddings.{RELEASE_MODALITIES[name]}"
                    yield self._entry(key, "additive_switch.vectors", "same", [(row,)])

    def _rows(self, ours: str) -> list[tuple[int, ...]]:
        """Indices along the modality axis of a weight that has one."""
        weight = self._weights[ours]
        if "modality" not in weight.axes:
            return [()]
        return [(row,) for row in range(weight.shape[weight.axes.index("modality")])]

    def _entry(self, key: str, ours: str, turn: str, places: Iterable[tuple[int, ...]]) -> Entry:
        places = tuple(places)
        patch = (*self._config.patch_size, self._config.in_channels)
        # Empty arrays touch no memory and their views know the shape.
        part = np.empty(self._weights[ours].shape[len(places[0]) :], np.bool_)
        shape = _to_theirs(part, turn, patch).shape
        return Entry(key=key, shape=shape, ours=ours, places=places, turn=turn, patch=patch)


def new_weights(config: DiTConfig, mapped: Iterable[Entry]) -> dict[str, list[tuple[int, ...]]]:
    """Our weights that no entry fills wholly, with the leading indices that stay empty."""
    filled: dict[str, set[tuple[int, ...]]] = {}
    for entry in mapped:
        filled.setdefault(entry.ours, set()).update(entry.places)
    missing = {}
    for ours, weight in weights(config).items():
        done = filled.get(ours, set())
        depth = len(next(iter(done), ()))
        places = itertools.product(*(range(size) for size in weight.shape[:depth]))
        if empty := [place for place in places if place not in done]:
            missing[ours] = empty
    return missing


def new_value(ours: str, shape: tuple[int, ...]) -> Float[np.ndarray, "..."]:
    """The first value of a weight that no checkpoint has."""
    return np.eye(*shape, dtype=np.float32) if ours == IDENTITY else np.zeros(shape, np.float32)
