import json

import pytest

from unityvideo_jax.errors import UserError
from unityvideo_jax.evaluation import row_store
from unityvideo_jax.evaluation.row_store import RowStore
from unityvideo_jax.evaluation.score_folder import Row
from unityvideo_jax.evaluation.score_run import RunRow
from unityvideo_jax.metrics.scores import ClipScore

SCORE = ClipScore(means={"depth/x": (0.25, 1.0)}, counts={"depth/videos": 1})
ROWS = {
    RunRow: RunRow(
        scores={"depth": (SCORE,) * 3},
        control={"depth": SCORE},
        heldout={"rgb+depth": [[[0.5, 0.0]] * 4] * 3},
    ),
    Row: Row(clip="a", score=SCORE, faults=["flow: none"], pictures={"depth": "pictures/a.png"}),
}
INPUTS = {"depth.npz": "ab"}


@pytest.mark.parametrize("kind", ROWS)
def test_rows_hold_for_their_settings_and_inputs(tmp_path, kind, capsys):
    rows = RowStore(folder=tmp_path, kind=kind, settings={"seed": 0})
    rows.write("0007", INPUTS, ROWS[kind])
    assert rows.read("0007", INPUTS) == ROWS[kind]
    assert rows.read("0007", {"depth.npz": "cd"}) is None and rows.read("0008", {}) is None
    assert RowStore(folder=tmp_path, kind=kind, settings={"seed": 1}).read("0007", INPUTS) is None
    rows.write("0007", INPUTS, ROWS[kind], reusable=False)
    assert rows.read("0007", INPUTS) is None
    assert not capsys.readouterr().out
    assert [p.name for p in tmp_path.iterdir()] == ["0007.json"]


def test_rows_of_other_code_are_not_read(tmp_path, monkeypatch):
    package = tmp_path / "package"
    (package / "metrics").mkdir(parents=True)
    (package / "metrics" / "depth.py").write_text("limit = 70")
    before = row_store.code(package)
    row_store.code.cache_clear()
    assert row_store.code(package) == before
    (package / "metrics" / "depth.py").write_text("limit = 80")
    row_store.code.cache_clear()
    assert row_store.code(package) != before
    rows = RowStore(folder=tmp_path / "rows", kind=Row, settings={})
    rows.write("0007", INPUTS, ROWS[Row])
    monkeypatch.setattr(row_store, "code", lambda: before)
    assert rows.read("0007", INPUTS) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "{cut",
        lambda text: text.replace("0.25", "0.24"),
        lambda text: json.dumps({k: v for k, v in json.loads(text).items() if k == "fingerprint"}),
        lambda text: "[]",
    ],
)
def test_a_damaged_row_is_named_and_not_read(tmp_path, damage, capsys):
    rows = RowStore(folder=tmp_path, kind=RunRow, settings={})
    rows.write("0007", INPUTS, ROWS[RunRow])
    path = tmp_path / "0007.json"
    path.write_text(damage(path.read_text()))
    assert rows.read("0007", INPUTS) is None
    assert str(path) in capsys.readouterr().out


def test_a_name_that_leads_elsewhere_is_refused(tmp_path):
    with pytest.raises(UserError, match="row"):
        RowStore(folder=tmp_path / "rows", kind=Row, settings={}).read("../up", {})
