"""Studies from Python: what is loaded, planned and found."""

from collections import Counter
from pathlib import Path

import pytest

import orchestrator as o
from orchestrator.api import Results
from orchestrator.errors import SpecError

GRID = """\
name: small
grid:
  attack: [badnets, blended]
  dataset: digits
  architecture: preact_resnet18
  seed: [0, 1]
  unlearn_threshold: [0.1, 0.2]
"""


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    path = tmp_path / "grid.yaml"
    path.write_text(GRID)
    return path


def test_values_may_be_set_and_are_checked_as_those_of_the_file(grid: Path) -> None:
    study = o.load_study(grid, set={"grid.seed": [3], "prune": "none", "budget.hours": 1.5})
    assert study.grid.seeds == (3,)
    assert study.prune.setting is None
    assert study.budget.hours == 1.5
    with pytest.raises(SpecError, match=r"grid\.reinit_ratio"):
        o.load_study(grid, set={"grid.reinit_ratio": [2.0]})


def test_a_plan_has_its_numbers_as_attributes_and_prints_them(grid: Path, tmp_path: Path) -> None:
    study = o.load_study(grid, set={"store": str(tmp_path / "store")})
    plan = o.plan_study(study, tmp_path / "run", inline=True)
    assert (plan.trials, plan.scenarios, plan.settings, plan.workers) == (8, 4, 2, 1)
    assert (plan.runs["train_victim"], plan.runs["relearn"]) == (4, 8)
    assert set(plan.cached.values()) == {0}
    lines = str(plan).splitlines()
    assert lines[0] == "small: 4 scenarios × 2 settings = 8 trials"
    assert lines[1] == "8 trials → 4 victims, 4 ascents, at most 8 relearns"
    assert "on 1 worker" in str(plan)
    assert plan._repr_html_() == f"<pre>{plan}</pre>"
    assert list(tmp_path.iterdir()) == [grid]


def test_what_is_no_study_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"no study folder; it has no results\.parquet"):
        o.load_results(tmp_path)


def test_a_study_that_ran_is_a_frame_and_a_best_setting(grid: Path, tmp_path: Path) -> None:
    changes = {
        "grid.attack": "badnets",
        "grid.architecture": {"name": "preact_resnet18", "width": 1},
        "grid.clean_ratio": 0.02,
        "grid.unlearn_epochs": 1,
        "grid.relearn_epochs": 1,
        "victim": {"epochs": 1, "batch_size": 64, "min_acc": 0.0, "min_asr": 0.0},
        "mlflow": {"uri": f"sqlite:///{tmp_path}/mlflow.db", "log_models": "none"},
        "store": str(tmp_path / "store"),
    }
    study = o.load_study(grid, set=changes)
    results = o.run_study(study, tmp_path / "run", inline=True)
    assert results.statuses == {"done": 4, "pruned": 0, "skipped": 0, "failed": 0, "pending": 0}
    assert results.complete
    frame = results.frame
    assert (str(frame.seed.dtype), str(frame.der_report.dtype)) == ("Int64", "Float64")
    best = results.best()
    assert best is not None
    means = frame.groupby("unlearn_threshold").der_selection.mean()
    assert best.setting["unlearn_threshold"] in set(means.index[means == means.max()])
    mine = frame[frame.unlearn_threshold == best.setting["unlearn_threshold"]]
    for column, value in best.metrics.items():
        assert value == pytest.approx(mine[column].mean())
    assert list(best.scenarios.seed) == [0, 1]
    assert results.report().read_text().startswith("<!")
    again = o.load_results(tmp_path / "run")
    assert again.frame.equals(frame)
    assert isinstance(again, Results)
    assert "<th>der_report</th>" in again._repr_html_()
    assert repr(again).endswith("4 trials: 4 done>")


def test_chosen_results_are_computed_again(grid: Path, tmp_path: Path) -> None:
    changes = {
        "grid.attack": "badnets",
        "grid.architecture": {"name": "preact_resnet18", "width": 1},
        "grid.seed": 0,
        "grid.clean_ratio": 0.02,
        "grid.unlearn_epochs": 1,
        "grid.relearn_epochs": 1,
        "victim": {"epochs": 1, "batch_size": 64, "min_acc": 0.0, "min_asr": 0.0},
        "mlflow": {"uri": f"sqlite:///{tmp_path}/mlflow.db", "log_models": "none"},
        "store": str(tmp_path / "store"),
    }
    study = o.load_study(grid, set=changes)
    folder = tmp_path / "run"
    o.run_study(study, folder, inline=True)

    def computed(**chosen: str | list[str]) -> dict[str, int]:
        """Return how often each stage runs again."""
        before = (folder / "stages.csv").read_text().splitlines()
        o.run_study(study, folder, inline=True, **chosen)  # type: ignore[arg-type]
        new = (folder / "stages.csv").read_text().splitlines()[len(before) :]
        return Counter(line.partition(",")[0] for line in new if line.endswith(",True"))

    assert computed() == {}
    assert computed(redo="unlearn_threshold=0.1") == {"relearn": 1, "evaluate": 1}
    both = ["unlearn_threshold=0.1", "unlearn_threshold=0.2"]
    assert computed(redo=both)["relearn"] == computed(redo=both)["evaluate"] >= 1
    assert computed(redo_victims="attack=badnets")["train_victim"] == 1
    with pytest.raises(SpecError, match="no trial has seed=1"):
        o.run_study(study, folder, inline=True, redo="seed=1")
    with pytest.raises(SpecError, match="no study runs in"):
        o.stop_trials(study, "seed=0", folder)
