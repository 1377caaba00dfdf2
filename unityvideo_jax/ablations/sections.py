"""Sections of the page: physics, estimates and control, agreement of streams, zero-shot."""

from collections.abc import Mapping

from unityvideo_jax import modalities
from unityvideo_jax.ablations import statistics
from unityvideo_jax.ablations.results import NOTHING, Results, grid, p_value

ESTIMATED = ("depth", "flow", "segmentation", "skeleton", "densepose")
CONTROL = "control_by_"


def physics(results: Results) -> list[str]:
    """Plausibility errors of every arm, with intervals over pairs."""
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
        *grid(("arm", *chosen, "rgb less that of RGB alone"), rows),
    ]


def _interval(outcomes, base=None) -> str:
    value, low, high = statistics.bootstrap_share(outcomes, base)
    sign = "+" if base is not None else ""
    return f"{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def _headlines() -> dict[str, str]:
    return {name: modalities.get(name).metric.headline for name in ESTIMATED}


def estimation(results: Results) -> list[str]:
    """Scores of estimates and of control, beside ceiling and trivial predictions."""
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
        rows.append([title, *(results.reference_cell(label + key) for key in keys)])
    rows.append(
        ["control's estimator on true RGB"]
        + [results.reference_cell(f"truth/{key}" if key in control else "") for key in keys]
    )
    return [
        "",
        "## Estimation and control",
        "",
        "Estimated from true RGB in one pass, without captions. Control is scored by one model "
        "that is no arm, from RGB sampled with the true modality. Columns: "
        f"{', '.join(f'`{key}`' for key in keys)}.",
        *grid(("arm", *map(_short, keys)), rows),
    ]


def _short(key: str) -> str:
    """A metric's modality and last word, and whether it is control's: "control by depth, epe"."""
    control = key.startswith(CONTROL)
    modality = key.split("/")[1 if control else 0]
    return f"{'control by ' * control}{modality}, {key.rpartition('/')[2]}"


def agreement(results: Results) -> list[str]:
    """Agreement of streams sampled together, beside shuffled ones and the ceiling."""
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
        *grid(("arm", *(f"`{key.split('/')[1]}`" for key in keys)), rows),
    ]


def zero_shot(results: Results) -> list[str]:
    """What no training sample showed: objects by prompt, animals, a pair of modalities."""
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
    ceilings = [results.reference_cell(f"ceiling/{key}") for key in columns.values()]
    rows.append(["truth through the autoencoder", *ceilings])
    return [
        "",
        "## Zero-shot",
        "",
        "Prompts of the training asked for people alone, and its worlds show no animal. The second "
        "column has the same clips and prompts that ask for people: what is not the prompt's. "
        "Worlds have no joints of animals, so that their skeletons are scored by the exact masks.",
        *grid(("arm", *columns), rows if arms else []),
        "",
        "Differences over seeds:",
        *grid(("", "difference", "p", ""), _zero_shot_tests(results, heads)),
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
            word = statistics.verdict(found, lower_is_better=False)
            rows.append([title, f"{found.mean:+.3f}", p_value(found), word])
    return rows
