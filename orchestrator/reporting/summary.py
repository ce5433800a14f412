"""What a study found: each scenario's own best setting, and the best one for all.

Settings are chosen on the selection half and judged on the report half, by the rule of
`orchestrator.search.best`. A victim that did not take says nothing about a defence, so it is left
out of means where others took, and no setting is named best where none did.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, stdev

from orchestrator.plan.columns import DRAW, STATUSES, Family, column_of
from orchestrator.reporting.read_folder import (
    ScenarioRow,
    Setting,
    StudyResults,
    TrialRow,
    grouped,
)
from orchestrator.search.best import Choice, Point, Rival, Standing

HIGHEST_ASR = 0.20  # above this a repaired model still obeys its trigger
LARGEST_ACC_DROP = 0.10  # beyond this the repair costs more than it is worth


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Mean, sample standard deviation (None for a single value) and count."""

    mean: float
    sd: float | None
    n: int


@dataclass(frozen=True, kw_only=True)
class Repair:
    """A scenario as one setting repairs it.

    Attributes:
        judged: The done trials by which it is judged: of other defence seeds if there are
            any, else the same ones.
    """

    setting: Setting  # without the defence seed where several of them choose and judge
    chosen: tuple[TrialRow, ...]  # the done trials by which it was chosen
    judged: tuple[TrialRow, ...]

    @property
    def scenario(self) -> ScenarioRow:
        return self.judged[0].scenario

    @property
    def victim_ok(self) -> bool | None:
        return self.judged[0].victim_ok

    @cached_property
    def numbers(self) -> Mapping[str, float]:
        """The metrics: means over `chosen` on the selection half, over `judged` on the other."""
        halves = {True: self.chosen, False: self.judged}
        names = [
            name
            for name in self.judged[0].numbers
            if all(name in trial.numbers for trial in (*self.chosen, *self.judged))
        ]
        return {
            name: fmean(trial.numbers[name] for trial in halves[name.endswith("_selection")])
            for name in names
        }


@dataclass(frozen=True, kw_only=True)
class ScenarioOutcome:
    """A scenario's victim, and what became of it.

    Attributes:
        best: The scenario's own best setting; None where no trial that chooses is done, or
            none that judges.
    """

    scenario: ScenarioRow
    trials: tuple[TrialRow, ...]
    victim: Mapping[str, float]  # the victim's metrics by column; empty where there is none
    took: bool | None  # whether the victim is one worth defending; None where there is none
    best: Repair | None
    common: Repair | None  # the setting that is best over all scenarios, likewise


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A study's outcomes.

    Attributes:
        common: The best setting over all scenarios; None if no victim took or no trial of
            one that did is done.
        rivals: Those of them that have results in the same places, and how clearly it leads.
        axes: The axes that make a setting: without ``defence_seed`` where several of them choose
            and judge.
        choosing, judging: The defence seeds that chose and those that judge; empty where one
            defence seed does both.
    """

    objective: str  # the metric by which settings were chosen
    lowest: bool  # whether less of it is better
    outcomes: tuple[ScenarioOutcome, ...]
    counts: Mapping[str, int]
    common: Setting | None
    ranked: int  # how many settings compete with it, itself included
    rivals: tuple[tuple[Setting, Rival], ...]
    axes: tuple[str, ...]
    choosing: tuple[int, ...]
    judging: tuple[int, ...]
    sampler: str | None = None  # what drew the settings; None in a grid
    benign: tuple[TrialRow, ...] = ()  # trials without an attack, which choose nothing

    def families(self) -> dict[Family, list[ScenarioOutcome]]:
        """Return the outcomes of each family, one for each seed."""
        return grouped(self.outcomes, lambda outcome: outcome.scenario.family)

    @property
    def all_weak(self) -> bool:
        """Whether there are victims, and none of them took."""
        known = [outcome.took for outcome in self.outcomes if outcome.took is not None]
        return bool(known) and not any(known)

    def named(self, setting: Setting) -> Setting:
        """Return a trial's setting as the choice names it."""
        return _of(setting, self.axes)


