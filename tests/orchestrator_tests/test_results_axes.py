"""Columns of further axes: what their values look like, and of which type they are."""

import csv
from pathlib import Path
from typing import Any

import pandas as pd

from orchestrator.scheduler.results_table import columns_of
from orchestrator.spec.model import Study
from tests.orchestrator_tests.simulation import Desk, Workers
from tests.orchestrator_tests.small_studies import BADNETS, BLENDED, choice, small_study
from ulrl.hyperparameters import Preset, names


def study_of(path: Path, settings: dict[str, tuple[Any, ...]]) -> Study:
    return small_study(
        store=f"memory://{path}",
        attacks=[choice(BADNETS), choice(BLENDED)],
        settings=settings,
        few={},
    )


def read(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_presets_are_texts_and_fill_no_other_column(tmp_path: Path) -> None:
    """A preset decides many values; the row names those of the grid, and the preset."""
    desk = Desk(study_of(tmp_path, {"preset": tuple(Preset)}), tmp_path)
    desk.results.write(tmp_path, {})
    table = pd.read_parquet(tmp_path / "results.parquet")
    assert list(table.preset) == ["default", "official", "fine_tuning"] * 2
    assert str(table.dtypes["preset"]).startswith("str")
    columns = list(columns_of(desk.plan))
    assert columns[columns.index("reinit_ratio") + 1 : columns.index("status")] == ["preset"]
    assert [row["unlearn_threshold"] for row in read(tmp_path)] == ["0.2"] * 6


def test_values_that_may_be_none_are_empty_cells_of_a_number_column(tmp_path: Path) -> None:
    settings: dict[str, tuple[Any, ...]] = {
        "max_suspects": (None, 2),
        "unlearn_clip_norm": (None,),
        "relearn_clip_norm": (None, 5.0),
    }
    desk = Desk(study_of(tmp_path, settings), tmp_path)
    Workers().run(desk)
    desk.results.write(tmp_path, {})
    rows = read(tmp_path)
    assert [row["max_suspects"] for row in rows] == ["", "", "2", "2"] * 2
    assert [row["relearn_clip_norm"] for row in rows] == ["", "5.0"] * 4
    assert [row["unlearn_clip_norm"] for row in rows] == [""] * 8
    table = pd.read_parquet(tmp_path / "results.parquet")
    types = table.dtypes.astype(str)
    assert types["max_suspects"] == "Int64"
    assert types["unlearn_clip_norm"] == types["relearn_clip_norm"] == "Float64"
    assert list(table.max_suspects.isna()) == [True, True, False, False] * 2


WORDS = {"str": "string", "string": "string", "object": "string"}
TYPES = {
    **dict.fromkeys(("max_suspects", "unlearn_epochs", "relearn_epochs"), "Int64"),
    **dict.fromkeys(("unlearn_batch_size", "relearn_batch_size"), "Int64"),
    **dict.fromkeys(("unlearn_batchnorm_updates", "batchnorm_updates"), "Int64"),
    **dict.fromkeys(("score_bias", "unlearn_augment", "relearn_augment"), "boolean"),
}


def test_every_axis_has_the_type_of_its_field(tmp_path: Path) -> None:
    settings: dict[str, tuple[Any, ...]] = {
        "preset": (Preset.DEFAULT,),
        **{name: (entry.default,) for name, (_, entry) in names().items()},
    }
    desk = Desk(study_of(tmp_path, settings), tmp_path)
    desk.results.write(tmp_path, {})
    columns = columns_of(desk.plan)
    assert len(set(columns)) == len(columns), "an axis and a result of one name"
    types = pd.read_parquet(tmp_path / "results.parquet").dtypes.astype(str)
    for name, (default,) in settings.items():
        usual = "Float64" if isinstance(default, float) or default is None else "string"
        found = WORDS.get(types[name], types[name])
        assert found == TYPES.get(name, usual), name
