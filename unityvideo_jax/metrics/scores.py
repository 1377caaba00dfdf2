"""The contribution of one clip to the scores, and the combination of clips.

Every metric turns a clip into a `ClipScore`: small, plain, and enough to form the average over any
set of clips. So clips are scored one by one with bounded memory, stored as JSON, combined in any
order, and resampled for confidence intervals without being scored again.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unityvideo_jax.metrics import average_precision, frechet
from unityvideo_jax.metrics.average_precision import Detections

# A key's value, or None where no clip had anything to score.
Value = float | int | None


@dataclasses.dataclass(kw_only=True)
class ClipScore:
    """The contribution of one clip.

    Attributes:
      means: value and weight by key; over clips, values are averaged by weight. A clip with nothing
        to score says so by weight 0 (and any value).
      counts: summed over clips.
      detections: over clips, they give the average precision `<key>/ap`, `/ap50` and `/ap75`.
      features: predicted and true feature vector by key; over clips, they give a Fréchet distance.
    """

    means: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    detections: dict[str, Detections] = dataclasses.field(default_factory=dict)
    features: dict[str, tuple[list[float], list[float]]] = dataclasses.field(default_factory=dict)

    @property
    def scored(self) -> bool:
        """Whether anything of this clip was scored."""
        return (
            any(weight > 0 for _, weight in self.means.values())
            or any(found.truths > 0 for found in self.detections.values())
            or bool(self.features)
        )

    def renamed(self, prefix: str) -> "ClipScore":
        """Returns the same numbers under keys that start with `prefix`."""
        parts = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return ClipScore(**{n: {prefix + k: v for k, v in p.items()} for n, p in parts.items()})

    def to_json(self) -> dict[str, Any]:
        """Converts to plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "ClipScore":
        """Reads what `to_json` gives, also after a trip through a file."""
        return cls(
            means={k: (float(v), float(w)) for k, (v, w) in record["means"].items()},
            counts=dict(record["counts"]),
            detections={k: Detections(**v) for k, v in record["detections"].items()},
            features={k: (list(p), list(t)) for k, (p, t) in record["features"].items()},
        )


def merge(parts: Sequence[ClipScore]) -> ClipScore:
    """Joins scores of one clip under different keys.

    Raises:
      ValueError: a key that repeats.
    """
    whole = ClipScore()
    for part in parts:
        for field in dataclasses.fields(ClipScore):
            mine, more = getattr(whole, field.name), getattr(part, field.name)
            if repeated := mine.keys() & more.keys():
                raise ValueError(f"scored twice: {sorted(repeated)}")
            mine.update(more)
    return whole


def _keys(clips: Sequence[ClipScore], field: str) -> list[str]:
    return list(dict.fromkeys(key for clip in clips for key in getattr(clip, field)))


def aggregate(clips: Sequence[ClipScore]) -> dict[str, Value]:
    """All numbers over the clips; None where no clip that has the key has anything to score."""
    results: dict[str, Value] = {}
    for key in _keys(clips, "means"):
        pairs = np.array([clip.means[key] for clip in clips if key in clip.means])
        total = pairs[:, 1].sum()
        results[key] = float(pairs[:, 0] @ pairs[:, 1] / total) if total > 0 else None
    for key in _keys(clips, "detections"):
        found = [clip.detections[key] for clip in clips if key in clip.detections]
        aps = average_precision.average_precision(found, np.ones((1, len(found))))
        results |= {f"{key}/{n}": None if np.isnan(v[0]) else float(v[0]) for n, v in aps.items()}
    for key in _keys(clips, "features"):
        pairs = [clip.features[key] for clip in clips if key in clip.features]
        results[key] = frechet.frechet_distance(*map(np.array, zip(*pairs, strict=True)))
        results[f"{key}/videos"] = len(pairs)
    for key in _keys(clips, "counts"):
        results[key] = sum(clip.counts.get(key, 0) for clip in clips)
    # Keys of one modality stand together; the order is otherwise that of the clips.
    families = list(dict.fromkeys(key.split("/")[0] for key in results))
    return dict(sorted(results.items(), key=lambda item: families.index(item[0].split("/")[0])))


def bootstrap(
    clips: Sequence[ClipScore], *, samples: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, tuple[float, float]]:
    """Returns percentile bootstrap intervals over clips.

    Whole clips are drawn with replacement, since pixels and objects of one clip are not
    independent. Fréchet distances get none: they depend on how many different clips there are.

    Args:
      clips: of which at least two; fewer give no intervals.
      samples: resampled sets of as many clips.
      seed: of the draws.
      level: share of the resampled values inside the interval.

    Returns:
      Low and high end by key, for every mean and average precision that is defined in half of the
      resampled sets or more.
    """
    if len(clips) < 2:
        return {}
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(len(clips), np.full(len(clips), 1 / len(clips)), samples)
    draws: dict[str, np.ndarray] = {}
    for key in _keys(clips, "means"):
        pairs = np.array([clip.means.get(key, (0.0, 0.0)) for clip in clips])
        totals = weights @ pairs[:, 1]
        with np.errstate(invalid="ignore"):
            draws[key] = weights @ (pairs[:, 0] * pairs[:, 1]) / np.where(totals, totals, np.nan)
    empty = Detections(scores=[], matched=[], truths=0)
    for key in _keys(clips, "detections"):
        found = [clip.detections.get(key, empty) for clip in clips]
        aps = average_precision.average_precision(found, weights)
        draws |= {f"{key}/{name}": values for name, values in aps.items()}
    edges = ((1 - level) / 2, (1 + level) / 2)
    intervals = {}
    for key, values in draws.items():
        values = values[~np.isnan(values)]
        if len(values) * 2 >= samples:
            low, high = np.quantile(values, edges)
            intervals[key] = (float(low), float(high))
    return intervals
