"""results.csv of a study folder, read and checked."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
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
    HALVES,
    REQUIRED,
    RIR,
    SCENARIO,
    SETTING,
    STATUSES,
    SURFACE_AXES,
    Family,
)

ROUNDING = 1e-3  # a table saved with three digits is still the same
_AFTER_THE_VICTIM = (*AFTER, *DER, *RIR, "flagged")
_VICTIM_COLUMNS = (*BEFORE, "victim_ok")


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
                for name in _VICTIM_COLUMNS
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
        varied: Those of them that make a trial's `setting`: the axes of the surfaces, and
            any axis with several values in one scenario. (A ``defence_seed`` that only
            follows the seed is thus no axis.)
    """

    trials: tuple[TrialRow, ...]
    setting_axes: tuple[str, ...]
    varied: tuple[str, ...]


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
    position = {name: place for place, name in enumerate(table.columns)}
    further = table.columns[position["reinit_ratio"] + 1 : position["status"]]
    axes = (*SETTING, *further)
    _refuse_faults(table)
    scenarios = [scenario_of(row) for row in table.rows]
    varied = tuple(axis for axis in axes if axis in SURFACE_AXES or _varies(axis, table, scenarios))
    trials = tuple(
        _trial(row, scenario, varied) for row, scenario in zip(table.rows, scenarios, strict=True)
    )
    _refuse_doubles(path, trials)
    return StudyResults(trials=trials, setting_axes=axes, varied=varied)


def scenario_of(row: Mapping[str, str]) -> ScenarioRow:
    """Return the scenario that a row names."""
    return ScenarioRow(Family(*(row[name] for name in Family._fields)), row["seed"])


def _varies(axis: str, table: Table, scenarios: list[ScenarioRow]) -> bool:
    pairs = {(scenario, row[axis]) for scenario, row in zip(scenarios, table.rows, strict=True)}
    return len(pairs) > len(set(scenarios))


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


def _or_empty(rule: _Rule) -> _Rule:
    return _Rule(f"{rule.text}, or nothing", lambda text: text == "" or rule.admits(text))


_PRESENT = _Rule("a value", lambda text: text != "")
_NUMBER = _Rule("a number", lambda text: abs(float(text)) < float("inf"))
_FRACTION = _Rule("a fraction in [0, 1]", lambda text: 0 <= float(text) <= 1)
_WHOLE = _Rule("a whole number", lambda text: float(text).is_integer())
_BOOLEAN = _Rule("True or False", lambda text: text in {"True", "False"})
_STATUS = _Rule(f"one of {', '.join(STATUSES)}", lambda text: text in STATUSES)
_OPTIONS = _Rule("a JSON object", lambda text: isinstance(json.loads(text), dict))
_ROWS = _Rule("a JSON list of rows", _is_rows)

_ALWAYS: dict[str, _Rule] = {
    "attack": _PRESENT,
    "attack_options": _OPTIONS,
    "dataset": _PRESENT,
    "architecture": _PRESENT,
    "poison_ratio": _FRACTION,
    "target_label": _WHOLE,
    "seed": _WHOLE,
    "defence_seed": _WHOLE,
    "clean_ratio": _FRACTION,
    "unlearn_threshold": _FRACTION,
    "reinit_ratio": _FRACTION,
    "status": _STATUS,
}
_VICTIM: dict[str, _Rule] = {"victim_ok": _BOOLEAN} | dict.fromkeys(BEFORE, _FRACTION)
_DONE: dict[str, _Rule] = _VICTIM | {
    **dict.fromkeys((*AFTER, *DER), _FRACTION),
    "flagged": _or_empty(_ROWS),  # as the next, of a repair method other than ULRL
    "threshold_reached": _or_empty(_BOOLEAN),
    "seconds": _NUMBER,
}
_LATER: dict[str, _Rule] = {  # columns that older results lack; a cell may be empty
    "collapse_class": _or_empty(_WHOLE),
    "collapse_share": _or_empty(_FRACTION),
    "wrecked": _or_empty(_BOOLEAN),
    **dict.fromkeys(RIR, _or_empty(_FRACTION)),
}


def _refuse_faults(table: Table) -> None:
    first, *others = [*_faults(table)] or [*contradictions(table)] or [""]
    if first:
        more = f" (and {len(others)} more like this)" if others else ""
        raise SpecError([f"{table.path}: {first}{more}"])


def _faults(table: Table) -> Iterator[str]:
    """Yield what is wrong; rows are counted as a spreadsheet does, the header being row 1."""
    if _sound(table):
        return
    for number, row in enumerate(table.rows, start=2):
        for who, columns in _rules(row):
            for name, rule in columns.items():
                if not _holds(rule, row[name]):
                    yield f"row {number}, {name}: {who or 'must be '}{rule.text}; got {row[name]!r}"


def _sound(table: Table) -> bool:
    """Whether every cell holds what it must; columns have far fewer values than cells."""
    kinds: dict[str, list[Mapping[str, str]]] = {}
    for row in table.rows:
        kinds.setdefault("".join(who for who, _ in _rules(row)), []).append(row)
    return all(
        _holds(rule, text)
        for rows in kinds.values()
        for _, columns in _rules(rows[0])
        for name, rule in columns.items()
        for text in {row[name] for row in rows}
    )


def _rules(row: Mapping[str, str]) -> tuple[tuple[str, Mapping[str, _Rule]], ...]:
    """Return what the cells of a row must hold, with the words for whose rules they are."""
    if row["status"] == "done":
        later = {name: rule for name, rule in _LATER.items() if name in row}
        return ("", _ALWAYS), ("a done trial has ", _DONE | later)
    if row["victim_ok"]:
        return ("", _ALWAYS), ("a trial with a victim has ", _VICTIM)
    return (("", _ALWAYS),)


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
