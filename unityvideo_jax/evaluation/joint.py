"""Do streams that are sampled together agree? And sheets of them, to be looked at.

Protocol `joint_<S>`: S streams, RGB and S - 1 modalities, are sampled together from the caption of
a held-out clip and the clip's own prompts, clip i with noise of seed + i, and decoded as an
estimate is. Each pair of modalities that declares an `Agreement` is scored by it. Pairs are sampled
alone beside RGB (S = 3), and in sets of as many streams as the run trains that together hold all
pairs. Two references stand beside the model:

  ceiling  the clip's truth through codec and VAE, stream by stream.
  floor    the model's streams shuffled: the first of clip i with the second of the next clip.

A clip counts for a pair if its exact truth agrees by `COUNTED` or more: where the masks show one of
two people, or objects alone, streams need not agree. `clips` counts those that were scored,
`clips_without` those whose sample shows nothing to compare.
"""

import dataclasses
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from unityvideo_jax import media, modalities
from unityvideo_jax.errors import UserError
from unityvideo_jax.evaluation.benchmarks.folder import Batch
from unityvideo_jax.evaluation.latent_pairs import drawing
from unityvideo_jax.metrics.agreement import Agreement
from unityvideo_jax.metrics.base import Arrays
from unityvideo_jax.metrics.scores import ClipScore
from unityvideo_jax.modalities import RGB
from unityvideo_jax.runtime import seeds
from unityvideo_jax.sampling.generate import SamplerConfig
from unityvideo_jax.sampling.pipeline import Pipeline

# Exact truth of the worlds lies above it by far, streams of different clips below.
COUNTED = 0.7

Sets = Sequence[tuple[str, ...]]
# (pipeline, streams, clips, sampler, seed) -> videos [B,T,H,W,3] of the streams.
Sample = Callable[[Pipeline, tuple[str, ...], Batch, SamplerConfig, int], Mapping[str, np.ndarray]]
# Called with the clip's number, its caption and labelled videos.
Draw = Callable[[int, str, Sequence[tuple[str, UInt8[np.ndarray, "t h w 3"]]]], None]


