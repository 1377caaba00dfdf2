"""Adapters (LoRA) of Wan as users have them, in and out.

Names of three families are read, each with every usual prefix: PEFT's and diffusers'
(`blocks.0.attn1.to_q.lora_A.weight`), the original Wan's
(`diffusion_model.blocks.0.self_attn.q.lora_down.weight`) and Kohya's
(`lora_unet_blocks_0_self_attn_q.lora_down.weight`). A factor alpha / rank comes from tensors
`.alpha`, or from the configuration that PEFT and diffusers store; without either it is 1.
"""

import dataclasses
import functools
import json
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from safetensors import safe_open

from unityvideo_jax.errors import UserError, reason
from unityvideo_jax.files import checksums, stores
from unityvideo_jax.interop import identify, shards, wan_keys
from unityvideo_jax.models.config import DiTConfig

# Names that diffusers and PEFT give an adapter's file in a folder.
FILES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
CONFIG = "adapter_config.json"
METADATA = "lora_adapter_metadata"  # of a safetensors file that diffusers wrote
STEM = FILES[0].removesuffix(".safetensors")
# Ends of names, and which part of an adapter each is.
_PARTS = (
    (r"(\.lora_A(\.\w+)?|\.lora_down|[._]lora(_linear_layer)?\.down)\.weight", "down"),
    (r"(\.lora_B(\.\w+)?|\.lora_up|[._]lora(_linear_layer)?\.up)\.weight", "up"),
    (r"\.alpha", "alpha"),
    (r"\.diff", "diff"),
    (r"(\.diff_b|\.lora_B(\.\w+)?\.bias)", "diff_b"),
)
_ENDS = [(re.compile(rf"(?P<module>.*?){end}$"), part) for end, part in _PARTS]
_KOHYA = re.compile(r"^lora_(unet|transformer|te\d?)_+")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Change:
    """The change of one tensor of a checkpoint by an adapter.

    Attributes:
      entry: the tensor, and its place in our transformer.
      down, up: low-rank factors, [rank, in...] and [out, rank, ...]; None for a plain difference.
      scale: of their product.
      diff: a plain difference, shaped as the tensor.
    """

    entry: wan_keys.Entry
    down: np.ndarray | None = None
    up: np.ndarray | None = None
    scale: float = 1.0
    diff: np.ndarray | None = None

    def value(self) -> Float[np.ndarray, "..."]:
        """The addition to the part of our weight that the tensor is, float32."""
        if self.diff is not None:
            return self.entry.to_ours(self.diff.astype(np.float32).reshape(self.entry.shape))
        up, down = (x.astype(np.float32).reshape(len(x), -1) for x in (self.up, self.down))
        whole = np.float32(self.scale) * (up @ down)
        return self.entry.to_ours(whole.reshape(self.entry.shape))


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdapterFile:
    """An adapter that fits a model.

    Attributes:
      path: of its file.
      what: its kind, in words.
      changes: to the checkpoint's tensors.
    """

    path: pathlib.Path
    what: str
    changes: tuple[Change, ...]


def open_adapter(path: str | os.PathLike, config: DiTConfig) -> AdapterFile:
    """Reads an adapter and finds the weight that each of its tensors changes.

    Args:
      path: a .safetensors file, or a folder with diffusers' or PEFT's own name for one.
      config: of our model.

    Raises:
      UserError: no adapter, one of another model or kind, or one that lacks tensors.
    """
    file = _find(stores.local(path))
    checksums.check(file)
    stored = shards.read_headers([file])
    what = identify.adapter(stored, short=True)
    if what is None:
        found = identify.describe(stored) or "no adapter that is known"
        raise UserError(f"{file}: is {found}; give an adapter (LoRA)")
    parts = _group(file, stored, what)
    modules = {name: _entries(config, name) for name in parts}
    _check_known(file, what, modules, config)
    alphas = _Alphas(file)
    changes: list[Change] = []
    for module, found in parts.items():
        weight, bias = modules[module]
        changes += _changes(file, what, module, found, weight, bias, alphas)
    return AdapterFile(path=file, what=what, changes=tuple(changes))