def summarise(
    results: StudyResults,
    objective: str,
    sampler: str | None = None,
    *,
    lowest: bool = False,
    oracles: bool = False,
) -> Summary:
    """Return the outcomes of a study whose settings are chosen by `objective`.

    Settings are named by the axes that tell them apart, as the live view names them.

    Args:
        results: Of the study.
        objective: A metric, of the user's own too.
        sampler: What drew the settings; None in a grid.
        lowest: Whether less of it is better, as it is of ASR.
        oracles: Whether settings that an oracle chose may be the best: where all are its own.
    """
    lowest = lowest or objective == "asr"
    by_scenario = grouped(results.trials, lambda trial: trial.scenario)
    took = {scenario: _took(trials) for scenario, trials in by_scenario.items()}
    own = [axis for axis in results.telling if axis != DRAW]
    points = {
        id(t): _point(
            t,
            own,
            objective,
            lowest=lowest,
            took=took[t.scenario],
            competes=oracles or not t.is_oracle,
        )
        for t in results.trials
    }
    choice = Choice(points.values())
    axes = tuple(axis for axis in results.telling if axis != DRAW or not choice.crossed)
    ranked = choice.overall()
    settings = {choice.name(points[id(t)]): _of(t.setting, axes) for t in reversed(results.trials)}

    def repair(trials: list[TrialRow], ranking: Sequence[Standing]) -> Repair | None:
        """Return a scenario as the first setting of a ranking repairs it, given its trials."""
        if not ranking:
            return None
        name = ranking[0].name
        done = [t for t in trials if t.done and choice.name(points[id(t)]) == name]
        chosen = tuple(t for t in done if choice.chooses(points[id(t)]))
        judged = tuple(t for t in done if choice.judges(points[id(t)]))
        if not chosen or not judged:
            return None
        return Repair(setting=settings[name], chosen=chosen, judged=judged)

    statuses = Counter(trial.status for trial in results.all)
    return Summary(
        objective=objective,
        lowest=lowest,
        outcomes=tuple(
            ScenarioOutcome(
                scenario=scenario,
                trials=tuple(trials),
                victim=next((t.numbers for t in trials if t.victim_ok is not None), {}),
                took=took[scenario],
                best=repair(trials, choice.within(scenario)),
                common=repair(trials, ranked),
            )
            for scenario, trials in by_scenario.items()
        ),
        counts={status: statuses[status] for status in STATUSES},
        common=settings[ranked[0].name] if ranked else None,
        ranked=len(ranked),
        rivals=tuple((settings[rival.standing.name], rival) for rival in choice.rivals(ranked)),
        axes=axes,
        choosing=tuple(choice.seeds(choosing=True)),
        judging=tuple(choice.seeds(choosing=False)),
        sampler=sampler,
        benign=results.benign,
    )


def sound(outcomes: Iterable[ScenarioOutcome]) -> list[ScenarioOutcome]:
    """Return the outcomes that enter a mean: whose victim took, or all if none did."""
    group = list(outcomes)
    return [outcome for outcome in group if outcome.took] or group


def spread(values: Sequence[float]) -> Spread | None:
    """Return mean and spread of `values`, None if there are none."""
    if not values:
        return None
    return Spread(mean=fmean(values), sd=stdev(values) if len(values) > 1 else None, n=len(values))


def spread_of(trials: Iterable[TrialRow | Repair | None], column: str) -> Spread | None:
    """Return mean and spread of a column over those trials that there are."""
    return spread([trial.numbers[column] for trial in trials if trial is not None])


def _point(
    trial: TrialRow,
    axes: Sequence[str],
    objective: str,
    *,
    lowest: bool,
    took: bool | None,
    competes: bool,
) -> Point:
    value = None
    if competes and trial.done and not trial.wrecked:
        value = trial.numbers.get(column_of(objective, "selection"))
        value = -value if lowest and value is not None else value
    return Point(
        scenario=trial.scenario,
        attack=trial.scenario.family.attack,
        setting=_of(trial.setting, axes),
        defence_seed=int(float(trial.cells[DRAW])),
        value=value,
        took=took,
    )


def _of(setting: Setting, axes: Sequence[str]) -> Setting:
    """Return a setting's values of some axes."""
    return tuple(pair for pair in setting if pair[0] in axes)


def _took(trials: Sequence[TrialRow]) -> bool | None:
    return next((trial.victim_ok for trial in trials if trial.victim_ok is not None), None)


@dataclass(frozen=True, kw_only=True)
class BenignRepair:
    """What one setting does to the benign models of a family.

    Attributes:
        best: Whether it is the best setting by the scenarios with an attack.
        trials: The done trials of each model, on several defence seeds if there are any. Weak
            models are left out where others are not.
    """

    family: Family
    setting: Setting
    best: bool
    trials: Mapping[ScenarioRow, Sequence[TrialRow]]

    @property
    def done(self) -> list[TrialRow]:
        return [trial for trials in self.trials.values() for trial in trials]

    def spread(self, column: str) -> Spread | None:
        """Return mean and spread of a column over models."""
        return spread([fmean(t.numbers[column] for t in own) for own in self.trials.values()])


def benign_repairs(summary: Summary) -> list[BenignRepair]:
    """Return what settings do to benign models, family by family, the best setting first."""
    found = []
    for family, rows in grouped(summary.benign, lambda trial: trial.scenario.family).items():
        done = [trial for trial in rows if trial.done]
        counted = [trial for trial in done if trial.victim_ok] or done
        for setting, group in grouped(counted, lambda t: summary.named(t.setting)).items():
            trials = grouped(group, lambda trial: trial.scenario)
            best = setting == summary.common
            found.append(BenignRepair(family=family, setting=setting, best=best, trials=trials))
    return sorted(found, key=lambda one: not one.best)


def is_wreck(repair: Repair) -> bool:
    """Whether a repair leaves a model at or below chance."""
    return any(trial.wrecked for trial in (*repair.chosen, *repair.judged))
