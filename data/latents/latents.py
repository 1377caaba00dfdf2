"""TFDS builder of latent shards: one config and series of ArrayRecord files per modality.

`unityvideo_jax.prepare` is the program that runs it; README.md describes the records.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import tensorflow_datasets as tfds

from unityvideo_jax.inputs.shards import latent_features

VERSION = "1.0.0"


class Latents(tfds.core.GeneratorBasedBuilder):
    """Writes the records that it is given, in their order, without TensorFlow.

    TFDS writes into an `incomplete.*` folder and renames it, so a series is whole or absent.
    """

    VERSION = tfds.core.Version(VERSION)

    def __init__(
        self,
        *,
        records: Callable[[], Iterator[Mapping[str, Any]]],
        split: str,
        latent_shape: tuple[int, ...],
        embedding_shape: tuple[int, int],
        side_shapes: Mapping[str, tuple[int, ...]],
        **kwargs: Any,
    ):
        """See README.md for the meaning of the shapes; `kwargs` go to TFDS."""
        self._records = records
        self._split = split
        self._features = latent_features(latent_shape, embedding_shape, side_shapes)
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        # Shuffling would sort by hashed key; record n of every series must be the same clip n.
        return tfds.core.DatasetInfo(
            builder=self,
            description="Video latents with their text, one series per modality.",
            features=self._features,
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager
        return {self._split: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, record in enumerate(self._records()):
            yield index, dict(record)
