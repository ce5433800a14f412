"""Whatever lies in a store, a study ends with the right table."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.executor.inline import run_inline
from orchestrator.pipeline.victims import model_spec_from_info
from orchestrator.plan.jobs import Site
from orchestrator.store.serialization import STAGES
from orchestrator.store.store import Entry, Store
from orchestrator.terminal import Interrupts
from tests.orchestrator_tests.places import VICTIM
from tests.orchestrator_tests.simulation import Desk
from tests.orchestrator_tests.small_studies import BADNETS, choice, small_study
from tests.orchestrator_tests.test_store import old_format
from ulrl.models import ModelSpec
from ulrl.models.preact_resnet import PreActResNet18

MADE = ("train_victim", "unlearn", "score_neurons", "relearn", "repaired", "evaluate")
WEIGHTS = ("train_victim", "repaired")
FEW = {"unlearn_epochs": 3, "relearn_epochs": 1, "clean_ratio": 0.05, "unlearn_lr": 0.05}


def desk_at(store: Path, folder: Path) -> Desk:
    """Return a start of a study of two scenarios and two settings."""
    grid = {"architectures": (PreActResNet18(width=1),), "seeds": (0, 1)}
    axes = {name: (value,) for name, value in FEW.items()}
    study = small_study(
        store=str(store),
        attacks=[choice(BADNETS)],
        settings={**axes, "reinit_ratio": (0.5, 1.0)},
        grid=grid,
        few={},
        victim=VICTIM,
    )
    return Desk(study, folder)


def table(desk: Desk) -> list[dict[str, Any]]:
    """Run what is left of a study and return its rows, but for seconds and names of runs."""
    site = Site(store=desk.store.url, study=desk.folder.identity())
    desk.scheduler.open()
    run_inline(desk.scheduler, site, Interrupts())
    assert desk.scheduler.errors == {}
    left_out = ("seconds", "mlflow_run_id")
    return [{k: v for k, v in row.items() if k not in left_out} for row in desk.rows()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """Return a store with all of a study in it, and the study's table."""
    path = tmp_path_factory.mktemp("whole")
    rows = table(desk_at(path / "store", path / "out"))
    assert [row["status"] for row in rows] == ["done"] * 4
    return path / "store", rows


