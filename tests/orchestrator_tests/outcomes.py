"""Outcomes offered by hand, and verdicts as short texts."""

from itertools import groupby
from typing import Any

from orchestrator.plan.plan import Plan, Trial, make_plan
from orchestrator.scheduler.decisions import Decisions, TrialOutcome
from orchestrator.spec.model import Prune
from tests.orchestrator_tests.small_studies import MEDIAN, WILCOXON, table_study

ACROSS = Prune(setting=WILCOXON)  # p < 0.05, from five pairs on
WITHIN = Prune(curve=MEDIAN)  # after two whole curves


def plan_of(settings: int, scenarios: int, prune: Prune, **other: Any) -> Plan:
    return make_plan(table_study(settings, scenarios, prune, **other))


def in_order(plan: Plan) -> list[list[Trial]]:
    """Return the trials as decisions meet them, setting by setting."""
    order = Decisions(plan).order
    return [list(trials) for _, trials in groupby(order, key=lambda trial: trial.setting.number)]


def statuses(decisions: Decisions, trials: list[Trial]) -> str:
    """Return a letter per trial: d(one), p(runed), f(ailed), or - without a verdict."""
    verdicts = [decisions.verdict(trial) for trial in trials]
    return "".join("-" if verdict is None else verdict.status[0] for verdict in verdicts)


def offer(decisions: Decisions, trial: Trial, value: float | None, *curve: float) -> str:
    """Offer an outcome, and return the verdicts that it brings as numbers and letters."""
    outcome = TrialOutcome(value=value, curve=curve or (0.5 if value is None else value,))
    return " ".join(
        f"{verdict.trial.number}{verdict.status[0]}" for verdict in decisions.offer(trial, outcome)
    )
