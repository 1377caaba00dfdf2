"""The interface of a modality, and the registry of all modalities by name."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Float, Shaped, UInt8
from numpy import asarray, ndarray

from unityvideo_jax.errors import UserError
from unityvideo_jax.metrics.agreement import Agreement
from unityvideo_jax.metrics.base import Arrays, Metric
from unityvideo_jax.metrics.depth_units import UNIT

# A clip is a flat dict of unbatched arrays: ground truth, or what a decoder read from a video.
Clip = Mapping[str, Shaped[Array, "..."] | Shaped[ndarray, "..."]]
# Videos by what they show, such as "truth" and "prediction": the rows of a picture of a report.
Rows = dict[str, UInt8[ndarray, "t h w 3"]]
# The first stream of every model.
RGB = "rgb"
# A side record holds what the pixels cannot: a few numbers of fixed shape, such as depth bounds.
Side = Mapping[str, Float[Array, "..."] | Float[ndarray, "..."]]


@runtime_checkable
class Codec(Protocol):
    """A reversible, versioned map between clip arrays and 3-channel video.

    It may also have `earlier`, versions whose pictures `decode` reads as well, and `unit`, that of
    the arrays which `decode` reads without a clip's own side record (see `decode_alone`).

    Attributes:
      keys: the clip arrays that `encode` reads.
      version: changes whenever the same clip would give other pixels; shards record it.
      error_floor: the largest error that a round trip makes, by named quantity, without a VAE.
    """

    keys: tuple[str, ...]
    version: str
    error_floor: Mapping[str, float]

    @property
    def default_side(self) -> Side:
        """The side record to decode with when there is no other, as for generated video."""
        ...

    def check(self, clip: Clip, source: str) -> None:
        """Raises UserError that starts with `source` for bad shapes or values; runs on the host."""
        ...

    def encode(self, clip: Clip) -> tuple[Float[Array, "t h w 3"], dict[str, Float[Array, "..."]]]:
        """Draws the clip as video in [-1, 1]. Pure jnp: may be jitted and vmapped over clips."""
        ...

    def decode(
        self,
        video: Float[Array, "t h w 3"] | Float[ndarray, "t h w 3"],
        side: Side,
        **options: Any,
    ) -> dict[str, ndarray]:
        """Reads the clip arrays back on the host; values outside [-1, 1] are clipped."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Modality:
    """An entry of the registry.

    Attributes:
      name: its name in configs, shards and flags: lower-case letters, digits and underscores.
      prompt: the in-context prompt C_m in plain English (UnityVideo sec. 3.3); a clip or a user may
        replace it ("segment the two people").
      pixel_aligned: every pixel corresponds to an RGB pixel (UnityVideo sec. 3.4, stage 1).
      sampling_weight: relative draw frequency (public release); the data config may override it.
      codec: turns its arrays into video and back.
      variants: the codecs that a dataset may choose from by name, `codec` among them; empty where
        there is only that one.
      metric: scores predicted arrays; None for a modality that is not scored, as RGB, whose metrics
        need no truth (`metrics.video`).
      trivial: true arrays -> a prediction of these shapes that needs no model and that a useful
        model must beat; given with `metric`.
      compare: (prediction, truth, height) -> rows of a report's picture, each of at most about
        `height` pixel rows; None draws both by `codec`.
      joiner: a subclass of `joining.Joiner`, which joins the windows of a long video; None is that
        class itself, which blends.
      agreements: by the name of another modality, a measure of how far its stream agrees with this
        one's where both show one clip. One of the two modalities declares a pair.
    """

    name: str
    prompt: str
    pixel_aligned: bool
    sampling_weight: float
    codec: Codec
    variants: Mapping[str, Codec] = dataclasses.field(default_factory=dict)
    metric: type[Metric] | None = None
    trivial: Callable[[Arrays], dict[str, ndarray]] | None = None
    compare: Callable[[Arrays, Arrays, int], Rows] | None = None
    joiner: Callable[[Codec, int], Any] | None = None
    agreements: Mapping[str, Agreement] = dataclasses.field(default_factory=dict)

    def codec_of(self, version: str | None, source: str) -> Codec:
        """Returns the codec that reads pictures of this version; None means the default codec's.

        Raises:
          UserError: none of the modality's codecs does; starts with `source`.
        """
        codecs = [self.codec, *self.variants.values()]
        for codec in codecs:
            if version is None or reads(codec, version):
                return codec
        known = ", ".join(dict.fromkeys(codec.version for codec in codecs))
        raise UserError(
            f"{source}: {self.name} was drawn by codec {version!r}, this version reads {known}; "
            "use the version of unityvideo_jax that made it, or make it again"
        )

    def __post_init__(self):
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise UserError(
                f"modality name {self.name!r}: use lower-case letters, digits and underscores"
            )
        if not self.prompt.strip():
            raise UserError(f"modality {self.name!r}: its prompt is empty; describe it in words")
        if self.sampling_weight < 0:
            raise UserError(
                f"modality {self.name!r}: sampling_weight {self.sampling_weight} is negative"
            )
        if (self.metric is None) != (self.trivial is None):
            raise UserError(f"modality {self.name!r}: give metric and trivial together, or neither")
        if self.metric is not None and self.metric.modality != self.name:
            raise UserError(
                f"modality {self.name!r}: its metric scores {self.metric.modality!r}; give the "
                "metric this name as `modality`"
            )


