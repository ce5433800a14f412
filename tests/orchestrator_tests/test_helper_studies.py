"""Attacks that train something first, in real studies from end to end."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from orchestrator.errors import SpecError
from orchestrator.executor.inline import run_inline
from orchestrator.plan.jobs import Site
from orchestrator.spec.load import load_study, missing_data
from orchestrator.spec.model import Study
from orchestrator.terminal import Interrupts
from tests.orchestrator_tests.simulation import Desk
from tests.orchestrator_tests.small_studies import choice, small_study
from ulrl.attacks import ATTACKS
from ulrl.attacks.blended import Blended

BRIEF: dict[str, dict[str, Any]] = {
    "trojannn": {"steps": 2},
    "lf": {"images": 4, "passes": 1},
    "lira": {"epochs": 1, "width": 2},
    "input_aware": {"mask_epochs": 1, "width": 2},
}


def study_of(store: Path, *names: str) -> Study:
    attacks = [choice(ATTACKS[name](**BRIEF[name])) for name in names]
    return small_study(attacks=attacks, store=str(store))


def run(study: Study, path: Path) -> Desk:
    desk = Desk(study, path)
    desk.scheduler.open()
    run_inline(desk.scheduler, Site(store=study.store, study=desk.folder.identity()), Interrupts())
    return desk


def table(desk: Desk) -> list[dict[str, Any]]:
    return [{name: v for name, v in row.items() if name != "seconds"} for row in desk.rows()]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Desk, Path]:
    path = tmp_path_factory.mktemp("done")
    return run(study_of(path / "store", *BRIEF), path), path


def test_every_stage_is_made_once_and_stored(done: tuple[Desk, Path]) -> None:
    desk, _ = done
    assert {row["status"] for row in table(desk)} == {"done"}
    made = [stage for stage, _, computed in desk.listed() if computed == "True"]
    # The clean model, the patch, the pattern, LIRA's generator and the masks.
    assert made.count("train_helper") == 5
    assert made.count("train_victim") == len(BRIEF)


def test_a_second_start_computes_nothing(done: tuple[Desk, Path], tmp_path: Path) -> None:
    desk, path = done
    again = run(study_of(path / "store", *BRIEF), tmp_path)
    assert table(again) == table(desk)
    assert {computed for _, _, computed in again.listed()} == {"False"}


def test_other_company_gives_the_same_numbers(done: tuple[Desk, Path], tmp_path: Path) -> None:
    """A helper's result depends on what it is for alone, not on who came before."""
    desk, _ = done
    alone = run(study_of(tmp_path / "store", "input_aware", "trojannn"), tmp_path)
    rows = {row["attack"]: row for row in table(desk)}
    assert {row["attack"]: row for row in table(alone)} == {
        name: rows[name] for name in ("input_aware", "trojannn")
    }


def test_what_was_learned_with_the_victim_stamps_the_test_images(
    done: tuple[Desk, Path],
) -> None:
    desk, _ = done
    for scenario in desk.plan.scenarios:
        finding = desk.findings.victim(scenario)
        assert finding is not None
        if scenario.columns["attack"] == "lf":
            continue  # a moment's model takes all images for one class: nothing to learn
        clean, triggered = finding.specimens["clean"], finding.specimens["triggered"]
        assert not torch.equal(clean, triggered), scenario.columns["attack"]


# A picture of one's own.


GRID = """\
name: own
grid:
  attack: [{name: blended, pattern: mine.png}]
  dataset: digits
  architecture: {name: preact_resnet18, width: 2}
"""


def written(folder: Path, level: int, attack: str = "blended") -> Study:
    pixels = np.full((9, 7, 3), level, dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "mine.png")
    (folder / "grid.yaml").write_text(GRID.replace("blended", attack))
    return load_study(str(folder / "grid.yaml"))


def victim_key(study: Study, folder: Path) -> str:
    desk = Desk(study, folder / "study")
    return desk.keys.victim(desk.plan.scenarios[0])


@pytest.mark.parametrize("attack", ["blended", "badnets", "tact, poison_ratio: 0.05", "trojannn"])
def test_the_content_of_a_picture_is_in_the_key_and_its_place_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack: str
) -> None:
    keys = []
    for name, level in (("here", 10), ("there", 10), ("here", 20)):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        monkeypatch.chdir(folder)
        study = written(folder, level, attack)
        keys.append(victim_key(study, folder))
        assert "mine.png" in str(study.grid.attacks[0].attack.__dict__["pattern"])
    assert keys[0] == keys[1]
    assert keys[0] != keys[2]
    desk = Desk(study, tmp_path / "last")
    scenario = desk.plan.scenarios[0]
    assert str(tmp_path) not in str(scenario.columns), "no path in a table"


