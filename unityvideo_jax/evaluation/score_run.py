"""Scores a pipeline on procedural worlds or a folder of clips whose ground truth is known.

Each clip's RGB is given, each scored modality is estimated from it, decoded without the truth's
side record, and compared. For control, RGB is sampled from each modality, and the modality
estimated again from it; `joint` samples several streams together. Two references stand beside the
model: the truth itself through the codec and the VAE (the best that any model on these latents can
reach), and a trivial prediction (the least that a useful model must beat).
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from unityvideo_jax import modalities
from unityvideo_jax.errors import UserError
from unityvideo_jax.evaluation import condition_gap, joint
from unityvideo_jax.evaluation.benchmarks.clips import BENCHMARKS, BenchmarkClips
from unityvideo_jax.evaluation.benchmarks.folder import Batch
from unityvideo_jax.evaluation.condition_gap import ConditionGapConfig
from unityvideo_jax.evaluation.controllability import ITSELF, estimate_again, score_control
from unityvideo_jax.evaluation.heldout import HeldoutConfig, HeldoutLoss
from unityvideo_jax.evaluation.joint import JointConfig
from unityvideo_jax.evaluation.latent_pairs import (
    HeldoutErrors,
    LatentPairs,
    drawing,
    trained_counts,
)
from unityvideo_jax.evaluation.row_store import RowStore
from unityvideo_jax.metrics.base import Arrays
from unityvideo_jax.metrics.depth_units import UNIT
from unityvideo_jax.metrics.scores import ClipScore, aggregate, merge
from unityvideo_jax.modalities import RGB
from unityvideo_jax.runtime import capacity, seeds
from unityvideo_jax.sampling.generate import SamplerConfig
from unityvideo_jax.sampling.pipeline import Pipeline

# The truth through codec and VAE, and the trivial prediction, stand beside the model.
SYSTEMS = ("model", "round_trip", "trivial")
# Bytes that the scores of a clip take in memory, at least.
ROW_BYTES = 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """Settings of a benchmark.

    Attributes:
      benchmark: one of `BENCHMARKS`, or a folder of clips, such as UniBench's.
      num_clips: clips 0 to num_clips - 1 of the split, or the first of the folder by name.
      batch_size: clips at once.
      seed: of the sampler's noise; clip i takes seed + i.
      worlds_seed: of the scenes.
      use_captions: give the model the clip's caption; without, it sees RGB and the modality prompt.
      truth_unit: of a folder's depth where no file states it, one of `units.NAMES`; "" if unknown.
      heldout: of the held-out loss; None leaves it out.
      gap: of the condition gap, measured anew on every run; None leaves it out.
      control: whether to score control too, which takes two more samples per modality.
      joint: of joint samples, sampled anew on every run; None leaves them out.
    """

    benchmark: str = "worlds_validation"
    num_clips: int = 16
    batch_size: int = 4
    seed: int = 0
    worlds_seed: int = 0
    use_captions: bool = False
    truth_unit: str = ""
    heldout: HeldoutConfig | None = None
    gap: ConditionGapConfig | None = None
    control: bool = False
    joint: JointConfig | None = None

    def __post_init__(self):
        if self.benchmark not in BENCHMARKS and not pathlib.Path(self.benchmark).is_dir():
            known = ", ".join(BENCHMARKS)
            raise UserError(
                f"benchmark={self.benchmark!r}: no such folder; choose one of {known}, or build "
                "UniBench's folder with `python -m unityvideo_jax.unibench`"
            )
        for name in ("num_clips", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)}: must be at least 1")
        capacity.check_host(
            self.num_clips * ROW_BYTES, f"num_clips={self.num_clips}", "score fewer clips"
        )


@dataclasses.dataclass(kw_only=True)
class Results:
    """Scores of a pipeline and of its references.

    Attributes:
      metrics, vae_round_trip, trivial: of the model and of the two references, by key. The
        reference of agreement that needs no model are the model's streams shuffled over clips.
      clips: each clip's own scores of the model.
      numbers: of these clips in the benchmark.
      faults: clips of a folder that could not be read, and why.
      joint_captions: of the joint samples, by the number of the clip.
    """

    metrics: dict[str, float | int]
    vae_round_trip: dict[str, float | int]
    trivial: dict[str, float | int]
    clips: list[ClipScore]
    numbers: list[int]
    faults: list[str] = dataclasses.field(default_factory=list)
    joint_captions: dict[int, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(kw_only=True)
class RunRow:
    """The saved scores of a clip.

    Attributes:
      scores: by modality, of the model and of its two references, in the order of `SYSTEMS`.
      control: by modality, of what the model estimates from RGB that it sampled; empty without
        control.
      heldout: errors [task][timestep][stream] by the names of the streams, joined by "+"; empty
        without a held-out loss.
    """

    scores: dict[str, tuple[ClipScore, ...]] = dataclasses.field(default_factory=dict)
    control: dict[str, ClipScore] = dataclasses.field(default_factory=dict)
    heldout: dict[str, list[list[list[float]]]] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The row as plain JSON values."""
        scores = {
            modality: {name: part.to_json() for name, part in zip(SYSTEMS, parts, strict=True)}
            for modality, parts in self.scores.items()
        }
        control = {modality: score.to_json() for modality, score in self.control.items()}
        return {"scores": scores, "control": control, "heldout": self.heldout}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "RunRow":
        """The inverse of `to_json`."""
        scores = {
            modality: tuple(ClipScore.from_json(parts[name]) for name in SYSTEMS)
            for modality, parts in record["scores"].items()
        }
        control = {m: ClipScore.from_json(score) for m, score in record["control"].items()}
        return cls(scores=scores, control=control, heldout=record["heldout"])


