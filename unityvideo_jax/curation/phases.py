"""A list of stages as phases, which any runner does one after the other."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from unityvideo_jax.curation.stage import Collective, Stage
from unityvideo_jax.files import provenance


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phase:
    """Stages that run together over clips, or one decision over all clips.

    Attributes:
      stages: a chain, to be mapped over clips; empty for a decision.
      collective: the decision; None for a chain.
      alone: the chain is one stage that adds to clips.
      settings: parameters that its results depend on, by stage, of the stages before too.
    """

    stages: tuple[Stage, ...] = ()
    collective: Collective | None = None
    alone: bool = False
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of its journal's file."""
        if self.collective is not None:
            return self.collective.name
        return self.stages[0].name if self.alone else "clips"


def settings_of(stage: Stage | Collective) -> dict[str, Any]:
    """Returns a stage's parameters as plain JSON, under flag-like names."""
    values = provenance.plain(dataclasses.asdict(stage))
    skipped = stage.skipped() if isinstance(stage, Stage) else ""
    named = {f"config.{stage.name}.{key}": value for key, value in values.items()}
    return named | ({f"config.{stage.name}": f"skipped: {skipped}"} if skipped else {})


def split(stages: Sequence[Stage | Collective]) -> tuple[Phase, ...]:
    """Divides stages into phases: neighbours form a chain; others stand alone.

    A lone stage only adds to the clips, so its parameters concern no other phase unless a
    collective follows, which may have decided by them.
    """
    phases: list[Phase] = []
    before: dict[str, Any] = {}
    aside: dict[str, Any] = {}
    for stage in stages:
        own = settings_of(stage)
        if isinstance(stage, Collective):
            before = before | aside | own
            phases.append(Phase(collective=stage, settings=before))
            aside = {}
        elif stage.alone:
            phases.append(Phase(stages=(stage,), alone=True, settings=before | own))
            aside |= own
        else:
            before = before | own
            last = phases[-1] if phases else None
            chain = phases.pop().stages if last and last.stages and not last.alone else ()
            phases.append(Phase(stages=(*chain, stage), settings=before))
    return tuple(phases)
