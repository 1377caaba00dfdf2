"""Sources of clips to encode: their common interface, and procedural worlds."""

import dataclasses
import types
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from unityvideo_jax import modalities as registry
from unityvideo_jax.errors import UserError
from unityvideo_jax.files.faults import Fault

Video = Float[Array, "b t h w 3"] | Float[np.ndarray, "b t h w 3"]
SideBatch = Mapping[str, Float[Array, "b ..."] | Float[np.ndarray, "b ..."]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipBatch:
    """Clips drawn as video by the codecs, ready for the VAE.

    Attributes:
      videos: modality -> video in [-1, 1].
      sides: modality -> side record, each number with the batch in front.
      texts: modality -> one text per clip; the caption for rgb, the prompt C_m for others.
    """

    videos: Mapping[str, Video]
    sides: Mapping[str, SideBatch]
    texts: Mapping[str, Sequence[str]]


@runtime_checkable
class Source(Protocol):
    """A countable set of clips.

    Attributes:
      keys: one unique name per clip, in the order of the records.
      fps: frames per second of the clips that `load` gives.
      faults: clips that are not in `keys` because they cannot be read.
      codecs: variant of the codec by modality, for modalities that do not have the default's.
    """

    keys: Sequence[str]
    fps: float
    faults: Sequence[Fault]
    codecs: Mapping[str, str]

    def settings(self) -> dict[str, Any]:
        """Settings that decide the content of all clips, as plain JSON; keys are names of flags."""
        ...

    def identity(self, key: str, modality: str) -> str:
        """Identity of the content of one clip's modality, beside the settings.

        Equal identities mean equal content, so that finished work is used again.
        """
        ...

    def texts(self, modalities: Sequence[str]) -> Mapping[str, Sequence[str]] | None:
        """The text of every clip by modality; None if only `load` knows them."""
        ...

    def load(self, indices: Sequence[int], modalities: Sequence[str]) -> ClipBatch:
        """Loads clips by number. Any batch size, but each new one may compile anew.

        Raises:
          UserError: a clip cannot be read; names it.
        """
        ...


class WorldsSource:
    """Procedural worlds `first .. first + count - 1` of one split and seed.

    Args:
      config: a `worlds.WorldConfig`.
      count: clips.
      registry_prompt_rate: share of the worlds that ask as the registry does, see `asks_for_all`.
      codecs: as `Source` has it.
    """

    def __init__(
        self,
        config: Any,
        count: int,
        registry_prompt_rate: float = 0.0,
        codecs: Mapping[str, str] = types.MappingProxyType({}),
    ):
        self._config, self._rate = config, registry_prompt_rate
        self.codecs = codecs
        self.faults: Sequence[Fault] = ()
        self.fps = float(config.fps)
        self.keys = [f"{config.split}-{config.seed}-{n:08d}" for n in range(count)]
        self._encoders: dict[str, Any] = {}

    def settings(self) -> dict[str, Any]:
        """The world's own fields; frames and size are checked for every source alike."""
        from unityvideo_jax import worlds

        return {
            **{name: getattr(self._config, name) for name in ("split", "seed", "fps", "closeup")},
            "registry_prompt_rate": self._rate,
            "worlds version": worlds.VERSION,
        }

    def identity(self, key: str, modality: str) -> str:
        """The settings decide all but the number, which the key has."""
        return key

    def texts(self, modalities: Sequence[str]) -> None:
        """None: texts are known once a scene is sampled."""

    def load(self, indices: Sequence[int], modalities: Sequence[str]) -> ClipBatch:
        """Renders the clips and draws every modality by its codec."""
        from unityvideo_jax import worlds

        index = np.asarray(indices, np.int32)
        for_all = asks_for_all(self._config.seed, index, self._rate)
        scenes = sample_worlds(self._config, index, for_all)
        descriptions = worlds.describe(self._config, scenes)
        clips = worlds.render(self._config, scenes)
        videos, sides = {}, {}
        for name in modalities:
            codec = registry.chosen_codec(name, self.codecs)
            check_rendered(name, codec)
            if name not in self._encoders:
                self._encoders[name] = jax.jit(jax.vmap(codec.encode))
            wanted = {key: clips[key] for key in codec.keys}
            videos[name], sides[name] = self._encoders[name](wanted)
        texts = {
            name: [text_of(d, name, bool(a)) for d, a in zip(descriptions, for_all, strict=True)]
            for name in modalities
        }
        return ClipBatch(videos=videos, sides=sides, texts=texts)


def check_rendered(name: str, codec: Any) -> None:
    """Raises UserError unless worlds have the arrays that the codec of a modality draws."""
    from unityvideo_jax import worlds

    if missing := [key for key in codec.keys if key not in worlds.ARRAYS]:
        raise UserError(
            f"modality {name!r}: its codec draws {', '.join(missing)}, which rendered worlds lack; "
            "prepare it from a folder of clips"
        )


def asks_for_all(seed: int, index: Int[np.ndarray, " n"], rate: float) -> Bool[np.ndarray, " n"]:
    """Draws the worlds that ask with the registry's prompts, hence for everything.

    Users' clips come with the registry's prompts, which a scene's own never equal: a model must
    have seen some to understand them.

    Args:
      seed, index: of the worlds; each world's draw depends on these alone.
      rate: probability.
    """
    draws = [np.random.default_rng((seed, int(n), 1)).random() for n in index]
    return np.asarray(draws) < rate


def sample_worlds(
    config: Any, index: Int[np.ndarray, " n"], for_all: Bool[np.ndarray, " n"]
) -> Any:
    """Samples scenes by number; those that ask with the registry's prompts have all as truth."""
    from unityvideo_jax import worlds

    scenes = worlds.sample_scenes(config, index)
    return worlds.ask_for_all(scenes, for_all) if for_all.any() else scenes


def text_of(description: Any, modality: str, for_all: bool = False) -> str:
    """The caption for rgb; else the scene's request for the modality, or the registry's prompt.

    Args:
      description: of a clip.
      modality: of the stream.
      for_all: give the registry's prompt whatever the scene asks.
    """
    if modality == registry.RGB:
        return description.caption
    own = None if for_all else description.prompts.get(modality)
    return own or registry.get(modality).prompt
