"""Stages by name, built from a configuration."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from unityvideo_jax.curation import annotate, captions, cutting, duplicates, filters, groups, text
from unityvideo_jax.curation.people import People
from unityvideo_jax.curation.stage import Collective, Stage
from unityvideo_jax.errors import UserError
from unityvideo_jax.files import provenance

STAGES: Mapping[str, type[Stage] | type[Collective]] = {
    kind.name: kind
    for kind in (
        cutting.Probe,
        filters.Size,
        cutting.Scenes,
        filters.Length,
        cutting.Cut,
        filters.BlackBars,
        filters.Motion,
        text.Text,
        filters.Aesthetic,
        duplicates.Fingerprint,
        duplicates.Duplicates,
        People,
        groups.Groups,
        captions.Captions,
        annotate.Depth,
        annotate.Flow,
        annotate.Segmentation,
        annotate.Skeleton,
        annotate.DensePose,
    )
}


def build(config: Any) -> tuple[Stage | Collective, ...]:
    """Builds the stages that `config.stages` names, in order, with their parameters.

    Raises:
      UserError: an unknown stage or parameter, or a value of the wrong kind or range.
    """
    names = tuple(config.stages)
    if not names:
        raise UserError("config.stages is empty; name the stages to run, probe first")
    if unknown := [name for name in names if name not in STAGES]:
        raise UserError(f"config.stages: no stage {unknown[0]!r}; known: {', '.join(STAGES)}")
    return tuple(_build(name, config.get(name, {})) for name in names)


def _build(name: str, values: Any) -> Stage | Collective:
    kind = STAGES[name]
    values = provenance.plain(values)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if unknown := [key for key in values if key not in fields]:
        raise UserError(
            f"config.{name}.{unknown[0]}: no such parameter; known: {', '.join(fields)}"
        )
    for key, value in values.items():
        field = fields[key]
        default = field.default
        if default is dataclasses.MISSING:
            default = field.default_factory()
        if isinstance(default, tuple) and isinstance(value, list):
            values[key] = value = tuple(value)
        kinds = (int, float) if isinstance(default, float) else type(default)
        if not isinstance(value, kinds) or isinstance(value, bool) != isinstance(default, bool):
            wanted = "a number" if isinstance(default, float) else type(default).__name__
            raise UserError(f"config.{name}.{key}={value!r}: give {wanted}")
    return kind(**values)