def _find(path: pathlib.Path) -> pathlib.Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder; name an adapter's .safetensors file")
    found = [path / name for name in FILES if (path / name).is_file()]
    found = found or sorted(path.glob("*.safetensors"))
    if len(found) != 1:
        names = ", ".join(f.name for f in found[:3]) or "no .safetensors"
        raise UserError(f"{path}: holds {names}; name the adapter's one file")
    return found[0]


def _group(
    file: pathlib.Path, stored: Mapping[str, shards.StoredTensor], what: str
) -> dict[str, dict[str, shards.StoredTensor]]:
    """The tensors by the module that they belong to, and which part of it each is."""
    grouped: dict[str, dict[str, shards.StoredTensor]] = {}
    unknown = []
    for name, tensor in stored.items():
        for pattern, part in _ENDS:
            if match := pattern.match(name):
                grouped.setdefault(match["module"], {})[part] = tensor
                break
        else:
            unknown.append(name)
    if unknown:
        kind = " (DoRA)" if any("dora" in n or "magnitude" in n for n in unknown) else ""
        raise UserError(
            f"{file}: {what}, with tensors{kind} that are not understood: "
            f"{_few(unknown)}; give a plain LoRA"
        )
    return grouped


@functools.lru_cache(maxsize=4)
def _by_name(config: DiTConfig) -> dict[str, tuple[wan_keys.Entry, wan_keys.Entry | None]]:
    """(weight, bias) by the name of their module in both layouts, dotted and as Kohya writes it."""
    found = {}
    for layout in ("diffusers", "wan"):
        entries = {entry.key: entry for entry in wan_keys.entries(config, layout)}
        for key, entry in entries.items():
            module, _, part = key.rpartition(".")
            if part == "bias":
                continue
            module = module if part == "weight" else key  # a table has no such ending
            pair = entry, entries.get(f"{module}.bias")
            found[module] = found[module.replace(".", "_")] = pair
    return found


def _entries(config: DiTConfig, module: str) -> tuple[wan_keys.Entry, wan_keys.Entry | None] | None:
    names = _by_name(config)
    if _KOHYA.match(module):
        return names.get(_KOHYA.sub("", module))
    return names.get(module[len(wan_keys.prefix_of(module)) :])


def _check_known(
    file: pathlib.Path, what: str, modules: Mapping[str, Any], config: DiTConfig
) -> None:
    """Raises UserError if a module has no place in the model, and says whose it may be."""
    unknown = [name for name, pair in modules.items() if pair is None]
    if not unknown:
        return
    dotted = [name.replace("_", ".") for name in modules]
    numbers = [int(n) for name in dotted for n in re.findall(r"\bblocks\.(\d+)\.", name)]
    if len(unknown) < len(modules) and max(numbers, default=0) >= config.num_layers:
        whose = f"for a Wan transformer of {max(numbers) + 1} layers, and this model has "
        whose += f"{config.num_layers}"
    elif any(re.search(r"(k|v)_img|add_(k|v)_proj", name) for name in unknown):
        whose = "for a Wan image-to-video transformer of CLIP images, which this model is not"
    elif other := identify.model([*modules, *(f"{name}." for name in modules)]):
        whose = f"for {other}, and this model is {identify.WAN}"
    elif len(unknown) == len(modules):
        whose = "for another model"
    else:
        whose = "for a model with other layers"
    raise UserError(
        f"{file}: is {what} {whose}: {len(unknown)} of its {len(modules)} modules have no place "
        f"({_few(unknown)}); give an adapter of this model"
    )


