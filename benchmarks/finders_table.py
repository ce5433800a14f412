"""How often finders find the target's row: ``python -m benchmarks.finders_table runs/finders``.

Found: the row of the target has the largest score of all rows of the head and is flagged. Removed:
the repaired model has an ASR below 10 % on the report half and an ACC above chance. Weak victims
are left out. Rows: how many a benign model has flagged on average, so what share of classes is
flagged by chance. A second table has what was removed by attack, and the lowest and the highest RA
of these, in percent.
"""

import argparse
import csv
import json
from collections.abc import Iterable, Mapping, Sequence, Sized
from pathlib import Path
from statistics import mean, median
from typing import TypeAlias

from benchmarks._common import study_folder, table
from benchmarks._removals import is_removed
from orchestrator.plan.columns import NAMED_SUSPECTS
from orchestrator.plan.labels import DAGGER, is_named

Row: TypeAlias = Mapping[str, str]
AXES = ("finder", "score", "unlearn_threshold", "clean_ratio", NAMED_SUSPECTS)


def read(path: Path) -> list[Row]:
    """Return the rows of a results.csv that are done, of ULRL, weak victims left out."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [
        row
        for row in rows
        if row["status"] == "done"
        and row.get("repair", "ulrl") == "ulrl"
        and (row["attack"] == "none" or row["victim_ok"] == "True")
    ]


def flags(row: Row) -> list[int | str]:
    """Return the rows that are flagged."""
    found: list[int | str] = json.loads(row["flagged"])
    return found


def is_found(row: Row) -> bool:
    """Whether the target's row is first and flagged."""
    return float(row["target_rank"] or 0) == 1 and int(float(row["target_label"])) in flags(row)


def share(rows: Sized, holds: Iterable[bool]) -> str:
    """Return how many of some rows something holds of, as ``2/3``."""
    return f"{sum(holds)}/{len(rows)}" if rows else "–"


def by_setting(rows: Sequence[Row]) -> tuple[list[str], dict[tuple[str, ...], list[Row]]]:
    """Return the axes that vary, and the rows of each setting as the first rows have them."""
    always = [axis for axis in AXES[:1] if axis in rows[0]]
    axes = [axis for axis in AXES if axis in always or len({row.get(axis) for row in rows}) > 1]
    settings: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        settings.setdefault(tuple(row[axis] for axis in axes), []).append(row)
    return axes, settings


def attacks_of(rows: Iterable[Row]) -> list[str]:
    """Return the attacks, in the rows' order."""
    return list(dict.fromkeys(row["attack"] for row in rows if row["attack"] != "none"))


def tabulate(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Return the table's head, and a line per setting."""
    axes, settings = by_setting(rows)
    attacks = attacks_of(rows)
    head = [
        *axes,
        *(f"found: {attack}" for attack in attacks),
        *("found: all", "median rank", "removed", "ACC lost"),
        *("benign: flagged", "rows", "ACC lost", "s"),
    ]
    lines = [[*_named(axes, p), *_cells(own, attacks)] for p, own in settings.items()]
    return head, lines


def removals(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Return the head of the table of what was removed by attack, and a line per setting."""
    axes, settings = by_setting(rows)
    attacks = attacks_of(rows)
    lines = []
    for place, own in settings.items():
        parts = [[row for row in own if row["attack"] == attack] for attack in attacks]
        ra = [100 * float(r["ra_after_report"]) for part in parts for r in part if is_removed(r)]
        cells = [share(part, map(is_removed, part)) for part in parts]
        spread = f"{min(ra):.0f} to {max(ra):.0f}" if ra else "–"
        lines.append([*_named(axes, place), *cells, spread])
    return [*axes, *(f"removed: {attack}" for attack in attacks), "RA of these"], lines


def _named(axes: Sequence[str], place: Sequence[str]) -> list[str]:
    return [
        f"{value}{DAGGER}" if axis == NAMED_SUSPECTS and is_named(value) else value or "–"
        for axis, value in zip(axes, place, strict=True)
    ]


def _cells(rows: Sequence[Row], attacks: Sequence[str]) -> list[str]:
    attacked = [row for row in rows if row["attack"] != "none"]
    benign = [row for row in rows if row["attack"] == "none"]
    by_phase_one = [
        row for row in attacked if not is_named(row.get(NAMED_SUSPECTS))
    ]  # else nothing was sought
    ranks = [float(row["target_rank"]) for row in by_phase_one if row["target_rank"]]
    seconds = [float(row["repair_seconds"]) for row in rows if row.get("repair_seconds")]
    parts = [[row for row in by_phase_one if row["attack"] == attack] for attack in attacks]
    return [
        *(share(part, map(is_found, part)) for part in (*parts, by_phase_one)),
        f"{median(ranks):g}" if ranks else "–",
        share(attacked, map(is_removed, attacked)),
        _lost(attacked),
        share(benign, (bool(flags(row)) for row in benign)),
        f"{mean(len(flags(row)) for row in benign):.1f}" if benign else "–",
        _lost(benign),
        f"{mean(seconds):.1f}" if seconds else "–",
    ]


def _lost(rows: Sequence[Row]) -> str:
    """Return the mean loss of ACC on the report half, in percentage points."""
    losses = [float(row["acc_before_report"]) - float(row["acc_after_report"]) for row in rows]
    return f"{100 * mean(losses):.1f}" if losses else "–"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=study_folder, help="the study's folder")
    rows = read(parser.parse_args(arguments).folder / "results.csv")
    if not rows:
        parser.error("no trial of ULRL is done whose victim took")
    table(*tabulate(rows))
    print()
    table(*removals(rows))


if __name__ == "__main__":
    main()
