"""RGB loss by step of the arms of figure 2, as SVG."""

import pathlib

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from unityvideo_jax.ablations.results import Results
from unityvideo_jax.files.paths import atomic_path

# Figure 2 of the paper.
ARMS = ("rgb", "flow", "depth", "densepose", "all")
POINTS = 60
# The same bytes for the same numbers. Letters stay text, so that the file is small.
STYLE = {"svg.hashsalt": "ablations", "svg.fonttype": "none", "font.size": 10}


def mean_curve(results: Results, arm: str) -> Float[np.ndarray, "n 3"]:
    """Averages the loss of RGB alone over seeds, smoothed: rows of step, mean and deviation.

    Returns:
      f64 [n, 3] with n <= POINTS, each the mean of as many records; steps that all seeds have.
    """
    runs = [
        {int(c["step"]): c["rgb_alone"] for c in run["curve"] if "rgb_alone" in c}
        for run in results.runs.get(arm, {}).values()
    ]
    steps = sorted(set.intersection(*map(set, runs))) if runs else []
    if not steps:
        return np.zeros((0, 3))
    losses = np.array([[run[step] for step in steps] for run in runs])
    parts = np.array_split(np.arange(len(steps)), min(POINTS, len(steps)))
    smooth = np.stack([losses[:, part].mean(axis=1) for part in parts])
    at = [np.mean([steps[i] for i in part]) for part in parts]
    return np.column_stack([at, smooth.mean(axis=1), smooth.std(axis=1)])


@matplotlib.rc_context(STYLE)
def draw(results: Results, path: pathlib.Path) -> bool:
    """Writes the curves of the arms that have one, with a band of one standard deviation.

    Returns:
      Whether there were any.
    """
    found = {arm: rows for arm in ARMS if len(rows := mean_curve(results, arm))}
    if not found:
        return False
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for arm, rows in found.items():
        step, mean, std = rows.T
        (line,) = axes.plot(step, mean, label=arm)
        axes.fill_between(step, mean - std, mean + std, color=line.get_color(), alpha=0.2, lw=0)
    axes.set_xlabel("step")
    axes.set_ylabel("training loss of RGB alone")
    axes.set_yscale("log")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})
    return True
