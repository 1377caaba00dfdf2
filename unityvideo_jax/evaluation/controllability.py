"""Does generated video follow the modality that it was given?

The modality is estimated again from the generated RGB and compared with the given one by the
modality's own metric. The number depends on the estimator as much as on the generator, so the
estimator's name is part of the key: "control_by_<estimator>/<modality>/<protocol>/<number>".
"""

import re

from unityvideo_jax import modalities
from unityvideo_jax.errors import UserError
from unityvideo_jax.metrics.base import Arrays
from unityvideo_jax.metrics.scores import ClipScore


def prefix(estimator: str) -> str:
    """How the keys of an estimator start.

    Raises:
      UserError: the name would not read as one part of a key.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", estimator):
        raise UserError(f"estimator {estimator!r}: use letters, digits, '_', '.' and '-'")
    return f"control_by_{estimator}/"


def score_control(
    reestimated: Arrays, given: Arrays, modality: str, estimator: str, name: str
) -> ClipScore:
    """Scores one clip; UserError as the modality's metric."""
    metric = modalities.get(modality).metric()
    return metric.score(reestimated, given, name).renamed(prefix(estimator))
