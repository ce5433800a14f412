"""Budgets, attempts and limits, as the scheduler keeps them."""

import time
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from orchestrator.plan.jobs import Job, Progress, trial_job
from orchestrator.scheduler.queue import RemainingBudget
from orchestrator.spec.model import Budget, Limits, Study
from tests.orchestrator_tests.pruned_studies import study_of
from tests.orchestrator_tests.simulation import Desk, Workers
from tests.steps import finished


def test_hours_count_from_the_start() -> None:
    now = [100.0]
    allowance = RemainingBudget(Budget(hours=0.5), clock=lambda: now[0])
    now[0] += 1799
    spent = [allowance.spent]
    now[0] += 1
    spent.append(allowance.spent)
    assert spent == ["", "budget.hours = 0.5"]


def test_no_budget_is_never_spent(tmp_path: Path, store: str) -> None:
    allowance = RemainingBudget(Budget(), clock=iter([0.0, 1e12]).__next__)
    desk = Desk(study_of("nobody", store), tmp_path)
    for trial in desk.plan.trials:
        allowance.take(trial_job(trial))
    assert allowance.spent == ""


@pytest.mark.parametrize("workers", [1, 3])
def test_a_budget_of_trials_is_kept_and_goes_on(
    workers: int, tmp_path: Path, store: str, reference: dict[str, Any]
) -> None:
    study = replace(study_of("nobody", store), budget=Budget(trials=7))
    begun: list[str] = []
    for start in range(100):
        desk = Desk(study, tmp_path)
        Workers(Random(start), workers).run(desk)
        trials = [name for name in desk.recorder.started_items if name.startswith("trial")]
        assert len(trials) <= 7
        begun += trials
        if "pending" not in desk.statuses():
            break
        assert desk.scheduler.allowance.spent == "budget.trials = 7"
        assert len(trials) == 7, "what was begun also ended"
        assert desk.scheduler.complete
    assert desk.rows() == reference["nobody"]
    assert len(begun) == len(set(begun)), "no trial was run in two starts"


def test_a_lost_trial_counts_once(tmp_path: Path, store: str) -> None:
    study = replace(study_of("nobody", store), budget=Budget(trials=5))
    desk = Desk(study, tmp_path)
    Workers(dying=["trial-00000", "trial-00000"]).run(desk)
    trials = [name for name in desk.recorder.started_items if name.startswith("trial")]
    assert len(set(trials)) == 5
    assert desk.statuses().count("done") >= 4


def test_what_is_given_back_is_not_counted(tmp_path: Path, store: str) -> None:
    desk = Desk(replace(study_of("nobody", store), budget=Budget(trials=1)), tmp_path)
    job = _trial(desk)
    assert desk.scheduler.allowance.spent
    desk.scheduler.returned(job)
    assert not desk.scheduler.allowance.spent
    assert not desk.scheduler.complete


def test_attempts_are_an_option(tmp_path: Path, store: str) -> None:
    study = replace(study_of("nobody", store), limits=Limits(attempts=1))
    desk = Desk(study, tmp_path)
    Workers(dying=["victim-0001"]).run(desk)
    assert desk.recorder.started_items.count("victim-0001") == 1
    row = desk.results.row(desk.plan.by_place[0, 1])
    assert row["error"] == "victim: its worker died 1 time"


@pytest.mark.parametrize(("begun_before", "failed"), [(61.0, True), (59.0, False), (None, False)])
def test_a_worker_that_dies_after_its_limit_failed(
    begun_before: float | None,
    failed: bool,  # noqa: FBT001 - a case
    tmp_path: Path,
    store: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk = Desk(_limited(store), tmp_path)
    job = _trial(desk)
    now = time.monotonic()
    if begun_before is not None:
        with monkeypatch.context() as patch:
            patch.setattr(time, "monotonic", lambda: now - begun_before)
            news = Progress(stage="relearn", epoch=0, epochs=0, begins=True)
            desk.scheduler.progress(job, news)
    desk.scheduler.lost(job, "the worker is gone")
    errors = {name: result.error for name, result in desk.scheduler.errors.items()}
    wanted = {job.name: "worked longer than limits.minutes, which is 1"} if failed else {}
    assert errors == wanted


def _limited(store: str) -> Study:
    return replace(study_of("nobody", store), limits=Limits(minutes={"relearn": 1.0}))


def _trial(desk: Desk) -> Job:
    """Work until a trial is handed out, and return it."""
    crew = Workers()
    desk.scheduler.open()
    while True:
        job = desk.scheduler.next_job()
        assert job is not None
        if job.is_trial:
            return job
        desk.scheduler.finished(job, finished(crew.steps(desk, job))[1])
