"""The stage runner when something goes wrong: made again and the same, or told."""

from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from orchestrator.errors import ResourceError
from orchestrator.pipeline.run_job import steps_of
from orchestrator.pipeline.stages import StageRunner
from orchestrator.plan.jobs import Job, JobResult
from orchestrator.plan.plan import Plan, make_plan
from orchestrator.store.store import Entry, Store
from tests.orchestrator_tests.places import AXES, VICTIM, Place
from tests.orchestrator_tests.small_studies import choice, small_study
from tests.steps import finished
from ulrl.attacks.badnets import BadNets
from ulrl.datasets import DatasetError
from ulrl.evaluation import Evaluation

# Damage.


@pytest.mark.parametrize(
    ("damaged", "again", "left"),
    [
        ("train_victim", ["train_victim"], set()),
        ("unlearn", [], {"unlearn"}),
        ("score_neurons", ["score_neurons"] * 2, set()),
        ("unlearn score_neurons", ["unlearn", "score_neurons", "score_neurons"], set()),
        ("relearn", ["relearn"], set()),
        ("repaired", [], {"repaired"}),
        ("repaired relearn", ["relearn"], set()),
    ],
)
def test_what_is_damaged_and_needed_is_made_again_and_is_the_same(
    made: Place, copy: Place, damaged: str, again: list[str], left: set[str]
) -> None:
    for stage in damaged.split():
        copy.damage(stage)
    executed = [stage for stage, _ in groupby(copy.do_all())]
    assert executed == [stage for stage, _ in groupby(again)]
    found, wanted = copy.content(), made.content()
    assert {name.split()[0] for name in wanted.keys() - found.keys()} == left
    assert found == {name: wanted[name] for name in found}


def test_a_damaged_evaluation_is_made_from_the_stored_weights(made: Place, copy: Place) -> None:
    copy.damage("evaluate")
    assert set(copy.do_all()) == {"evaluate"}
    assert copy.content() == made.content()


def test_without_kept_weights_the_relearning_is_made_again(
    plan: Plan, made: Place, tmp_path: Path
) -> None:
    place = Place(plan, tmp_path, keep_repaired=False)
    place.take(made, "train_victim", "unlearn", "score_neurons")
    place.do_all()
    stored = {name for name in made.content() if not name.startswith("repaired")}
    assert stored == set(place.content())
    assert place.content() == {k: v for k, v in made.content().items() if k in stored}
    place.damage("evaluate")
    assert set(place.do_all()) == {"evaluate", "relearn"}
    assert place.content() == {k: v for k, v in made.content().items() if k in stored}


def test_a_victim_that_vanishes_while_a_trial_needs_it_is_trained_again(copy: Place) -> None:
    before = copy.content()
    copy.store.delete("train_victim", copy.keys.victim(copy.plan.scenarios[0]))
    copy.damage("relearn")
    _, runs = copy.do(copy.jobs[-1])
    assert [run.stage for run in runs] == ["train_victim", "relearn"]
    copy.do_all()
    assert copy.content() == before


# Work that is left early.


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("kind", ["victim", "ascent", "trial"])
def test_what_is_left_early_stores_nothing_of_the_stage_in_flight(
    made: Place, copy: Place, kind: str, steps: int
) -> None:
    gone = {
        "victim": ("train_victim", "evaluate"),
        "ascent": ("unlearn", "score_neurons"),
        "trial": ("relearn", "repaired"),
    }
    copy.forget(*gone[kind])
    job = next(job for job in copy.jobs if job.name.startswith(kind))
    before = copy.content()
    work = StageRunner(copy.site, VICTIM).work(job)
    assert [next(work) for _ in range(steps)]
    work.close()
    assert copy.content() == before
    copy.do(job)
    found, wanted = copy.content(), made.content()
    assert found.keys() > before.keys()
    assert found == {name: wanted[name] for name in found}


# How a job ends.


def ended(place: Place, job: Job) -> JobResult:
    return finished(steps_of(StageRunner(place.site, VICTIM), job))[1]


def test_an_exception_is_an_items_result(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(plan, tmp_path)

    def fail(*_: Any) -> Evaluation:
        raise ValueError("two\n  lines " + "x" * 600)

    monkeypatch.setattr("orchestrator.pipeline.tools.evaluate", fail)
    result = ended(place, place.jobs[0])
    assert result.error == f"ValueError: two lines {'x' * 600}"[:500]
    assert [run.stage for run in result.runs] == ["train_victim"]
    assert result.trace.startswith("Traceback (most recent call last):")
    assert "in fail" in result.trace
    assert not result.fatal


def test_a_store_that_cannot_be_written_to_is_fatal(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(plan, tmp_path)

    def full(*_: Any) -> None:
        raise ResourceError("full")

    monkeypatch.setattr(Store, "write", full)
    assert ended(place, place.jobs[0]) == JobResult(error="full", fatal=True)


def test_an_exception_without_words_has_some(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Entry:
        raise ZeroDivisionError

    monkeypatch.setattr(Store, "read", fail)
    result = ended(Place(plan, tmp_path), Place(plan, tmp_path).jobs[0])
    assert result.error == "ZeroDivisionError: no message"


def test_results_name_no_place_and_people_are_told(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Entry:
        raise DatasetError("not in /a/place")

    monkeypatch.setattr(Store, "read", fail)
    result = ended(Place(plan, tmp_path), Place(plan, tmp_path).jobs[0])
    assert result.error == "DatasetError: the dataset cannot be used; the log says why"
    assert result.reason == "DatasetError: not in /a/place"
    assert JobResult(error="RuntimeError: no place in it").reason == "RuntimeError: no place in it"


def test_a_picture_that_is_replaced_fails_what_would_be_stored_under_its_key(
    tmp_path: Path,
) -> None:
    """The worker remembers the key of the old picture, and stamps the new one."""
    picture = tmp_path / "mark.png"
    Image.new("RGB", (8, 8), (200, 0, 0)).save(picture)
    attack = choice(BadNets(size=None, pattern=str(picture)))
    plan = make_plan(small_study(attacks=[attack], settings=AXES, few={}, victim=VICTIM))
    place = Place(plan, tmp_path / "store")
    runner = StageRunner(place.site, VICTIM)
    victim, ascent = place.jobs[:2]
    assert not finished(steps_of(runner, victim))[1].error
    Image.new("RGB", (8, 8), (0, 0, 90)).save(picture)
    result = finished(steps_of(runner, ascent))[1]
    assert result.error.startswith("FileChangedError: a file that the scenario names changed")
    assert not result.fatal
    assert place.findings.scores(plan.trials[0]) is None
