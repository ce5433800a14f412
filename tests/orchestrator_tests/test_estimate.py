"""What a plan will cost: exact counts, and nothing touched."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random
from time import process_time

import pytest
import torch

from orchestrator.address import Address
from orchestrator.pipeline.inputs import model_spec_of
from orchestrator.plan.cost_model import Calibration, Speed, StageShape, Workload
from orchestrator.plan.plan import make_plan
from orchestrator.plan.resources import Compute
from orchestrator.scheduler.estimate import (
    END_SECONDS,
    START_SECONDS,
    Source,
    estimate,
    gather,
    keep,
)
from orchestrator.spec.model import LogModels, Tracking
from orchestrator.store.keys import CacheKeys
from orchestrator.store.store import Store
from tests.orchestrator_tests.estimated_studies import cost, study_of
from tests.orchestrator_tests.places import Place
from tests.orchestrator_tests.simulation import Desk, Workers
from tests.orchestrator_tests.small_studies import BADNETS, BLENDED, choice
from ulrl.datasets.arrays import Arrays
from ulrl.datasets.digits import Digits
from ulrl.models.preact_resnet import PreActResNet18
from ulrl.precision import Precision
from ulrl.recipes import VictimRecipe
from ulrl.unlearning import Finder
from ulrl.victim import train_victim


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose speed does not change from one measurement to the next."""
    monkeypatch.setattr(
        "orchestrator.plan.cost_model.Calibration._measure",
        lambda _, kind: Speed(
            train=3e-5 * kind.architecture.width, test=1e-5 * kind.architecture.width, timed=True
        ),
    )


@pytest.mark.usefixtures("steady")
def test_counts_of_a_new_study(tmp_path: Path) -> None:
    found = cost(study_of(tmp_path / "store"))
    assert found.runs == {"train_victim": 4, "unlearn": 8, "relearn": 32}
    assert not any(found.cached.values())
    assert found.seconds > 0
    assert found.disk > 0


def test_counts_of_a_study_that_is_done(tmp_path: Path) -> None:
    """Relearnings are counted after sharing once phase 1 is known."""
    study = study_of(f"memory://{tmp_path}")
    crew = Workers()
    crew.run(Desk(study, tmp_path))
    found = cost(study)
    executed = [stage for stage, _ in crew.executed]
    assert found.runs == {stage: executed.count(stage) for stage in found.runs}
    assert found.runs == {"train_victim": 4, "unlearn": 8, "relearn": 12}
    assert found.cached == found.runs
    assert (found.seconds, found.disk, found.hours) == (0, 0, 0)


def test_a_study_with_more_settings_counts_what_is_there(tmp_path: Path) -> None:
    """A wider axis reads the ascents that there are, and repairs again only where it is new."""
    study = study_of(f"memory://{tmp_path}", settings={"reinit_ratio": (0.5, 1.0)})
    Workers().run(Desk(study, tmp_path))
    before = cost(study).runs
    wider = replace(study, grid=replace(study.grid, settings={"reinit_ratio": (0.5, 1.0, 0.75)}))
    strict = {"reinit_ratio": (0.5, 1.0), "z_threshold": (3.5, 1e6)}
    scored = replace(study, grid=replace(study.grid, settings=strict))
    for other, repaired in ((wider, 4), (scored, 0)):  # made-up scores agree on suspects
        found = cost(other)
        assert found.cached == before
        assert {name: found.runs[name] for name in ("train_victim", "unlearn")} == {
            "train_victim": 4,
            "unlearn": 4,
        }
        crew = Workers()
        crew.run(Desk(replace(other, name="other"), tmp_path))
        executed = Counter(stage for stage, _ in crew.executed)
        assert executed["unlearn"] == 0
        assert found.runs["relearn"] - before["relearn"] >= executed["relearn"] == repaired


def test_an_ascent_that_stopped_above_a_new_threshold_is_not_there(tmp_path: Path) -> None:
    study = study_of(f"memory://{tmp_path}", settings={"unlearn_threshold": (0.4,)})
    Workers().run(Desk(study, tmp_path))
    lower = replace(study, grid=replace(study.grid, settings={"unlearn_threshold": (0.4, 0.0)}))
    assert cost(study).cached["unlearn"] == 4
    assert cost(lower).cached["unlearn"] == 0


