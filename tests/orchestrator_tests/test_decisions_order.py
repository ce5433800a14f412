"""Decisions do not depend on the order of arrival: any tables, any orders."""

from dataclasses import dataclass
from functools import cache

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from orchestrator.plan.plan import Plan, make_plan
from orchestrator.scheduler.decisions import Decisions, TrialOutcome
from orchestrator.spec.model import Objective, Prune, PrunerChoice
from tests.orchestrator_tests.small_studies import MEDIAN, table_study

EPOCHS = 4
EAGER = PrunerChoice(pruner="wilcoxon", arguments={"p_threshold": 0.3, "n_startup_steps": 2})
CURVES = {
    "median": MEDIAN,
    "percentile": PrunerChoice(pruner="percentile", arguments={"percentile": 30.0}),
    "successive_halving": PrunerChoice(
        pruner="successive_halving", arguments={"min_resource": 1, "reduction_factor": 2}
    ),
    "hyperband": PrunerChoice(pruner="hyperband", arguments={"reduction_factor": 2}),
    "threshold": PrunerChoice(pruner="threshold", arguments={"lower": 0.3, "n_warmup_steps": 1}),
    "patient": PrunerChoice(
        pruner="patient", arguments={"wrapped": MEDIAN, "patience": 1, "min_delta": 0.0}
    ),
}
PRUNES = {
    "nobody": Prune(),
    "settings": Prune(setting=EAGER),
    **{name: Prune(curve=choice) for name, choice in CURVES.items()},
    **{f"settings and {name}": Prune(setting=EAGER, curve=c) for name, c in CURVES.items()},
}


@dataclass(frozen=True)
class Table:
    """What each trial of a plan would reach, by its number."""

    plan: Plan
    curves: list[tuple[float, ...]]
    failing: frozenset[int]
    weak: frozenset[int]  # scenarios whose victim is none

    def outcome(self, number: int) -> TrialOutcome:
        curve = self.curves[number]
        if number in self.failing:
            return TrialOutcome(error=f"error {number}", curve=curve[: EPOCHS // 2])
        sound = self.plan.trials[number].scenario.number not in self.weak
        return TrialOutcome(value=(curve[-1] + curve[0]) / 2, curve=curve, sound=sound)


@cache
def plan_of(prune: str, count: int, scenarios: int, objective: Objective) -> Plan:
    return make_plan(table_study(count, scenarios, PRUNES[prune], objective=objective))


def tables(prune: str) -> st.SearchStrategy[Table]:
    def fill(plan: Plan) -> st.SearchStrategy[Table]:
        count = len(plan.trials)
        level = st.integers(0, 10).map(lambda tenth: tenth / 10)
        curve = st.tuples(*[level] * EPOCHS)
        return st.builds(
            Table,
            plan=st.just(plan),
            curves=st.lists(curve, min_size=count, max_size=count),
            failing=st.frozensets(st.integers(0, count - 1), max_size=2),
            weak=st.frozensets(st.integers(0, len(plan.scenarios) - 1), max_size=1),
        )

    shapes = st.tuples(st.integers(2, 5), st.integers(1, 5), st.sampled_from(list(Objective)[:2]))
    return shapes.map(lambda shape: plan_of(prune, *shape)).flatmap(fill)


@dataclass(frozen=True)
class Decided:
    """All that decisions say."""

    verdicts: list[tuple[str, str]]
    prunings: list[tuple[str, int, str]]


def decided(decisions: Decisions, plan: Plan) -> Decided:
    verdicts = [decisions.verdict(trial) for trial in plan.trials]
    return Decided(
        verdicts=[("none", "") if v is None else (v.status.value, v.error) for v in verdicts],
        prunings=sorted((p.level, p.trial.number, repr(p.evidence)) for p in decisions.prunings),
    )


def in_plan_order(table: Table) -> Decided:
    decisions = Decisions(table.plan)
    for trial in decisions.order:
        decisions.offer(trial, table.outcome(trial.number))
    assert decisions.complete()
    return decided(decisions, table.plan)


def arrive(decisions: Decisions, table: Table, number: int, *, live: bool) -> None:
    """Let a trial run: epoch by epoch under the eyes of the decisions, or unseen."""
    trial, outcome = table.plan.trials[number], table.outcome(number)
    if decisions.verdict(trial) is not None:
        return
    for epoch in range(1, len(outcome.curve) + 1) if live else ():
        if decisions.hopeless(trial, outcome.curve[:epoch]):
            if decisions.verdict(trial) is None:
                decisions.offer(trial, TrialOutcome(curve=outcome.curve[:epoch]))
            break
    else:
        decisions.offer(trial, outcome)
    while decisions.unsettled:
        again = decisions.unsettled.pop()
        decisions.offer(again, table.outcome(again.number))


many = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),  # to shrink a table takes minutes
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("prune", PRUNES)
@many
@given(data=st.data())
def test_any_order_of_arrival_gives_the_verdicts_of_the_plans_order(
    data: st.DataObject, prune: str
) -> None:
    table = data.draw(tables(prune))
    order = data.draw(st.permutations(range(len(table.plan.trials))))
    live = data.draw(st.frozensets(st.sampled_from(order)))
    decisions = Decisions(table.plan)
    for number in order:
        arrive(decisions, table, number, live=number in live)
    assert decisions.complete()
    assert decided(decisions, table.plan) == in_plan_order(table)


@pytest.mark.parametrize("prune", ["median", "hyperband", "settings and median"])
@many
@given(data=st.data())
def test_a_second_run_with_what_a_first_one_kept_decides_the_same(
    data: st.DataObject, prune: str
) -> None:
    """Kept are results and the curves of cut trials; failed trials are tried again."""
    table = data.draw(tables(prune))
    order = data.draw(st.permutations(range(len(table.plan.trials))))
    halt = data.draw(st.integers(0, len(order)))
    kept: dict[int, TrialOutcome] = {}
    first = Decisions(table.plan)
    for number in order[:halt]:
        trial, outcome = table.plan.trials[number], table.outcome(number)
        if first.verdict(trial) is not None or outcome.error:
            continue
        for epoch in range(1, EPOCHS + 1):
            if first.hopeless(trial, outcome.curve[:epoch]):
                outcome = TrialOutcome(curve=outcome.curve[:epoch])
                break
        kept[number] = outcome
        first.offer(trial, outcome)

    second = Decisions(table.plan)
    for number, outcome in kept.items():
        second.offer(table.plan.trials[number], outcome)
    while second.unsettled:
        again = second.unsettled.pop()
        second.offer(again, table.outcome(again.number))
    for number in order:
        arrive(second, table, number, live=True)
    assert second.complete()
    assert decided(second, table.plan) == in_plan_order(table)


@many
@given(data=st.data())
def test_verdicts_come_once_and_in_the_order_of_the_plan(data: st.DataObject) -> None:
    table = data.draw(tables("settings and median"))
    order = data.draw(st.permutations(range(len(table.plan.trials))))
    decisions = Decisions(table.plan)
    told = [
        verdict.trial.number
        for number in order
        for verdict in decisions.offer(table.plan.trials[number], table.outcome(number))
    ]
    assert told == [trial.number for trial in decisions.order]


@many
@given(data=st.data())
def test_an_outcome_told_twice_changes_nothing(data: st.DataObject) -> None:
    table = data.draw(tables("settings and median"))
    order = data.draw(st.permutations(range(len(table.plan.trials))))
    decisions = Decisions(table.plan)
    for number in [n for n in order for _ in range(2)]:
        decisions.offer(table.plan.trials[number], table.outcome(number))
    assert decided(decisions, table.plan) == in_plan_order(table)
