"""Trials whose repair method turns out not to apply: no result, and no failure."""

import re
from collections import Counter
from collections.abc import Mapping
from html import unescape
from pathlib import Path
from typing import Any, NoReturn

import mlflow
import pandas as pd
import pytest

import orchestrator as o
from orchestrator.study import main
from ulrl.errors import NotApplicable
from ulrl.methods._tuning import Tune
from ulrl.methods.clp import FindBounds

pytestmark = pytest.mark.usefixtures("empty_folder")

STUDY = """\
name: some
grid:
  attack: badnets
  dataset: {name: digits, size: 12}
  architecture: {name: preact_resnet18, width: 1}
  seed: [0, 1]
  clean_ratio: 0.06
  unlearn_epochs: 1
  relearn_epochs: 1
  repair: [ulrl, {name: clp, u: [2, 3]}, {name: fine_tuning, epochs: [1, 2]}]
victim: {epochs: 1, batch_size: 64, min_acc: 0, min_asr: 0}
mlflow: {log_models: none}
prune: none
store: store
"""
REASON, LAST = "no bound is finite here", "there is nothing to tune"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Let a first and an only stage find that they do not apply; count how often."""
    found: Counter[str] = Counter()

    def first(self: FindBounds, *_: Any) -> NoReturn:
        found[self.name] += 1
        raise NotApplicable(f"{REASON}\n")

    def only(self: Tune, *_: Any) -> NoReturn:
        found[self.name] += 1
        raise NotApplicable(LAST)

    monkeypatch.setattr(FindBounds, "run", first)
    monkeypatch.setattr(Tune, "run", only)
    return found


def run() -> int:
    return main(["grid.yaml", "--inline", "--out", "out"])


def by_method(frame: pd.DataFrame, column: str) -> Mapping[str, set[str]]:
    return {str(name): set(group[column]) for name, group in frame.groupby("repair")}


def test_such_trials_are_skipped_and_not_tried_again(
    calls: Counter[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("grid.yaml").write_text(STUDY)
    assert run() == 0
    text = capsys.readouterr().out
    assert "10 trials: 2 done, 8 skipped" in text
    assert "8 trials skipped: the repair method does not apply there" in text
    assert "failed" not in text
    assert calls == {FindBounds.name: 2, Tune.name: 4}  # settings of one victim share the first
    frame = pd.read_csv("out/results.csv")
    statuses = {"ulrl": {"done"}, "clp": {"skipped"}, "fine_tuning": {"skipped"}}
    assert by_method(frame, "status") == statuses
    skipped = frame[frame.status == "skipped"]
    assert by_method(skipped, "error") == {"clp": {REASON}, "fine_tuning": {LAST}}
    left = [
        name for name in map(str, frame) if "_after_" in name or name.startswith(("der_", "passes"))
    ]
    assert skipped[[*left, "repair_seconds", "weight_change"]].isna().all(axis=None)
    bytes_before = Path("out/results.csv").read_bytes()
    plan = o.plan_study(o.load_study("grid.yaml"), "out")
    assert plan.runs == plan.cached == {"train_victim": 2, "unlearn": 2, "relearn": 2}
    assert run() == 0
    assert calls == {FindBounds.name: 2, Tune.name: 4}
    assert Path("out/results.csv").read_bytes() == bytes_before
    assert "10 trials decided already" in capsys.readouterr().out


def test_redo_tries_those_that_it_names_again(
    calls: Counter[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("grid.yaml").write_text(STUDY)
    run()
    assert main(["grid.yaml", "--inline", "--out", "out", "--redo", "repair=clp and seed=1"]) == 0
    assert "forgot 0 results and 1 skip of 2 trials" in capsys.readouterr().out
    assert calls == {FindBounds.name: 3, Tune.name: 4}


def test_page_and_mlflow_name_them_with_the_reason(calls: Counter[str]) -> None:
    del calls
    Path("grid.yaml").write_text(STUDY)
    result = o.run_study(o.load_study("grid.yaml"), out="out", inline=True)
    assert result.statuses == {"done": 2, "pruned": 0, "skipped": 8, "failed": 0, "pending": 0}
    html = Path("out/report.html").read_text()
    section = unescape(html.partition('<section id="skipped">')[2].partition("</section>")[0])
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in section.split("<tr>")[2:]]
    assert rows == [
        *(["clp(u=2.0)", "2", REASON], ["clp(u=3.0)", "2", REASON]),
        *(["fine_tuning(epochs=1)", "2", LAST], ["fine_tuning(epochs=2)", "2", LAST]),
    ]
    assert "No trial failed." in html
    table = html.partition('<table id="league-table">')[2].partition("</table>")[0]
    assert table.count("<td>does not apply</td>") == 2
    client = mlflow.MlflowClient(f"sqlite:///{Path('runs/mlflow.db').absolute()}")
    (experiment,) = (e for e in client.search_experiments() if e.name == "some")
    runs = client.search_runs([experiment.experiment_id], "tags.status = 'skipped'")
    assert len(runs) == 8
    assert {run.data.tags["error"] for run in runs} == {REASON, LAST}
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert not any("acc_after_report" in run.data.metrics for run in runs)
