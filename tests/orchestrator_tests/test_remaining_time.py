"""Time left: what stages took, times what is left of each."""

from dataclasses import replace

import pytest

from orchestrator.cli.progress import RemainingTime
from orchestrator.pipeline.catalog import JobCatalog
from orchestrator.plan.jobs import Job, trial_job, victim_job
from orchestrator.plan.plan import Plan, make_plan
from tests.orchestrator_tests.small_studies import BADNETS, choice, small_study, table_study
from ulrl.models.preact_resnet import PreActResNet18


@pytest.fixture
def plan() -> Plan:
    return make_plan(table_study(3, 4))


def victim(plan: Plan, number: int) -> Job:
    return victim_job(plan.scenarios[number])


def trial(plan: Plan, number: int) -> Job:
    return trial_job(plan.trials[number])


def ascent(plan: Plan, number: int) -> Job:
    return JobCatalog(plan).groups_in(number)[0].job


def test_stages_are_counted_apart(plan: Plan) -> None:
    """Victims of 100 s, ascents of 10, trials of 1: three, three and eleven are left."""
    remaining = RemainingTime(plan)
    remaining.begin()
    now = 0.0
    for job, seconds in ((victim(plan, 0), 100.0), (ascent(plan, 0), 10.0)):
        remaining.heard(job, "a:1", now)
        now += seconds
        remaining.ended(job, "a:1", now)
    remaining.heard(trial(plan, 0), "a:1", now)
    remaining.ended(trial(plan, 0), "a:1", now + 1)
    remaining.decided(plan.trials[0])
    assert remaining.left(1) == pytest.approx(3 * 100 + 3 * 10 + 11 * 1)
    assert remaining.left(2) == pytest.approx((3 * 100 + 3 * 10 + 11 * 1) / 2)


def test_what_is_done_of_a_running_job_is_not_left(plan: Plan) -> None:
    remaining = RemainingTime(plan)
    remaining.begin()
    remaining.heard(victim(plan, 0), "a:1", 0.0)
    remaining.ended(victim(plan, 0), "a:1", 60.0)
    before = remaining.left(1)
    first = RemainingTime(plan)
    first.heard(victim(plan, 0), "a:1", 0.0)
    first.heard(victim(plan, 0), "a:1", 15.0, 5, 20)  # nothing has ended yet
    assert first.left(1) == pytest.approx((before or 0.0) + 45)
    remaining.heard(victim(plan, 1), "a:1", 75.0, 5, 20)
    assert before is not None
    assert remaining.left(1) == pytest.approx(before - 15)


def test_shared_and_pruned_trials_make_the_rest_cheaper(plan: Plan) -> None:
    remaining = RemainingTime(plan)
    for number in range(4):
        remaining.victim(plan.scenarios[number])
        remaining.ended(ascent(plan, number), "a:1", 0.0)
    remaining.begin()
    remaining.heard(trial(plan, 0), "a:1", 0.0)
    remaining.ended(trial(plan, 0), "a:1", 8.0)
    remaining.decided(plan.trials[0])
    assert remaining.left(1) == pytest.approx(11 * 8)
    remaining.decided(plan.trials[1])  # never ran
    assert remaining.left(1) == pytest.approx(10 * 4)


def test_networks_are_timed_apart() -> None:
    """A victim that takes 10 s says nothing of one that takes 90."""
    networks = (PreActResNet18(width=1), PreActResNet18(width=8))
    study = small_study(
        attacks=[choice(BADNETS)], grid={"architectures": networks, "seeds": (0, 1)}, few={}
    )
    plan = make_plan(study)
    plan = replace(plan, trials=[])  # victims alone
    narrow, _, wide, _ = plan.scenarios
    remaining = RemainingTime(plan)
    remaining.begin()
    for scenario, seconds in ((narrow, 10.0), (wide, 90.0)):
        job = victim_job(scenario)
        remaining.heard(job, "a:1", 0.0)
        remaining.ended(job, "a:1", 0.0, spent=seconds)
    assert remaining.left(1) == pytest.approx(100.0)
