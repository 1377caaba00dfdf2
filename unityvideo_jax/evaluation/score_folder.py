"""Scores the predictions of any system in a folder against a benchmark in a folder.

One clip at a time is read, scored, drawn and written as `OUTPUT/rows/<clip>.json`, by as many
processes as are asked for; so memory does not grow with the benchmark, and a second run takes up
rows whose inputs and settings are unchanged.
A faulty or missing clip does not stop the others; it is named, counted, and left out of every
average. Whether averages without it are given at all is the caller's choice.
"""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from unityvideo_jax import media, modalities
from unityvideo_jax.errors import UserError
from unityvideo_jax.evaluation import controllability, workers
from unityvideo_jax.evaluation.benchmarks.frozen import verifier
from unityvideo_jax.evaluation.report import pictures
from unityvideo_jax.evaluation.row_store import RowStore
from unityvideo_jax.files import disk, provenance
from unityvideo_jax.files.faults import FAILED, reason_of, shown
from unityvideo_jax.files.names import name_fault, safe_path
from unityvideo_jax.inputs.clip_folders import Clip, clips_of, scored_streams
from unityvideo_jax.metrics.scores import ClipScore, merge
from unityvideo_jax.metrics.video import table
from unityvideo_jax.metrics.video.base import VideoMetric
from unityvideo_jax.modalities import RGB


@dataclasses.dataclass(frozen=True, kw_only=True)
class HarnessConfig:
    """Folders and settings of a comparison.

    Attributes:
      benchmark, predictions, output: folders.
      weights: folder of the networks of video metrics, or None.
      processes: that score clips at once; 1 is this one. Results do not depend on it.
      truth_unit, prediction_unit: of depth in numbers, one of `units.NAMES`; "" where each clip
        states it itself, or nothing does.
    """

    benchmark: pathlib.Path
    predictions: pathlib.Path
    output: pathlib.Path
    weights: pathlib.Path | None = None
    processes: int = 1
    truth_unit: str = ""
    prediction_unit: str = ""


@dataclasses.dataclass(kw_only=True)
class Row:
    """The saved scores of a clip.

    Attributes:
      clip: its name.
      score: its scores.
      trivial: scores of the modalities' trivial predictions, where there is truth.
      faults: what was wrong with it, in words; a stream with a fault is not in `score`.
      checksums: SHA-256 of every file read, by path below the benchmark or the predictions.
      pictures: PNGs below the output folder, by modality; an mp4 of that name lies beside each.
      seconds: it took, by stream or estimator.
    """

    clip: str
    score: ClipScore
    trivial: ClipScore = dataclasses.field(default_factory=ClipScore)
    faults: list[str] = dataclasses.field(default_factory=list)
    checksums: dict[str, str] = dataclasses.field(default_factory=dict)
    pictures: dict[str, str] = dataclasses.field(default_factory=dict)
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The row as plain JSON values."""
        scores = {"score": self.score.to_json(), "trivial": self.trivial.to_json()}
        return {**vars(self), **scores}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Row":
        """The inverse of `to_json`."""
        scores = {name: ClipScore.from_json(record[name]) for name in ("score", "trivial")}
        return cls(**{**record, **scores})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """Scores of all clips.

    Attributes:
      rows: one per clip of the benchmark, in order of name.
      streams: that the system predicted.
      skipped: why a video metric could not run, by its name.
      unknown: clips that the system predicted and the benchmark lacks.
      weights: SHA-256 of the networks that ran, by file or folder.
      reused: how many rows were taken up from an earlier run.
    """

    rows: list[Row]
    streams: tuple[str, ...]
    skipped: dict[str, str]
    unknown: list[str]
    weights: dict[str, str]
    reused: int

    @property
    def faults(self) -> list[str]:
        """Faults of all rows, each with its clip."""
        return [f"{row.clip}: {fault}" for row in self.rows for fault in row.faults]

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of clips, of scored ones, and of those with faults."""
        return {
            "clips": len(self.rows),
            "clips_scored": sum(row.score.scored for row in self.rows),
            "clips_with_faults": sum(bool(row.faults) for row in self.rows),
            "clips_not_in_benchmark": len(self.unknown),
        }


