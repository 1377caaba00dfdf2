"""Does generated video follow the modality that it was given?

The modality is estimated again from the generated RGB and compared with the given one by the
modality's own metric. The number depends on the estimator as much as on the generator, so the
estimator's name is part of the key: "control_by_<estimator>/<modality>/<protocol>/<number>".

A model that estimates can be its own estimator: `ITSELF`. Its number stands beside that of its
estimate from the true RGB, "<modality>/<protocol>/<number>": what of the error is the estimator's.
"""

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from unityvideo_jax import modalities
from unityvideo_jax.errors import UserError
from unityvideo_jax.metrics.base import Arrays
from unityvideo_jax.metrics.scores import ClipScore
from unityvideo_jax.modalities import RGB
from unityvideo_jax.sampling.generate import SamplerConfig
from unityvideo_jax.sampling.pipeline import Pipeline

ITSELF = "itself"
PROTOCOLS = {
    f"control_by_{ITSELF}": "RGB is sampled from the true modality and the clip's caption; the "
    "same model then estimates the modality from it, as it does from the true RGB"
}


def prefix(estimator: str) -> str:
    """The first part of an estimator's keys.

    Raises:
      UserError: the name would not read as one part of a key.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", estimator):
        raise UserError(f"estimator {estimator!r}: use letters, digits, '_', '.' and '-'")
    return f"control_by_{estimator}/"


def score_control(
    reestimated: Arrays, given: Arrays, modality: str, estimator: str, name: str
) -> ClipScore:
    """Scores one clip; raises UserError as the modality's metric does."""
    metric = modalities.get(modality).metric()
    return metric.score(reestimated, given, name).renamed(prefix(estimator))


def estimate_again(
    pipeline: Pipeline,
    modality: str,
    given: Float[np.ndarray, "b t h w 3"],
    captions: Sequence[str],
    estimation_captions: Sequence[str],
    prompts: Sequence[str],
    sampler: SamplerConfig,
    seeds: Sequence[int],
) -> Float[np.ndarray, "b t h w 3"]:
    """Samples RGB from a modality, and the modality from that RGB.

    Args:
      pipeline: the model.
      modality: that is given.
      given: its video in [-1, 1].
      captions: of the RGB.
      estimation_captions: that estimation sees.
      prompts: of the modality.
      sampler: how to sample.
      seeds: one per clip.

    Returns:
      The modality's video in [-1, 1], estimated from generated RGB.
    """
    common = dict(modality_prompts={modality: list(prompts)}, sampler=sampler, seed=list(seeds))
    rgb = pipeline(captions, given={modality: given}, wanted=(RGB,), **common).videos[RGB]
    rgb = np.clip(rgb, -1.0, 1.0)
    again = pipeline(estimation_captions, given={RGB: rgb}, wanted=(modality,), **common)
    return again.videos[modality]
