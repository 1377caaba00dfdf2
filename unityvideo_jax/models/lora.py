"""LoRA (Hu et al., arXiv 2106.09685): layers with adapters, and the frozen weights beside them."""

import dataclasses
import fnmatch
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from unityvideo_jax.errors import UserError
from unityvideo_jax.models import quantised
from unityvideo_jax.models.adapter import Adapter
from unityvideo_jax.models.config import DiTConfig
from unityvideo_jax.models.dit import DiT
from unityvideo_jax.models.layers import Linear
from unityvideo_jax.settings.sections import section

BASES = ("float32", "bfloat16", *quantised.KINDS)
ADAPTERS = ("shared", "per_modality")
BLOCKS = "blocks."
# A name in the path of every weight of an adapter, and of no other weight.
ADAPTER = "adapter"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """The keys of `config.lora`: what is trained instead of all weights.

    Attributes:
      rank: of the adapters; 0 trains all weights and has no adapters.
      alpha: adapters are scaled by alpha / rank; 0 is the rank, so that they are not scaled.
      dropout: share of a layer's inputs that its adapter does not see in training.
      targets: which linear layers have an adapter: patterns of their paths, `*` is anything. By
        default queries, keys, values and outputs of self- and cross-attention, and both layers of
        the feed-forward.
      train: which of the model's own weights are trained beside the adapters: patterns of their
        paths, such as "heads.*". All others are frozen.
      adapters: "shared" by all streams, or "per_modality": one for each modality and one for RGB,
        active only in streams that are a target, that is, not clean (UniVidX).
      base: how frozen matrices are held: "bfloat16", "float32", "int8" (one scale per output
        feature) or "nf4" (4 bits, one scale per 64 inputs). Frozen vectors stay float32.

    Raises:
      UserError: a value out of range.
    """

    rank: int = 0
    alpha: float = 0.0
    dropout: float = 0.0
    targets: Sequence[str] = ("blocks.*_attention.[qkvo]", "blocks.ffn.*")
    train: Sequence[str] = ()
    adapters: str = "shared"
    base: str = "bfloat16"

    def __post_init__(self) -> None:
        for name in ("targets", "train"):
            value = getattr(self, name)
            if isinstance(value, str) or not all(isinstance(one, str) for one in value):
                raise UserError(f"config.lora.{name}={value!r}: give a tuple of patterns")
            object.__setattr__(self, name, tuple(value))
        if self.rank < 0:
            raise UserError(f"config.lora.rank={self.rank}: give 0 (no adapters) or more")
        if self.alpha < 0:
            raise UserError(f"config.lora.alpha={self.alpha}: give 0 (the rank) or more")
        if not 0 <= self.dropout < 1:
            raise UserError(f"config.lora.dropout={self.dropout}: give 0 to below 1")
        for name, choices in (("base", BASES), ("adapters", ADAPTERS)):
            if getattr(self, name) not in choices:
                raise UserError(f"config.lora.{name}={getattr(self, name)!r}: use one of {choices}")
        outside = [one for one in self.targets if not one.startswith(BLOCKS)]
        if outside and (self.dropout or self.adapters == "per_modality"):
            raise UserError(
                f"config.lora.targets holds {outside[0]!r}: dropout and adapters per modality work "
                f"inside the blocks alone; begin each pattern with {BLOCKS!r}"
            )

    @classmethod
    def of(cls, config: Any) -> "LoraConfig":
        """Reads the section of an experiment; without one there are no adapters."""
        return section(cls, config, "lora") if "lora" in config else cls()

    @property
    def scale(self) -> float:
        """Factor of the adapters' products."""
        return self.alpha / self.rank if self.alpha else 1.0

    @property
    def passes(self) -> int:
        """Times of the forward pass's products in a step: theirs, and the gradients' of inputs and
        weights. Frozen weights have no gradient.
        """
        return 2 if self.rank else 3

    def trains(self, path: Sequence[Any], _: Any = None) -> bool:
        """Whether the weight at a path of the model is trained; a filter for `nnx.split`."""
        name = ".".join(map(str, path))
        own = any(fnmatch.fnmatchcase(name, pattern) for pattern in self.train)
        return own or not self.rank or ADAPTER in path


WHOLE = LoraConfig()  # no adapters: all weights are trained


def linears(model: DiT) -> dict[str, Linear]:
    """Returns all linear layers that can have an adapter, by path; those of blocks are stacked."""
    return {
        ".".join(map(str, path)): node
        for path, node in nnx.iter_graph(model)
        if isinstance(node, Linear)
    }


def attach(
    model: DiT, ranks: Mapping[str, int], *, rngs: nnx.Rngs, count: int = 0, **settings: Any
) -> None:
    """Puts a new adapter beside each of the named layers.

    Args:
      model: changed in place.
      ranks: by path of a layer in `linears`.
      rngs: source of the initial values.
      count: adapters per modality, 0 for shared ones.
      settings: `scale` and `dropout`, as `Adapter` takes them.
    """
    layers = linears(model)
    model.adapters = max(1, count) if ranks else 0
    for number, (path, rank) in enumerate(sorted(ranks.items())):
        layers[path].adapter = Adapter(
            layers[path], rank, count=count, number=number, rngs=rngs, **settings
        )


