"""Records of a job for people and programs: one row per clip, and statistics of all."""

import collections
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unityvideo_jax.curation.stage import Clip, Collective, Stage
from unityvideo_jax.files import provenance
from unityvideo_jax.files.paths import atomic_path

MANIFEST, STATISTICS = "manifest.jsonl", "statistics.json"
# Scores that are names or numbers of something, not measurements.
NOT_MEASURED = ("phash", "scene", "scenes")


def write(workdir: str | os.PathLike, clips: Sequence[Clip]) -> pathlib.Path:
    """Writes `manifest.jsonl`: one row per clip in order of keys, the rejected ones too."""
    path = pathlib.Path(workdir) / MANIFEST
    with atomic_path(path) as temporary, open(temporary, "w") as handle:
        for clip in sorted(clips, key=lambda c: c.key):
            row = {"accepted": not clip.rejected_by, **clip.row()}
            handle.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path


def read(workdir: str | os.PathLike) -> list[Clip]:
    """Reads the clips of a written manifest."""
    rows = map(json.loads, (pathlib.Path(workdir) / MANIFEST).read_text().splitlines())
    return [Clip.from_row({k: v for k, v in row.items() if k != "accepted"}) for row in rows]


def statistics(
    clips: Sequence[Clip],
    stages: Sequence[Stage | Collective],
    timings: Mapping[str, tuple[int, float]],
) -> dict[str, Any]:
    """Counts clips by stage, source and group, and the spread of every score.

    Args:
      clips: all, rejected ones too.
      stages: that they went through.
      timings: (clips that entered, seconds) by stage.
    """
    accepted = [clip for clip in clips if not clip.rejected_by]
    rejected = collections.Counter(clip.rejected_by for clip in clips if clip.rejected_by)
    table = []
    for stage in stages:
        seen, seconds = timings.get(stage.name, (0, 0.0))
        row: dict[str, Any] = {"stage": stage.name, "rejected": rejected[stage.name]}
        if isinstance(stage, Stage) and (why := stage.skipped()):
            row["skipped"] = why
        elif isinstance(stage, Stage):
            row |= {"entered": seen, "seconds": round(seconds, 3)}
            row["per_second"] = round(seen / seconds, 3) if seconds > 0 else None
        table.append(row)
    groups: dict[str, Any] = {}
    for clip in accepted:
        group = groups.setdefault(
            clip.group or "all", {"clips": 0, "sources": {}, "modalities": {}}
        )
        group["clips"] += 1
        group["sources"][clip.source] = group["sources"].get(clip.source, 0) + 1
        for name in clip.modalities:
            group["modalities"][name] = group["modalities"].get(name, 0) + 1
    return {
        "videos": len({clip.video for clip in clips}),
        "clips": len(accepted),
        "rejected": sum(rejected.values()),
        "hours": round(sum(c.frame_count / c.fps for c in accepted) / 3600, 6),
        "stages": table,
        "failures": sum(clip.reason.startswith("failed: ") for clip in clips),
        "groups": groups,
        "scores": {name: _spread(name, clips) for name in _measured(clips)},
    }


def _measured(clips: Sequence[Clip]) -> list[str]:
    names: dict[str, None] = {}
    for clip in clips:
        names |= dict.fromkeys(k for k, v in clip.scores.items() if not isinstance(v, str))
    return [name for name in names if name not in NOT_MEASURED]


def _spread(name: str, clips: Sequence[Clip]) -> dict[str, float | int]:
    values = [float(clip.scores[name]) for clip in clips if name in clip.scores]
    marks = np.quantile(values, [0.0, 0.25, 0.5, 0.75, 1.0])
    names = ("least", "quarter", "median", "three_quarters", "most")
    return {"count": len(values)} | {
        n: round(float(v), 4) for n, v in zip(names, marks, strict=True)
    }


def write_statistics(workdir: str | os.PathLike, record: Mapping[str, Any]) -> None:
    """Writes `statistics.json`."""
    provenance.write_json(pathlib.Path(workdir) / STATISTICS, record)
