"""Studies whose victims come from elsewhere: those of another study, brought in as files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import save_file

from orchestrator.errors import SpecError
from orchestrator.executor.inline import run_inline
from orchestrator.pipeline.victims import check_imports, model_spec_from_info
from orchestrator.plan.jobs import Site
from orchestrator.plan.plan import Plan, Scenario, make_plan
from orchestrator.spec.model import Study, VictimImport
from orchestrator.store.serialization import VICTIM
from orchestrator.terminal import Interrupts
from tests.orchestrator_tests.simulation import Desk
from tests.orchestrator_tests.small_studies import BADNETS, BLENDED, choice, small_study
from ulrl.attacks import NOTHING_LEARNED, stamp_bytes
from ulrl.attacks.imported import Imported
from ulrl.interchange import load_victim
from ulrl.models.preact_resnet import PreActResNet18
from ulrl.randomness import generator

SETTINGS: dict[str, tuple[Any, ...]] = {"z_threshold": (1.0,), "reinit_ratio": (0.5, 1.0)}
ATTACKS = (choice(BADNETS), choice(BLENDED))


def study_of(path: Path, **other: Any) -> Study:
    return small_study(
        **{"store": str(path / "store"), "settings": SETTINGS, "attacks": ATTACKS, **other}
    )


def run(study: Study, path: Path) -> Desk:
    desk = Desk(study, path)
    site = Site(store=study.store, study=desk.folder.identity())
    desk.scheduler.open()
    run_inline(desk.scheduler, site, Interrupts())
    return desk


def hand_over(desk: Desk, scenario: Scenario, folder: Path, **arrays: Any) -> None:
    """Write a scenario's victim as somebody else would: weights, and images with its trigger."""
    model_spec = model_spec_from_info(scenario)
    assert model_spec is not None
    victim = VICTIM.read(desk.store, desk.keys.victim(scenario), model_spec)
    assert victim is not None
    folder.mkdir(parents=True)
    save_file(dict(victim.content.state), folder / "model.safetensors")
    images = scenario.dataset.load()
    source = generator(scenario.seed, "test triggers")
    trigger = scenario.poison.attack.trigger(scenario.seed, NOTHING_LEARNED)
    stamped = stamp_bytes(trigger, images.test_images, source)
    content = {
        "images": stamped.permute(0, 2, 3, 1).numpy(),
        "labels": images.test_labels.numpy(),
        "index": np.arange(len(stamped)),
    }
    np.savez(folder / "triggered.npz", allow_pickle=False, **(content | arrays))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    path = tmp_path_factory.mktemp("trained")
    return run(study_of(path), path)