def test_a_helper_of_another_picture_is_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = []
    for name, level in (("here", 10), ("there", 10), ("here", 20)):
        (tmp_path / name).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / name)
        desk = Desk(written(tmp_path / name, level, "trojannn"), tmp_path / "study")
        (scenario,) = desk.plan.scenarios
        keys.append([desk.keys.helper(scenario, helper) for helper in scenario.helpers])
    assert keys[0] == keys[1]
    benign, patch = zip(keys[0], keys[2], strict=True)
    assert benign[0] == benign[1], "the clean model looks at no picture"
    assert patch[0] != patch[1]


def test_a_picture_of_ones_own_is_what_is_blended(tmp_path: Path) -> None:
    written(tmp_path, 200)
    images = torch.zeros(1, 3, 16, 16)
    attack = Blended(alpha=0.5, pattern=str(tmp_path / "mine.png"))
    triggered = attack.stamp(images, torch.Generator())
    assert torch.allclose(triggered, torch.full_like(triggered, 0.5 * 200 / 255), atol=1e-6)


@pytest.mark.parametrize("content", [None, b"no picture"], ids=["missing", "broken"])
def test_a_picture_that_cannot_be_had_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grid.yaml").write_text(GRID)
    if content is not None:
        (tmp_path / "mine.png").write_bytes(content)
    study = load_study(str(tmp_path / "grid.yaml"))  # a plan can do without
    (line,) = missing_data(study)
    path, place = tmp_path / "mine.png", f"{tmp_path}/grid.yaml:3: grid.attack.0"
    assert line == (
        f"{place}: {path} is not there; pattern: names a picture's file, or is synthetic or noise"
        if content is None
        else f"{place}: {path} cannot be read as a picture (UnidentifiedImageError)"
    )


FILED = """\
name: files
grid:
  attack:
  - {name: lf, pattern: lf.npy}
  - {name: lc, train_replacements: train.npy, poison_ratio: 0.05}
  - {name: ssba, train_replacements: train.npy, test_replacements: test.npy}
  dataset: {arrays: images.npz}
  architecture: {name: preact_resnet18, width: 2}
  clean_ratio: 0.1
"""
SIDE, COUNT = 16, 40


def write_files(folder: Path, level: int = 40, tests: int = COUNT) -> None:
    """Write a dataset, and a file of each attack that has one by index or by pixel."""
    images = np.full((COUNT, SIDE, SIDE, 3), 9, dtype=np.uint8)
    labels = np.arange(COUNT) % 4
    np.savez(
        folder / "images.npz",
        train_images=images,
        train_labels=labels,
        test_images=images,
        test_labels=labels,
    )
    np.save(folder / "lf.npy", np.full((SIDE, SIDE), level, dtype=np.uint8))
    np.save(folder / "train.npy", images + np.uint8(level))
    np.save(folder / "test.npy", images[:tests] + np.uint8(level))
    (folder / "grid.yaml").write_text(FILED)


def test_the_content_of_arrays_is_in_keys_and_their_place_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = []
    for name, level in (("here", 10), ("there", 10), ("here", 20)):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        monkeypatch.chdir(folder)
        write_files(folder, level)
        study = load_study(str(folder / "grid.yaml"))
        assert missing_data(study) == []
        desk = Desk(study, folder / "study")
        assert not any(scenario.helpers for scenario in desk.plan.scenarios)
        keys.append([desk.keys.victim(scenario) for scenario in desk.plan.scenarios])
        assert not any(str(tmp_path) in str(scenario.columns) for scenario in desk.plan.scenarios)
    assert keys[0] == keys[1]
    assert not set(keys[0]) & set(keys[2])


def test_arrays_of_another_dataset_are_refused_as_a_study_is_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path, tests=COUNT - 1)
    np.save(tmp_path / "lf.npy", np.ones((8, 8), dtype=np.uint8))
    with pytest.raises(SpecError) as caught:
        load_study("grid.yaml")
    one, other = caught.value.lines
    assert one == (
        "grid.yaml:4: grid.attack.0.pattern: on arrays(images.npz), pattern is of the images' "
        "size, [16, 16, 3]; lf.npy has [8, 8, 1]: take the one of this dataset"
    )
    assert other == (
        "grid.yaml:6: grid.attack.2.test_replacements: on arrays(images.npz), test_replacements "
        "has an image for each of the dataset's, [40, 16, 16, 3]; test.npy has [39, 16, 16, 3]: "
        "take the one of this dataset"
    )


def test_arrays_that_are_not_there_are_refused_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path)
    (tmp_path / "train.npy").unlink()
    (tmp_path / "lf.npy").write_text("no array")
    study = load_study("grid.yaml")  # a plan can do without
    names = "train_replacements: names an .npy file"
    plain = "an .npy of a plain array (ValueError)"
    assert missing_data(study) == [
        f"grid.yaml:4: grid.attack.0: {tmp_path}/lf.npy cannot be read as {plain}",
        f"grid.yaml:5: grid.attack.1: {tmp_path}/train.npy is not there; {names}",
        f"grid.yaml:6: grid.attack.2: {tmp_path}/train.npy is not there; {names}",
    ]
