"""Jobs by name: driver and workers derive the same ones from the study."""

import pickle
from itertools import groupby

import pytest

from orchestrator.pipeline.catalog import JobCatalog
from orchestrator.pipeline.ulrl_chain import rules_of
from orchestrator.plan.jobs import Job, JobKind, victim_job
from orchestrator.plan.plan import Plan, make_plan
from orchestrator.spec.model import Prune
from tests.orchestrator_tests.small_studies import MEDIAN, WILCOXON, small_study


@pytest.fixture
def plan() -> Plan:
    """Return a plan of 4 scenarios × 24 settings, with eight ascents in each scenario."""
    settings = {
        "unlearn_threshold": (0.4, 0.1, 0.2),
        "reinit_ratio": (0.5,),
        "defence_seed": (0, 7),
        "clean_ratio": (0.05, 0.1),
        "unlearn_lr": (0.01, 0.02),
    }
    return make_plan(small_study(settings=settings, few={}, grid={"seeds": (0, 7)}))


def test_trials_of_a_group_share_their_ascent_and_no_others_do(plan: Plan) -> None:
    catalog = JobCatalog(plan)
    assert len(catalog.groups) == 4 * 8
    numbers = [trial.number for group in catalog.groups for trial in group.trials]
    assert sorted(numbers) == list(range(96))
    told = []
    for number, group in enumerate(catalog.groups):
        assert group.number == number
        (shared,) = {
            (
                trial.scenario.number,
                trial.defence_seed,
                trial.hyperparameters.clean,
                trial.hyperparameters.unlearn,
            )
            for trial in group.trials
        }
        assert shared[0] == group.scenario.number
        told.append(shared)
    assert len(set(told)) == len(told)
    assert [scenario for scenario, _ in groupby(told, key=lambda shared: shared[0])] == [0, 1, 2, 3]


def test_an_ascent_goes_down_to_the_lowest_threshold_and_scores_all(plan: Plan) -> None:
    for group in JobCatalog(plan).groups:
        job = group.job
        assert [rule.unlearn_threshold for rule in rules_of(job)] == [0.4, 0.1, 0.2]
        assert min(rule.stop_at(10) for rule in rules_of(job)) == 0.1
        assert job.trial is group.trials[0]
        assert job.scenario is group.scenario


def test_group_of(plan: Plan) -> None:
    catalog = JobCatalog(plan)
    for trial in plan.trials:
        assert trial in catalog.group_of(trial).trials


def test_every_name_gives_its_item(plan: Plan) -> None:
    catalog = JobCatalog(plan)
    victims = [victim_job(scenario) for scenario in plan.scenarios]
    ascents = [group.job for group in catalog.groups]
    trials = [catalog.job(trial, 1) for trial in plan.trials]
    jobs: list[Job] = [*victims, *ascents, *trials]
    assert len({job.name for job in jobs}) == len(jobs)
    for job in jobs:
        assert catalog.named(job.name) == job
    assert [victims[1].name, ascents[2].name, trials[3].name] == [
        *("victim-0001", "ascent-00002", "trial-00003"),
    ]
    assert [victims[1].text, ascents[2].text] == ["victim", "ascent"]
    assert trials[0].text == plan.settings[0].text


def test_a_worker_derives_the_drivers_items_from_the_study(plan: Plan) -> None:
    there = JobCatalog(make_plan(pickle.loads(pickle.dumps(plan.study))))
    here = JobCatalog(plan)
    for group in here.groups:
        assert there.named(group.job.name) == group.job
    for trial in plan.trials:
        assert there.named(trial.name) == here.job(trial, 1)


@pytest.mark.parametrize(
    ("prune", "stream"),
    [(Prune(), False), (Prune(setting=WILCOXON), False), (Prune(curve=MEDIAN), True)],
)
def test_epochs_are_told_where_somebody_may_cut(prune: Prune, *, stream: bool) -> None:
    plan = make_plan(small_study(prune=prune))
    job = JobCatalog(plan).named("trial-00000")
    assert job.is_trial
    assert job.stream is stream
    assert [rule.unlearn_threshold for rule in rules_of(job)] == [0.2]


def test_items_are_values(plan: Plan) -> None:
    one, other = JobCatalog(plan).groups[0].job, JobCatalog(plan).groups[0].job
    assert one.kind is JobKind.STAGE
    assert one == other
    assert pickle.loads(pickle.dumps(one)) == one
