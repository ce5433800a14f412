"""The attacks of a study one after the other, within a time: rehearsed on digits, in seconds."""

import json
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from benchmarks.full_size import STUDY, main
from orchestrator.errors import Interrupted
from orchestrator.spec.load import load_study
from orchestrator.spec.model import Study
from ulrl.victim import train_victim

SMALL = [
    "grid.attack=[badnets, {name: blended, alpha: 0.3}]",
    "grid.dataset={name: digits, size: 8}",
    "grid.architecture={name: preact_resnet18, width: 2}",
    "grid.clean_ratio=0.05",
    "grid.unlearn_threshold=0.4",
    "grid.reinit_ratio=[0, 1]",
    "grid.relearn_epochs=1",
    "grid.repair=[ulrl, {name: ft_sam, epochs: 1}, {name: rnp, rule: budget, mask_epochs: 1}]",
    "victim={epochs: 1, batch_size: 64, min_acc: 0, min_asr: 0}",
    "resources.device=cpu",
]


def run(*arguments: str, minutes: float = 10.0) -> int:
    changes = [word for change in SMALL for word in ("--set", change)]
    return main([*changes, "--minutes", str(minutes), *arguments])


def test_the_study_is_the_papers_grid_at_one_seed() -> None:
    grid = load_study(str(STUDY)).grid
    paper = load_study(str(STUDY.parent / "paper.yaml")).grid
    names = {choice.attack.name for choice in grid.attacks}
    assert names == {choice.attack.name for choice in paper.attacks}
    for axis in ("unlearn_threshold", "reinit_ratio"):
        assert grid.settings[axis] == paper.settings[axis]
    assert grid.seeds == (0,)


def test_each_attack_has_all_its_settings_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rehearsal: real victims, real repairs, and first the time over in the first victim."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "full-size"

    def until_the_signal(*words: Any) -> Any:
        give_up = time.monotonic() + 60
        while signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL and time.monotonic() < give_up:
            time.sleep(0.05)
        return train_victim(*words)

    with monkeypatch.context() as patch:
        patch.setattr("orchestrator.pipeline.victims.train_victim", until_the_signal)
        assert run(minutes=0.05) == 4
    pending = pd.read_csv(folder / "results.csv")
    assert list(pending["attack"]) == ["badnets"] * 4
    assert list(pending["status"]) == ["pending"] * 4
    for name in ("report.html", "table.md"):
        assert (folder / name).stat().st_size > 0

    assert run() == 0
    rows = pd.read_csv(folder / "results.csv")
    assert list(rows["attack"]) == ["badnets"] * 4 + ["blended"] * 4
    assert list(rows["repair"]) == ["ulrl", "ulrl", "ft_sam", "rnp"] * 2
    assert list(rows["status"]) == ["done"] * 8
    assert list(rows.columns) == list(pending.columns)
    assert rows["mlflow_run_id"].isna().all()
    for name in ("report.html", "table.md", "table.tex", "league.md", "league.tex"):
        assert (folder / name).stat().st_size > 0
    order = pd.read_csv(folder / "stages.csv").query("computed")["scenario"].drop_duplicates()
    assert [text.split()[0].strip(":,") for text in order] == ["badnets", "blended"]
    starts = (folder / "logs" / "starts.jsonl").read_text().splitlines()
    assert {json.loads(start)["executor"] for start in starts} == {"inline"}


class Runs:
    """Stands for `run_study`: notes the attacks, writes their table, and takes its time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: list[float]) -> None:
        self.attacks: list[list[str]] = []
        self._seconds, self._now = iter(seconds), 0.0
        monkeypatch.setattr("benchmarks.full_size.run_study", self)
        monkeypatch.setattr("benchmarks.full_size.monotonic", lambda: self._now)
        timer = SimpleNamespace(start=lambda: None, cancel=lambda: None)
        monkeypatch.setattr("benchmarks.full_size.threading.Timer", lambda *_: timer)

    def __call__(self, study: Study, out: Path, **given: Any) -> None:
        assert given == {"inline": True}
        names = [choice.attack.name for choice in study.grid.attacks]
        self.attacks.append(names)
        out.mkdir(parents=True, exist_ok=True)
        pd.DataFrame({"attack": names, "attack_options": "{}"}).to_csv(out / "results.csv")
        seconds = next(self._seconds)
        self._now += abs(seconds)
        if seconds < 0:
            raise Interrupted(signal.SIGTERM)


def test_it_ends_with_its_time_and_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    one, two = ["badnets"], ["badnets", "blended"]
    runs = Runs(monkeypatch, [50.0, -10.0])  # the signal comes in the second attack
    assert run(minutes=1) == 4
    assert runs.attacks == [one, two]
    assert capsys.readouterr().err == "1 minutes are over; the same command goes on\n"
    runs = Runs(monkeypatch, [20.0])
    assert run(minutes=1) == 0
    assert runs.attacks == [two]


def test_a_signal_while_the_report_is_made_begins_no_other_attack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = Runs(monkeypatch, [61.0])
    assert run(minutes=1) == 4
    assert runs.attacks == [["badnets"]]


def test_a_signal_of_anothers_ends_it_as_it_ends_a_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Runs(monkeypatch, [-1.0])
    assert run(minutes=1) == 128 + signal.SIGTERM


def test_a_mistake_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--set", f"grid.dataset={{arrays: {tmp_path}/absent.npz}}") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "absent.npz" in line
