"""Decisions: small cases worked by hand."""

from itertools import groupby
from typing import Any

import pytest

from orchestrator.decisions import Decisions, Outcome, Status
from orchestrator.definition import Objective, Prune, PrunerChoice
from orchestrator.plan import Plan, Trial, make_plan
from tests.orchestrator_tests.small_studies import MEDIAN, WILCOXON, table_study

ACROSS = Prune(setting=WILCOXON)  # p < 0.05, from five pairs on
WITHIN = Prune(curve=MEDIAN)  # from the second epoch on, after two whole curves


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
    outcome = Outcome(value=value, curve=curve or (0.5 if value is None else value,))
    return " ".join(
        f"{verdict.trial.number}{verdict.status[0]}" for verdict in decisions.offer(trial, outcome)
    )


def test_the_order_is_setting_by_setting_through_the_same_scenarios() -> None:
    plan = plan_of(3, 4, ACROSS)
    settings = in_order(plan)
    assert [trials[0].setting.number for trials in settings] == [2, 0, 1]  # its own is the last
    for trials in settings:
        assert [trial.scenario.number for trial in trials] == list(plan.scenario_order)


def test_where_nobody_may_prune_no_verdict_waits() -> None:
    plan = plan_of(2, 3, Prune())
    decisions = Decisions(plan)
    for trial in reversed(decisions.order):
        assert offer(decisions, trial, 0.0) == f"{trial.number}d"
    assert decisions.complete()
    assert (decisions.prunings, decisions.unsettled, decisions.judges) == ([], [], [])


def test_without_setting_pruning_scenarios_do_not_wait_for_each_other() -> None:
    decisions = Decisions(plan_of(2, 2, WITHIN))
    (first, second), (later, last) = in_order(decisions._plan)
    assert offer(decisions, last, 0.5, 0.5) == ""
    assert offer(decisions, later, 0.5, 0.5) == ""
    assert offer(decisions, second, 0.5, 0.5) == f"{second.number}d {last.number}d"
    assert offer(decisions, first, 0.5, 0.5) == f"{first.number}d {later.number}d"


def test_a_failure_after_the_epoch_of_its_cut_counts_as_pruned() -> None:
    """Watched, the trial would have been stopped before it could fail."""
    decisions = Decisions(plan_of(4, 1, WITHIN))
    trials = [trial for (trial,) in in_order(decisions._plan)]
    offer(decisions, trials[0], 0.9, 0.5, 0.5, 0.9)
    offer(decisions, trials[1], 0.7, 0.5, 0.5, 0.7)
    decisions.offer(trials[2], Outcome(error="late", curve=(0.4, 0.4)))
    decisions.offer(trials[3], Outcome(error="early", curve=(0.5, 0.6)))
    assert statuses(decisions, trials) == "ddpf"


# Across scenarios. Five pairs that are all worse have p = 1/2^5 = 0.03125; four have 0.0625.


def test_a_setting_that_is_worse_five_times_is_abandoned() -> None:
    decisions = Decisions(plan_of(2, 7, ACROSS))
    best, worse = in_order(decisions._plan)
    for trial in best:
        offer(decisions, trial, 0.9)
    for number, trial in enumerate(worse[:4]):
        assert offer(decisions, trial, 0.8 - 0.01 * number) == f"{trial.number}d"
    assert not decisions.prunings
    given_up = " ".join(f"{trial.number}p" for trial in worse[5:])
    assert offer(decisions, worse[4], 0.7) == f"{worse[4].number}d {given_up}"
    assert statuses(decisions, worse) == "dddddpp"
    assert decisions.complete()
    (pruning,) = decisions.prunings
    assert (pruning.level, pruning.trial) == ("setting", worse[4])
    assert pruning.evidence.p_value == 0.03125
    assert (pruning.evidence.step, pruning.evidence.pairs) == (5, 5)
    assert pruning.evidence.value == pytest.approx((0.8 + 0.79 + 0.78 + 0.77 + 0.7) / 5)
    assert pruning.evidence.reference == pytest.approx(0.9)


def test_four_pairs_are_not_enough() -> None:
    decisions = Decisions(plan_of(2, 4, ACROSS))
    for trials, value in zip(in_order(decisions._plan), (0.9, 0.1), strict=True):
        for trial in trials:
            offer(decisions, trial, value)
    assert {decisions.verdict(trial).status for trial in decisions.order} == {Status.DONE}  # type: ignore[union-attr]