def test_models_of_an_older_store_that_are_only_evaluated_again_are_there(tmp_path: Path) -> None:
    study = study_of(f"memory://{tmp_path}")
    desk = Desk(study, tmp_path)
    crew = Workers()
    crew.run(desk)
    for stage, key in crew.executed:
        if stage == "evaluate":
            desk.store.delete(stage, key)
    found = cost(study)
    assert found.runs == {"train_victim": 4, "unlearn": 8, "relearn": 12}
    assert found.cached == found.runs


def test_counts_of_a_study_that_was_interrupted(tmp_path: Path) -> None:
    study = study_of(f"memory://{tmp_path}")
    whole = cost(study)
    desk = Desk(study, tmp_path)
    crew = Workers(Random(0), 2)
    crew.run(desk, steps=90)
    found = cost(study)
    stored = [stage for stage, _ in crew.executed]
    assert 0 < found.cached["relearn"] < found.runs["relearn"] <= 32
    assert found.cached["train_victim"] == stored.count("train_victim") <= 4
    assert found.cached["relearn"] <= stored.count("relearn")
    assert found.seconds > 0
    assert found.sources == {Source.TAKEN: 1.0}
    assert 0 < found.disk < whole.disk


def test_nothing_is_written_or_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    missing = Arrays(arrays=str(tmp_path / "missing.npz"))
    study = study_of(tmp_path / "store", grid={"datasets": (missing, Digits(size=8))})
    found = cost(study)
    assert found.runs["train_victim"] == 2
    assert list(tmp_path.iterdir()) == []


def test_a_store_of_another_machine_kind_is_no_help(tmp_path: Path) -> None:
    study = study_of(f"memory://{tmp_path}")
    Workers().run(Desk(study, tmp_path))
    compute = Compute(device="cuda")
    keys = CacheKeys(study.victim, compute)
    found = estimate(make_plan(study), Store(study.store), keys, 1, 1.0)
    assert not any(found.cached.values())


@pytest.mark.usefixtures("steady")
def test_time_is_spread_over_workers_and_gpus_cost_while_they_are_held(tmp_path: Path) -> None:
    found = cost(study_of(tmp_path), workers=4, gpu=0.5)
    assert found.hours == pytest.approx((START_SECONDS + found.seconds / 4 + END_SECONDS) / 3600)
    many = cost(study_of(tmp_path), workers=1000)
    assert many.seconds / 1000 < many.longest
    assert many.hours == pytest.approx((START_SECONDS + many.longest + END_SECONDS) / 3600)
    assert found.gpu_hours == pytest.approx(found.seconds * 0.5 / 3600)
    assert cost(study_of(tmp_path)).gpu_hours == 0


@pytest.mark.usefixtures("steady")
def test_more_work_costs_more(tmp_path: Path) -> None:
    base = cost(study_of(tmp_path))
    longer = cost(study_of(tmp_path, victim=VictimRecipe.of(epochs=50)))
    wider = cost(
        study_of(tmp_path, grid={"architectures": (PreActResNet18(width=16),), "seeds": range(4)})
    )
    more = cost(study_of(tmp_path, attacks=[choice(BADNETS), choice(BLENDED)]))
    assert longer.seconds > base.seconds
    assert wider.seconds > base.seconds
    assert wider.disk > 10 * base.disk
    assert more.seconds == pytest.approx(2 * base.seconds)
    assert more.disk == pytest.approx(2 * base.disk)


@pytest.mark.usefixtures("steady")
@pytest.mark.parametrize(
    ("policy", "models"),
    [(LogModels.NONE, 4), (LogModels.BEST, 4 + 4), (LogModels.ALL, 4 + 32)],
)
def test_disk_counts_the_models_that_are_kept(
    tmp_path: Path, policy: LogModels, models: int
) -> None:
    """Victims always, and repaired ones as MLflow wants them."""
    small, large = (
        cost(
            study_of(
                tmp_path,
                grid={"architectures": (PreActResNet18(width=width),), "seeds": range(4)},
                mlflow=Tracking(uri=Address(""), log_models=policy),
            )
        ).disk
        for width in (1, 16)
    )
    weights = [parameters(width) * 4 for width in (1, 16)]
    assert large - small == pytest.approx(models * (weights[1] - weights[0]), rel=0.02)


