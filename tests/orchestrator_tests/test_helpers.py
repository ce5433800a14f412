"""What attacks train first: once for all that can share it, and before their victims."""

from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest

from orchestrator.cli.summary import shared
from orchestrator.plan.jobs import JobKind
from orchestrator.scheduler.estimate import estimate
from orchestrator.spec.model import Limits, Study
from tests.orchestrator_tests.simulation import Desk, Workers
from tests.orchestrator_tests.small_studies import BADNETS, choice, small_study
from ulrl.attacks import Attack
from ulrl.attacks._benign import BenignModel
from ulrl.attacks.lf import LF
from ulrl.attacks.ssba import SSBA
from ulrl.attacks.trojannn import TrojanNN
from ulrl.models.preact_resnet import PreActResNet18
from ulrl.recipes import VictimRecipe

NARROW, WIDER = PreActResNet18(width=1), PreActResNet18(width=2)

ATTEMPTS = Limits().attempts


def study_of(tmp_path: Path, *attacks: Attack, **grid: Any) -> Study:
    return small_study(
        attacks=[choice(attack) for attack in attacks],
        grid={"seeds": (0,), **grid},
        store=str(tmp_path / "store"),
    )


def helpers(desk: Desk) -> Counter[str]:
    """Return how many helpers of each kind the plan has."""
    return Counter(type(item.helper).__name__ for item in desk.scheduler._catalog.helpers)


def test_attacks_share_the_clean_model_and_each_has_its_own_part(tmp_path: Path) -> None:
    desk = Desk(study_of(tmp_path, BADNETS, LF(), TrojanNN(), LF(scale=0.1)), tmp_path)
    # Both LF share the pattern: its scale comes later.
    assert helpers(desk) == {"BenignModel": 1, "LowFrequencyPattern": 1, "TrojanPatch": 1}
    workers = Workers(Random(3), 2)
    workers.run(desk)
    assert set(desk.statuses()) == {"done"}
    made = Counter(stage for stage, _ in workers.executed)
    assert (made["train_helper"], made["train_victim"]) == (3, 4)
    assert max(workers.executed.values()) == 1
    again = Desk(study_of(tmp_path, BADNETS, LF(), TrojanNN(), LF(scale=0.1)), tmp_path)
    Workers().run(again)
    lines = [shared(one.scheduler, one.folder, one.keys) for one in (desk, again)]
    rests = {text.partition("; run now: ")[0] for text in lines}  # a resume rests on the same
    assert len(rests) == 1
    assert " → 3 helpers, 4 victims, " in rests.pop()
    assert lines[1].endswith("; run now: –")


@pytest.mark.parametrize(
    ("grid", "expected"),
    [
        ({"seeds": (0, 1)}, {"BenignModel": 2, "TrojanPatch": 2, "StegaEncoder": 2}),
        (
            {"architectures": (NARROW, WIDER)},
            {"BenignModel": 2, "TrojanPatch": 2, "StegaEncoder": 1},
        ),
        (
            {"target_labels": (0, 1)},
            {"BenignModel": 1, "TrojanPatch": 1, "StegaEncoder": 1},
        ),
        (
            {"poison_ratios": (0.1, 0.2)},
            {"BenignModel": 1, "TrojanPatch": 1, "StegaEncoder": 1},
        ),
    ],
    ids=["seeds", "architectures", "targets", "ratios"],
)
def test_one_for_all_that_make_no_difference_to_it(
    tmp_path: Path, grid: dict[str, Any], expected: dict[str, int]
) -> None:
    desk = Desk(study_of(tmp_path, TrojanNN(), SSBA(), **grid), tmp_path)
    assert helpers(desk) == expected
    jobs = desk.scheduler._catalog.helpers
    keys = {desk.keys.helper(job.scenario, job.helper) for job in jobs if job.helper}
    assert len(keys) == sum(expected.values()), "the store shares as the plan does"


def test_a_pattern_for_another_target_is_another_pattern(tmp_path: Path) -> None:
    desk = Desk(study_of(tmp_path, LF(), target_labels=(0, 1)), tmp_path)
    assert helpers(desk) == {"BenignModel": 1, "LowFrequencyPattern": 2}


def test_what_the_victims_are_trained_like_matters_where_it_is_looked_at(tmp_path: Path) -> None:
    keys = []
    for epochs in (1, 2):
        study = study_of(tmp_path, TrojanNN(), SSBA())
        study = Study(**{**vars(study), "victim": VictimRecipe.of(epochs=epochs, batch_size=64)})
        desk = Desk(study, tmp_path / str(epochs))
        items = desk.scheduler._catalog.helpers
        keys.append([desk.keys.helper(job.scenario, job.helper) for job in items if job.helper])
    benign, patch, encoder = zip(*keys, strict=True)
    assert len(set(benign)) == 2
    assert len(set(patch)) == 2, "by what it needs"
    assert len(set(encoder)) == 1


