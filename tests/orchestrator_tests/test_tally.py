"""Which setting leads, and how scenarios are called."""

import pytest

from orchestrator.decisions import Decisions, Outcome, Status, Verdict
from orchestrator.definition import Objective
from orchestrator.plan import Plan, Trial, make_plan
from orchestrator.tally import Reached, Tally
from tests.orchestrator_tests.outcomes import ACROSS, in_order, plan_of
from tests.orchestrator_tests.small_studies import (
    BADNETS,
    BLENDED,
    choice,
    small_study,
    table_study,
)
from ulrl.attacks.blended import Blended
from ulrl.metrics import Metrics


def tally_of(plan: Plan, values: dict[tuple[int, int], float]) -> Tally:
    """Return the tally after all trials that have a value, by (setting, scenario)."""

    def reached(trial: Trial) -> Reached:
        value = values[trial.setting.number, trial.scenario.number]
        return Reached(value=value, metrics=Metrics(acc=0.9, asr=0.1, ra=0.8))

    tally = Tally(plan, reached)
    for place in values:
        tally.decided(Verdict(trial=plan.by_place[place], status=Status.DONE))
    return tally


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
    assert tally_of(plan, {(0, 0): 0.9, (1, 0): 0.1}).best() == shown


def test_settings_are_compared_where_both_were_tried() -> None:
    """A mean over the easier scenarios does not lead."""
    plan = make_plan(table_study(2, 4))
    values = {(1, 0): 0.9, (1, 1): 0.8, (1, 2): 0.1, (1, 3): 0.1, (0, 0): 0.85, (0, 1): 0.75}
    standing = tally_of(plan, values).standing
    assert standing is not None
    assert (standing.setting.number, standing.scenarios) == (1, 4)
    assert standing.value == pytest.approx(0.475)
    assert standing.margin == pytest.approx(0.05)


def test_what_was_hardly_tried_leads_nothing() -> None:
    plan = make_plan(table_study(2, 4))
    values = {(1, 0): 0.5, (1, 1): 0.5, (1, 2): 0.5, (0, 0): 0.9}
    standing = tally_of(plan, values).standing
    assert standing is not None
    assert (standing.setting.number, standing.margin) == (1, None)


def test_weak_victims_and_abandoned_settings_count_for_nothing() -> None:
    plan = plan_of(2, 7, ACROSS)
    decisions = Decisions(plan)
    value = {
        trials[0].setting.number: v for trials, v in zip(in_order(plan), (0.6, 0.5), strict=True)
    }
    tally = Tally(
        plan,
        lambda trial: Reached(
            value=1.0 if trial.scenario.number == 0 else value[trial.setting.number],
            metrics=Metrics(acc=0.9, asr=0.1, ra=0.8),
        ),
    )
    tally.victim(plan.scenarios[0], weak=True)
    for trial in decisions.order:
        for verdict in decisions.offer(trial, Outcome(value=value[trial.setting.number])):
            tally.decided(verdict)
    assert len(tally.abandoned) == 1
    assert tally.standing is not None
    assert tally.standing.setting == in_order(plan)[0][0].setting
    assert tally.standing.value == pytest.approx(0.6)
    assert tally.standing.margin is None


def test_options_are_named_only_where_an_attack_is_there_twice() -> None:
    twice = [choice(BLENDED), choice(Blended(alpha=0.1))]
    plan = make_plan(small_study(attacks=[choice(BADNETS), *twice], grid={"seeds": (0, 1)}))
    tally = Tally(plan, lambda _: None)
    assert [tally.name(scenario) for scenario in plan.scenarios] == [
        *("badnets, seed=0", "badnets, seed=1"),
        *("blended alpha=0.3, seed=0", "blended alpha=0.3, seed=1"),
        *("blended alpha=0.1, seed=0", "blended alpha=0.1, seed=1"),
    ]
