"""Decisions: small cases worked by hand."""

import pytest

from orchestrator.scheduler.decisions import Decisions, Status, TrialOutcome
from orchestrator.spec.model import Objective, Prune, PrunerChoice
from tests.orchestrator_tests.outcomes import (
    ACROSS,
    WITHIN,
    in_order,
    offer,
    plan_of,
    statuses,
)
from tests.orchestrator_tests.small_studies import MEDIAN, WILCOXON


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
    assert pruning.evidence.worse == 5
    assert pruning.evidence.against == best[0].setting.number


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
    (verdict,) = decisions.offer(worse[4], TrialOutcome(error="boom"))
    assert (verdict.status, verdict.error) == (Status.FAILED, "boom")
    offer(decisions, worse[5], 0.8)  # the fifth pair
    offer(decisions, worse[6], 0.8)
    assert statuses(decisions, worse) == "ddddfdp"


def test_a_failure_in_an_abandoned_setting_counts_as_pruned() -> None:
    decisions = Decisions(plan_of(2, 6, ACROSS))
    best, worse = in_order(decisions._plan)
    decisions.offer(worse[5], TrialOutcome(error="boom"))
    for trial in best:
        offer(decisions, trial, 0.9)
    for trial in worse[:5]:
        offer(decisions, trial, 0.8)
    assert statuses(decisions, worse) == "dddddp"


def test_what_a_defence_does_to_a_weak_victim_proves_nothing() -> None:
    decisions = Decisions(plan_of(2, 8, ACROSS))
    best, worse = in_order(decisions._plan)
    for trial in best:
        offer(decisions, trial, 0.9)
    for number, trial in enumerate(worse):
        decisions.offer(trial, TrialOutcome(value=0.1, curve=(0.1,), sound=number not in {1, 3}))
    assert statuses(decisions, worse) == "dddddddp"
    assert decisions.prunings[0].evidence.pairs == 5


def test_a_setting_that_failed_somewhere_is_no_reference_beside_a_whole_one() -> None:
    """Its mean may be over the easier scenarios."""
    decisions = Decisions(plan_of(3, 6, ACROSS))
    whole, failing, last = in_order(decisions._plan)
    for trial in whole:
        offer(decisions, trial, 0.5)
    decisions.offer(failing[0], TrialOutcome(error="boom"))
    for trial in failing[1:]:
        offer(decisions, trial, 0.9)
    for trial in last:
        offer(decisions, trial, 0.6)
    assert statuses(decisions, failing) == "fddddd"
    assert statuses(decisions, last) == "dddddd"


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
    line = f"{trial.name}: {trial.scenario.text}: done, DER 0.500"
    assert told.user_attrs == {**trial.setting.values, "trials": [line]}
    assert told.value == 0.5


# Why a trial of Optuna's is pruned or failed.


def reason_of(decisions: Decisions, setting: int) -> str | None:
    reason: str | None = decisions.attributes(setting).get("reason")
    return reason


def test_an_abandoned_setting_names_its_rival_in_optunas_study() -> None:
    decisions = Decisions(plan_of(2, 7, ACROSS))
    best, worse = in_order(decisions._plan)
    for trial in best:
        offer(decisions, trial, 0.9)
    for trial in worse[:5]:
        offer(decisions, trial, 0.8)
    first, second = decisions.judges[0].study.trials
    assert "reason" not in first.user_attrs
    assert second.user_attrs["reason"] == (
        "setting alpha=0.8 abandoned after 5 scenarios as unlikely to be the best of this grid: "
        "worse than alpha=0.7 on 5 of 5, nominal p = 0.031 (mean DER 0.800 against 0.900)"
    )
    assert [line.rpartition(": ")[2] for line in second.user_attrs["trials"]] == (
        ["done, DER 0.800"] * 5 + ["pruned"] * 2
    )


