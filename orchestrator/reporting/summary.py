"""What a study found: each scenario's own best setting, and the best one for all.

Settings are chosen on the selection half and judged on the report half. A victim that did
not take says nothing about a defence, so it is left out of means where others took.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from orchestrator.reporting.naming import distinct
from orchestrator.reporting.results import Results, Scenario, Setting, Trial
from orchestrator.reporting.schema import STATUSES, Family

HIGHEST_ASR = 0.20  # above this a repaired model still obeys its trigger
LARGEST_ACC_DROP = 0.10  # beyond this the repair costs more than it is worth


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Mean, sample standard deviation (None for a single value) and count."""

    mean: float
    sd: float | None
    n: int


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A scenario's victim, and what became of it.

    Attributes:
        victim: The victim's metrics by column; empty where there is none.
        took: Whether the victim is one worth defending; None where there is none.
        best: The done trial that is best on the selection half; a wreck never is.
        common: The done trial of the setting that is best over all scenarios.
    """

    scenario: Scenario
    trials: tuple[Trial, ...]
    victim: Mapping[str, float]
    took: bool | None
    best: Trial | None
    common: Trial | None

    @property
    def asr_stays(self) -> bool:
        """Whether the trigger still works, even with the scenario's own best setting."""
        return self.best is not None and self.best.numbers["asr_after_report"] > HIGHEST_ASR

    @property
    def acc_drop(self) -> float:
        if self.best is None:
            return 0.0
        return self.victim["acc_before_report"] - self.best.numbers["acc_after_report"]

    @property
    def acc_falls(self) -> bool:
        """Whether the repair costs too much accuracy."""
        return self.acc_drop > LARGEST_ACC_DROP


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A study's outcomes.

    Attributes:
        objective: The metric by which settings were chosen: der, acc, asr or ra.
        common: The best setting over all scenarios, None if no trial is done.
    """

    objective: str
    outcomes: tuple[Outcome, ...]
    counts: Mapping[str, int]
    common: Setting | None

    def families(self) -> dict[Family, list[Outcome]]:
        """Return the outcomes of each family, one for each seed."""
        found: dict[Family, list[Outcome]] = {}
        for outcome in self.outcomes:
            found.setdefault(outcome.scenario.family, []).append(outcome)
        return found


def summarise(results: Results, objective: str) -> Summary:
    """Return what the trials say, by `objective` on the selection half."""
    by_scenario: dict[Scenario, list[Trial]] = {}
    for trial in results.trials:
        by_scenario.setdefault(trial.scenario, []).append(trial)
    takes = [scenario for scenario, trials in by_scenario.items() if _took(trials)]
    eligible = takes or list(by_scenario)
    sane = [t for name in eligible for t in by_scenario[name] if t.done and not t.wrecked]
    common = _best_for_all(sane, results, objective)
    return Summary(
        objective=objective,
        outcomes=tuple(
            _outcome(scenario, trials, common, objective)
            for scenario, trials in by_scenario.items()
        ),
        counts={
            status: sum(trial.status == status for trial in results.trials) for status in STATUSES
        },
        common=common,
    )


def sound(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Return the outcomes that enter a mean: whose victim took, or all if none did."""
    group = list(outcomes)
    return [outcome for outcome in group if outcome.took] or group


def spread(values: Sequence[float]) -> Spread | None:
    """Return mean and spread of `values`, None if there are none."""
    if not values:
        return None
    return Spread(mean=fmean(values), sd=stdev(values) if len(values) > 1 else None, n=len(values))


def spread_of(trials: Iterable[Trial | None], column: str) -> Spread | None:
    """Return mean and spread of a column over those trials that there are."""
    return spread([trial.numbers[column] for trial in trials if trial is not None])


def column_of(metric: str, half: str) -> str:
    """Return the column that holds a metric of the repaired model."""
    return f"der_{half}" if metric == "der" else f"{metric}_after_{half}"


def _value(trial: Trial, objective: str) -> float:
    """Return what the study seeks, on the selection half, so that more is better."""
    number = trial.numbers[column_of(objective, "selection")]
    return -number if objective == "asr" else number


def _took(trials: Sequence[Trial]) -> bool | None:
    known = [trial.victim_ok for trial in trials if trial.victim_ok is not None]
    return known[0] if known else None


def _outcome(
    scenario: Scenario, trials: list[Trial], common: Setting | None, objective: str
) -> Outcome:
    done = [trial for trial in trials if trial.done]
    victims = [trial.numbers for trial in trials if trial.victim_ok is not None]
    return Outcome(
        scenario=scenario,
        trials=tuple(trials),
        victim=victims[0] if victims else {},
        took=_took(trials),
        best=max(
            (trial for trial in done if not trial.wrecked),
            key=lambda trial: _value(trial, objective),
            default=None,
        ),
        common=next((trial for trial in done if trial.setting == common), None),
    )


def _best_for_all(done: list[Trial], results: Results, objective: str) -> Setting | None:
    """Return the setting with the best mean among those with most scenarios.

    A setting that was pruned or failed somewhere has a mean over fewer, perhaps easier,
    scenarios; it competes only if no setting has more. Of equals the plan's first wins.
    """
    values: dict[Setting, list[float]] = {}
    for trial in done:
        values.setdefault(trial.setting, []).append(_value(trial, objective))
    if not values:
        return None
    most = max(len(found) for found in values.values())
    plan = distinct(trial.setting for trial in results.trials)
    full = [setting for setting in plan if len(values.get(setting, ())) == most]
    return max(full, key=lambda setting: fmean(values[setting]))