def target_paths(model: DiT, config: LoraConfig) -> list[str]:
    """Returns the paths of the layers that `config.targets` means.

    Raises:
      UserError: a pattern that no layer matches.
    """
    paths = sorted(linears(model))
    return _matching(paths, config.targets, "targets")


def _matching(paths: Sequence[str], patterns: Sequence[str], key: str) -> list[str]:
    for pattern in patterns:
        if not fnmatch.filter(paths, pattern):
            raise UserError(
                f"config.lora.{key}: {pattern!r} matches none of {', '.join(paths)}; change it"
            )
    return [p for p in paths if any(fnmatch.fnmatchcase(p, one) for one in patterns)]


def make(config: DiTConfig, lora: LoraConfig, *, rngs: nnx.Rngs) -> DiT:
    """Makes a new transformer with the adapters of `lora`, its frozen matrices held as `lora.base`.

    Raises:
      UserError: a pattern of `lora` that nothing matches.
    """
    model = DiT(config, rngs=rngs)
    if not lora.rank:
        return model
    own = [".".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(model))]
    _matching(sorted(own), lora.train, "train")
    add_adapters(model, lora, rngs=rngs)
    hold_frozen(model, lora)
    return model


def make_for_sampling(config: DiTConfig, lora: LoraConfig, *, rngs: nnx.Rngs) -> DiT:
    """Makes the transformer that samples: shared adapters are merged, others stay beside."""
    model = DiT(config, rngs=rngs)
    if lora.rank and lora.adapters == "per_modality":
        add_adapters(model, lora, rngs=rngs)
    return model


def add_adapters(model: DiT, lora: LoraConfig, *, rngs: nnx.Rngs) -> None:
    """Puts the adapters of `lora` on a model, which is changed in place."""
    attach(
        model,
        dict.fromkeys(target_paths(model, lora), lora.rank),
        count=len(model.config.modalities) if lora.adapters == "per_modality" else 0,
        scale=lora.scale,
        dropout=lora.dropout,
        rngs=rngs,
    )


def hold_frozen(model: DiT, lora: LoraConfig) -> None:
    """Replaces the frozen matrices of a model, in place, by the form that `lora.base` names."""
    hold(model, lora.base, "config.lora.base", lambda path: not lora.trains((*path, "kernel")))


def hold(
    model: DiT,
    base: str,
    name: str,
    chosen: Callable[[Sequence[Any]], bool] = lambda path: True,
) -> None:
    """Replaces matrices of a model, one after the other and in place, by their form in `base`.

    Only layers in the blocks are quantised; other matrices, which together are small, are bfloat16.

    Args:
      model: whose matrices are float32.
      base: one of `BASES`.
      name: of what the user set to it, for messages.
      chosen: whether the matrix of the module at a path is replaced.

    Raises:
      UserError: "nf4" of a layer whose inputs it cannot group.
    """
    dtype = jnp.float32 if base == "float32" else jnp.bfloat16
    for path, node in list(nnx.iter_graph(model)):
        if not hasattr(node, "kernel") or not chosen(path):
            continue
        if path[0] == "blocks" and base in quantised.KINDS:
            try:
                node.quantised = quantised.Quantised(node.kernel, base)
            except UserError as error:
                raise UserError(f"{name}={base!r}: {error}") from error
            del node.kernel
        elif is_used_in_compute_type(path):
            axes = node.kernel.get_metadata("logical_axes")
            node.kernel = nnx.Param(node.kernel[...].astype(dtype), logical_axes=axes)


def is_used_in_compute_type(path: Sequence[Any]) -> bool:
    """Returns whether the kernel of the module at a path is only ever used in the compute type.

    Layers that make the modulation are float32 throughout.
    """
    return path[:1] in (
        ("blocks",),
        ("patch_embedding",),
        ("text_embedding",),
        ("heads",),
    )


def merged_kernel(
    kernel: Float[Array, "*l i o"],
    down: Float[Array, "*l i r"],
    up: Float[Array, "*l r o"],
    scale: float | Float[Array, ""],
) -> Float[Array, "*l i o"]:
    """Returns `kernel + scale * down @ up`, float32: one kernel in place of kernel and adapter."""
    change = jnp.matmul(down, up, precision=jax.lax.Precision.HIGHEST)
    return kernel.astype(jnp.float32) + scale * change


def merge(params: nnx.State, adapters: nnx.State, scale: float) -> nnx.State:
    """Returns the weights of a plain transformer with shared adapters merged into them.

    Args:
      params: weights of a transformer without adapters.
      adapters: state whose adapters lie where those of the adapted transformer do; its other
        weights replace those of `params`.
      scale: of the adapters.
    """
    found = dict(nnx.to_flat_state(adapters))
    flat = dict(nnx.to_flat_state(params))
    flat |= {path: leaf for path, leaf in found.items() if ADAPTER not in path}
    product = jax.jit(merged_kernel)
    for path, down in found.items():
        if path[-2:] == (ADAPTER, "down"):
            kernel, up = (*path[:-2], "kernel"), found[*path[:-1], "up"]
            changed = product(flat[kernel][...], down[...], up[...], scale)
            flat[kernel] = flat[kernel].replace(changed)
    return nnx.from_flat_state(flat)
