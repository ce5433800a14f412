"""results.csv of a study folder, read and checked."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from orchestrator.errors import SpecError
from orchestrator.files import Table, read_table
from orchestrator.plan.columns import (
    AFTER,
    BEFORE,
    DER,
    REQUIRED,
    RIR,
    SETTING,
    STATUSES,
    SURFACE_AXES,
    Family,
)
from orchestrator.plan.labels import telling


class ScenarioRow(NamedTuple):
    """What makes a victim; every value as its text in the file."""

    family: Family
    seed: str

    def cells(self) -> dict[str, str]:
        """Return the scenario's columns of results.csv."""
        return {**self.family._asdict(), "seed": self.seed}


Setting = tuple[tuple[str, str], ...]  # (axis, value as text), of the axes that vary


@dataclass(frozen=True, kw_only=True)
class TrialRow:
    """One row.

    Attributes:
        setting: Values of those setting axes that some scenario has several values of.
        cells: The row as text, for files that must repeat it to the letter.
        numbers: The metrics that the row has, by column.
        flagged: Rows of the head that were flagged, or ``layer:row`` where all layers were
            watched; None unless the trial is done.
    """

    scenario: ScenarioRow
    setting: Setting
    cells: Mapping[str, str]
    status: str
    victim_ok: bool | None
    numbers: Mapping[str, float]
    flagged: frozenset[int | str] | None

    @property
    def done(self) -> bool:
        return self.status == "done"

    @property
    def wrecked(self) -> bool:
        """Whether the repaired model's ACC is at or below chance, on the selection half."""
        return self.cells.get("wrecked") == "True"


@dataclass(frozen=True, kw_only=True)
class StudyResults:
    """The trials of a study, in plan order.

    Attributes:
        setting_axes: All setting axes, as the columns stand in the file.
        varied: Those of them that make a trial's `setting`: `telling` and the surfaces'.
        telling: Those by which settings are told apart.
    """

    trials: tuple[TrialRow, ...]
    setting_axes: tuple[str, ...]
    varied: tuple[str, ...]
    telling: tuple[str, ...]


def read_results(path: Path) -> StudyResults:
    """Return the trials in `path`.

    Raises:
        SpecError: It is no results.csv, or has holes or bad values; in one line.
    """
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        digest = ""  # which reading it as a table tells
    return _read(path, digest)


@lru_cache(maxsize=1)  # the report and the terminal's table are of the same file
def _read(path: Path, digest: str) -> StudyResults:
    del digest  # tells contents apart
    table = read_table(path, REQUIRED)
    if not table.rows:
        raise SpecError([f"{path}: has no trials; there is only a header"])
    _refuse_faults(table)
    place = table.columns.index
    axes = (*SETTING, *table.columns[place("reinit_ratio") + 1 : place("status")])
    scenarios = [scenario_of(row) for row in table.rows]
    found = telling(axes, zip(scenarios, table.rows, strict=True))
    varied = tuple(axis for axis in axes if axis in SURFACE_AXES or axis in found)
    trials = tuple(
        _trial(row, scenario, varied) for row, scenario in zip(table.rows, scenarios, strict=True)
    )
    _refuse_doubles(path, trials)
    return StudyResults(trials=trials, setting_axes=axes, varied=varied, telling=found)


def scenario_of(row: Mapping[str, str]) -> ScenarioRow:
    """Return the scenario that a row names."""
    return ScenarioRow(Family(*(row[name] for name in Family._fields)), row["seed"])


def _trial(row: Mapping[str, str], scenario: ScenarioRow, varied: tuple[str, ...]) -> TrialRow:
    done = row["status"] == "done"
    columns = (*BEFORE, *AFTER, *DER) if done else BEFORE
    return TrialRow(
        scenario=scenario,
        setting=tuple((axis, row[axis] or "none") for axis in varied),
        cells=row,
        status=row["status"],
        victim_ok=row["victim_ok"] == "True" if row["victim_ok"] else None,
        numbers={name: float(row[name]) for name in columns if row[name]},
        flagged=frozenset(json.loads(row["flagged"])) if done and row["flagged"] else None,
    )