class _Scorer:
    """Scores one modality of the model and of its two references."""

    def __init__(self, modality: str, codec: modalities.Codec):
        self.modality = modality
        self.codec = codec
        self.metric = modalities.get(modality).metric()
        self.trivial = modalities.get(modality).trivial
        self.encode = drawing(codec)

    def score(
        self, predicted, round_trip, truth: Arrays, name: str
    ) -> tuple[tuple[ClipScore, ...], Arrays]:
        """Scores of one clip in the order of `SYSTEMS`, and the model's prediction as arrays."""
        arrays, rebuilt = (
            modalities.decode_alone(self.codec, video) for video in (predicted, round_trip)
        )
        others = (rebuilt, self.trivial(truth))
        return tuple(self.metric.score(a, truth, name) for a in (arrays, *others)), arrays


def run(
    pipeline: Pipeline,
    config: BenchmarkConfig,
    sampler: SamplerConfig,
    progress: Callable[[int, int], None] = lambda done, total: None,
    draw: Callable[[int, str, Arrays, Arrays], None] = lambda clip, modality, predicted, truth: (
        None
    ),
    rows: RowStore[RunRow] | None = None,
    draw_joint: joint.Draw = lambda clip, caption, rows: None,
) -> Results:
    """Estimates, decodes and scores the clips of a benchmark.

    Args:
      pipeline: of a trained run; its data config gives the size of the clips.
      config: which clips.
      sampler: how to sample; `separate` estimates all modalities of a batch of clips in one call.
      progress: called with clips done and in all after each batch.
      draw: called with the clip's number, the modality, and predicted and true arrays.
      rows: where each clip's scores are saved, and read by a second run; None saves none.
      draw_joint: called for each joint sample with the clip's number, its caption and its videos.

    Returns:
      All metrics of the modalities of the model that have one.

    Raises:
      UserError: a clip that cannot be read, or a sample that is not finite.
    """
    benchmark = BenchmarkClips(
        pipeline.config["data"],
        config.benchmark,
        num_clips=config.num_clips,
        batch_size=config.batch_size,
        worlds_seed=config.worlds_seed,
        truth_unit=config.truth_unit,
    )
    wanted = [name for name in pipeline.modalities if modalities.get(name).metric]
    for name in wanted:
        if name not in benchmark.modalities:
            print(f"{name}: not every clip has its truth; left out", flush=True)
    scorers = [
        _Scorer(name, pipeline.codec(name)) for name in wanted if name in benchmark.modalities
    ]
    pairs = LatentPairs(pipeline)
    heldout = HeldoutErrors(pipeline, pairs, config.heldout) if config.heldout else None
    sums = [benchmark.checksums(i) if rows else {} for i in range(config.num_clips)]
    earlier = {i: rows.read(_name(i), sums[i]) if rows else None for i in range(config.num_clips)}
    done = {i: row for i, row in earlier.items() if row is not None}
    for batch in benchmark.batches([i for i in earlier if i not in done]):
        found = _score_batch(pipeline, config, sampler, batch, scorers, draw)
        if heldout:
            heldout.measure(batch, {i: row.heldout for i, row in found.items()})
        for i, row in found.items():
            if rows:
                rows.write(_name(i), sums[i], row)
        done |= found
        progress(len(done), config.num_clips)
    faults = benchmark.faults
    if not done:
        raise UserError(f"{faults[0]} ({len(faults)} of {config.num_clips} clips have faults)")
    results = _results(dict(sorted(done.items())), wanted, config)
    if config.gap:
        first = sorted(done)[: config.gap.clips]
        if len(first) < 2:
            print("condition gap: left out, it compares at least 2 clips", flush=True)
        else:
            batches = benchmark.batches(first)
            results.metrics |= condition_gap.measure(
                pipeline.velocity, pipeline.params, pairs, batches, config.gap
            )
    if config.joint:
        together = dataclasses.replace(sampler, separate=False)
        _add_joint(results, pipeline, benchmark, config, together, draw_joint)
    return dataclasses.replace(results, faults=faults)


