"""Two workers on one store: each stage is computed once, whoever else wants it."""

import shutil
from collections.abc import Generator
from pathlib import Path

import pytest

from orchestrator.pipeline.stages import StageRunner
from orchestrator.plan.jobs import Job, Progress, StageRun
from orchestrator.plan.plan import Plan
from orchestrator.store.store import Store
from tests.orchestrator_tests.places import VICTIM, Place
from tests.steps import finished

Work = Generator[Progress, None, tuple[StageRun, ...]]


def works(place: Place, job: Job) -> tuple[Work, Work]:
    """Return two workers' ways through the same job."""
    one, other = (StageRunner(place.site, VICTIM).work(job) for _ in range(2))
    return one, other


def rest(work: Work) -> list[str]:
    """Return the stages that were executed to the end, which nothing else holds up."""
    seen, runs = finished(work)
    assert not any(progress.pause for progress in seen)
    return [run.stage for run in runs]


STAGES = {
    "victim": ["train_victim", "evaluate"],
    "ascent": ["unlearn", "score_neurons", "score_neurons"],
    "trial": ["relearn", "evaluate"],
}


def lacking(place: Place, kind: str) -> Job:
    """Return a job of a kind, whose results the store has no more."""
    for stage in STAGES[kind]:
        shutil.rmtree(Path(str(place.store.url)) / stage, ignore_errors=True)
    return next(job for job in place.jobs if job.name.startswith(kind))


def check(place: Place, made: Place) -> None:
    """Assert that what the store has is what one worker alone made."""
    wanted = made.content()
    assert place.content() == {name: wanted[name] for name in place.content()}


@pytest.mark.parametrize("kind", STAGES)
def test_the_second_waits_and_takes_what_the_first_made(
    made: Place, copy: Place, kind: str
) -> None:
    one, other = works(copy, lacking(copy, kind))
    assert not next(one).pause
    waiting = next(other)
    assert (waiting.stage, waiting.epoch, waiting.curve) == (STAGES[kind][0], 0, ())
    assert 0 < waiting.pause < next(other).pause <= 1
    assert rest(one) == STAGES[kind]
    assert rest(other) == []
    check(copy, made)
    assert list((Path(str(copy.store.url)) / ".locks").iterdir()) == []


@pytest.mark.parametrize("kind", STAGES)
def test_the_second_does_what_the_first_abandons(made: Place, copy: Place, kind: str) -> None:
    one, other = works(copy, lacking(copy, kind))
    next(one)
    assert next(other).pause
    one.close()
    assert rest(other) == STAGES[kind]
    check(copy, made)


def test_the_second_does_what_the_first_fails_at(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(plan, tmp_path)
    one, other = works(place, place.jobs[0])
    next(one)
    assert next(other).pause
    with monkeypatch.context() as patch:
        patch.setattr(Store, "write", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            rest(one)
    assert rest(other) == ["train_victim", "evaluate"]
