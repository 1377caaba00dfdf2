"""The page of a grid: tables beside the paper's, what reproduces, curves, pictures and cost."""

import pathlib
from collections.abc import Mapping, Sequence

from unityvideo_jax import modalities
from unityvideo_jax.ablations import curves, statistics
from unityvideo_jax.ablations.results import NOTHING, Record, Results
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
ESTIMATED = ("depth", "flow", "segmentation", "skeleton", "densepose")
CONTROL = "control_by_"
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
        *_physics(results),
        *_estimation(results),
        *_agreement(results),
        *_zero_shot(results),
        *_pictures(folder),
        *_cost(results),
    ]
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n")


def _grid(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    if not rows:
        return ["", "No run of it is finished."]
    return [
        "",
        f"| {' | '.join(titles)} |",
        f"|---{'|---:' * (len(titles) - 1)}|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


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
    p = NOTHING if found.seeds < 2 else f"{found.student:.3f}"
    return f"{found.mean:+.{column.digits}f} (p {p}): {word}", word


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
    return lines + _grid(("claim (table of the paper)", "here"), rows)


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
    lines = ["", f"## Table {table.number}: {table.title}"]
    lines += _grid(("", *(column.title for column in COLUMNS)), rows)
    lines += [
        "",
        "The paper's columns, the paper's number and what was measured here. VBench's networks are "
        f"{ABSENT}; temporal flickering needs none.",
    ]
    lines += _grid(
        ("", *names),
        [[row.title, *(_beside(results, row, paper, key) for key in table.paper)] for row in shown],
    )
    lines += ["", "Differences, with p of the paired t-test over seeds:"]
    claims = [
        [claim.text, *(_said(results, table, claim, column)[0] or NOTHING for column in COLUMNS)]
        for claim in table.claims
    ]
    return lines + _grid(("", *(column.title for column in COLUMNS)), claims)


def _beside(results: Results, row: Row, paper: Mapping, key: str) -> str:
    value = paper.get((row.paper, key))
    theirs = NOTHING if value is None else f"{value:.2f}"
    ours = MEASURED.get(key)
    here = ABSENT if ours is None else results.cell(row.arm, ours.format(way=row.way), 2)
    return f"{theirs} / {here}"


def _physics(results: Results) -> list[str]:
    kinds = dict.fromkeys(
        streams for runs in results.runs.values() for r in runs.values() for streams in r["pairs"]
    )
    chosen = [s for s in kinds if not s.startswith("rgb_of_")]
    base = results.outcomes("rgb", "rgb")
    rows = []
    for arm in results.runs:
        row = [arm]
        for streams in chosen:
            outcomes = results.outcomes(arm, streams)
            row.append(NOTHING if outcomes is None else _interval(outcomes))
        own = results.outcomes(arm, "rgb")
        both = own is not None and base is not None and arm != "rgb"
        row.append(_interval(own, base) if both else NOTHING)
        rows.append(row)
    frames = next(iter(results.runs.values()))
    number = next(iter(frames.values()))["metrics"].get("plausibility_error/frame_differences/all")
    text = NOTHING if number is None else f"{number:.3f}"
    return [
        "",
        "## Plausibility error",
        "",
        f"Share of {results.pairs()} pairs of which the impossible clip has the lower loss "
        "(`docs/physics.md`); chance is 0.5, intervals are bootstrapped over pairs. The energy of "
        f"frame differences, which knows no physics, has {text}; `rgb_shuffled` is the model on "
        "frames in a random order.",
        *_grid(("arm", *chosen, "rgb less that of RGB alone"), rows),
    ]


def _interval(outcomes, base=None) -> str:
    value, low, high = statistics.bootstrap_share(outcomes, base)
    sign = "+" if base is not None else ""
    return f"{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def _headlines() -> dict[str, str]:
    return {name: modalities.get(name).metric.headline for name in ESTIMATED}


def _estimation(results: Results) -> list[str]:
    heads = _headlines()
    control = sorted(
        {
            key
            for runs in results.runs.values()
            for run in runs.values()
            for key in run["metrics"]
            for name, head in heads.items()
            if key.startswith(CONTROL) and key.endswith(f"/{head}")
        }
    )
    keys = [*heads.values(), *control]
    arms = [arm for arm in results.runs if any(results.values(arm, key) for key in keys)]
    rows = [[arm, *(results.cell(arm, key) for key in keys)] for arm in arms]
    for label, title in (("ceiling/", "truth through the autoencoder"), ("trivial/", "trivial")):
        rows.append([title, *(_of_reference(results, label + key) for key in keys)])
    rows.append(
        ["control's estimator on true RGB"]
        + [_of_reference(results, f"truth/{key}" if key in control else "") for key in keys]
    )
    return [
        "",
        "## Estimation and control",
        "",
        "Estimated from true RGB in one pass, without captions. Control is scored by one model "
        "that is no arm, from RGB sampled with the true modality. Columns: "
        f"{', '.join(f'`{key}`' for key in keys)}.",
        *_grid(("arm", *map(_short, keys)), rows),
    ]


def _short(key: str) -> str:
    """A metric's modality and last word, and whether it is control's: "control by depth, epe"."""
    control = key.startswith(CONTROL)
    modality = key.split("/")[1 if control else 0]
    return f"{'control by ' * control}{modality}, {key.rpartition('/')[2]}"


def _of_reference(results: Results, key: str) -> str:
    value = results.reference.get(key)
    return NOTHING if value is None else f"{value:.3f}"


def _agreement(results: Results) -> list[str]:
    keys = dict.fromkeys(
        key
        for runs in results.runs.values()
        for run in runs.values()
        for key in run["metrics"]
        if key.startswith("agreement/") and key.endswith("/joint_3")
    )
    arms = [arm for arm in results.runs if any(results.values(arm, key) for key in keys)]
    rows = []
    for arm in arms:
        rows.append([arm, *(results.cell(arm, key) for key in keys)])
        rows.append([f"{arm}, shuffled", *(results.cell(arm, f"floor/{key}") for key in keys)])
    if arms:
        ceiling = [results.cell(arms[0], f"ceiling/{key}") for key in keys]
        rows.append(["truth through the autoencoder", *ceiling])
    return [
        "",
        "## Do streams agree?",
        "",
        "RGB and two modalities sampled together from a caption (`docs/evaluation.md`). The arm "
        "`unseen_pair` never saw flow and segmentation in one sample. Columns are "
        "`agreement/<column>/joint_3`.",
        *_grid(("arm", *(f"`{key.split('/')[1]}`" for key in keys)), rows),
    ]


def _zero_shot(results: Results) -> list[str]:
    heads = _headlines()
    columns = {
        "objects, asked for": f"zero_shot/objects/{heads['segmentation']}",
        "objects, asked for people": f"zero_shot/objects_asked_for_people/{heads['segmentation']}",
        "people": heads["segmentation"],
        "animals with a skeleton": "zero_shot/animals/found",
        "joints on the animals": "zero_shot/animals/keypoints_in_masks",
        "on those of another clip": "floor/zero_shot/animals/keypoints_in_masks",
        "people's skeletons": heads["skeleton"],
    }
    arms = [arm for arm in results.runs if any(results.values(arm, k) for k in columns.values())]
    rows = [[arm, *(results.cell(arm, key) for key in columns.values())] for arm in arms]
    ceilings = [_of_reference(results, f"ceiling/{key}") for key in columns.values()]
    rows.append(["truth through the autoencoder", *ceilings])
    return [
        "",
        "## Zero-shot",
        "",
        "Prompts of the training asked for people alone, and its worlds show no animal. The second "
        "column has the same clips and prompts that ask for people: what is not the prompt's. "
        "Worlds have no joints of animals, so that their skeletons are scored by the exact masks.",
        *_grid(("arm", *columns), rows if arms else []),
        "",
        "Differences over seeds:",
        *_grid(("", "difference", "p", ""), _zero_shot_tests(results, heads)),
    ]


def _zero_shot_tests(results: Results, heads: Mapping[str, str]) -> list[list[str]]:
    masks, pair = heads["segmentation"], "agreement/moved_mask_iou/joint_3"
    joints = "zero_shot/animals/keypoints_in_masks"
    tests = {
        "objects: asked for, less the same asked for people": (
            ("all", f"zero_shot/objects/{masks}"),
            ("all", f"zero_shot/objects_asked_for_people/{masks}"),
        ),
        "animals: joints on them, less on those of another clip": (
            ("all", joints),
            ("all", f"floor/{joints}"),
        ),
        "flow and segmentation never seen together: agreement, less that of shuffled streams": (
            ("unseen_pair", pair),
            ("unseen_pair", f"floor/{pair}"),
        ),
        "the same, less that of `all`, which saw them together": (
            ("unseen_pair", pair),
            ("all", pair),
        ),
    }
    rows = []
    for title, sides in tests.items():
        if (found := results.difference(*sides)) is not None:
            p = NOTHING if found.seeds < 2 else f"{found.student:.3f}"
            word = statistics.verdict(found, lower_is_better=False)
            rows.append([title, f"{found.mean:+.3f}", p, word])
    return rows


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
        f"{total / 3600:.1f} device hours on {', '.join(devices)}. A joint or a control sample "
        "noises RGB, an estimation sample does not; a step of more streams costs more.",
        *_grid(titles, rows),
    ]
