"""What a plan reckons of GPUs: steps that are replayed, and workers that share one."""

from pathlib import Path

import pytest

from orchestrator.plan.cost_model import Calibration, Speed, StageShape
from orchestrator.plan.plan import make_plan
from orchestrator.plan.resources import Compute
from orchestrator.scheduler.estimate import crowding, estimate, sharing
from orchestrator.store.keys import CacheKeys
from orchestrator.store.store import Store
from tests.orchestrator_tests.estimated_studies import study_of
from tests.orchestrator_tests.small_studies import BADNETS, choice
from ulrl.attacks.wanet import WaNet


@pytest.mark.parametrize(
    ("workers", "gpu", "times"),
    [
        (1, 1.0, 1.0),
        (4, 2.0, 1.0),
        (8, 0.0, 1.0),  # no GPU
        (1, 0.125, 1.0),
        (2, 0.125, 2 / 1.15),  # Ray puts both on one GPU, however many there are
        (4, 0.25, 4 / 1.18),
        (16, 0.125, 8 / 1.22),
        (6, 0.3333, 3 / 1.17),
    ],
)
def test_workers_that_share_a_gpu_wait_for_each_other(
    workers: int, gpu: float, times: float
) -> None:
    """As benchmarks/results/2026-11-26-h200.md has it, measured with `bench_packing`."""
    assert crowding(sharing(workers, gpu)) == pytest.approx(times, rel=0.03)


def test_packing_does_not_make_a_gpu_faster_than_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steady = Speed(train=1e-3, test=1e-4, timed=True)
    monkeypatch.setattr(Calibration, "_measure", lambda *_: steady)
    study = study_of(tmp_path / "store")
    keys, plan, store = (
        CacheKeys(study.victim, Compute()),
        make_plan(study),
        Store(study.store),
    )
    alone = estimate(plan, store, keys, 1, 1.0)
    packed = estimate(plan, store, keys, 8, 0.125)
    assert packed.longest == alone.longest
    assert packed.gpu_hours == pytest.approx(alone.gpu_hours / 1.22, rel=0.01)
    lonely = estimate(plan, store, keys, 1, 0.125)  # whose GPU nobody else computes on
    assert lonely.gpu_hours == alone.gpu_hours


@pytest.mark.parametrize(("device", "found"), [("cpu", {True}), ("cuda", {True, False})])
def test_only_a_gpu_replays_and_only_what_no_attack_has_a_hand_in(
    device: str, found: set[bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[StageShape] = []

    def measured(_: Calibration, kind: StageShape) -> Speed:
        asked.append(kind)
        return Speed(train=1.0 if kind.replayed else 3.0, test=0.0, timed=True)

    monkeypatch.setattr(Calibration, "_measure", measured)
    victims = {}
    for attack in (BADNETS, WaNet()):
        study = study_of(tmp_path / "store", attacks=[choice(attack)])
        keys = CacheKeys(study.victim, Compute(device=device))
        cost = estimate(make_plan(study), Store(study.store), keys, 1, 1.0)
        victims[attack.name] = cost.stages["train_victim"]
    assert {kind.replayed for kind in asked} == found
    assert victims["wanet"] == pytest.approx(victims["badnets"] * (3 if device == "cuda" else 1))
