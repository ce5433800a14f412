"""What audits saw in a study's models, in Markdown: ``audits_table.py runs/audits``.

The numbers are the report's, by the same code from the same audits.csv.
"""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from orchestrator.plan.columns import AUDITS
from orchestrator.reporting.audits import audit_tables, read_audits

DETECTION = (
    *("audit", "victims", "benign", "AUROC (95 %)", "target first", "median rank"),
    *("victims flagged", "false alarms", "seconds", "passes", "queries"),
)
AFTER = (
    *("audit", "method", "victims", "statistic", "flagged", "benign", "statistic", "flagged"),
    "AUROC (95 %)",
)
AGREEMENT = ("one audit", "another", "same class first")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(str(cell) for cell in line) + " |" for line in lines] + [""]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the study's folder")
    found = audit_tables(read_audits(parser.parse_args().folder / AUDITS))
    if found is None:
        parser.error("the study has audited nothing")
    lines = table(DETECTION, found["audits"])
    lines += [f"- {name}: {rule}" for name, rule in found["rules"]] + [""]
    lines += ["After the repair (before → after, the statistic as a median):", ""]
    lines += table(AFTER, found["repaired"])
    lines += table(AGREEMENT, [row[:3] for row in found["agreement"]])
    print("\n".join([*lines, found["note"]]).rstrip())


if __name__ == "__main__":
    main()
