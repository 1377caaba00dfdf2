"""Stages of the data mix by step (UnityVideo sec. 3.4)."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from unityvideo_jax.errors import UserError
from unityvideo_jax.inputs.buckets import Bucket, parse
from unityvideo_jax.settings.sections import check_keys, check_value, check_values


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """Steps [start, until) and their data mix.

    Attributes:
      index: number of the stage.
      start, until: its steps.
      weights: of the modalities.
      dir_weights: of the folders of shards; () keeps `config.data.dir_weights`.
      streams: as `config.data.streams`, which () keeps.
      buckets: as `config.data.buckets`, which () keeps.
    """

    index: int
    start: int
    until: int
    weights: Mapping[str, float]
    dir_weights: tuple[float, ...] = ()
    streams: tuple[float, ...] = ()
    buckets: tuple[Bucket, ...] = ()


def stages(curriculum: Any, weights: Mapping[str, float], steps: int) -> tuple[Stage, ...]:
    """Resolves `config.curriculum` against the data's modality weights.

    The paper's two stages: pixel-aligned modalities (flow, depth, DensePose) of human-centric clips
    first, then all five of every source.

    Args:
      curriculum: dicts of `until` (a step; -1 is the end), `modalities` and, by choice,
        `dir_weights` (one per folder of `config.data.dirs`, 0 leaves it out), `streams` and
        `buckets` (as in `config.data`); empty is one stage.
      weights: `config.data.modality_weights`; a stage takes its modalities' share of them.
      steps: of the whole run.

    Raises:
      UserError: values of other types, stages that do not follow each other, do not reach the end,
        or name a modality without weight.
    """
    weights = dict(weights)
    check_value(tuple[Mapping[str, Any], ...], curriculum, "config.curriculum")
    if not curriculum:
        return (Stage(index=0, start=0, until=steps, weights=weights),)
    result: list[Stage] = []
    start = 0
    for index, entry in enumerate(curriculum):
        needed = ("until", "modalities")
        known = (*needed, "dir_weights", "streams", "buckets")
        values, where = dict(entry.items()), f"config.curriculum[{index}]."
        check_keys(values, known, where, needed)
        names = values.pop("modalities")
        check_value(tuple[str, ...], names, f"{where}modalities")
        check_values(Stage, values, where)
        last = index == len(curriculum) - 1
        until = steps if entry["until"] == -1 else entry["until"]
        if not last and (until <= start or entry["until"] == -1):
            raise UserError(f"{where}until={entry['until']} must be a step after {start}")
        missing = [m for m in names if not weights.get(m)]
        if missing or not names:
            raise UserError(
                f"{where}modalities: {missing or 'none named'}; each needs a "
                "positive weight in config.data.modality_weights"
            )
        chosen = {m: weights[m] for m in names}
        result.append(
            Stage(
                index=index,
                start=start,
                until=until,
                weights=chosen,
                dir_weights=tuple(map(float, entry.get("dir_weights", ()))),
                streams=tuple(map(float, entry.get("streams", ()))),
                buckets=parse(entry.get("buckets", ()), f"{where}buckets"),
            )
        )
        start = until
    if result[-1].until < steps:
        raise UserError(
            f"config.curriculum ends at step {result[-1].until}, config.train.steps is {steps}; "
            "set the last stage's until=-1"
        )
    return tuple(result)


def stage_at(plan: Sequence[Stage], step: int) -> Stage:
    """Returns the stage that the batch of `step` is drawn from."""
    return next((stage for stage in plan if step < stage.until), plan[-1])
