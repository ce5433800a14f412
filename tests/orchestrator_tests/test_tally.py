"""Which setting leads, and how scenarios are called."""

from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from random import Random

import pytest
from rich.console import Console

from orchestrator.cli.plan import counts
from orchestrator.cli.progress import BestSoFar, ProgressState, ProgressView, TrialValue
from orchestrator.plan.labels import setting_text
from orchestrator.plan.plan import Plan, Trial, make_plan
from orchestrator.reporting.read_results import read_results
from orchestrator.reporting.summary import summarise
from orchestrator.scheduler.decisions import Decisions, Status, TrialOutcome, Verdict
from orchestrator.spec.model import Objective
from orchestrator.store.lookup import objective_value
from tests.orchestrator_tests.outcomes import ACROSS, in_order, plan_of
from tests.orchestrator_tests.simulation import Desk, Recorder, Workers
from tests.orchestrator_tests.small_studies import (
    BADNETS,
    BLENDED,
    choice,
    small_study,
    table_study,
)
from ulrl.attacks.blended import Blended
from ulrl.metrics import Metrics


def state_of(
    plan: Plan, values: dict[tuple[int, int], float], weak: Sequence[int] = ()
) -> ProgressState:
    """Return the state after all trials that have a value, by (setting, scenario)."""

    def reached(trial: Trial) -> TrialValue:
        value = values[trial.setting.number, trial.scenario.number]
        return TrialValue(value=value, metrics=Metrics(acc=0.9, asr=0.1, ra=0.8))

    state = ProgressState(plan, reached)
    for scenario in plan.scenarios:
        state.victim(scenario, weak=scenario.number in weak)
    for place in values:
        state.decided(Verdict(trial=plan.by_place[place], status=Status.DONE))
    return state


def leader_of(state: ProgressState) -> BestSoFar:
    assert state.leader is not None
    return state.leader


@pytest.mark.parametrize(
    ("objective", "shown"),
    [
        (Objective.DER, "best DER 0.900 in 1 scenario, 0.800 ahead: alpha=0.8"),
        (Objective.ASR, "best ASR 10.0% in 1 scenario, 80.0% ahead: alpha=0.7"),
        (Objective.RA, "best RA 90.0% in 1 scenario, 80.0% ahead: alpha=0.8"),
    ],
)
def test_the_best_is_the_objectives(objective: Objective, shown: str) -> None:
    plan = make_plan(table_study(2, 1, objective=objective))
    assert state_of(plan, {(0, 0): 0.9, (1, 0): 0.1}).best() == shown


def test_a_setting_with_fewer_results_does_not_lead_by_easier_scenarios() -> None:
    plan = make_plan(table_study(2, 4))
    values = {(1, 0): 0.9, (1, 1): 0.8, (1, 2): 0.1, (1, 3): 0.1, (0, 0): 0.95, (0, 1): 0.95}
    leader = leader_of(state_of(plan, values))
    assert (leader.text, leader.scenarios, leader.lead) == ("alpha=0.7", 4, None)
    assert leader.value == pytest.approx(0.475)


@pytest.mark.parametrize(
    ("objective", "values", "shown"),
    [
        (Objective.ASR, (0.0, 0.0), "best ASR 0.0% in 1 scenario, level with the next: alpha=0.8"),
        (Objective.DER, (0.5, 0.5002), "best DER 0.500 in 1 scenario, level with the next: "),
        (Objective.ASR, (0.3, 0.1), "best ASR 10.0% in 1 scenario, 20.0% ahead: alpha=0.7"),
    ],
)
def test_no_lead_is_negative_or_nothing(
    objective: Objective, values: tuple[float, float], shown: str
) -> None:
    plan = make_plan(table_study(2, 1, objective=objective))
    assert state_of(plan, {(0, 0): values[0], (1, 0): values[1]}).best().startswith(shown)


def test_the_leader_of_a_chain_of_pairs_is_never_behind() -> None:
    """Each of three settings beats another one where both have results: no lead goes in circles."""
    plan = make_plan(table_study(3, 3))
    values = {(0, 0): 0.9, (0, 1): 0.1, (1, 1): 0.9, (1, 2): 0.1, (2, 2): 0.9, (2, 0): 0.1}
    leader = leader_of(state_of(plan, values))
    assert leader.lead is not None
    assert leader.lead >= 0