def parameters(width: int) -> int:
    network = PreActResNet18(width=width).build(classes=10, channels=3, side=8)
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.usefixtures("steady")
def test_disk_is_about_what_the_results_take(made: Place, tmp_path: Path) -> None:
    root = Path(str(made.store.url))
    kept = [path for path in root.rglob("*.safetensors") if path.parts[-3] != "repaired"]
    taken = sum(path.stat().st_size for path in kept)
    plan = make_plan(
        replace(made.plan.study, mlflow=Tracking(uri=Address(""), log_models=LogModels.NONE))
    )
    found = estimate(plan, Store(str(tmp_path)), made.keys, 1, 0.0)
    assert taken / 4 < found.disk < taken * 2


def test_what_a_finder_adds_to_the_ascent(tmp_path: Path) -> None:
    """A second ascent is as long as the first; a shift of the prior looks at each sample too."""
    finders = (Finder.ASCENT, Finder.SECOND_ASCENT, Finder.PRIOR_SHIFT)
    plan = make_plan(study_of(tmp_path, settings={"finder": finders}))
    plain, second, shifted = (Workload(plan).ascent(trial) for trial in plan.trials[:3])
    samples = plain.trained / 8
    assert (second.trained, second.tested) == (2 * plain.trained, 2 * plain.tested)
    assert (shifted.trained, shifted.tested) == (second.trained, second.tested + samples)


def test_what_stages_took_before_is_what_they_will_take(tmp_path: Path) -> None:
    """Four of eight seeds are done: victims of 8.5 s, ascents of 6, trials of 1.5."""
    study = study_of(f"memory://{tmp_path}", settings={"alpha": (0.5, 0.7)})
    Workers().run(Desk(study, tmp_path))
    found = cost(replace(study, grid=replace(study.grid, seeds=tuple(range(8)))))
    assert found.sources == {Source.TAKEN: 1.0}
    assert found.seconds == pytest.approx(4 * (8.5 + 6 + 2 * 1.5))


def test_a_study_leaves_its_paces_for_later_ones(tmp_path: Path) -> None:
    study = study_of(f"memory://{tmp_path}", settings={"alpha": (0.5, 0.7)})
    desk = Desk(study, tmp_path)
    Workers().run(desk)
    victims = dict(desk.recorder.victims)
    paces = gather(desk.plan, victims, desk.scheduler.scores, desk.scheduler.repairs)
    keep(desk.store, Compute(), paces)
    other = study_of(
        f"memory://{tmp_path}", settings={"alpha": (0.5, 0.7)}, grid={"seeds": (10, 11)}
    )
    found = cost(other)
    assert not any(found.cached.values())
    assert found.sources == {Source.TAKEN: 1.0}
    assert found.seconds == pytest.approx(2 * (8.5 + 6 + 2 * 1.5))


def test_a_new_study_is_timed_here_and_now(tmp_path: Path) -> None:
    """What a training of the same network takes is within a factor of two of the estimate."""
    study = study_of(tmp_path, settings={}, grid={"seeds": (0,), "datasets": (Digits(size=16),)})
    found = cost(study, workers=1)
    assert found.sources == {Source.TIMED: 1.0}
    images = study.grid.datasets[0].load()
    facts = study.grid.datasets[0].info()
    assert facts is not None
    scenario = make_plan(study).scenarios[0]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    began = process_time()
    run = train_victim(
        study.victim.config("digits", "badnets"),
        model_spec_of(scenario, images),
        scenario.poison,
        images,
        0,
        torch.device("cpu"),
    )
    assert [epoch.number for epoch in run.epochs] == [1]
    spent = process_time() - began
    torch.set_num_threads(threads)
    load = Workload(make_plan(study)).victim(scenario)
    assert load.trained == facts.train_count
    kind = StageShape(
        architecture=scenario.architecture,
        classes=facts.classes,
        channels=facts.channels,
        side=facts.side,
        preprocessing=scenario.dataset.preprocessing,
        batch=64,
        precision=Precision.FP32,
    )
    speed = Calibration("cpu", 1, 1).speed(kind)
    assert speed.timed
    assert spent / 2 < load.trained * speed.train < spent * 2
