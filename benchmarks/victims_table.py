"""Repairs by the victims' conditions: ``python -m benchmarks.victims_table runs/victims``.

A row for each attack, with its options, and poison ratio: how many victims took, their ACC / ASR,
in how many of them phase 1 found the target's row at each threshold (the largest score of all rows,
and flagged), and ACC / ASR after each repair method and in how many repairs the backdoor is removed
(ASR below 10 %, ACC above chance; in brackets in how many of these the target's class keeps an ACC
above 10 %: a model that never predicts it has no backdoor either), each at the one setting that is
best on the selection half over all victims of the study and architecture. Last the method of the
highest DER, if it leaves no model at chance. Means over the victims that took and the draws of
clean samples that judge (all draws of a method that has one setting), on the report half, in
percent. Where there are more methods than rows, a second table has the methods downwards.

Of several folders each has its own rows, and its own settings: ``runs/victims runs/victims-long``.
``--split layers max_suspects`` makes a method of each combination of ULRL's values of these axes,
``--split clean_ratio`` of each share of clean samples that a method has.
"""

import argparse
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import fields, replace
from functools import partial
from statistics import fmean

import pandas as pd

from benchmarks._common import study_folder, table
from benchmarks._removals import count_removals, target_class_acc
from benchmarks.finders_table import is_found, share
from orchestrator.plan.columns import ULRL, Family
from orchestrator.plan.labels import DAGGER, setting_text
from orchestrator.reporting.build import read_summary
from orchestrator.reporting.classes import can_flag
from orchestrator.reporting.league import MethodOutcome, league
from orchestrator.reporting.read_folder import (
    Setting,
    StudyResults,
    TrialRow,
    distinct,
    grouped,
    setting_of,
)
from orchestrator.reporting.summary import Summary, summarise
from orchestrator.reporting.text import Names, names_of
from orchestrator.spec.model import is_of_ulrl
from ulrl.scoring import ScoreConfig
from ulrl.unlearning import UnlearnConfig

Lines = list[list[str]]
Table = tuple[list[str], Lines]  # head and lines
# What makes an ascent and its scores beside the victim and the threshold, where it is an axis.
OF_PHASE_1 = (
    *("clean_ratio", "defence_seed", "preset"),
    *(field.name for config in (UnlearnConfig, ScoreConfig) for field in fields(config)),
)


def tabulate(
    results: StudyResults, objective: str, split: Sequence[str], accuracies: "pd.Series[float]"
) -> tuple[list[Table], list[str]]:
    """Return the tables of one architecture, and the setting of each method that has several.

    Args:
        results: Trials of the architecture.
        objective: The metric by which settings are chosen.
        split: Setting axes whose values make methods of their own, of a method that has them.
        accuracies: ACC of the target's class after a repair, by the trial's place.
    """
    parts = dict(_summaries(results, objective, split))
    found = sorted(league(parts), key=lambda row: [*parts].index(row.method))
    names = names_of(results)
    thresholds = distinct(t.cells["unlearn_threshold"] for t in _scored(results.trials))
    by_family = grouped(results.trials, lambda trial: trial.scenario.family)
    head = ["attack", "poison", "took", "victim", *(f"found at {value}" for value in thresholds)]
    lines = [
        [*_victims(family, trials, names), *_finds(trials, thresholds)]
        for family, trials in by_family.items()
    ]
    cells = [[_repaired(row, family, accuracies) for row in found] for family in by_family]
    best = [_best(family, found) for family in by_family]
    methods = [row.method for row in found]
    if len(methods) > len(by_family):
        attacks = [f"{names.attack(family)}, {family.poison_ratio}" for family in by_family]
        repaired = [list(line) for line in zip(methods, *cells, strict=True)]
        repaired.append(["best DER", *best])
        tables = [(head, lines), (["repair", *attacks], repaired)]
    else:
        whole = [[*line, *own, first] for line, own, first in zip(lines, cells, best, strict=True)]
        tables = [([*head, *methods, "best DER"], whole)]
    texts = {r.method: setting_text(r.summary.common) for r in found if r.summary.common}
    settings = [f"{method}: {text}" for method, text in texts.items() if f"({text})" not in method]
    return tables, settings


