"""The page of a grid: tables beside the paper's, what reproduces, curves, pictures and cost."""

import pathlib
from collections.abc import Mapping, Sequence

from unityvideo_jax.ablations import curves, sections, statistics
from unityvideo_jax.ablations.results import NOTHING, Record, Results, grid, p_value
from unityvideo_jax.ablations.tables import (
    COLUMNS,
    MEASURED,
    PLAUSIBILITY,
    TABLES,
    Claim,
    Column,
    Row,
    Table,
)
from unityvideo_jax.evaluation.report import reported
from unityvideo_jax.files.paths import atomic_path

ABSENT = "not available offline"
# Rows below the measured ones of each table.
REFERENCES = {"truth through the autoencoder": "autoencoder", "truth": "truth"}
# Pictures that the page shows of these arms, in this order, by the titles that scoring gives them.
PICTURED = ("rgb", "all", "neither", "unseen_pair")
PICTURES = (
    "samples/alone",
    "samples/together",
    "samples/joint+depth",
    "samples/control+depth",
    "depth",
    "zero_shot/objects/segmentation",
    "zero_shot/objects_asked_for_people/segmentation",
    "zero_shot/animals",
)


def write(path: pathlib.Path, records: Mapping[str, Record]) -> None:
    """Writes the page, and its curves into the folder beside it that is called like it.

    Args:
      path: of the page, such as docs/results.md; pictures of the grid are shown from that folder.
      records: of the log.

    Raises:
      UserError: no run, or runs of different grids.
    """
    results = Results(records)
    folder = path.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    drawn = curves.draw(results, folder / "curves.svg")
    lines = [
        "# Does unification help? The paper's ablations at small size",
        "",
        "Written by `python -m unityvideo_jax.ablate` from the log of its runs.",
        *_summary(results),
        *(line for table in TABLES for line in _table(results, table)),
        *(["", "## Curves", "", f"![RGB loss by step]({folder.name}/curves.svg)"] if drawn else []),
        *sections.physics(results),
        *sections.estimation(results),
        *sections.agreement(results),
        *sections.zero_shot(results),
        *_pictures(folder),
        *_cost(results),
    ]
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n")


def _noise(results: Results, key: str) -> float:
    """The smallest difference of a metric that counts as one."""
    shares = key.startswith("plausibility_error")
    return statistics.noise_of_share(results.pairs()) if shares else 0.0


def _said(results: Results, table: Table, claim: Claim, column: Column) -> tuple[str, str]:
    """A column's result for a claim, in numbers and in one word; "" without both rows."""
    row, base = table.rows[claim.row], table.rows[claim.base]
    # RGB as sampled is another loss in another way of sampling.
    if "{way}" in column.key and column.key.startswith("rgb_loss") and row.way != base.way:
        return "", ""
    found = results.difference((row.arm, column.of(row.way)), (base.arm, column.of(base.way)))
    if found is None:
        return "", ""
    word = statistics.verdict(found, column.lower_is_better, _noise(results, column.key))
    return f"{found.mean:+.{column.digits}f} (p {p_value(found)}): {word}", word


def _outcome(words: Sequence[str], claim: Claim) -> str:
    """The result of all columns together for a claim."""
    says = {"better", "worse"} & set(words)
    expected = "better" if claim.better else "worse"
    if not words:
        return "not measured"
    if set(words) == {statistics.UNTESTED}:
        return statistics.UNTESTED
    if not says:
        return "no difference shown"
    if says == {expected}:
        return "reproduces"
    return "contradicts" if expected not in says else "mixed"


def _summary(results: Results) -> list[str]:
    lines = ["", "## What reproduces", ""]
    tests = 0
    rows = []
    for table in TABLES:
        for claim in table.claims:
            words = [w for c in COLUMNS if (w := _said(results, table, claim, c)[1])]
            tests += len(words) - words.count(statistics.UNTESTED)
            rows.append([f"{table.number}: {claim.text}", _outcome(words, claim)])
    seeds = results.seeds()
    lines += [
        f"{sum(map(len, results.runs.values()))} runs of {len(results.runs)} arms, seeds "
        f"{', '.join(map(str, seeds))}. A claim reproduces if at least one measured column shows "
        "it and none shows the opposite. A difference is shown if the paired t-test over seeds has "
        "p < 0.05, and of plausibility if besides it is above "
        f"{100 * _noise(results, PLAUSIBILITY):.1f} points, the noise of {results.pairs()} pairs. "
        f"Of {tests} tests, {0.05 * tests:.0f} would show a difference if there were none. The "
        "t-test assumes normal differences: with three seeds the exact sign-flip test, which does "
        "not, never has p below 0.25.",
        "",
        "The measured columns are not the paper's: its models have 10 billion weights and real "
        "video, these at most 25 million and procedural worlds.",
    ]
    return lines + grid(("claim (table of the paper)", "here"), rows)