@dataclass(frozen=True)
class _Rule:
    """What a cell must hold; `admits` may also raise ``ValueError``."""

    text: str
    admits: Callable[[str], bool]


def _is_rows(text: str) -> bool:
    value = json.loads(text)
    return isinstance(value, list) and {type(row) for row in value} in (set(), {int}, {str})


_PRESENT = _Rule("a value", lambda text: text != "")
_NUMBER = _Rule("a number", lambda text: abs(float(text)) < float("inf"))
_FRACTION = _Rule("a fraction in [0, 1]", lambda text: 0 <= float(text) <= 1)
_WHOLE = _Rule("a whole number", lambda text: float(text).is_integer())
_BOOLEAN = _Rule("True or False", lambda text: text in {"True", "False"})
_STATUS = _Rule(f"one of {', '.join(STATUSES)}", lambda text: text in STATUSES)
_OPTIONS = _Rule("a JSON object", lambda text: isinstance(json.loads(text), dict))
_ROWS = _Rule("a JSON list of rows", _is_rows)

_ALWAYS: dict[str, _Rule] = {
    **dict.fromkeys(("attack", "dataset", "architecture"), _PRESENT),
    **dict.fromkeys(("target_label", "seed", "defence_seed"), _WHOLE),
    **dict.fromkeys(("poison_ratio", "clean_ratio", *SURFACE_AXES), _FRACTION),
    "attack_options": _OPTIONS,
    "status": _STATUS,
}
_VICTIM: dict[str, _Rule] = {"victim_ok": _BOOLEAN} | dict.fromkeys(BEFORE, _FRACTION)
_DONE: dict[str, _Rule] = _VICTIM | {
    **dict.fromkeys((*AFTER, *DER), _FRACTION),
    "seconds": _NUMBER,
}
_OPTIONAL: dict[str, _Rule] = {  # may be empty; older results lack some of these columns
    "flagged": _ROWS,  # as the next, empty of a repair method other than ULRL
    "threshold_reached": _BOOLEAN,
    "collapse_class": _WHOLE,
    "collapse_share": _FRACTION,
    "wrecked": _BOOLEAN,
    **dict.fromkeys(RIR, _FRACTION),
}


def _refuse_faults(table: Table) -> None:
    """Raise ``SpecError`` for the first cell that does not hold what it must.

    Rows are counted as a spreadsheet does, the header being row 1.
    """
    numbered = [*enumerate(table.rows, start=2)]
    done = [pair for pair in numbered if pair[1]["status"] == "done"]
    victims = [pair for pair in numbered if pair[1]["victim_ok"]]
    optional = {name: rule for name, rule in _OPTIONAL.items() if name in table.columns}
    faults: dict[tuple[int, str], str] = {}
    for rows, rules, empty in (
        (numbered, _ALWAYS, False),
        (victims, _VICTIM, False),
        (done, _DONE, False),
        (done, optional, True),
    ):
        for name, rule in rules.items():
            wrong = {text for text in {row[name] for _, row in rows} if not _holds(rule, text)}
            wrong -= {""} if empty else set()
            faults |= {
                (number, name): f"must be {rule.text}; got {row[name]!r}"
                for number, row in rows
                if wrong and row[name] in wrong
            }
    if faults:
        (number, name), text = min(faults.items())
        more = f" (and {len(faults) - 1} more like this)" if len(faults) > 1 else ""
        raise SpecError([f"{table.path}: row {number}, {name}: {text}{more}"])


def _holds(rule: _Rule, text: str) -> bool:
    try:
        return rule.admits(text)
    except (ValueError, OverflowError, RecursionError):
        return False


def _refuse_doubles(path: Path, trials: tuple[TrialRow, ...]) -> None:
    seen: dict[tuple[ScenarioRow, Setting], int] = {}
    for number, trial in enumerate(trials, start=2):
        same = seen.setdefault((trial.scenario, trial.setting), number)
        if same != number:
            raise SpecError([f"{path}: row {number} is the same trial as row {same}"])
