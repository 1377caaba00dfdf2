"""The runs of a grid by arm, seed and metric, and comparisons between them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from unityvideo_jax.ablations import statistics
from unityvideo_jax.ablations.plan import REFERENCE
from unityvideo_jax.ablations.statistics import Difference
from unityvideo_jax.errors import UserError

NOTHING = "–"
Record = Mapping[str, Any]


def grid(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table; of no rows, a sentence."""
    if not rows:
        return ["", "No run of it is finished."]
    return [
        "",
        f"| {' | '.join(titles)} |",
        f"|---{'|---:' * (len(titles) - 1)}|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def p_value(found: Difference) -> str:
    """Formats the p of the paired t-test, which one seed has not."""
    if found.seeds < 2:
        return NOTHING
    return "below 0.001" if found.student < 0.001 else f"{found.student:.3f}"


class Results:
    """Records of one grid.

    Args:
      records: by name, as the log has them.

    Attributes:
      runs: records by arm, then by seed; arms in the order of the log.
      reference: numbers that need no run; empty if they are not there yet.

    Raises:
      UserError: no run, or records of grids that do not share what they see and are scored with.
    """

    def __init__(self, records: Mapping[str, Record]):
        self.runs: dict[str, dict[int, Record]] = {}
        for name, record in records.items():
            if name != REFERENCE:
                self.runs.setdefault(record["arm"], {})[record["seed"]] = record
        if not self.runs:
            raise UserError("the log has no finished run")
        if len({record["frozen"] for record in records.values()}) > 1:
            raise UserError("the log mixes runs of grids with other clips, settings or autoencoder")
        self.reference: Mapping[str, float] = records.get(REFERENCE, {}).get("metrics", {})

    def values(self, arm: str, key: str) -> dict[int, float]:
        """Returns a metric of an arm by seed, of the seeds that have it."""
        found = {
            seed: run["metrics"].get(key) for seed, run in sorted(self.runs.get(arm, {}).items())
        }
        return {seed: float(value) for seed, value in found.items() if value is not None}

    def cell(self, arm: str, key: str, digits: int = 3) -> str:
        """Formats mean ± standard deviation over seeds."""
        values = [*self.values(arm, key).values()]
        if not values:
            return NOTHING
        mean, std = statistics.mean_std(values)
        return f"{mean:.{digits}f}" + (f" ± {std:.{digits}f}" if len(values) > 1 else "")

    def reference_cell(self, key: str, digits: int = 3) -> str:
        """Formats a number that needs no run."""
        value = self.reference.get(key)
        return NOTHING if value is None else f"{value:.{digits}f}"

    def difference(self, ours: tuple[str, str], base: tuple[str, str]) -> Difference | None:
        """An (arm, key) minus another over the seeds that both have; None if there are none."""
        first, second = self.values(*ours), self.values(*base)
        seeds = sorted(first.keys() & second.keys())
        if not seeds:
            return None
        return statistics.paired([first[s] for s in seeds], [second[s] for s in seeds])

    def outcomes(self, arm: str, streams: str) -> Float[np.ndarray, "runs pairs"] | None:
        """Whether the invalid clip has the lower loss, for every run of an arm and every pair."""
        meaning = {"0": 0.0, "=": 0.5, "1": 1.0}
        rows = [
            [meaning[c] for c in run["pairs"][streams]]
            for _, run in sorted(self.runs.get(arm, {}).items())
            if streams in run["pairs"]
        ]
        return np.array(rows) if rows else None

    def pairs(self) -> int:
        """Pairs of the physics benchmark in each run."""
        return max(
            len(text) for runs in self.runs.values() for r in runs.values()
            for text in r["pairs"].values()
        )  # fmt: skip

    def seeds(self) -> list[int]:
        """All seeds, in order."""
        return sorted({seed for runs in self.runs.values() for seed in runs})
