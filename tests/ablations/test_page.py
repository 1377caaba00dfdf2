"""The page says of made-up records what they were made to say."""

import re

import made_records
import pytest

from unityvideo_jax.ablations import curves, page, statistics
from unityvideo_jax.ablations.results import Results, p_value
from unityvideo_jax.errors import UserError


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("grid") / "results.md"
    path.with_suffix("").mkdir()
    (path.with_suffix("") / page.picture("all", "samples/joint+depth")).touch()
    page.write(path, made_records.records())
    assert (path.parent / "results" / "curves.svg").read_text().startswith("<?xml")
    return path.read_text()


def test_numbers_stand_beside_the_papers(text):
    values = [made_records.metrics("rgb", seed)["rgb_loss/alone"] for seed in range(3)]
    mean, std = statistics.mean_std(values)
    assert f"| RGB alone (baseline) | {mean:.4f} ± {std:.4f} |" in text
    assert f"96.51 / {page.ABSENT} | 96.06 / {page.ABSENT} | 64.99 / {page.ABSENT}" in text
    # Temporal flickering is the one VBench column that is measured.
    flicker = Results(made_records.records()).cell("rgb", "temporal_flickering/alone", 2)
    assert f"98.73 / {flicker}" in text


def test_only_pictures_that_are_there_are_shown(text):
    assert re.findall(r"!\[.*?\]\((\S+)\)", text) == [
        "results/curves.svg",
        "results/all_samples_joint_depth.png",
    ]
    assert page.picture("flow", "samples/alone") is page.picture("all", "flow") is None


def test_claims_are_judged(text):
    outcomes = dict(re.findall(r"^\| (\d: .*?) \| ([a-z ]+) \|$", text, re.M))
    # Loss 0.24 against 0.30, and 0.27 against 0.30.
    assert outcomes["2: all modalities improve RGB"] == "reproduces"
    assert outcomes["2: flow improves RGB"] == "reproduces"
    # A difference of 0.0001 below noise of 0.0003.
    assert outcomes["2: depth improves RGB"] == "no difference shown"
    # The paper says worse; made is better.
    assert outcomes["3: only control does not: it is worse than RGB alone"] == "contradicts"
    row = re.search(r"^\| all modalities improve RGB \| (\S+) \(p (.+?)\): better", text, re.M)
    assert float(row[1]) == pytest.approx(-0.06, abs=0.003) and row[2] == "below 0.001"
    other = statistics.Difference(seeds=3, mean=1.0, std=0.1, student=1e-3, flips=0.25)
    assert p_value(other) == "0.001"
    # Every third pair of arms differs by chance alone, and 48 pairs show nothing below 14 points.
    assert "14.1 points" in text


def test_a_pair_never_seen_together_is_tested_against_its_floor_and_the_full_model(text):
    rows = re.findall(r"^\| (?:flow and seg|the same).*\| (\S+) \| (.+) \| (\w+) \|$", text, re.M)
    assert [word for *_, word in rows] == ["better", "worse"]
    assert [float(mean) for mean, *_ in rows] == pytest.approx([0.3, -0.1], abs=0.005)


def test_plausibility_has_intervals_over_pairs(text):
    rows = dict(re.findall(r"^\| (\w+) \| (0\.\d+ \[.*?\]) \| 0\.500", text, re.M))
    found = Results(made_records.records()).outcomes("all", "rgb")
    value, low, high = statistics.bootstrap_share(found)
    assert rows["all"] == f"{value:.3f} [{low:.3f}, {high:.3f}]" and low < value < high


def test_what_was_not_run_or_not_measured_is_left_out(tmp_path):
    page.write(tmp_path / "few.md", made_records.records(("all",), (0,)))
    text = (tmp_path / "few.md").read_text()
    assert "1 runs of 1 arms" in text and "RGB alone (baseline)" not in text
    assert "| 2: flow improves RGB | not measured |" in text
    mixed = made_records.records(("rgb",)) | {
        "all_0": made_records.record("all", 0, frozen="another grid's")
    }
    with pytest.raises(UserError, match="mixes runs of grids"):
        page.write(tmp_path / "mixed.md", mixed)


def test_curves_are_means_over_the_seeds_that_have_a_step():
    records = made_records.records(("rgb",), (0, 1))
    records["rgb_1"]["curve"] = [
        {"step": step, "rgb_alone": 3 / step} for step in range(10, 81, 10)
    ]
    rows = curves.mean_curve(Results(records), "rgb")
    assert rows[:, 0].tolist() == list(range(10, 81, 10))
    assert rows[:, 1] == pytest.approx([2 / step for step in range(10, 81, 10)])
    assert rows[:, 2] == pytest.approx([1 / step for step in range(10, 81, 10)])
