"""Curves that are cut: below the median of the whole curves, best values so far, per epoch."""

from orchestrator.scheduler.decisions import Decisions, TrialOutcome
from orchestrator.spec.model import Prune, PrunerChoice
from tests.orchestrator_tests.outcomes import (
    WITHIN,
    in_order,
    offer,
    plan_of,
    statuses,
)
from tests.orchestrator_tests.small_studies import MEDIAN, WILCOXON


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


def test_a_failure_after_the_epoch_of_its_cut_counts_as_pruned() -> None:
    """Watched, the trial would have been stopped before it could fail."""
    decisions = Decisions(plan_of(4, 1, WITHIN))
    trials = [trial for (trial,) in in_order(decisions._plan)]
    offer(decisions, trials[0], 0.9, 0.5, 0.5, 0.9)
    offer(decisions, trials[1], 0.7, 0.5, 0.5, 0.7)
    decisions.offer(trials[2], TrialOutcome(error="late", curve=(0.4, 0.4)))
    decisions.offer(trials[3], TrialOutcome(error="early", curve=(0.5, 0.6)))
    assert statuses(decisions, trials) == "ddpf"