def _table(results: Results, table: Table) -> list[str]:
    paper = {
        (entry["system"], entry["metric"]): entry["value"]
        for entry in reported.load()["entries"]
        if entry["table"] == table.number
    }
    names = [key.removeprefix("vbench/").replace("_", " ") for key in table.paper]
    shown = [row for row in table.rows if row.arm in results.runs]
    rows = [
        [row.title, *(results.cell(row.arm, c.of(row.way), c.digits) for c in COLUMNS)]
        for row in shown
    ]
    for title, way in REFERENCES.items():
        cells = [results.reference_cell(c.of(way), c.digits) for c in COLUMNS]
        rows += [[title, *cells]] if results.reference else []
    lines = ["", f"## Table {table.number}: {table.title}"]
    lines += grid(("", *(column.title for column in COLUMNS)), rows)
    lines += [
        "",
        "The paper's columns, the paper's number and what was measured here. VBench's networks are "
        f"{ABSENT}; temporal flickering needs none.",
    ]
    lines += grid(
        ("", *names),
        [[row.title, *(_beside(results, row, paper, key) for key in table.paper)] for row in shown],
    )
    lines += ["", "Differences, with p of the paired t-test over seeds:"]
    claims = [
        [claim.text, *(_said(results, table, claim, column)[0] or NOTHING for column in COLUMNS)]
        for claim in table.claims
    ]
    return lines + grid(("", *(column.title for column in COLUMNS)), claims)


def _beside(results: Results, row: Row, paper: Mapping, key: str) -> str:
    value = paper.get((row.paper, key))
    theirs = NOTHING if value is None else f"{value:.2f}"
    ours = MEASURED.get(key)
    here = ABSENT if ours is None else results.cell(row.arm, ours.format(way=row.way), 2)
    return f"{theirs} / {here}"


def picture(arm: str, title: str) -> str | None:
    """The file of a picture in the page's folder; None of one that the page does not show."""
    if arm not in PICTURED or title not in PICTURES:
        return None
    return f"{arm}_{title.replace('/', '_').replace('+', '_')}.png"


def _pictures(folder: pathlib.Path) -> list[str]:
    lines: list[str] = []
    for arm in PICTURED:
        for title in PICTURES:
            name = picture(arm, title)
            if (folder / name).exists():
                lines += ["", f"`{arm}`, {title}", "", f"![{arm}, {title}]({folder.name}/{name})"]
    if lines:
        lines = ["", "## Pictures", "", "First clip, first seed; none was chosen.", *lines]
    return lines


def _cost(results: Results) -> list[str]:
    rows = []
    for arm, runs in results.runs.items():
        one = next(iter(runs.values()))
        speeds = [
            c["step_seconds"] for r in runs.values() for c in r["curve"] if "step_seconds" in c
        ]
        speed = f"{sorted(speeds)[len(speeds) // 2]:.4f}" if speeds else NOTHING
        evaluation = max(sum(r["evaluation_seconds"].values()) for r in runs.values())
        rows.append(
            [
                arm,
                f"{one['parameters'] / 1e6:.2f}M",
                str(one["step"]),
                f"{one['flops'] / 1e15:.3g}",
                f"{one['rgb_share']:.1%}",
                f"{one['rgb_samples']:,}",
                speed,
                f"{max(r['seconds'] for r in runs.values()):.0f}",
                f"{evaluation:.0f}",
                ", ".join(map(str, sorted(runs))),
            ]
        )
    total = sum(r["seconds"] for runs in results.runs.values() for r in runs.values())
    devices = sorted(
        {r["versions"]["device"] for runs in results.runs.values() for r in runs.values()}
    )
    titles = ("arm", "weights", "steps", "model PFLOP", "samples that noise RGB", "RGB samples",
              "s/step (median)", "s, longest", "of it scoring", "seeds")  # fmt: skip
    return [
        "",
        "## What was run, and what it cost",
        "",
        f"The runs took {total / 3600:.1f} hours on {', '.join(devices)}, each counted whole: "
        "several may have shared a device, and their times are no measure of its speed. A joint or "
        "a control sample noises RGB, an estimation sample does not; a step of more streams costs "
        "more.",
        *grid(titles, rows),
    ]
