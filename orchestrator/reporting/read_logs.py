"""The other files of a study folder, read and checked."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from orchestrator.errors import SpecError
from orchestrator.files import Table, read_table, whole_lines
from orchestrator.reporting.text import distinct

FILE = "starts.jsonl"  # in logs/
_TEXTS = ("command", "executor", "device", "hardware", "system", "commit")


@dataclass(frozen=True, kw_only=True)
class Start:
    """One start of a driver that had work to do."""

    command: str
    executor: str
    device: str
    hardware: str
    system: str
    commit: str
    versions: Mapping[str, str]

    def facts(self) -> list[tuple[str, str]]:
        """Return what is worth a line each, but for the command."""
        versions = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        told = (
            ("Executor", f"{self.executor}, on {self.device}"),
            ("Driver's machine", self.hardware),
            ("System", self.system),
            ("Versions", versions),
            ("Commit", self.commit),
        )
        return [(term, text) for term, text in told if text]


def read_starts(path: Path) -> Sequence[Start]:
    """Return the record's starts, the last one last; none if there is no record.

    Raises:
        SpecError: It is there, but a whole line of it is no record of a start.
    """
    try:
        lines = whole_lines(path, cut=False)
    except OSError as error:
        raise SpecError([f"{path}: cannot be read; {' '.join(str(error).split())}"]) from None
    return [_start(path, number, line) for number, line in enumerate(lines, start=1)]


def _start(path: Path, number: int, line: str) -> Start:
    try:
        found: Any = json.loads(line)
        texts = {name: found[name] for name in _TEXTS}
        versions = {name: str(value) for name, value in found["versions"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        texts, versions = {"command": None}, {}
    if not all(isinstance(text, str) for text in texts.values()):
        raise SpecError([f"{path}: line {number} is no record of a start"])
    return Start(**texts, versions=versions)


_PRUNING = ("level", "setting", "scenario", "step", "value", "reference", "p_value", "pairs")
_EVIDENCE = ("scenario", "step", "value", "reference", "pairs", "worse", "against")
_LATER_COLUMNS = ("worse", "against")  # columns that older logs lack
_WILCOXON = ("p_threshold", "n_startup_steps")
_STAGES = ("stage", "key", "scenario", "seconds", "computed")
_STAGE_ORDER = (
    "train_helper",
    "train_victim",
    "unlearn",
    "score_neurons",
    "relearn",
    "evaluate",
)
_OBJECTIVES = ("der", "asr", "acc", "ra")


@dataclass(frozen=True, kw_only=True)
class StageCost:
    """The work of one stage.

    Attributes:
        results: How many different results the study needed.
        computed: How many executions computed one.
        stored: How often the store had it.
        seconds: What computing took.
    """

    stage: str
    results: int
    computed: int
    stored: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class StudyFile:
    """What the report takes from study.yaml; None where it does not say.

    Attributes:
        pruner: Arguments of Wilcoxon's pruner of settings; None without one.
        sampler: What drew the settings; None in a grid.
        log_axes: Ranges that are searched on a logarithmic scale.
    """

    name: str | None = None
    objective: str | None = None
    preset: str | None = None
    pruner: Mapping[str, float] | None = None
    sampler: str | None = None
    log_axes: frozenset[str] = frozenset()


def read_study(path: Path) -> StudyFile:
    """Return what a study file says; nothing if there is none.

    Raises:
        SpecError: It is there, but is no study file.
    """
    if not path.exists():
        return StudyFile()
    try:
        study: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise SpecError([f"{path}: cannot be read as YAML; {reason}"]) from None
    if not isinstance(study, dict):
        raise SpecError([f"{path}: is no study file; it holds no mapping"])
    objective = study.get("objective", "der")
    if objective not in _OBJECTIVES:
        known = ", ".join(_OBJECTIVES)
        raise SpecError([f"{path}: objective: must be one of {known}; got {objective!r}"])
    name, search, grid = study.get("name"), study.get("search"), study.get("grid")
    axes = grid.items() if isinstance(grid, dict) else ()
    return StudyFile(
        name=None if name is None else str(name),
        objective=objective,
        preset=None if study.get("preset") is None else str(study["preset"]),
        pruner=_pruner(path, study.get("prune")),
        sampler=str(search["sampler"])
        if isinstance(search, dict) and "sampler" in search
        else None,
        log_axes=frozenset(
            axis for axis, values in axes if isinstance(values, dict) and values.get("log") is True
        ),
    )


def _pruner(path: Path, prune: Any) -> Mapping[str, float] | None:
    chosen = prune.get("setting") if isinstance(prune, dict) else None
    if not isinstance(chosen, dict):
        return None
    found: dict[str, float] = {}
    for name in _WILCOXON:
        value = chosen.get(name)
        if not isinstance(value, int | float):
            raise SpecError([f"{path}: prune.setting.{name}: must be a number; got {value!r}"])
        found[name] = value
    return found


def read_pruning(path: Path) -> Sequence[Mapping[str, str]]:
    """Return the rows of the pruning log; none if there is no such file.

    Raises:
        SpecError: It is there, but is no pruning log.
    """
    if not path.exists():
        return ()
    table = read_table(path, _PRUNING)
    _refuse_words(table, ("value", "reference", "p_value"))
    return [{**dict.fromkeys(_LATER_COLUMNS, ""), **row} for row in table.rows]


def repeated(pruning: Iterable[Mapping[str, str]]) -> tuple[int, int]:
    """Return how many settings were abandoned, and how many different results that rests on.

    Settings that share their relearnings have the same values, so the same evidence.
    """
    rows = [row for row in pruning if row["level"] == "setting"]
    return len(rows), len({tuple(row[name] for name in _EVIDENCE) for row in rows})


def read_costs(path: Path) -> list[StageCost]:
    """Return the work of each stage, in the order of the pipeline; nothing if no file is there.

    Raises:
        SpecError: It is there, but is no list of stages.
    """
    if not path.exists():
        return []
    table = read_table(path, _STAGES, grows=True)
    _refuse_words(table, ("seconds",))
    stages = distinct(row["stage"] for row in table.rows)
    order = distinct((*_STAGE_ORDER, *stages))
    return [_cost(stage, table) for stage in sorted(stages, key=order.index)]


def _cost(stage: str, table: Table) -> StageCost:
    rows = [row for row in table.rows if row["stage"] == stage]
    computed = [row for row in rows if row["computed"] == "True"]
    return StageCost(
        stage=stage,
        results=len({row["key"] for row in rows}),
        computed=len(computed),
        stored=len(rows) - len(computed),
        seconds=sum(float(row["seconds"] or 0) for row in computed),
    )


def _refuse_words(table: Table, columns: Sequence[str]) -> None:
    """Refuse a cell of `columns` that is neither empty nor a number."""
    for number, row in enumerate(table.rows, start=2):
        for name in columns:
            try:
                float(row[name] or 0)
            except ValueError:
                raise SpecError(
                    [f"{table.path}: row {number}, {name}: must be a number; got {row[name]!r}"]
                ) from None