def run(
    config: HarnessConfig, progress: Callable[[int, int], None] = lambda done, total: None
) -> Outcome:
    """Scores every clip of the benchmark.

    Args:
      config: folders.
      progress: called with clips done and in all.

    Raises:
      UserError: a folder is missing or empty, nothing of the predictions is in the benchmark, or
        weights do not load. Faults of clips do not raise; they are in the rows.
    """
    truths = clips_of(config.benchmark, "benchmark")
    found = clips_of(config.predictions, "predictions")
    predicted = {name: clip for name, clip in found.items() if name in truths}
    streams = _union([_streams(clip) for clip in predicted.values()])
    estimators = sorted({e for clip in predicted.values() for e in clip.estimators})
    if not streams and not estimators:
        raise UserError(
            f"--predictions={config.predictions}: no clip of the benchmark with a stream to score; "
            f"the benchmark's first clip is {next(iter(truths))!r}"
        )
    for estimator in estimators:
        controllability.prefix(estimator)  # refuses a bad name before any work
    metrics, skipped = table.available(config.weights) if RGB in streams else ([], {})
    names = sorted({name for metric in metrics for name in metric.needs})
    weights = {name: provenance.file_hash(config.weights / name) for name in names}
    settings = {
        "streams": streams,
        "estimators": estimators,
        "weights": weights,
        "units": [config.truth_unit, config.prediction_unit],
    }
    make = functools.partial(_Scorer, config, streams, estimators, metrics, settings)
    rows, reused = [], 0
    for row, earlier in workers.in_order(make, list(truths), config.processes):
        rows.append(row)
        reused += earlier
        progress(len(rows), len(truths))
    return Outcome(
        rows=rows,
        streams=tuple(streams),
        skipped=skipped,
        unknown=sorted(found.keys() - truths.keys()),
        weights=weights,
        reused=reused,
    )


def _streams(clip: Clip) -> tuple[str, ...]:
    """The streams of a prediction; none if its record is damaged, which is a fault of its row."""
    try:
        return clip.streams
    except UserError:
        return ()


def _union(sets: Sequence[Sequence[str]]) -> list[str]:
    return [s for s in scored_streams() if any(s in one for one in sets)]


def _checksums(truth: Clip, predicted: Clip | None) -> dict[str, str]:
    """Of every file that may be read for a clip."""
    everything = scored_streams()
    sums = {f"benchmark/{k}": v for k, v in truth.checksums(everything).items()}
    if predicted is not None:
        folders = {"": predicted} | {f"{e}/": c for e, c in predicted.estimators.items()}
        for prefix, clip in folders.items():
            found = clip.checksums(everything)
            sums |= {f"predictions/{prefix}{k}": v for k, v in found.items()}
    return sums


def _faulty(clip: str, fault: str) -> Row:
    """The row of a clip of which nothing can be read."""
    return Row(clip=clip, score=ClipScore(), faults=[fault])