def _changes(
    file: pathlib.Path,
    what: str,
    module: str,
    found: Mapping[str, shards.StoredTensor],
    weight: wan_keys.Entry,
    bias: wan_keys.Entry | None,
    alphas: "_Alphas",
) -> Iterable[Change]:
    """The changes of one module."""
    down, up = found.get("down"), found.get("up")
    if (down is None) != (up is None):
        lacks = "down (A)" if down is None else "up (B)"
        raise UserError(f"{file}: {what} that lacks the {lacks} of {module}; copy it again")
    if down is not None:
        rank, *inputs = down.shape or (0,)
        outputs, other = (*up.shape, 0, 0)[:2]
        if rank != other or not rank:
            raise UserError(
                f"{file}: {what}: {module} goes down to rank {rank} and up from rank {other}; copy "
                "it again"
            )
        rows, *columns = weight.shape
        if (outputs, int(np.prod(inputs))) != (rows, int(np.prod(columns))):
            raise UserError(
                f"{file}: is {what} for another size of model: {module} maps "
                f"{int(np.prod(inputs))} features to {outputs}, and this model's weight is "
                f"{weight.shape}; give an adapter of this model"
            )
        scale = alphas.of(module, rank)
        if "alpha" in found:
            scale = float(found["alpha"].read().reshape(-1)[0]) / rank
        yield Change(entry=weight, down=down.read(), up=up.read(), scale=scale)
    elif "alpha" in found:
        raise UserError(f"{file}: {what} with an alpha of {module} and no matrices; copy it again")
    for part, entry in (("diff", weight), ("diff_b", bias)):
        if part not in found:
            continue
        if entry is None or np.prod(found[part].shape) != np.prod(entry.shape):
            raise UserError(
                f"{file}: {what}: the difference of {module} is {found[part].shape}, and this "
                f"model's weight {entry and entry.shape}; give an adapter of this model"
            )
        yield Change(entry=entry, diff=found[part].read())


class _Alphas:
    """The factor of modules without an `.alpha`, from what PEFT or diffusers stored beside them."""

    def __init__(self, file: pathlib.Path) -> None:
        beside = file.with_name(CONFIG)
        try:
            with safe_open(file, framework="numpy") as opened:
                text = (opened.metadata() or {}).get(METADATA)
            if text is None and beside.is_file():
                text = beside.read_text()
            found = json.loads(text) if text else {}
            # A pipeline's file has the configuration of each of its models, by prefix.
            found = {str(key).removeprefix("transformer."): x for key, x in found.items()}
            self._alpha = found.get("lora_alpha")
            self._alphas = dict(found.get("alpha_pattern") or {})
            self._rooted = bool(found.get("use_rslora"))
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise UserError(
                f"{file}: its configuration of LoRA does not read ({reason(error)}); copy it again"
            ) from error

    def of(self, module: str, rank: int) -> float:
        special = [a for key, a in self._alphas.items() if re.search(rf"(^|\.){key}$", module)]
        alpha = special[0] if special else self._alpha
        return 1.0 if alpha is None else float(alpha) / (rank**0.5 if self._rooted else rank)


def _few(names: Sequence[str]) -> str:
    return ", ".join(sorted(names)[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def write_adapter(
    file: pathlib.Path,
    layers: Mapping[str, tuple[np.ndarray, np.ndarray]],
    config: DiTConfig,
    *,
    layout: str,
    storage: str,
) -> int:
    """Writes adapters in diffusers' form (or the original Wan's, as ComfyUI reads it).

    The factor alpha / rank is part of the written matrices, so that no reader needs to know it.

    Args:
      file: appears when it is whole.
      layers: (down [*layers, in, r], up [*layers, r, out], scaled) by path of our linear layer.
      config: of the model.
      layout: "diffusers" or "wan".
      storage: "float32", "float16" or "bfloat16".

    Returns:
      How many tensors were written.

    Raises:
      UserError: an adapter beside a layer that the layout lacks, or not finite in that type.
    """
    prefix = {"diffusers": "transformer.", "wan": "diffusion_model."}.get(layout)
    if prefix is None:
        raise UserError(f"--to={layout}: adapters are written as 'diffusers' or 'wan'")
    tensors: dict[str, Callable[[], np.ndarray]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for entry in wan_keys.entries(config, layout):
        path = entry.ours.removesuffix(".kernel")
        if path not in layers or not entry.ours.endswith(".kernel"):
            continue
        module = prefix + entry.key.removesuffix(".weight")
        for name, array in zip(("lora_A", "lora_B"), layers[path], strict=True):
            key = f"{module}.{name}.weight"
            tensors[key] = functools.partial(lambda a, p: a[p].T, array, entry.places[0])
            shapes[key] = tensors[key]().shape
    shard = shards.Shard(name=file.name, shapes=shapes)
    shards.write_shard(file.parent, shard, storage, lambda key: tensors[key]())
    return len(tensors)
