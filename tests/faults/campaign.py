"""Runs every case of damaged, hostile or unlucky input, the slow ones too, and prints the table.

  python -m tests.faults.campaign [KIND ...]

Exit status 1 if any case is not handled.
"""

import collections
import pathlib
import sys
import tempfile

from tests.faults.harness import Outcome, all_cases, judge


def main(kinds: list[str]) -> int:
    """Prints one line per case that is not handled, then the table of counts per kind."""
    counts: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for case in all_cases():
        if kinds and case.kind not in kinds:
            continue
        with tempfile.TemporaryDirectory() as folder:
            outcome, line = judge(case, pathlib.Path(folder))
        counts[case.kind][outcome] += 1
        if outcome is not Outcome.HANDLED:
            print(f"{outcome}: {case.kind}/{case.name}: {line[:300]}", flush=True)
    print("| kind | cases |", " | ".join(Outcome), "|")
    print("| --- | ---: |", " | ".join(["---:"] * len(Outcome)), "|")
    for kind, row in sorted(counts.items()):
        print(f"| {kind} | {row.total()} |", " | ".join(str(row[o]) for o in Outcome), "|")
    total = sum(counts.values(), collections.Counter())
    print(f"| all | {total.total()} |", " | ".join(str(total[o]) for o in Outcome), "|")
    return int(total[Outcome.HANDLED] != total.total())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