def _add_joint(
    results: Results,
    pipeline: Pipeline,
    benchmark: BenchmarkClips,
    config: BenchmarkConfig,
    sampler: SamplerConfig,
    draw: joint.Draw,
) -> None:
    """Adds agreement of joint samples to the results, and to those of their clips."""
    first = results.numbers[: config.joint.clips]
    if len(first) < 2:
        print("joint samples: left out, agreement compares at least 2 clips", flush=True)
        return
    known = [n for n in pipeline.modalities if n == RGB or n in benchmark.modalities]
    streams = config.joint.streams or max(trained_counts(pipeline))
    sets = joint.stream_sets(known, streams)
    found = joint.measure(pipeline, benchmark.batches(first), sets, sampler, config.joint, draw)
    if streams < 3:
        print(
            f"agreement: left out, the run trains at most {streams} streams and it takes RGB and "
            "two modalities; --joint_streams samples more",
            flush=True,
        )
    results.joint_captions |= found.captions
    for target, scores in (
        (results.metrics, found.model),
        (results.vae_round_trip, found.ceiling),
        (results.trivial, found.floor),
    ):
        target |= {k: v for k, v in aggregate([*scores.values()]).items() if v is not None}
    results.clips[:] = [
        merge([score, found.model.get(number, ClipScore())])
        for number, score in zip(results.numbers, results.clips, strict=True)
    ]


def _name(clip: int) -> str:
    return f"{clip:04d}"


def _score_batch(
    pipeline: Pipeline,
    config: BenchmarkConfig,
    sampler: SamplerConfig,
    batch: Batch,
    scorers: Sequence[_Scorer],
    draw: Callable[[int, str, Arrays, Arrays], None],
) -> dict[int, RunRow]:
    """Samples and scores the clips of a batch; rows by the number of the clip."""
    rgb = 2.0 * np.asarray(batch.clip["rgb"], np.float32) - 1.0
    captions = batch.captions if config.use_captions else [""] * len(batch.captions)
    found = {int(i): RunRow() for i in batch.index[: batch.count]}
    seed = [seeds.after(config.seed, int(i)) for i in batch.index]
    prompts_of = {
        s.modality: [p.get(s.modality, modalities.get(s.modality).prompt) for p in batch.prompts]
        for s in scorers
    }

    def estimated(*names: str) -> dict[str, np.ndarray]:
        samples = pipeline(
            captions,
            given={RGB: rgb},
            wanted=names,
            modality_prompts={name: prompts_of[name] for name in names},
            sampler=sampler,
            seed=seed,
        )
        return {name: samples.videos[name] for name in names}

    at_once = estimated(*prompts_of) if sampler.separate and scorers else {}
    for scorer in scorers:
        name = scorer.modality
        prompts = prompts_of[name]
        videos = at_once.get(name)
        if videos is None:
            videos = estimated(name)[name]
        drawn = np.asarray(scorer.encode(batch.clip))
        round_trip = pipeline.decode(pipeline.encode(drawn, name), name)
        again = (
            estimate_again(pipeline, name, drawn, batch.captions, captions, prompts, sampler, seed)
            if config.control
            else None
        )
        keys = (*scorer.metric.keys, *scorer.metric.extra)
        for b, (i, row) in enumerate(found.items()):
            arrays = {**batch.clip, UNIT: batch.units} if batch.units else batch.clip
            truth = {k: np.asarray(arrays[k][b]) for k in keys if k in arrays}
            label = f"{pathlib.Path(config.benchmark).name} clip {i}"
            row.scores[name], arrays = scorer.score(videos[b], round_trip[b], truth, label)
            draw(i, name, arrays, truth)
            if again is not None:
                arrays = modalities.decode_alone(scorer.codec, again[b])
                row.control[name] = score_control(arrays, truth, name, ITSELF, label)
    return found


def _results(
    by_number: Mapping[int, RunRow], modality_names: Sequence[str], config: BenchmarkConfig
) -> Results:
    """All numbers over the rows of all clips."""
    rows = list(by_number.values())
    numbers: tuple[dict[str, float | int], ...] = ({}, {}, {})
    for name in modality_names:
        systems = list(zip(*(row.scores[name] for row in rows if name in row.scores), strict=True))
        if not systems:
            continue
        if not any(score.scored for score in systems[0]):
            # Few clips of a split may lack what this modality shows; the others still count.
            print(f"{name}: nothing to score in {len(rows)} clips", flush=True)
            continue
        for target, scores in zip(numbers, systems, strict=True):
            metric = modalities.get(name).metric()
            metric.rows = list(scores)
            target |= metric.compute()
    metrics, round_trip, trivial = numbers
    for name in modality_names:
        control = [row.control[name] for row in rows if name in row.control]
        metrics |= {k: v for k, v in aggregate(control).items() if v is not None}
    if config.heldout:
        loss = HeldoutLoss(config.heldout)
        for i, row in by_number.items():
            for name, errors in row.heldout.items():
                loss.update(name.split("+"), np.asarray([errors], np.float32), f"clip {i}")
        metrics |= loss.compute()
    return Results(
        metrics=metrics,
        vae_round_trip=round_trip,
        trivial=trivial,
        clips=[
            merge([*(parts[0] for parts in row.scores.values()), *row.control.values()])
            for row in rows
        ],
        numbers=list(by_number),
    )
