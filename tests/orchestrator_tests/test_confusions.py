"""confusion.parquet: the metrics of every row of results.csv follow from its counts."""

from pathlib import Path

import pandas as pd
import pytest

from orchestrator.executor.inline import run_inline
from orchestrator.plan.jobs import Site
from orchestrator.scheduler.results_table import write_confusions
from orchestrator.terminal import Interrupts
from tests.orchestrator_tests.simulation import Desk
from tests.orchestrator_tests.small_studies import BADNETS, BLENDED, choice, small_study
from ulrl.attacks import LabelRule
from ulrl.attacks.tact import TaCT

COLUMNS = [
    *("trial", "model", "half", "images", "true_class", "wanted_class", "predicted_class"),
    "count",
]
ATTACKS = [
    choice(BADNETS),
    choice(BLENDED, LabelRule.ALL_TO_ALL),
    choice(TaCT(size=2), LabelRule.SOURCE_SPECIFIC, source=(1,)),
]


def desk_at(path: Path, store: Path) -> Desk:
    """Run what is left of a study, and return the desk at its end."""
    desk = Desk(
        small_study(store=str(store), attacks=ATTACKS, settings={"reinit_ratio": (0.5, 1.0)}), path
    )
    desk.scheduler.open()
    site = Site(store=desk.store.url, study=desk.folder.identity())
    run_inline(desk.scheduler, site, Interrupts())
    assert desk.statuses() == ["done"] * 6
    return desk


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    path = tmp_path_factory.mktemp("study")
    return desk_at(path / "out", path / "store")


@pytest.fixture(scope="module")
def cells(desk: Desk, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    file = tmp_path_factory.mktemp("table") / "confusion.parquet"
    write_confusions(desk.scheduler, desk.findings, file)
    return pd.read_parquet(file)


def test_the_metrics_of_results_follow(desk: Desk, cells: pd.DataFrame) -> None:
    firsts = {row["attack"]: number for number, row in reversed(list(enumerate(desk.rows())))}
    victims = cells[cells["model"] == "victim"]
    assert set(victims["trial"]) == set(firsts.values()) == {0, 2, 4}
    for number, row in enumerate(desk.rows()):
        for when, trial, model in (
            ("before", firsts[row["attack"]], "victim"),
            ("after", number, "repaired"),
        ):
            for half in ("selection", "report"):
                own = cells[(cells.trial == trial) & (cells.model == model) & (cells.half == half)]
                clean, marked = (own[own.images == kind] for kind in ("clean", "triggered"))
                right, kept, obeyed = (
                    int(part["count"][part["predicted_class"] == part[aim]].sum())
                    for part, aim in (
                        (clean, "true_class"),
                        (marked, "true_class"),
                        (marked, "wanted_class"),
                    )
                )
                total = int(marked["count"].sum())
                assert row[f"acc_{when}_{half}"] == right / int(clean["count"].sum())
                assert row[f"ra_{when}_{half}"] == kept / total
                assert row[f"asr_{when}_{half}"] == obeyed / total


def test_a_study_from_the_store_writes_the_same_bytes(desk: Desk, tmp_path: Path) -> None:
    again = desk_at(tmp_path / "out", Path(desk.store.url.reveal()))
    files = [tmp_path / "one.parquet", tmp_path / "two.parquet"]
    for place, file in zip((desk, again), files, strict=True):
        write_confusions(place.scheduler, place.findings, file)
    assert files[0].read_bytes() == files[1].read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.parquet", "out", "two.parquet"]


def test_many_cells_are_written_in_parts(
    desk: Desk, cells: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.scheduler.results_table._GROUP", 300)
    write_confusions(desk.scheduler, desk.findings, tmp_path / "parts.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "parts.parquet"), cells)


def test_a_study_without_results_has_no_rows(tmp_path: Path) -> None:
    desk = Desk(small_study(store=f"memory://{tmp_path}"), tmp_path)
    write_confusions(desk.scheduler, desk.findings, tmp_path / "none.parquet")
    assert list(pd.read_parquet(tmp_path / "none.parquet").columns) == COLUMNS