def test_one_better_scenario_of_five_saves_a_setting() -> None:
    """The smallest difference of five is the other way: p = 2/32."""
    decisions = Decisions(plan_of(2, 5, ACROSS))
    best, other = in_order(decisions._plan)
    for trial in best:
        offer(decisions, trial, 0.5)
    for trial, value in zip(other, (0.4, 0.3, 0.51, 0.2, 0.1), strict=True):
        offer(decisions, trial, value)
    assert statuses(decisions, other) == "ddddd"


def test_what_ran_ahead_of_a_decision_counts_as_pruned() -> None:
    decisions = Decisions(plan_of(2, 7, ACROSS))
    best, worse = in_order(decisions._plan)
    assert offer(decisions, worse[6], 1.0) == ""
    assert offer(decisions, worse[5], 1.0) == ""
    for trial in best[1:]:
        assert offer(decisions, trial, 0.9) == ""
    for trial in worse[:5]:
        assert offer(decisions, trial, 0.8) == ""
    offer(decisions, best[0], 0.9)
    assert statuses(decisions, best + worse) == "dddddddddddd" + "pp"


def test_the_abandoned_setting_is_not_the_reference_of_the_next() -> None:
    decisions = Decisions(plan_of(3, 6, ACROSS))
    best, worse, third = in_order(decisions._plan)
    for trial in best:
        offer(decisions, trial, 0.5)
    for trial, value in zip(worse, (0.4, 0.4, 0.4, 0.4, 0.4, 0.0), strict=True):
        offer(decisions, trial, value)
    assert statuses(decisions, worse) == "dddddp"
    for trial in third:
        offer(decisions, trial, 0.45)
    assert statuses(decisions, third) == "dddddp"
    assert decisions.prunings[1].evidence.reference == pytest.approx(0.5)


def test_a_better_setting_is_the_reference_of_the_next() -> None:
    decisions = Decisions(plan_of(3, 5, ACROSS))
    for trials, value in zip(in_order(decisions._plan), (0.5, 0.6, 0.55), strict=True):
        for trial in trials:
            offer(decisions, trial, value)
    (pruning,) = decisions.prunings
    assert pruning.evidence.reference == pytest.approx(0.6)


def test_asr_is_sought_small() -> None:
    decisions = Decisions(plan_of(3, 6, ACROSS, objective=Objective.ASR))
    first, better, worse = in_order(decisions._plan)
    for trials, value in ((first, 0.5), (better, 0.1), (worse, 0.3)):
        for trial in trials:
            offer(decisions, trial, value)
    assert statuses(decisions, better) == "dddddd"
    assert statuses(decisions, worse) == "dddddp"


def test_a_failure_is_a_verdict_and_no_evidence() -> None:
    decisions = Decisions(plan_of(2, 7, ACROSS))
    best, worse = in_order(decisions._plan)
    for trial in best:
        offer(decisions, trial, 0.9)
    for trial in worse[:4]:
        offer(decisions, trial, 0.8)
    (verdict,) = decisions.offer(worse[4], Outcome(error="boom"))
    assert (verdict.status, verdict.error) == (Status.FAILED, "boom")
    offer(decisions, worse[5], 0.8)  # the fifth pair
    offer(decisions, worse[6], 0.8)
    assert statuses(decisions, worse) == "ddddfdp"


def test_a_failure_in_an_abandoned_setting_counts_as_pruned() -> None:
    decisions = Decisions(plan_of(2, 6, ACROSS))
    best, worse = in_order(decisions._plan)
    decisions.offer(worse[5], Outcome(error="boom"))
    for trial in best:
        offer(decisions, trial, 0.9)
    for trial in worse[:5]:
        offer(decisions, trial, 0.8)
    assert statuses(decisions, worse) == "dddddp"


# Within a scenario: the median of the best value so far of the whole curves, per epoch.


def test_a_curve_below_the_median_is_cut() -> None:
    decisions = Decisions(plan_of(4, 1, WITHIN))
    trials = [trial for (trial,) in in_order(decisions._plan)]
    offer(decisions, trials[0], 0.9, 0.1, 0.5, 0.9)
    offer(decisions, trials[1], 0.7, 0.1, 0.3, 0.7)
    offer(decisions, trials[2], 0.8, 0.1, 0.41, 0.79)  # medians: 0.1, 0.4, 0.8
    offer(decisions, trials[3], 0.9, 0.1, 0.5, 0.9)
    assert statuses(decisions, trials) == "ddpd"
    (pruning,) = decisions.prunings
    assert (pruning.level, pruning.trial) == ("curve", trials[2])
    assert (pruning.evidence.step, pruning.evidence.value) == (3, 0.79)