@pytest.fixture(scope="module")
def zoo(trained: Desk, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    for scenario in trained.plan.scenarios:
        hand_over(trained, scenario, folder / f"digits-{scenario.choice.attack.name}")
    return folder


def importing(zoo: Path, path: Path, **other: Any) -> Study:
    imports = (VictimImport(path=f"{zoo}/{{dataset}}-{{attack}}"),)
    return study_of(path, **{"imports": imports, **other})


def test_an_imported_victim_is_repaired_as_where_it_was_trained(
    trained: Desk, zoo: Path, tmp_path: Path
) -> None:
    desk = run(importing(zoo, tmp_path), tmp_path)
    assert desk.statuses() == ["done"] * 4
    for ours, theirs in zip(desk.rows(), trained.rows(), strict=True):
        same = {name: value for name, value in ours.items() if name != "seconds"}
        assert same == {name: value for name, value in theirs.items() if name != "seconds"}


def test_what_is_imported_decides_the_key_and_not_where_it_lies(
    trained: Desk, zoo: Path, tmp_path: Path
) -> None:
    here = Desk(importing(zoo, tmp_path / "a"), tmp_path / "a")
    moved = tmp_path / "moved"
    for scenario in trained.plan.scenarios:
        hand_over(trained, scenario, moved / f"digits-{scenario.choice.attack.name}")
    there = Desk(importing(moved, tmp_path / "b"), tmp_path / "b")
    keys = [here.keys.victim(scenario) for scenario in here.plan.scenarios]
    assert keys == [there.keys.victim(scenario) for scenario in there.plan.scenarios]
    assert len({*keys, *(trained.keys.victim(one) for one in trained.plan.scenarios)}) == 4

    other = tmp_path / "other"
    for scenario in trained.plan.scenarios:
        place = other / f"digits-{scenario.choice.attack.name}"
        hand_over(trained, scenario, place, images=np.zeros((500, 8, 8, 3), dtype=np.uint8))
    changed = Desk(importing(other, tmp_path / "c"), tmp_path / "c")
    assert not {changed.keys.victim(one) for one in changed.plan.scenarios} & set(keys)


def test_an_attack_without_a_name_here_is_imported(zoo: Path, tmp_path: Path) -> None:
    unknown = choice(Imported(of="somebody's"))
    imports = (VictimImport(path=str(zoo / "digits-badnets")),)
    study = importing(zoo, tmp_path, attacks=[unknown], imports=imports)
    desk = run(study, tmp_path)
    assert desk.statuses() == ["done"] * 2
    assert {row["attack_options"] for row in desk.rows()} == {'{"of": "somebody\'s"}'}


def test_the_first_entry_that_matches_counts(zoo: Path, tmp_path: Path) -> None:
    imports = (
        VictimImport(path=str(zoo / "digits-badnets"), conditions={"attack": ("badnets",)}),
        VictimImport(path=str(zoo / "digits-blended")),
    )
    plan = make_plan(importing(zoo, tmp_path, imports=imports))
    names = [Path(str(scenario.source)).name for scenario in plan.scenarios]
    assert names == ["digits-badnets", "digits-blended"]


def complaints(plan: Plan) -> list[str]:
    with pytest.raises(SpecError) as caught:
        check_imports(plan)
    return list(caught.value.lines)


def test_every_victim_is_looked_at_before_anything_runs(
    trained: Desk, zoo: Path, tmp_path: Path
) -> None:
    check_imports(make_plan(importing(zoo, tmp_path)))
    check_imports(trained.plan)  # nothing to look at
    lines = complaints(make_plan(importing(tmp_path / "empty", tmp_path)))
    assert len(lines) == 2
    assert all(line.startswith("grid.yaml: victim.import: ") for line in lines)
    assert "digits-badnets is no folder" in lines[0]

    broken = tmp_path / "zoo" / "digits-badnets"
    hand_over(trained, trained.plan.scenarios[0], broken)
    content = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(content[: len(content) // 2])
    imports = (VictimImport(path=str(broken)),)
    study = importing(zoo, tmp_path, attacks=ATTACKS[:1], imports=imports)
    (line,) = complaints(make_plan(study))
    assert str(broken / "model.safetensors") in line


def test_a_victim_of_another_network_is_refused(zoo: Path, tmp_path: Path) -> None:
    study = importing(zoo, tmp_path, grid={"architectures": (PreActResNet18(width=2),)})
    lines = complaints(make_plan(study))
    assert len(lines) == 2
    assert "linear.weight" in lines[0] or "shape" in lines[0]


def test_files_that_vanish_in_the_middle_fail_their_trials_alone(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vanished = str(zoo / "digits-badnets")

    def load(source: str, model_spec: Any) -> Any:
        return load_victim(str(tmp_path / "gone") if source == vanished else source, model_spec)

    monkeypatch.setattr("orchestrator.pipeline.inputs.load_victim", load)
    done = run(importing(zoo, tmp_path / "b"), tmp_path / "b")
    assert done.statuses() == ["failed", "failed", "done", "done"]
    assert all(str(zoo) not in (row["error"] or "") for row in done.rows())
