"""The draw of streams and folders by weight: the shares asked for, and those that are possible.

A sample has S streams: RGB with S - 1 modalities, or for S = 1 RGB or a modality alone. The weights
of modalities and of folders are bounds on the sums of one table, the probability of each (folder,
set of streams). Iterative proportional fitting finds the table with these sums that is nearest to
independent draws. Where a folder lacks a modality the sums may contradict each other; then those of
the folders hold.
"""

import dataclasses
import itertools
import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from unityvideo_jax.errors import UserError
from unityvideo_jax.inputs.buckets import count_streams
from unityvideo_jax.inputs.mixing import MAX_PERIOD, Mixture
from unityvideo_jax.modalities import RGB

_ROUNDS = 2000
_CLOSE = 1e-9
_NOTHING = 1e-7  # what contradicting weights drive to zero is not drawn
# Asked and drawn shares that differ by more are pointed out.
_NOTABLE = 0.005


@dataclasses.dataclass(frozen=True, kw_only=True)
class Share:
    """A share of the samples, as asked for and as drawn.

    Attributes:
      streams: of the samples that it is a share of; 0 is all steps.
      what: "depth", "2 streams", a folder.
      bucket: of the samples, where there are several of that many streams.
      asked, drawn: from 0 to 1; of a modality, its share of the streams that are not RGB.
    """

    streams: int
    what: str
    asked: float
    drawn: float
    bucket: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mix:
    """The sources of samples of one number of streams.

    Attributes:
      sources: (folder, names of the streams in the model's order) of each.
      mixture: draws a source.
      shares: what was asked for, and what `mixture` draws over a whole period.
    """

    sources: tuple[tuple[int, tuple[str, ...]], ...]
    mixture: Mixture
    shares: tuple[Share, ...]


def make_mix(
    held: Sequence[Collection[str]],
    folder_weights: Mapping[str, float],
    modality_weights: Mapping[str, float],
    streams: int,
    rgb_alone: float,
    never_together: Sequence[tuple[str, str]] = (),
) -> Mix:
    """Fits the table of (folder, set of streams) to the weights.

    Args:
      held: modalities of each folder, RGB apart.
      folder_weights: by name of folder, in the same order; one is positive.
      modality_weights: of those to draw, positive, in the model's order; they sum to one.
      streams: S.
      rgb_alone: with S = 1, share of the samples that show RGB.
      never_together: pairs of modalities of which no sample holds both.

    Raises:
      UserError: no folder has that many modalities, `never_together` leaves no set of them, or too
        many sets.
    """
    asked = _asked(modality_weights, streams, rgb_alone)
    slots = max(streams - 1, 1)
    count = math.comb(len(modality_weights), slots) * len(held)
    if count > MAX_PERIOD:
        raise UserError(
            f"config.data.streams: {count:,} sets of {streams} streams, of which at most "
            f"{MAX_PERIOD:,} can be drawn by weight; give weights to fewer modalities, or draw "
            "fewer streams"
        )
    sets = [
        names
        for names in itertools.combinations(asked, slots)
        if not any(set(pair) <= set(names) for pair in never_together)
    ]
    if not sets:
        raise UserError(
            f"config.data.never_together leaves no sample of {streams} streams; draw fewer "
            "(config.data.streams), or name fewer pairs"
        )
    rows = [
        (folder, names)
        for folder, weight in enumerate(folder_weights.values())
        for names in sets
        if weight > 0 and set(names) <= {RGB, *held[folder]}
    ]
    if not rows:
        most = max(len(set(names) & set(modality_weights)) for names in held)
        raise UserError(
            f"config.data.streams draws {streams} streams, RGB and {slots} modalities, but no "
            f"folder has more than {most} of those drawn; draw fewer, or add modalities with "
            "`python -m unityvideo_jax.prepare --modalities=...`"
        )
    wanted = np.asarray(list(folder_weights.values()), np.float64)
    folders = np.asarray([[folder == n for n in range(len(wanted))] for folder, _ in rows])
    holds = np.asarray([[name in names for name in asked] for _, names in rows])
    table = _fit(folders, wanted / wanted.sum(), holds, _inclusion(asked, slots))
    chosen = np.flatnonzero(table > _NOTHING)
    mixture = Mixture(table[chosen].tolist())
    drawn = np.asarray(mixture.proportions) / mixture.period
    shares = [
        Share(streams=streams, what=name, asked=share, drawn=float(drawn @ column) / slots)
        for (name, share), column in zip(asked.items(), holds[chosen].T, strict=True)
    ]
    if len(wanted) > 1:
        parts = zip(folder_weights, wanted / wanted.sum(), folders[chosen].T, strict=True)
        shares += [
            Share(streams=streams, what=name, asked=float(share), drawn=float(drawn @ column))
            for name, share, column in parts
        ]
    sources = tuple(
        (folder, names if streams == 1 else (RGB, *names))
        for folder, names in (rows[row] for row in chosen)
    )
    return Mix(sources=sources, mixture=mixture, shares=tuple(shares))


