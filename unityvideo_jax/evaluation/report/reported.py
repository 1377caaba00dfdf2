"""The paper's own numbers, to stand beside measured ones. They are reported, not measured here."""

import dataclasses
import functools
import json
from collections.abc import Mapping
from typing import Any

from unityvideo_jax.files import checksums
from unityvideo_jax.files.assets import ASSETS

DATA = ASSETS / "paper_results.json"
STATUS = "reported, not measured here"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """One reported number and ours.

    Attributes:
      metric: as the paper calls it.
      system, task, table: whose number it is, for what, and where it stands in the paper.
      value: as reported.
      key: of our metric.
      measured: ours, on the paper's scale.
      caveat: what keeps the two from being the same quantity.
    """

    metric: str
    system: str
    task: str
    table: str
    value: float
    key: str
    measured: float
    caveat: str


@functools.cache
def load() -> dict[str, Any]:
    """The data file: source, how its metrics map to ours, and the entries.

    Raises:
      UserError: a damaged file.
    """
    checksums.check(DATA, "reinstall unityvideo_jax")
    return json.loads(DATA.read_text())


def beside(metrics: Mapping[str, float | int | None]) -> list[Comparison]:
    """Every reported number whose metric was measured, in the paper's order."""
    record = load()
    rows = []
    for entry in record["entries"]:
        how = record["metrics"][entry["metric"]]
        measured = metrics.get(how["ours"])
        if measured is None:
            continue
        rows.append(
            Comparison(
                metric=how["title"],
                system=entry["system"],
                task=entry["task"],
                table=entry["table"],
                value=entry["value"],
                key=how["ours"],
                measured=measured * how["scale"],
                caveat=how["caveat"],
            )
        )
    return rows
