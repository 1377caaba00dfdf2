"""What the record of an evaluation says beside scores: the model, and what the protocols mean.

Rows of clips are taken up by a later run where `origin` and the settings of the benchmark agree.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from flax import nnx

from unityvideo_jax import modalities
from unityvideo_jax.checkpoints import manifest
from unityvideo_jax.evaluation import condition_gap, controllability, heldout, joint
from unityvideo_jax.files import provenance
from unityvideo_jax.metrics.video.table import VIDEO_PROTOCOLS
from unityvideo_jax.sampling.generate import SamplerConfig
from unityvideo_jax.sampling.pipeline import Pipeline


def origin(pipeline: Pipeline, sampler: SamplerConfig, text_encoder: str | None) -> dict[str, Any]:
    """Facts that rows depend on beside the settings of a benchmark.

    Args:
      pipeline, sampler: that sample.
      text_encoder: named instead of the configuration's, if any.
    """
    return {
        "codecs": {name: modalities.get(name).codec.version for name in modalities.metrics()},
        "sampler": dataclasses.asdict(sampler),
        "config": provenance.config_hash(pipeline.config),
        "weights": weights_digest(pipeline),
        "vae_dtype": pipeline.vae.dtype,
        "text_encoder": text_encoder,
    }


def weights_digest(pipeline: Pipeline) -> str:
    """Names the arrays of the model and its autoencoder as they are held, whatever their path."""
    weights = {"model": pipeline.params, "vae": nnx.state(pipeline.vae)}
    return provenance.config_hash(manifest.make(weights, {}))


def model(pipeline: Pipeline, sampler: SamplerConfig, weights: Mapping[str, Any]) -> dict[str, Any]:
    """A record's facts about the model and its sampler.

    Args:
      pipeline, sampler: that sampled.
      weights: where the weights are from.
    """
    data = pipeline.config["data"]
    return {
        "sampler": dataclasses.asdict(sampler),
        "size": [data["num_frames"], data["height"], data["width"]],
        **weights,
        "config_sha256": provenance.config_hash(pipeline.config),
        "config": provenance.plain(pipeline.config),
    }


def protocols() -> dict[str, str]:
    """Definitions of the protocols of a model's metrics, by name."""
    scored = modalities.metrics().values()
    own = {name: text for metric in scored for name, text in metric.protocols.items()}
    run = heldout.PROTOCOLS | condition_gap.PROTOCOLS | controllability.PROTOCOLS
    return own | run | joint.protocols()


def used_protocols(metrics: Iterable[str]) -> dict[str, str]:
    """The protocols whose name is in the key of one of these metrics, those of videos too."""
    everything = protocols() | VIDEO_PROTOCOLS
    keys = [f"/{key}/" for key in metrics]
    return {name: text for name, text in everything.items() if any(f"/{name}/" in k for k in keys)}
