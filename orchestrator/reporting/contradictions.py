"""Results in which each cell is fine by itself, but not beside the others: edited by hand."""

from collections.abc import Iterator, Mapping

from orchestrator.reporting.schema import AFTER, BEFORE, DER, HALVES, RIR, SCENARIO
from orchestrator.reporting.tables import Table

ROUNDING = 1e-3  # a table saved with three digits is still the same
_AFTER_THE_VICTIM = (*AFTER, *DER, *RIR, "flagged")
_VICTIM = (*BEFORE, "victim_ok")


def contradictions(table: Table) -> Iterator[str]:
    """Yield what cannot be true; rows are counted as a spreadsheet does."""
    victims: dict[tuple[str, ...], tuple[int, Mapping[str, str]]] = {}
    for number, row in enumerate(table.rows, start=2):
        if row["status"] == "done":
            yield from _derived(number, row)
        else:
            for name in _AFTER_THE_VICTIM:
                if row.get(name):  # older results lack some columns
                    rule = f"a {row['status']} trial has nothing here; got {row[name]!r}"
                    yield f"row {number}, {name}: {rule}"
        if row["victim_ok"]:
            scenario = tuple(row[name] for name in SCENARIO)
            first, victim = victims.setdefault(scenario, (number, row))
            yield from (
                f"row {number}, {name}: {row[name]} here and {victim[name]} in row {first}, for "
                f"the same victim"
                for name in _VICTIM
                if not _alike(row[name], victim[name])
            )


def _derived(number: int, row: Mapping[str, str]) -> Iterator[str]:
    """Yield a DER that is not that of the ACC and ASR beside it, or a RIR, of ACC and RA."""
    for half in HALVES:
        asr, acc = (
            max(0.0, float(row[f"{metric}_before_{half}"]) - float(row[f"{metric}_after_{half}"]))
            for metric in ("asr", "acc")
        )
        der = (asr - acc + 1) / 2
        if abs(der - float(row[f"der_{half}"])) > ROUNDING:
            told = f"ACC and ASR of the row give {der:.4f}; got {row[f'der_{half}']!r}"
            yield f"row {number}, der_{half}: {told}"
        if given := row.get(f"rir_{half}"):  # which older results lack
            gain = max(0.0, float(row[f"ra_after_{half}"]) - float(row[f"ra_before_{half}"]))
            rir = (gain - acc + 1) / 2
            if abs(rir - float(given)) > ROUNDING:
                told = f"ACC and RA of the row give {rir:.4f}; got {given!r}"
                yield f"row {number}, rir_{half}: {told}"


def _alike(one: str, other: str) -> bool:
    try:
        return abs(float(one) - float(other)) <= ROUNDING
    except ValueError:
        return one == other