def protocols() -> dict[str, str]:
    """Definitions of the protocols in the keys of agreement, by name."""
    return {how.name: how.text for how in modalities.agreements().values()} | {
        "joint_<S>": "RGB and S - 1 modalities sampled together from the captions of held-out "
        "clips; beside it the truth through codec and VAE, and the model's streams shuffled over "
        "clips (in the column of the trivial prediction)"
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class JointConfig:
    """Settings of joint samples.

    Attributes:
      clips: how many captions, at least 2.
      streams: the most that are sampled together; 0 is as many as the run trains.
      seed: of the sampler's noise; clip i takes seed + i.
    """

    clips: int = 32
    streams: int = 0
    seed: int = 0

    def __post_init__(self):
        if self.clips < 2:
            raise UserError(f"clips={self.clips}: agreement compares at least 2 joint samples")
        if self.streams < 0:
            raise UserError(f"streams={self.streams}: give the number of streams, or 0")


def stream_sets(names: Sequence[str], streams: int) -> list[tuple[str, ...]]:
    """Sets of streams to sample together.

    Args:
      names: of the model's streams that there is truth of, RGB first.
      streams: the most of a set.

    Returns:
      RGB with each pair that declares an agreement, then sets of `streams`, as far as there are so
      many, that together hold all pairs; found by a greedy search. Where no pair fits, RGB with
      `streams` - 1 modalities in turn, which are to be looked at only.
    """
    pairs = [pair for pair in modalities.agreements() if set(pair) <= set(names)]
    if streams < 3 or not pairs:
        others, room = names[1:] if streams > 1 else [], max(streams - 1, 1)
        parts = [others[first : first + room] for first in range(0, len(others), room)]
        return [(RGB, *part) for part in parts] or [(RGB,)]
    found = {_ordered(pair, names): None for pair in pairs}
    while pairs and streams > 3:
        chosen: set[str] = set()
        for more in (*pairs, *((name,) for name in names[1:])):
            if len(chosen.union(more)) < streams:
                chosen.update(more)
        found[_ordered(chosen, names)] = None
        pairs = [pair for pair in pairs if not set(pair) <= chosen]
    return list(found)


def _ordered(chosen: Iterable[str], names: Sequence[str]) -> tuple[str, ...]:
    wanted = {RGB, *chosen}
    return tuple(name for name in names if name in wanted)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """Scores of all clips.

    Attributes:
      model, ceiling, floor: scores by the number of the clip.
      captions: of the clips, by number.
    """

    model: dict[int, ClipScore]
    ceiling: dict[int, ClipScore]
    floor: dict[int, ClipScore]
    captions: dict[int, str]


def sample_together(
    pipeline: Pipeline,
    streams: tuple[str, ...],
    batch: Batch,
    sampler: SamplerConfig,
    seed: int,
    given: Mapping[str, np.ndarray] = types.MappingProxyType({}),
) -> Mapping[str, np.ndarray]:
    """Videos [B,T,H,W,3] of all streams, at the size of the run, beside those that are given."""
    data = pipeline.config["data"]
    return pipeline(
        batch.captions,
        given=given,
        wanted=streams,
        modality_prompts={
            name: [p.get(name, modalities.get(name).prompt) for p in batch.prompts]
            for name in streams
            if name != RGB
        },
        sampler=sampler,
        seed=[seeds.after(seed, int(i)) for i in batch.index],
        **{key: data[key] for key in ("num_frames", "height", "width")},
    ).videos


def measure(
    pipeline: Pipeline,
    batches: Iterator[Batch],
    sets: Sets,
    sampler: SamplerConfig,
    config: JointConfig,
    draw: Draw = lambda clip, caption, rows: None,
    sample: Sample = sample_together,
) -> Found:
    """Samples all sets for every clip, and scores how their streams agree.

    Args:
      pipeline: the model.
      batches: clips with truth and captions.
      sets: as `stream_sets` gives them.
      sampler: how to sample.
      config: the seed.
      draw: called for each clip with the videos of the largest sets.
      sample: how the streams of a set are sampled.
    """
    names = [n for n in pipeline.modalities if any(n in one for one in sets) and n != RGB]
    encoders = {name: drawing(pipeline.codec(name)) for name in names}
    samples: dict[tuple[str, ...], list[dict[str, Arrays]]] = {one: [] for one in sets}
    truths: list[Arrays] = []
    rebuilt: list[dict[str, Arrays]] = []
    captions: dict[int, str] = {}
    for batch in batches:
        new = dict(zip(map(int, batch.index[: batch.count]), batch.captions, strict=False))
        captions |= new
        truths += [_truth(batch, b) for b in range(batch.count)]
        drawn: list[list[tuple[str, np.ndarray]]] = [[] for _ in new]
        for one in sets:
            videos = sample(pipeline, one, batch, sampler, config.seed)
            largest = len(one) == max(map(len, sets))
            for b, rows in enumerate(drawn):
                samples[one].append(_decode(pipeline, {n: v[b] for n, v in videos.items()}))
                if largest:
                    rows += [(n, media.to_uint8(v[b])) for n, v in videos.items()]
        for (number, caption), rows in zip(new.items(), drawn, strict=True):
            draw(number, caption, rows)
        back = {
            n: pipeline.decode(pipeline.encode(np.asarray(encoders[n](batch.clip)), n), n)
            for n in names
        }
        rebuilt += [
            _decode(pipeline, {n: v[b] for n, v in back.items()}) for b in range(batch.count)
        ]
    results = Found(model={}, ceiling={}, floor={}, captions=captions)
    for place, number in enumerate(captions):
        scores: dict[str, dict[str, Any]] = {"model": {}, "ceiling": {}, "floor": {}}
        counts: dict[str, int] = {}
        for key, one, (first, second), how in _pairs(sets):
            if not _counts(how, truths[place]):
                continue
            following = samples[one][(place + 1) % len(captions)]
            own = samples[one][place]
            streams = {
                "model": (own[first], own[second]),
                "ceiling": (rebuilt[place][first], rebuilt[place][second]),
                "floor": (own[first], following[second]),
            }
            for system, (a, b) in streams.items():
                scores[system] |= _scored(key, how, {**a, **b})
            shown = scores["model"][key][1] > 0
            counts |= {f"{key}/clips": int(shown), f"{key}/clips_without": int(not shown)}
        for system, means in scores.items():
            own_counts = counts if system == "model" else {}
            getattr(results, system)[number] = ClipScore(means=means, counts=own_counts)
    return results


def _decode(pipeline: Pipeline, videos: Mapping[str, np.ndarray]) -> dict[str, Arrays]:
    """Arrays of each modality that an agreement reads."""
    read = {key for how in modalities.agreements().values() for key in how.keys}
    arrays = {
        name: modalities.decode_alone(pipeline.codec(name), video)
        for name, video in videos.items()
        if name != RGB
    }
    return {n: {k: v for k, v in found.items() if k in read} for n, found in arrays.items()}


def _truth(batch: Batch, b: int) -> Arrays:
    read = {key for how in modalities.agreements().values() for key in how.keys}
    return {key: np.asarray(batch.clip[key][b]) for key in read if key in batch.clip}


def _pairs(sets: Sets) -> Iterator[tuple[str, tuple[str, ...], tuple[str, str], Agreement]]:
    """Key, set, names and agreement of every pair, once for each number of streams."""
    done = set()
    for one in sets:
        for pair, how in modalities.agreements().items():
            key = f"agreement/{how.name}/joint_{len(one)}"
            if set(pair) <= set(one) and key not in done:
                done.add(key)
                yield key, one, pair, how


def _counts(how: Agreement, truth: Arrays) -> bool:
    value = how.score(truth) if set(how.keys) <= set(truth) else None
    return value is not None and value >= COUNTED


def _scored(key: str, how: Agreement, arrays: Arrays) -> dict[str, tuple[float, float]]:
    """Means of a `ClipScore`: the agreement, and what it is without one of the streams."""
    values = {key: how.score(arrays)}
    if how.unaided:
        values[f"{key}/still"] = how.unaided(arrays)
    return {k: (0.0, 0.0) if v is None else (v, 1.0) for k, v in values.items()}