def test_weak_victims_count_for_nothing() -> None:
    plan = make_plan(table_study(2, 2))
    values = {(0, 0): 1.0, (1, 0): 0.0, (0, 1): 0.5, (1, 1): 0.6}
    leader = leader_of(state_of(plan, values, weak=[0]))
    assert (leader.text, leader.scenarios) == ("alpha=0.7", 1)
    assert state_of(plan, values, weak=[0, 1]).leader is None
    assert state_of(plan, values, weak=[0, 1]).best() == ""


def test_an_abandoned_setting_has_fewer_results() -> None:
    plan = plan_of(2, 7, ACROSS)
    decisions = Decisions(plan)
    value = {
        trials[0].setting.number: v for trials, v in zip(in_order(plan), (0.6, 0.5), strict=True)
    }
    state = ProgressState(
        plan,
        lambda trial: TrialValue(
            value=value[trial.setting.number], metrics=Metrics(acc=0.9, asr=0.1, ra=0.8)
        ),
    )
    for scenario in plan.scenarios:
        state.victim(scenario, weak=False)
    for trial in decisions.order:
        for verdict in decisions.offer(trial, TrialOutcome(value=value[trial.setting.number])):
            state.decided(verdict)
    assert len(state.abandoned) == 1
    leader = leader_of(state)
    assert leader.text == in_order(plan)[0][0].setting.text
    assert leader.value == pytest.approx(0.6)
    assert leader.lead is None


@pytest.mark.parametrize("objective", list(Objective))
@pytest.mark.parametrize("seeds", [(None,), (3, 4, 5)])
@pytest.mark.parametrize("source", range(4))
def test_the_live_view_names_the_reports_best(
    tmp_path: Path, objective: Objective, seeds: tuple[int | None, ...], source: int
) -> None:
    """On the same results, some of them failed or pending, by every objective."""
    random = Random(source)
    study = small_study(
        store=f"memory://{tmp_path}",
        attacks=[choice(BADNETS), choice(BLENDED)],
        settings={"defence_seed": seeds, "alpha": (0.5, 0.6, 0.7)},
        grid={"seeds": (0, 1)},
        few={},
        objective=objective,
    )
    desk = Desk(study, tmp_path)
    findings = desk.findings
    reached: dict[int, Metrics] = {}

    def reach(trial: Trial) -> TrialValue | None:
        victim, repaired = findings.victim(trial.scenario), reached.get(trial.number)
        if victim is None or repaired is None:
            return None
        before, after = victim.evaluation.selection, repaired
        return TrialValue(value=objective_value(objective, before, after), metrics=after)

    state = ProgressState(desk.plan, reach)
    failing = [t.name for t in desk.plan.trials if random.random() < 0.2]

    class Keeper(Recorder):
        def decided(self, verdict: Verdict) -> None:
            found = desk.scheduler.repairs.get(verdict.trial.number)
            if found is not None:
                reached[verdict.trial.number] = found.evaluation.selection

    desk.watch(Keeper(), ProgressView(Console(file=StringIO()), state))
    Workers(random, 2, failing=failing).run(desk, steps=random.choice([40, 80, 10**6]))
    desk.results.write(tmp_path, {})
    summary = summarise(read_results(tmp_path / "results.csv"), objective.value)
    if summary.common is None:
        assert state.leader is None
        return
    leader = leader_of(state)
    assert leader.text == setting_text(summary.common)
    assert "alpha=" in leader.text


def test_defence_seeds_are_no_settings() -> None:
    settings = {"defence_seed": (3, 4, 5), "alpha": (0.5, 0.7)}
    plan = make_plan(small_study(attacks=[choice(BADNETS)], settings=settings, few={}))
    assert counts(plan) == "1 scenario × 2 settings × 3 defence seeds = 6 trials"


def test_options_are_named_only_where_an_attack_is_there_twice() -> None:
    twice = [choice(BLENDED), choice(Blended(alpha=0.1))]
    plan = make_plan(small_study(attacks=[choice(BADNETS), *twice], grid={"seeds": (0, 1)}))
    state = ProgressState(plan, lambda _: None)
    assert [state.names[scenario.number] for scenario in plan.scenarios] == [
        *("badnets, seed=0", "badnets, seed=1"),
        *("blended alpha=0.3, seed=0", "blended alpha=0.3, seed=1"),
        *("blended alpha=0.1, seed=0", "blended alpha=0.1, seed=1"),
    ]
