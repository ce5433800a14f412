"""What audits saw in a study's models: ``python -m benchmarks.audits_table runs/audits``.

The numbers are the report's, by the same code from the same audits.csv.
"""

import argparse

from benchmarks._common import markdown, study_folder
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


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=study_folder, help="the study's folder")
    found = audit_tables(read_audits(parser.parse_args().folder / AUDITS))
    if found is None:
        parser.error("the study has audited nothing")
    parts = [
        markdown(DETECTION, found["audits"]),
        "\n".join(f"- {name}: {rule}" for name, rule in found["rules"]),
        "True target first, by attack:",
        markdown(["audit", *found["attacks"]], found["by_attack"]),
        "After the repair (before → after, the statistic as a median):",
        markdown(AFTER, found["repaired"]),
        markdown(AGREEMENT, [row[:3] for row in found["agreement"]]),
        found["note"],
    ]
    print("\n\n".join(filter(None, parts)))


if __name__ == "__main__":
    main()
