"""Every fast case of damaged, hostile or unlucky input is handled in one right line."""

import pytest

from tests.faults.harness import Outcome, all_cases, judge


@pytest.mark.parametrize(
    "case", [pytest.param(c, id=f"{c.kind}/{c.name}") for c in all_cases() if not c.slow]
)
def test_case_is_handled(case, tmp_path):
    outcome, line = judge(case, tmp_path)
    assert outcome is Outcome.HANDLED, (case.says, line)
