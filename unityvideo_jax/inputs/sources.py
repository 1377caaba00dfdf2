"""Where clips to encode come from: a common form, and procedural worlds."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Float

from unityvideo_jax import modalities as registry
from unityvideo_jax.faults import Fault

Video = Float[Array, "b t h w 3"] | Float[np.ndarray, "b t h w 3"]
SideBatch = Mapping[str, Float[Array, "b ..."] | Float[np.ndarray, "b ..."]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipBatch:
    """Clips drawn as video by the codecs, ready for the VAE.

    Attributes:
      videos: modality -> video in [-1, 1].
      sides: modality -> side record, each number with the batch in front.
      texts: modality -> one text a clip; the caption for rgb, the prompt C_m for others.
    """

    videos: Mapping[str, Video]
    sides: Mapping[str, SideBatch]
    texts: Mapping[str, Sequence[str]]


@runtime_checkable
class Source(Protocol):
    """A countable set of clips.

    Attributes:
      keys: one unique name per clip, in the order of the records.
      fps: frames per second of what `load` gives.
      faults: what is not in `keys` because it cannot be read.
    """

    keys: Sequence[str]
    fps: float
    faults: Sequence[Fault]

    def settings(self) -> dict[str, Any]:
        """What decides the content of all clips, as plain JSON; the keys are names of flags."""
        ...

    def identity(self, key: str, modality: str) -> str:
        """What decides the content of one clip's modality beside the settings.

        Equal identities mean equal content, so that finished work is used again.
        """
        ...

    def texts(self, modalities: Sequence[str]) -> Mapping[str, Sequence[str]] | None:
        """The text of every clip by modality; None if only `load` knows them."""
        ...

    def load(self, indices: Sequence[int], modalities: Sequence[str]) -> ClipBatch:
        """Clips by number. Any batch size, but each new one may compile anew.

        Raises:
          UserError: a clip cannot be read; names it.
        """
        ...


class WorldsSource:
    """Procedural worlds `first .. first + count - 1` of one split and seed.

    Args:
      config: a `worlds.WorldConfig`.
      count: clips.
    """

    def __init__(self, config: Any, count: int):
        self._config = config
        self.faults: Sequence[Fault] = ()
        self.fps = float(config.fps)
        self.keys = [f"{config.split}-{config.seed}-{n:08d}" for n in range(count)]
        self._encoders: dict[str, Any] = {}

    def settings(self) -> dict[str, Any]:
        """The world's own fields; frames and size are checked for every source alike."""
        from unityvideo_jax import worlds

        names = ("split", "seed", "fps", "closeup")
        return {n: getattr(self._config, n) for n in names} | {"worlds version": worlds.VERSION}

    def identity(self, key: str, modality: str) -> str:
        """The settings decide all but the number, which the key has."""
        return key

    def texts(self, modalities: Sequence[str]) -> None:
        """Known once a scene is sampled."""

    def load(self, indices: Sequence[int], modalities: Sequence[str]) -> ClipBatch:
        """Renders the clips and draws every modality by its codec."""
        from unityvideo_jax import worlds

        scenes = worlds.sample_scenes(self._config, np.asarray(indices, np.int32))
        descriptions = worlds.describe(self._config, scenes)
        clips = worlds.render(self._config, scenes)
        videos, sides = {}, {}
        for name in modalities:
            codec = registry.get(name).codec
            if name not in self._encoders:
                self._encoders[name] = jax.jit(jax.vmap(codec.encode))
            wanted = {key: clips[key] for key in codec.keys}
            videos[name], sides[name] = self._encoders[name](wanted)
        texts = {name: [text_of(d, name) for d in descriptions] for name in modalities}
        return ClipBatch(videos=videos, sides=sides, texts=texts)


def text_of(description: Any, modality: str) -> str:
    """The caption for rgb; else what the scene asks of the modality, or the registry's prompt."""
    if modality == "rgb":
        return description.caption
    return description.prompts.get(modality) or registry.get(modality).prompt
