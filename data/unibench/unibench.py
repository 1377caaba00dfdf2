"""TFDS builder of UniBench: one config and series of ArrayRecord files per modality.

`unityvideo_jax.pack` is the program that runs it; README.md describes the records.
"""

from unityvideo_jax.inputs.shards import builder_module


class Builder(builder_module("openuni").Builder):
    """Writes the clips' files that it is given, in their order; OpenUni's records serve here."""

    name = "unibench"
    DESCRIPTION = (
        "Clips to score video models on: rendered ones with exact depth, flow, instances, "
        "skeletons and DensePose, or real ones with the annotations that their owner gives."
    )
    HOMEPAGE = "https://arxiv.org/abs/2512.07831"
    LICENSE = "Apache-2.0 for the rendered clips; real ones keep their own terms"
