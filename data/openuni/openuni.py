"""TFDS builder of OpenUni: one config and series of ArrayRecord files per modality.

`unityvideo_jax.pack` is the program that runs it; README.md describes the records.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import tensorflow_datasets as tfds

from unityvideo_jax.inputs.clip_shards import VERSION, ClipFile, clip_features

CITATION = """@article{huang2025unityvideo,
  title={UnityVideo: Unified Multi-Modal Multi-Task Learning for Enhancing World-Aware Video
    Generation},
  author={Huang, Jiehui and Zhang, Yuechen and He, Xu and Gao, Yuan and Cen, Zhi and Xia, Bin and
    Zhou, Yan and Tao, Xin and Wan, Pengfei and Jia, Jiaya},
  journal={arXiv preprint arXiv:2512.07831},
  year={2025}
}"""


class Builder(tfds.core.GeneratorBasedBuilder):
    """Writes the files that it is given, in their order, without TensorFlow."""

    name = "openuni"
    VERSION = tfds.core.Version(VERSION)
    DESCRIPTION = (
        "Real clips with depth, optical flow, segmentation, skeletons and DensePose as video, each "
        "modality's files byte for byte in a series of its own."
    )
    HOMEPAGE = "https://huggingface.co/datasets/JackAILab/OpenUni"
    LICENSE = "Apache-2.0 for the annotations; the videos keep their sources' terms"

    def __init__(self, *, splits: Mapping[str, Callable[[], Iterator[ClipFile]]], **kwargs: Any):
        """`splits` makes each split's records; `kwargs` go to TFDS."""
        self._splits_given = splits
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        # Shuffling would sort by hashed key; record n of every series must be the same clip n.
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.DESCRIPTION,
            features=clip_features(),
            homepage=self.HOMEPAGE,
            license=self.LICENSE,
            citation=CITATION,
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager
        return {name: self._generate_examples(make) for name, make in self._splits_given.items()}

    def _generate_examples(
        self, make: Callable[[], Iterator[ClipFile]]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, record in enumerate(make()):
            yield index, dict(vars(record))