def _asked(weights: Mapping[str, float], streams: int, rgb_alone: float) -> dict[str, float]:
    """Shares of the streams that are drawn beside RGB, or alone."""
    if streams > 1:
        return dict(weights)
    alone = {RGB: float(rgb_alone)} | {n: (1 - rgb_alone) * w for n, w in weights.items()}
    return {name: share for name, share in alone.items() if share > 0}


def _inclusion(asked: Mapping[str, float], slots: int) -> Float[np.ndarray, " n"]:
    """How often a sample should hold each stream: `slots` times its share, but never twice."""
    shares = np.asarray(list(asked.values()), np.float64)
    full = np.zeros(len(shares), bool)
    while True:
        free = ~full
        left = slots - full.sum()
        found = np.where(full, 1.0, left * shares / max(shares[free].sum(), _CLOSE))
        if not (over := free & (found >= 1.0)).any():
            return found
        full |= over


def _fit(
    folders: np.ndarray,
    folder_shares: Float[np.ndarray, " f"],
    holds: np.ndarray,
    inclusion: Float[np.ndarray, " n"],
) -> Float[np.ndarray, " rows"]:
    """The table whose sums are these, as near as can be to independent draws."""
    # Rows without a stream that every sample should hold are out from the start.
    table = folders @ folder_shares * np.prod(np.where(holds, inclusion, 1.0), axis=1)
    allowed = (holds | (inclusion < 1.0)).all(axis=1)
    table = np.where(allowed, table, 0.0) if (table * allowed).any() else table
    for _ in range(_ROUNDS):
        before = table
        # All at once, so that none comes first where they contradict each other; a row takes the
        # geometric mean of its streams' factors (generalised iterative scaling).
        factors = inclusion / np.maximum(table @ holds, _CLOSE)
        table = table * np.exp(holds @ np.log(factors) / holds[0].sum())
        table = table * (folders @ (folder_shares / np.maximum(table @ folders, _CLOSE)))
        table = table / table.sum()
        if np.abs(table - before).max() < _CLOSE:
            break
    return table


def table_lines(shares: Sequence[Share]) -> list[str]:
    """Formats the shares as a table, and a line more if some asked for are not drawn."""
    if not shares:
        return []
    label = [
        f"{share.bucket or count_streams(share.streams)}: {share.what}"
        if share.streams
        else share.what
        for share in shares
    ]
    head = "share of samples" if shares[0].streams else "share of steps"
    width = max(map(len, (head, *label)))
    lines = [f"{head:<{width}}   asked   drawn"]
    lines += [
        f"{text:<{width}}  {share.asked:6.1%}  {share.drawn:6.1%}"
        for text, share in zip(label, shares, strict=True)
    ]
    off = [s.what for s in shares if abs(s.asked - s.drawn) > _NOTABLE]
    if off:
        lines.append(
            f"the weights contradict each other: {', '.join(dict.fromkeys(off))} cannot be drawn "
            "as asked from what the folders hold; change config.data.modality_weights, "
            "dir_weights or streams if that is not what you want"
        )
    return lines
