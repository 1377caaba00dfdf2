"""The balanced groups that clips are stored in, each with its own modalities.

UnityVideo divides OpenUni into four groups (single person, two persons, and two collections) and
every batch into four equal parts. Here a group is a folder of shards, and training draws from the
folders with equal weights.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from unityvideo_jax import modalities
from unityvideo_jax.curation.stage import Clip, Collective
from unityvideo_jax.errors import UserError
from unityvideo_jax.files.names import safe_name


@dataclasses.dataclass(frozen=True, kw_only=True)
class Groups(Collective):
    """Assigns every clip to the first group that takes it, and evens out sources and groups.

    Attributes:
      groups: name -> {"modalities": those that it stores, rgb left out; "source": the collection it
        takes, or absent for any; "people": how many the clip must show, or absent}.
      max_ratio: a group may hold this many times as many clips as the smallest one that has any; 0
        is any. Batches are balanced when they are drawn, so this only saves annotation.
      max_per_source: clips of one collection in a group; 0 is any.
    """

    name: ClassVar[str] = "groups"
    groups: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    max_ratio: float | int = 0.0
    max_per_source: int = 0

    def __post_init__(self):
        known = {"modalities", "source", "people"}
        if not self.groups:
            raise UserError("config.groups.groups is empty; name a group or drop the stage")
        for name, group in self.groups.items():
            safe_name(name, "config.groups.groups:")
            if unknown := set(group) - known:
                raise UserError(f"config.groups.groups.{name}: no key {sorted(unknown)[0]!r}")
            if not group.get("modalities"):
                raise UserError(f"config.groups.groups.{name}: list its modalities")
            for modality in group["modalities"]:
                modalities.get(modality)

    def __call__(self, clips: Sequence[Clip]) -> Sequence[Clip]:
        """Assigns clips to groups, and rejects those that no group takes or that are too many."""
        placed = [self._place(clip) for clip in clips]
        allowed = self._thin([clip for clip in placed if not clip.rejected_by])
        result = []
        for clip in placed:
            if not clip.rejected_by and clip.key not in allowed:
                clip = clip.reject(self.name, f"{clip.group} has enough clips of {clip.source!r}")
            result.append(clip)
        return result

    def _place(self, clip: Clip) -> Clip:
        for name, group in self.groups.items():
            if "source" in group and clip.source != group["source"]:
                continue
            if "people" in group and clip.scores.get("people") != group["people"]:
                continue
            return clip.change(group=name, wanted=tuple(group["modalities"]))
        shown = f"source {clip.source!r}, people {clip.scores.get('people', 'not counted')}"
        return clip.reject(self.name, f"no group takes it ({shown})")

    def _thin(self, clips: Sequence[Clip]) -> set[str]:
        """Keys that stay: the same whatever order the clips come in, and spread over the videos."""
        lists: dict[str, list[Clip]] = {}
        for clip in sorted(clips, key=lambda c: hashlib.sha256(c.key.encode()).digest()):
            lists.setdefault(clip.group, []).append(clip)
        if self.max_per_source:
            lists = {name: self._per_source(found) for name, found in lists.items()}
        most = max(map(len, lists.values()), default=0)
        if self.max_ratio and lists:
            most = max(1, int(self.max_ratio * min(map(len, lists.values()))))
        return {clip.key for found in lists.values() for clip in found[:most]}

    def _per_source(self, clips: Sequence[Clip]) -> list[Clip]:
        taken: dict[str, int] = {}
        passed = []
        for clip in clips:
            taken[clip.source] = taken.get(clip.source, 0) + 1
            if taken[clip.source] <= self.max_per_source:
                passed.append(clip)
        return passed