@pytest.fixture
def damaged(whole: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> Iterator[Path]:
    """Return a copy of that store; in the end the table is right, and the store is whole again."""
    place = tmp_path / "store"
    for path in files(whole[0]):
        other = place / path.relative_to(whole[0])
        other.parent.mkdir(parents=True, exist_ok=True)
        other.write_bytes(path.read_bytes())
    yield place
    assert table(desk_at(place, tmp_path / "out")) == whole[1]
    again = desk_at(place, tmp_path / "again")
    assert table(again) == whole[1]
    assert again.recorder.started_items == []  # nothing is made again for ever


def files(store: Path, stage: str = "*") -> list[Path]:
    return sorted(store.glob(f"{stage}/*/*.safetensors"))


def test_two_entries_of_each_stage_change_places(damaged: Path) -> None:
    for stage in MADE:
        one, other, *_ = files(damaged, stage)
        first, second = one.read_bytes(), other.read_bytes()
        assert first != second
        one.write_bytes(second)
        other.write_bytes(first)


def test_entries_hold_what_belongs_to_other_stages(damaged: Path) -> None:
    contents = [path.read_bytes() for path in files(damaged)]
    for path, content in zip(
        files(damaged), contents[len(contents) // 2 :] + contents, strict=False
    ):
        path.write_bytes(content)


def test_entries_with_the_right_checksum_and_other_content(damaged: Path) -> None:
    """As a program with a mistake would write them, or somebody on purpose."""
    store = Store(str(damaged))
    contents: tuple[Any, ...] = ({"more": 1}, None, "text", [1, 2])
    for number, path in enumerate(files(damaged)):
        stage = path.parts[-3]
        entry = store.read(stage, path.stem)
        assert entry is not None
        values = contents[number % len(contents)]
        store.write(stage, path.stem, Entry(values=values, tensors=entry.tensors))


def test_entries_of_the_former_format_are_used(damaged: Path) -> None:
    """Victims are expensive: nothing computed before this version is lost."""
    store = Store(str(damaged))
    for path in files(damaged):
        entry = store.read(path.parts[-3], path.stem)
        assert entry is not None
        path.write_bytes(old_format(entry))
    desk = desk_at(damaged, damaged.parent / "former")
    table(desk)
    assert desk.recorder.started_items == []


def test_truncated_files(damaged: Path) -> None:
    for path in files(damaged):
        os.truncate(path, path.stat().st_size // 2)


# Each wrong value of each stage by itself, by the one way of reading it.

Change = Callable[[dict[str, Any], dict[str, torch.Tensor]], object]


def values_of(stage: str) -> dict[str, Change]:
    """Return changes of an entry after each of which it is none, by what they do."""

    def put(*path: Any, value: Any) -> Change:
        def change(values: Any, tensors: Any) -> None:
            del tensors
            for part in path[:-1]:
                values = values[part]
            values[path[-1]] = value

        return change

    numbers = {
        "train_victim": ("training", 0, 1),
        "unlearn": ("accuracy", 0),
        "score_neurons": ("stop_accuracy",),
        "relearn": ("curve", 0, 0),
        "evaluate": ("selection", "acc"),
    }
    changes: dict[str, Change] = {"more": put("more", value=1)}
    if stage in numbers:
        for value in (5.0, -0.1, float("nan"), "x", None, [0.5], True):
            changes[f"{value!r}"] = put(*numbers[stage], value=value)
        changes["no field"] = lambda values, _: values.pop(str(numbers[stage][0]))
    if stage != "relearn":
        odd = torch.ones(2, 2, 2, 2, 2)
        # Layers of an ascent have parameters of several ranks, and declare none.
        changes["odd tensor"] = lambda _, tensors: tensors.update(
            {"predicted" if "predicted" in tensors else min(tensors): odd}
        )
        changes["unknown tensor"] = lambda _, tensors: tensors.update(unknown=odd)
        changes["no tensor"] = lambda _, tensors: tensors.pop(min(tensors))
    if stage in WEIGHTS:
        changes["nan"] = lambda _, tensors: tensors[min(tensors)].fill_(float("nan"))
        changes["one inf"] = lambda _, tensors: (
            tensors[max(tensors)].view(-1)[-1:].fill_(float("inf"))
        )
    return changes


@pytest.mark.parametrize(
    ("stage", "name"), [(stage, name) for stage in MADE for name in values_of(stage)]
)
def test_an_entry_that_does_not_fit_counts_as_absent(
    whole: tuple[Path, list[dict[str, Any]]], tmp_path: Path, stage: str, name: str
) -> None:
    source, target = Store(str(whole[0])), Store(str(tmp_path))
    entries = [(path.stem, source.read(stage, path.stem)) for path in files(whole[0], stage)]
    key, entry = max(entries, key=lambda pair: 0 if pair[1] is None else len(pair[1].tensors))
    assert entry is not None
    model_spec = network(tmp_path / "none") if stage in WEIGHTS else None
    values, tensors = json.loads(json.dumps(entry.values)), dict(entry.tensors)
    target.write(stage, key, Entry(values=values, tensors=tensors))
    assert STAGES[stage].read(target, key, model_spec) is not None
    values_of(stage)[name](values, tensors)
    target.write(stage, key, Entry(values=values, tensors=tensors))
    assert target.read(stage, key) is not None
    assert STAGES[stage].read(target, key, model_spec) is None


def network(folder: Path) -> ModelSpec:
    (scenario, _) = desk_at(folder, folder).plan.scenarios
    model_spec = model_spec_from_info(scenario)
    assert model_spec is not None
    return model_spec


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_what_would_not_be_found_is_not_stored(tmp_path: Path, stage: str) -> None:
    """Or its stage would be made again for ever."""
    store = Store(str(tmp_path))

    class Odd:
        """No dataclass's content."""

    with pytest.raises((TypeError, ValueError)):
        STAGES[stage].write(store, "ab", Odd())
    assert store.names(stage, "ab") == []