def test_a_cut_curve_and_its_setting_say_why() -> None:
    plan = plan_of(3, 2, Prune(setting=WILCOXON, curve=MEDIAN))
    decisions = Decisions(plan)
    *whole, last = in_order(plan)
    for trials in whole:
        for trial in trials:
            offer(decisions, trial, 0.9, 0.5, 0.6, 0.9)
    offer(decisions, last[0], 0.9, 0.5, 0.6, 0.9)
    offer(decisions, last[1], None, 0.5, 0.1)
    why = (
        f"{last[1].name} cut after epoch 2: DER 0.100, worse than 2 of 2 settings there "
        f"(median 0.600)"
    )
    settings, *curves = decisions.judges
    of_curve = curves[last[1].scenario.number].study.trials
    assert [trial.user_attrs["trial"] for trial in of_curve] == [
        trials[1].name for trials in in_order(plan)
    ]
    assert of_curve[-1].user_attrs["reason"] == why
    assert not any("reason" in trial.user_attrs for trial in of_curve[:-1])
    reason = settings.study.trials[-1].user_attrs["reason"]
    assert reason == f"{why}; it has results in 1 scenario, another setting in 2"


def test_failed_trials_and_weak_victims_are_named_as_such() -> None:
    plan = plan_of(1, 3, ACROSS)
    decisions = Decisions(plan)
    ((first, second, third),) = in_order(plan)
    decisions.offer(first, TrialOutcome(error="victim-0000: DivergedError: no finite loss"))
    decisions.offer(second, TrialOutcome(value=0.5, sound=False))
    assert reason_of(decisions, 0) == (
        f"1 of 2 trials failed, first {first.name}: victim-0000: DivergedError: no finite "
        f"loss; 1 of 2 trials left out, because the victim is weak"
    )
    offer(decisions, third, 0.75)
    assert decisions.attributes(0)["trials"] == [
        f"{first.name}: {first.scenario.text}: failed: victim-0000: DivergedError: no finite loss",
        f"{second.name}: {second.scenario.text}: done, DER 0.500, weak victim",
        f"{third.name}: {third.scenario.text}: done, DER 0.750",
    ]


def test_what_was_forgotten_takes_no_reason_with_it() -> None:
    """A trial that fails is taken out of its scenario's study; the others keep their attributes."""
    plan = plan_of(4, 1, WITHIN)
    decisions = Decisions(plan)
    (first,), (second,), (third,), (last,) = in_order(plan)
    offer(decisions, first, 0.9, 0.5, 0.9)
    offer(decisions, second, 0.9, 0.5, 0.9)
    offer(decisions, third, None, 0.1)
    (judge,) = decisions.judges
    before = [trial.user_attrs for trial in judge.study.trials]
    assert "cut after epoch" in before[2]["reason"]
    decisions.hopeless(last, (0.9,))
    decisions.offer(last, TrialOutcome(error="boom", curve=(0.9,)))
    assert [trial.user_attrs for trial in judge.study.trials] == before


# Curves that are cut: below the median of the whole curves, best values so far, per epoch.


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
    assert (pruning.evidence.pairs, pruning.evidence.worse) == (2, 1)
    assert pruning.evidence.reference == (0.9 + 0.7) / 2


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
    assert decisions.unsettled == []  # a worker is still at it
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


def test_a_failure_after_the_epoch_of_its_cut_counts_as_pruned() -> None:
    """Watched, the trial would have been stopped before it could fail."""
    decisions = Decisions(plan_of(4, 1, WITHIN))
    trials = [trial for (trial,) in in_order(decisions._plan)]
    offer(decisions, trials[0], 0.9, 0.5, 0.5, 0.9)
    offer(decisions, trials[1], 0.7, 0.5, 0.5, 0.7)
    decisions.offer(trials[2], TrialOutcome(error="late", curve=(0.4, 0.4)))
    decisions.offer(trials[3], TrialOutcome(error="early", curve=(0.5, 0.6)))
    assert statuses(decisions, trials) == "ddpf"
