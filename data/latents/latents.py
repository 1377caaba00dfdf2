"""TFDS builder of latent shards: one config, hence one series of ArrayRecord files, a modality.

`unityvideo_jax.prepare` is the program that runs it; README.md describes the records.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

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
        features: dict[str, Any] = {
            "key": tfds.features.Text(),
            # Raw bytes: ArrayRecord compresses, and a list of floats reads ten times slower.
            "latents": tfds.features.Tensor(shape=latent_shape, dtype=np.float16, encoding="bytes"),
            "text": tfds.features.Text(),
            "embedding": tfds.features.Tensor(
                shape=embedding_shape, dtype=np.float16, encoding="bytes"
            ),
        }
        if side_shapes:
            features["side"] = {
                name: tfds.features.Tensor(shape=shape, dtype=np.float32)
                for name, shape in side_shapes.items()
            }
        self._features = tfds.features.FeaturesDict(features)
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        # Shuffling would sort by hashed key; record n of every series must be the same clip n.
        return tfds.core.DatasetInfo(
            builder=self,
            description="Video latents with their text, one series a modality.",
            features=self._features,
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager
        return {self._split: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, record in enumerate(self._records()):
            yield index, dict(record)