def test_a_running_trial_is_cut_by_the_same_rule() -> None:
    decisions = Decisions(plan_of(3, 1, WITHIN))
    first, second, third = (trial for (trial,) in in_order(decisions._plan))
    offer(decisions, first, 0.9, 0.1, 0.5, 0.9)
    assert not decisions.hopeless(third, (0.0, 0.0))  # the second is not decided yet
    offer(decisions, second, 0.7, 0.1, 0.3, 0.7)
    assert not decisions.hopeless(third, (0.1,))
    assert not decisions.hopeless(third, (0.1, 0.41))
    assert decisions.hopeless(third, (0.1, 0.41, 0.79))
    assert decisions.verdict(third) is None
    assert offer(decisions, third, None, 0.1, 0.41, 0.79) == f"{third.number}p"
    assert decisions.hopeless(third, (0.1, 0.41, 0.79))


def test_a_setting_with_a_cut_trial_is_no_reference() -> None:
    """Its mean over fewer, easier scenarios would beat settings that are as good."""
    plan = plan_of(4, 6, Prune(setting=WILCOXON, curve=MEDIAN))
    decisions = Decisions(plan)
    first, second, cut, last = in_order(plan)
    for trials in (first, second):
        for trial in trials:
            offer(decisions, trial, 0.5, 0.5, 0.5)
    offer(decisions, cut[0], 0.1, 0.1, 0.1)
    for trial in cut[1:]:
        offer(decisions, trial, 0.9, 0.9, 0.9)
    for trial in last:
        offer(decisions, trial, 0.6, 0.6, 0.6)
    assert statuses(decisions, cut) == "pddddd"
    assert statuses(decisions, last) == "dddddd"
    assert [pruning.level for pruning in decisions.prunings] == ["curve"]


def test_a_cut_that_no_longer_holds_is_unsettled() -> None:
    """An earlier run cut the trial; in the present grid nothing speaks against it."""
    decisions = Decisions(plan_of(4, 1, WITHIN))
    first, second, third, last = (trial for (trial,) in in_order(decisions._plan))
    offer(decisions, first, 0.3, 0.1, 0.2, 0.3)
    assert offer(decisions, third, None, 0.1, 0.5) == ""
    assert decisions.unsettled == []
    assert offer(decisions, second, 0.3, 0.1, 0.2, 0.3) == f"{second.number}d"
    assert decisions.unsettled == [third]
    decisions.unsettled.clear()
    assert offer(decisions, last, 0.9, 0.1, 0.5, 0.9) == ""
    assert decisions.unsettled == []  # it is worked on meanwhile
    assert not decisions.hopeless(third, (0.1, 0.5))
    assert offer(decisions, third, 0.9, 0.1, 0.5, 0.9) == f"{third.number}d {last.number}d"
    assert decisions.complete()


def test_thresholds_cut_by_value_alone() -> None:
    lower = Prune(curve=PrunerChoice(pruner="threshold", arguments={"lower": 0.5}))
    decisions = Decisions(plan_of(2, 1, lower))
    first, second = (trial for (trial,) in in_order(decisions._plan))
    assert decisions.hopeless(first, (0.6, 0.4))
    assert offer(decisions, first, None, 0.6, 0.4) == f"{first.number}p"
    assert offer(decisions, second, 0.9, 0.5, 0.9) == f"{second.number}d"


def test_judges_are_named_after_what_they_judge() -> None:
    plan = plan_of(2, 2, Prune(setting=WILCOXON, curve=MEDIAN))
    assert [judge.name for judge in Decisions(plan).judges] == [
        "settings",
        *(f"scenario: {scenario.text}" for scenario in plan.scenarios),
    ]


def test_a_pruner_sees_no_parameter_but_keeps_the_setting_for_readers() -> None:
    decisions = Decisions(plan_of(1, 1, ACROSS))
    (trial,) = decisions.order
    offer(decisions, trial, 0.5)
    (told,) = decisions.judges[0].study.trials
    assert told.params == {}
    assert told.user_attrs == dict(trial.setting.values)
    assert told.value == 0.5