def test_victims_wait_for_what_they_need(tmp_path: Path) -> None:
    desk = Desk(study_of(tmp_path, BADNETS, TrojanNN()), tmp_path)
    desk.scheduler.open()
    ready = []
    while (item := desk.scheduler.next_job()) is not None:
        ready.append(item.name)
    # The clean model, and the victim that waits for nothing.
    assert sorted(ready) == ["helper-0000", "victim-0000"]
    assert desk.scheduler._catalog.helpers[0].helper == BenignModel()


def test_a_failing_helper_fails_the_trials_of_its_victims_and_no_others(tmp_path: Path) -> None:
    desk = Desk(study_of(tmp_path, BADNETS, TrojanNN(), LF(), SSBA()), tmp_path)
    Workers(failing=["helper-0000"]).run(desk)
    for row in desk.rows():
        if row["attack"] in {"trojannn", "lf"}:
            assert row["status"] == "failed"
            assert row["error"] == "helper BenignModel: RuntimeError: it cannot be done"
        else:
            assert (row["status"], row["error"]) == ("done", None)
    assert list(desk.scheduler.errors) == ["helper-0000"]


def test_a_helper_in_the_middle_of_a_chain_may_fail_too(tmp_path: Path) -> None:
    desk = Desk(study_of(tmp_path, TrojanNN(), LF()), tmp_path)
    name = next(
        item.name
        for item in desk.scheduler._catalog.helpers
        if type(item.helper).__name__ == "LowFrequencyPattern"
    )
    Workers(failing=[name]).run(desk)
    statuses = {row["attack"]: row["status"] for row in desk.rows()}
    assert statuses == {"trojannn": "done", "lf": "failed"}


def test_a_dying_worker_s_helper_is_tried_again_but_not_for_ever(tmp_path: Path) -> None:
    study = study_of(tmp_path, SSBA())
    desk = Desk(study, tmp_path / "once")
    Workers(dying=["helper-0000"]).run(desk)
    assert set(desk.statuses()) == {"done"}
    again = Desk(study_of(tmp_path / "other", SSBA()), tmp_path / "always")
    Workers(dying=["helper-0000"] * ATTEMPTS).run(again)
    (row,) = again.rows()
    assert row["error"] == f"helper StegaEncoder: its worker died {ATTEMPTS} times"


@pytest.mark.parametrize("steps", range(1, 26, 3))
def test_killed_anywhere_and_resumed_nothing_is_made_twice(tmp_path: Path, steps: int) -> None:
    study = study_of(tmp_path, LF(), TrojanNN(), BADNETS)
    workers = Workers(Random(steps), 2)
    workers.run(Desk(study, tmp_path / "study"), steps)
    desk = Desk(study, tmp_path / "study")
    workers.run(desk)
    assert set(desk.statuses()) == {"done"}
    assert max(workers.executed.values()) == 1
    stages = Counter(stage for stage, _, _ in desk.listed())
    assert (stages["train_helper"], stages["train_victim"]) == (3, 3)


def test_another_study_finds_what_was_trained(tmp_path: Path) -> None:
    first = Workers()
    first.run(Desk(study_of(tmp_path, LF()), tmp_path / "one"))
    second = Workers()
    desk = Desk(study_of(tmp_path, LF(), TrojanNN()), tmp_path / "two")
    second.run(desk)
    made = [stage for stage, _ in second.executed]
    assert made.count("train_helper") == 1, "the patch; the clean model was there"
    assert made.count("train_victim") == 1
    listed = {computed for stage, _, computed in desk.listed() if stage == "train_helper"}
    assert listed == {"True", "False"}


def test_the_plan_counts_helpers_and_what_is_there(tmp_path: Path) -> None:
    desk = Desk(study_of(tmp_path, LF(), TrojanNN()), tmp_path)
    before = estimate(desk.plan, desk.store, desk.keys, 1, 0.0)
    assert (before.runs["train_helper"], before.cached["train_helper"]) == (3, 0)
    Workers().run(desk)
    after = estimate(desk.plan, desk.store, desk.keys, 1, 0.0)
    assert (after.runs["train_helper"], after.cached["train_helper"]) == (3, 3)
    assert after.hours < before.hours


def test_seconds_of_helpers_count_in_every_row_that_rests_on_them(tmp_path: Path) -> None:
    desk = Desk(study_of(tmp_path, BADNETS, SSBA()), tmp_path)
    Workers().run(desk)
    seconds = {row["attack"]: row["seconds"] for row in desk.rows()}
    assert seconds["ssba"] > seconds["badnets"]


def test_a_helper_says_what_it_is(tmp_path: Path) -> None:
    desk = Desk(study_of(tmp_path, SSBA()), tmp_path)
    (item,) = desk.scheduler._catalog.helpers
    assert item.kind is JobKind.HELPER
    assert (item.name, item.text) == ("helper-0000", "helper StegaEncoder")
    assert desk.scheduler._catalog.named("helper-0000") == item
