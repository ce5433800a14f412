"""Time left: what stages took, times what is left of each."""

from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import pytest

from orchestrator.cli.remaining_time import RemainingTime
from orchestrator.pipeline.catalog import JobCatalog
from orchestrator.plan.cost_model import Workload, machine_of
from orchestrator.plan.jobs import Job, JobResult, Progress, trial_job, victim_job
from orchestrator.plan.plan import Plan, Scenario, make_plan
from orchestrator.scheduler.callbacks import StudyCallback
from orchestrator.scheduler.decisions import Status, Verdict
from orchestrator.scheduler.estimate import StageTiming
from orchestrator.store.lookup import Findings, VictimResult
from tests.orchestrator_tests.drawn_studies import study_of as drawn_study
from tests.orchestrator_tests.pruned_studies import study_of
from tests.orchestrator_tests.simulation import Desk, Workers
from tests.orchestrator_tests.small_studies import BADNETS, FEW, choice, small_study, table_study
from ulrl.attacks import Step
from ulrl.methods import RepairMethod, RepairStage, Tensors
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
        remaining.ended(job, "a:1", now, spent=seconds)
    assert remaining.left(1) is None  # nobody knows how long a trial takes
    remaining.heard(trial(plan, 0), "a:1", now)
    remaining.ended(trial(plan, 0), "a:1", now + 1, spent=1.0)
    remaining.decided(plan.trials[0])
    assert remaining.left(1) == pytest.approx(3 * 100 + 3 * 10 + 11 * 1)
    assert remaining.left(2) == pytest.approx((3 * 100 + 3 * 10 + 11 * 1) / 2)


def test_what_is_done_of_a_running_job_is_not_left(plan: Plan) -> None:
    plan = replace(plan, trials=[])  # four victims alone
    remaining = RemainingTime(plan)
    remaining.begin()
    remaining.heard(victim(plan, 0), "a:1", 0.0)
    assert remaining.left(1) is None
    remaining.heard(victim(plan, 0), "a:1", 15.0, 5, 20)  # nothing has ended yet
    assert remaining.left(1) == pytest.approx(45 + 3 * 60)
    remaining.ended(victim(plan, 0), "a:1", 60.0, spent=60.0)
    assert remaining.left(1) == pytest.approx(3 * 60)
    remaining.heard(victim(plan, 1), "a:1", 75.0, 5, 20)
    assert remaining.left(1) == pytest.approx(3 * 60 - 15)


def test_a_job_that_is_stopped_counts_for_what_was_done(plan: Plan) -> None:
    plan = replace(plan, trials=[])
    remaining = RemainingTime(plan)
    remaining.begin()
    remaining.heard(victim(plan, 0), "a:1", 0.0)
    remaining.heard(victim(plan, 0), "a:1", 15.0, 5, 20)
    remaining.ended(victim(plan, 0), "a:1", 15.0)
    assert remaining.left(1) == pytest.approx(3 * 60)


def test_earlier_studies_say_how_long_stages_take(plan: Plan) -> None:
    kind = machine_of(plan.scenarios[0])
    load = Workload(plan)
    seconds = {"victim": 100.0, "ascent": 10.0, "trial": 1.0}
    loads = {
        "victim": load.victim(plan.scenarios[0]),
        "ascent": load.ascent(plan.trials[0]),
        "trial": load.relearn(plan.trials[0]),
    }
    known = {(n, kind): StageTiming(seconds[n], one.passes) for n, one in loads.items()}
    remaining = RemainingTime(plan, known=known)
    remaining.begin()
    assert remaining.left(1) == pytest.approx(4 * 100 + 4 * 10 + 12 * 1)
    remaining.ended(victim(plan, 0), "a:1", 50.0, spent=50.0)  # what is measured here is better
    assert remaining.left(1) == pytest.approx(3 * 50 + 4 * 10 + 12 * 1)


def test_pruned_trials_make_the_rest_cheaper(plan: Plan) -> None:
    remaining = RemainingTime(plan)
    for number in range(4):
        remaining.victim(plan.scenarios[number])
        remaining.ended(ascent(plan, number), "a:1", 0.0)
    remaining.begin()
    remaining.heard(trial(plan, 0), "a:1", 0.0)
    remaining.ended(trial(plan, 0), "a:1", 8.0, spent=8.0)
    remaining.decided(plan.trials[0])
    assert remaining.left(1) == pytest.approx(11 * 8)
    remaining.decided(plan.trials[1])  # never ran
    assert remaining.left(1) == pytest.approx(10 * 4)
    remaining.decided(plan.trials[2], failed=True)  # says nothing about the others
    assert remaining.left(1) == pytest.approx(9 * 4)