def _summaries(
    results: StudyResults, objective: str, split: Sequence[str]
) -> Iterator[tuple[str, Summary]]:
    for method, part in results.by_method.items():
        axes = [axis for axis in split if axis in part.telling]
        if method.removesuffix(DAGGER) != ULRL:
            axes = [axis for axis in axes if not is_of_ulrl(axis)]
        groups = grouped(part.trials, partial(_values, axes))
        for values, trials in groups.items():
            own = replace(part, trials=tuple(trials), benign=())
            text = f" ({setting_text(values)})" if values else ""
            name = method.removesuffix(DAGGER) + text + (DAGGER if method.endswith(DAGGER) else "")
            yield name, summarise(own, objective, oracles=method.endswith(DAGGER))


def _values(axes: Sequence[str], trial: TrialRow) -> Setting:
    return setting_of(trial.cells, axes)


def _victims(family: Family, trials: Sequence[TrialRow], names: Names) -> list[str]:
    """Return the cells that name a family, and those of its victims: all if none took."""
    victims = {t.scenario: t for t in trials if t.victim_ok is not None}.values()
    took = [t for t in victims if t.victim_ok]
    acc, asr = (
        _percent([t.numbers[f"{metric}_before_report"] for t in took or victims])
        for metric in ("acc", "asr")
    )
    counts = f"{len(took)}/{len(victims)}"
    return [names.attack(family), family.poison_ratio, counts, f"{acc} / {asr}"]


def _scored(trials: Iterable[TrialRow]) -> list[TrialRow]:
    """Return the trials whose phase 1 scored the head's rows, on victims that took."""
    return [t for t in trials if can_flag(t) and t.victim_ok and t.cells.get("target_rank")]


def _finds(trials: Iterable[TrialRow], thresholds: Iterable[str]) -> list[str]:
    ascents = {
        (t.cells["unlearn_threshold"], t.scenario.seed, *map(t.cells.get, OF_PHASE_1)): t.cells
        for t in _scored(trials)
    }
    parts = [[cells for place, cells in ascents.items() if place[0] == t] for t in thresholds]
    return [share(part, map(is_found, part)) for part in parts]


def _repaired(row: MethodOutcome, family: Family, accuracies: "pd.Series[float]") -> str:
    """Return ACC / ASR of a method's repairs of a family, how many are removed."""
    trials = _judged(row, family)
    if not trials:
        return "–"
    acc, asr = (_mean(trials, f"{metric}_after_report") for metric in ("acc", "asr"))
    return f"{100 * acc:.0f} / {100 * asr:.0f}, {count_removals(trials, accuracies)}"


def _judged(row: MethodOutcome, family: Family) -> list[TrialRow]:
    """Return the trials by which a method is judged on a family.

    Where it has a single setting, none of its draws of clean samples had to choose one.
    """
    if row.settings == 1:
        own = (o for o in row.summary.outcomes if o.took and o.scenario.family == family)
        return [trial for outcome in own for trial in outcome.trials if trial.done]
    return [trial for trial in row.judged if trial.scenario.family == family]


def _mean(trials: Sequence[TrialRow], column: str) -> float:
    return fmean(trial.numbers[column] for trial in trials)


def _best(family: Family, found: Sequence[MethodOutcome]) -> str:
    """Return the method of the highest mean DER; without oracles, and methods that wreck one."""
    fair = {r.method: _judged(r, family) for r in found if not r.is_oracle}
    ders = {
        method: _mean(trials, "der_report")
        for method, trials in fair.items()
        if trials and not any(trial.wrecked for trial in trials)
    }
    return max(ders, key=lambda method: ders[method]) if ders else "–"


def _percent(shares: Collection[float]) -> str:
    return f"{100 * fmean(shares):.0f}" if shares else "–"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=study_folder, nargs="+", help="the studies' folders")
    parser.add_argument("--split", nargs="+", default=[], metavar="AXIS", help="setting axes")
    given = parser.parse_args(arguments)
    for folder in given.folder:
        results, study, summary = read_summary(folder)
        accuracies = target_class_acc(folder)
        parts = grouped(results.trials, lambda trial: trial.scenario.family.architecture)
        for architecture, trials in parts.items():
            own = replace(results, trials=tuple(trials), benign=())
            tables, settings = tabulate(own, summary.objective, given.split, accuracies)
            print(f"{study.name or folder.name}, {architecture}\n")
            for head, lines in tables:
                table(head, lines)
                print()
            print("\n".join(f"- {setting}" for setting in settings) + "\n")


if __name__ == "__main__":
    main()