_REGISTRY: dict[str, Modality] = {}


def register(modality: Modality) -> Modality:
    """Makes `modality` known by its name, and returns it.

    Raises:
      UserError: another modality already has this name, or the codec lacks a part.
    """
    if not isinstance(modality.codec, Codec):
        raise UserError(
            f"modality {modality.name!r}: its codec lacks a member of modalities.base.Codec"
        )
    known = _REGISTRY.get(modality.name)
    if known is not None and known != modality:
        raise UserError(f"modality {modality.name!r} is registered already; choose another name")
    _REGISTRY[modality.name] = modality
    return modality


def get(name: str) -> Modality:
    """Returns the modality of this name.

    Raises:
      UserError: no such modality; lists the known ones.
    """
    if name not in names():  # which compares, and so takes what has no hash
        raise UserError(
            f"unknown modality {name!r}; known: {', '.join(_REGISTRY)}. "
            "Import the module that registers it, or correct the name"
        )
    return _REGISTRY[name]


def reads(codec: Codec, version: str) -> bool:
    """Returns whether `decode` reads pictures that the codec of this version drew."""
    return version in (codec.version, *getattr(codec, "earlier", ()))


def decode_alone(
    codec: Codec, video: Float[Array, "t h w 3"] | Float[ndarray, "t h w 3"]
) -> dict[str, ndarray]:
    """Reads arrays from video that has no side record, with their `unit` if the codec has one."""
    unit = getattr(codec, "unit", "")
    return codec.decode(video, codec.default_side) | ({UNIT: asarray(unit)} if unit else {})


def chosen_codec(name: str, choices: Mapping[str, str], where: str = "codec") -> Codec:
    """Returns the codec of a modality: the variant that `choices` names for it, or its default.

    Args:
      name: of the modality.
      choices: variant by modality, such as {"depth": "metric"}.
      where: the flag or key that chose, for messages.

    Raises:
      UserError: no such modality or variant.
    """
    modality = get(name)
    if name not in choices:
        return modality.codec
    if choices[name] not in modality.variants:
        known = ", ".join(modality.variants) or "none to choose from"
        raise UserError(f"{where}={choices[name]!r}: no such codec of {name}; known: {known}")
    return modality.variants[choices[name]]


def names() -> tuple[str, ...]:
    """Returns the known modalities in the order of registration, the built-in six first."""
    return tuple(_REGISTRY)


def metrics() -> dict[str, type[Metric]]:
    """Returns the metric of every modality that is scored, by name, in the order of `names`."""
    return {name: m.metric for name, m in _REGISTRY.items() if m.metric is not None}


def agreements() -> dict[tuple[str, str], Agreement]:
    """Returns the measures of agreement of all pairs of modalities that one of the two declares."""
    pairs = ((name, m.agreements) for name, m in _REGISTRY.items())
    return {(name, other): how for name, found in pairs for other, how in found.items()}