def test_trials_that_share_a_relearning_count_once() -> None:
    """Two victims, twelve settings each. The first's need three relearnings, of 5 s."""
    axes = {"unlearn_threshold": (0.1, 0.2, 0.4), "reinit_ratio": (0.25, 0.5, 0.75, 1.0)}
    study = small_study(attacks=[choice(BADNETS)], settings=axes, grid={"seeds": (0, 1)}, few={})
    plan = make_plan(study)
    scores: dict[int, Findings] = {}
    load = Workload(plan).relearn(plan.trials[0]).passes
    known = {("trial", machine_of(plan.scenarios[0])): StageTiming(5.0, load)}
    remaining = RemainingTime(plan, scores, known)
    remaining.begin()
    for number, job in enumerate((victim(plan, 0), victim(plan, 1), ascent(plan, 0))):
        remaining.ended(job, "a:1", 10.0 * number, spent=10.0)
    first = [t for t in plan.trials if t.scenario.number == 0]
    # The other ascent is left. Of each victim the thresholds are taken to agree where all weights
    # are reset: three ratios of three thresholds, and one.
    assert remaining.left(1) == pytest.approx(10 + 5 * (10 + 10))
    for one in first:
        scores[one.number] = Findings(relearn_key=f"key {one.number % 3}")
    key = scores[first[0].number].relearn_key
    remaining.ended(trial(plan, 0), "a:1", 30.0, spent=5.0)
    # Three results for ten guesses, and one is there. The other victim will need three too.
    assert remaining.left(1) == pytest.approx(10 + 5 * (2 + 3))
    for one in first:
        if scores[one.number].relearn_key == key:
            remaining.decided(one)  # at once, but for the first without running
    assert remaining.left(1) == pytest.approx(10 + 5 * (2 + 3))
    assert remaining.left(2) == pytest.approx((10 + 5 * (2 + 3)) / 2)


@dataclass(frozen=True, kw_only=True)
class Part(RepairStage):
    """A stage of which only the load matters."""

    name: str  # type: ignore[misc]

    def run(self, context: object, before: object) -> Generator[Step, None, Tensors]:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Four(RepairMethod):
    """Four stages, two of them in the middle."""

    name = "four"

    @property
    def stages(self) -> tuple[RepairStage, ...]:
        return tuple(Part(name=name) for name in ("find", "choose", "mark", "tune"))


def test_the_stages_in_the_middle_of_a_method_count(plan: Plan) -> None:
    first = {trial.scenario.number: replace(trial, method=Four()) for trial in plan.trials}
    plan = replace(plan, trials=list(first.values()), study=plan.study)  # one of each victim
    catalog, remaining = JobCatalog(plan), RemainingTime(plan)
    remaining.begin()
    seconds = [1.0, 20.0, 3.0, 4.0]
    for number in range(4):
        remaining.victim(plan.scenarios[number])
    done = plan.trials[0]
    for position, took in enumerate(seconds):
        remaining.ended(catalog.job(done, position), "a:1", 0.0, spent=took)
    remaining.decided(done)
    assert remaining.left(1) == pytest.approx(3 * sum(seconds))
    remaining.ended(catalog.job(plan.trials[1], 1), "a:1", 0.0, spent=20.0)
    assert remaining.left(1) == pytest.approx(3 * sum(seconds) - 20)


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


class _Clock(StudyCallback):
    """Time as jobs take it by what they executed, and the time left after each."""

    def __init__(self, desk: Desk) -> None:
        self.remaining = RemainingTime(desk.plan, desk.scheduler.scores)
        self.remaining.begin()
        self._now = 0.0
        self.said: list[tuple[float, float | None]] = []  # at which time

    def ended(self, job: Job, result: JobResult) -> None:
        spent = sum(run.seconds for run in result.runs) if result != JobResult() else 0.0
        self._now += spent
        self.remaining.ended(job, "a:1", self._now, spent)
        self.said.append((self._now, self.remaining.left(1)))

    def progressed(self, job: Job, progress: Progress) -> None:
        self.remaining.heard(job, "a:1", self._now, progress.epoch, progress.epochs)

    def victim(self, scenario: Scenario, finding: VictimResult) -> None:
        del finding
        self.remaining.victim(scenario)

    def decided(self, verdict: Verdict) -> None:
        self.remaining.decided(verdict.trial, failed=verdict.status is Status.FAILED)

    def ratios(self) -> list[float]:
        """Return the time left over the time that was needed, but for the last tenth."""
        until = 0.9 * self._now
        return [left / (self._now - at) for at, left in self.said if left and at < until]


@pytest.mark.parametrize(("prune", "most"), [("nobody", 1.2), ("settings", 1.8)])
def test_the_time_left_is_about_what_is_needed(prune: str, most: float, tmp_path: Path) -> None:
    """Of 72 trials a quarter and more share relearnings; victims take eight times as long."""
    desk = Desk(study_of(prune, f"memory://{tmp_path}"), tmp_path)
    clock = _Clock(desk)
    desk.watch(clock)
    Workers(Random(1), 1).run(desk)
    ratios = clock.ratios()
    assert len(ratios) > 20
    assert 1 / most < min(ratios) <= max(ratios) < most, ratios
    assert clock.remaining.left(1) == 0.0


def test_a_job_of_a_drawn_setting_may_end_unheard_of() -> None:
    """A worker says nothing of a job that is over at once."""
    plan = make_plan(drawn_study("memory://drawn", scenarios=1))
    remaining = RemainingTime(plan)
    remaining.begin()
    few = {name: values[0] for name, values in FEW.items()}
    (first, *_) = plan.grow({"alpha": 0.5, "unlearn_threshold": 0.2, "reinit_ratio": 0.5, **few})
    job = JobCatalog(plan).group_of(first).job
    remaining.ended(job, "a:1", 1.0, spent=1.0)
    remaining.ended(trial_job(first), "a:1", 2.0, spent=1.0)
    remaining.decided(first)
