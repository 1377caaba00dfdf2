"""Draws `speed.csv` as `speed.svg`: the time of each part beside diffusers or transformers.

Command: python benchmarks/chart.py
"""

import csv
import pathlib

import matplotlib
from matplotlib.figure import Figure

FOLDER = pathlib.Path(__file__).parent
# The same bytes for the same numbers. Letters stay text, so that the file is small.
STYLE = {"svg.hashsalt": "speed", "svg.fonttype": "none", "font.size": 10}


def read(path: pathlib.Path) -> list[dict[str, str]]:
    """Rows of the table: `what`, seconds of `ours` and of the `peer` as printed, `date`."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@matplotlib.rc_context(STYLE)
def draw(rows: list[dict[str, str]], path: pathlib.Path) -> None:
    """Writes one pair of bars per row, as shares of the peer's time, labelled in seconds."""
    figure = Figure(figsize=(8, 0.6 * len(rows) + 0.9), layout="constrained")
    axes = figure.subplots()
    systems = (
        ("ours", "unityvideo_jax", "#2f6fb3", -0.2),
        ("peer", "diffusers, transformers", "#b8bec7", 0.2),
    )
    for system, label, colour, offset in systems:
        shares = [float(row[system]) / float(row["peer"]) for row in rows]
        places = [i + offset for i in range(len(rows))]
        bars = axes.barh(places, shares, height=0.38, color=colour, label=label)
        axes.bar_label(bars, [f"{row[system]} s" for row in rows], padding=3, fontsize=9)
    axes.set_yticks(range(len(rows)), [row["what"] for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.15)
    axes.set_xlabel("time on one H200 as a share of the other library's (shorter is faster)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper right", ncols=2, frameon=False)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    draw(read(FOLDER / "speed.csv"), FOLDER / "speed.svg")