class _Scorer:
    """Scores and draws single clips, unless an earlier run did so with equal inputs and settings.

    Takes what `run` found: `streams` and `estimators` of the predictions, the video metrics that
    can be loaded, and `settings` that rows depend on.
    """

    def __init__(
        self,
        config: HarnessConfig,
        streams: Sequence[str],
        estimators: Sequence[str],
        video_metrics: Sequence[type[VideoMetric]],
        settings: Mapping[str, Any],
    ):
        self.config = config
        self.streams = streams
        self.estimators = estimators
        self.rows = RowStore(folder=config.output / "rows", kind=Row, settings=settings)
        self.video_metrics = [metric(config.weights) for metric in video_metrics]
        self.verify = verifier(config.benchmark)

    def __call__(self, name: str) -> tuple[Row, bool]:
        """The row of a clip, which then also lies in the output, and whether it did before.

        Rows with an unforeseen error are made again: its cause may have been outside the files.
        """
        if fault := name_fault(name):
            return _faulty(shown(name), f"the name of its folder {fault}; rename it"), False
        truth, folder = Clip(path=self.config.benchmark / name), self.config.predictions / name
        predicted = Clip(path=folder) if folder.is_dir() else None
        self.rows.path(name)
        safe_path(self.config.output, "pictures", name, where="clip")
        try:
            checksums = _checksums(truth, predicted)
        except Exception as error:
            return _faulty(name, reason_of(error)), False
        row = self.rows.read(name, checksums)
        if row is not None and self._is_drawn(row):
            return row, True
        row = self.row(truth, predicted)
        row.checksums = checksums
        unforeseen = any(FAILED in fault for fault in row.faults)
        self.rows.write(name, checksums, row, reusable=not unforeseen)
        return row, False

    def _is_drawn(self, row: Row) -> bool:
        """Whether all pictures of an earlier run are still there."""
        try:
            return all(
                safe_path(self.config.output, *picture.split("/"), where=row.clip).is_file()
                for picture in row.pictures.values()
            )
        except (ValueError, TypeError, AttributeError):
            return False

    def row(self, truth: Clip, predicted: Clip | None) -> Row:
        """All scores of a clip; whatever cannot be scored is a fault or a count."""
        row = Row(clip=truth.name, score=ClipScore())
        if predicted is None:
            row.faults.append("no prediction: its folder is missing")
            return row
        try:
            self.verify(truth)
            _ = truth.record
        except UserError as error:
            disk.raise_if_refused(error, truth.path)
            row.faults.append(f"benchmark: {error}")
            return row
        try:
            _ = predicted.streams
        except UserError as error:
            row.faults.append(f"predictions: {error}")
            return row
        jobs: list[tuple[str, Callable[[], ClipScore]]] = []
        for stream in self.streams:
            if stream == RGB:
                jobs.append((RGB, lambda: self._video(truth, predicted, row)))
            else:
                jobs.append((stream, lambda s=stream: self._modality(truth, predicted, s, row)))
        for estimator in self.estimators:
            jobs.append((f"by {estimator}", lambda e=estimator: self._control(truth, predicted, e)))
        parts = []
        for stream, job in jobs:
            start = time.monotonic()
            try:
                parts.append(job())
            except Exception as error:
                row.faults.append(f"{stream}: {reason_of(error)}")
            row.seconds[stream] = round(time.monotonic() - start, 3)
        row.score = merge(parts)
        return row

    def _modality(self, truth: Clip, predicted: Clip, stream: str, row: Row) -> ClipScore:
        true = truth.truth(stream, self.config.truth_unit)
        if true is None:
            return ClipScore(counts={f"{stream}/clips_without_truth": 1})
        prediction = predicted.arrays(stream, self.config.prediction_unit)
        known = modalities.get(stream)
        metric = known.metric()
        score = metric.score(prediction, true, truth.name)
        trivial = metric.score(known.trivial(true), true, truth.name)
        row.trivial = merge([row.trivial, trivial])
        stem = f"pictures/{truth.name}_{stream}"
        fps = float(truth.record.get("fps", media.DEFAULT_FPS))
        pictures.write_comparison(self.config.output / stem, stream, prediction, true, fps)
        row.pictures[stream] = f"{stem}.png"
        return score

    def _control(self, truth: Clip, predicted: Clip, estimator: str) -> ClipScore:
        if estimator not in predicted.estimators:
            raise UserError(f"{predicted.path / 'reestimated' / estimator}: no such folder")
        estimated = predicted.estimators[estimator]
        parts = []
        for modality in estimated.streams:
            if modality == RGB:
                continue
            true = truth.truth(modality, self.config.truth_unit)
            if true is None:
                key = f"{controllability.prefix(estimator)}{modality}/clips_without_truth"
                parts.append(ClipScore(counts={key: 1}))
                continue
            parts.append(
                controllability.score_control(
                    estimated.arrays(modality, self.config.prediction_unit),
                    true,
                    modality,
                    estimator,
                    truth.name,
                )
            )
        if not parts:
            raise UserError(f"{estimated.path}: holds no modality to score")
        return merge(parts)

    def _video(self, truth: Clip, predicted: Clip, row: Row) -> ClipScore:
        video = predicted.video()
        reference = truth.video().frames if truth.source(RGB) is not None else None
        parts = [
            metric.score(video.frames, fps=video.fps, caption=truth.caption, reference=reference)
            for metric in self.video_metrics
        ]
        stem = f"pictures/{truth.name}_{RGB}"
        pictures.write_videos(self.config.output / stem, video.frames, reference, video.fps)
        row.pictures[RGB] = f"{stem}.png"
        return merge([*parts, ClipScore(counts={"video/clips": 1})])
