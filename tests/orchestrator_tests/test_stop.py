"""Trials that the user stops while the study runs: which jobs end, which go on, what is refused."""

import io
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import pytest
from rich.console import Console

import orchestrator as o
from orchestrator import study as command
from orchestrator.api import Results
from orchestrator.cli import redo
from orchestrator.cli.redo import stop_trials
from orchestrator.errors import SpecError
from orchestrator.plan.columns import STOPPED
from orchestrator.plan.jobs import Job, Progress, StageRun
from orchestrator.plan.plan import Trial
from orchestrator.scheduler.callbacks import StudyCallback
from orchestrator.scheduler.scheduler import StudyScheduler
from orchestrator.store.study_folder import StudyFolder
from tests.orchestrator_tests.pruned_studies import PRUNES, study_of
from tests.orchestrator_tests.simulation import Desk, Workers
from tests.orchestrator_tests.small_studies import choice, small_study
from ulrl.attacks import ATTACKS


class _Stopper(StudyCallback):
    """A user who stops trials when a certain job reports."""

    def __init__(
        self, desk: Desk, when: Callable[[Job], bool], which: Callable[[Trial], bool]
    ) -> None:
        self._desk, self._when, self._which = desk, when, which
        self.stopped: int | None = None

    def progressed(self, job: Job, progress: Progress) -> None:
        del progress
        if self.stopped is None and self._when(job):
            chosen = [trial for trial in self._desk.plan.trials if self._which(trial)]
            self.stopped = self._desk.scheduler.stop(chosen)


def stopping(
    desk: Desk,
    when: Callable[[Job], bool],
    which: Callable[[Trial], bool],
    crew: Workers | None = None,
) -> tuple[int, Counter[str]]:
    """Run a study; return how many trials were stopped, and how often each stage was made."""
    stopper = _Stopper(desk, when, which)
    desk.watch(stopper)
    crew = crew or Workers(Random(3), 2)
    crew.run(desk)
    assert stopper.stopped is not None
    assert desk.scheduler.decisions.complete()
    return stopper.stopped, Counter(stage for stage, _ in crew.executed)


@pytest.mark.parametrize("prune", PRUNES)
def test_the_others_go_on_and_the_next_start_runs_what_was_stopped(
    prune: str, tmp_path: Path, store: str, reference: dict[str, list[dict[str, object]]]
) -> None:
    desk = Desk(study_of(prune, store), tmp_path)
    stopped, _ = stopping(
        desk, lambda job: job.is_trial, lambda t: t.scenario.seed == 1 or t.setting.number == 7
    )
    assert stopped > 10
    rows = desk.rows()
    failed = [row for row in rows if row["status"] == "failed"]
    assert {row["error"] for row in failed} == {STOPPED}
    assert len(failed) == desk.scheduler.stopped_count > 0
    if prune == "nobody":
        assert stopped == len(failed)
        others = [(a, b) for a, b in zip(rows, reference[prune], strict=True) if a not in failed]
        assert all(mine == undisturbed for mine, undisturbed in others)
    again = Desk(study_of(prune, store), tmp_path)
    Workers(Random(4), 3).run(again)
    assert again.rows() == reference[prune]


def test_a_victim_that_no_other_trial_needs_is_stopped(tmp_path: Path, store: str) -> None:
    desk = Desk(study_of("nobody", store), tmp_path)
    stopped, made = stopping(
        desk, lambda job: job.name == "victim-0001", lambda t: t.scenario.number == 1
    )
    assert stopped == 12
    assert made["train_victim"] == 5
    assert made["unlearn"] == 5


def test_a_victim_that_another_trial_needs_is_not(tmp_path: Path, store: str) -> None:
    desk = Desk(study_of("nobody", store), tmp_path)
    stopped, made = stopping(
        desk,
        lambda job: job.name == "victim-0001",
        lambda t: t.scenario.number == 1 and t.setting.number > 0,
    )
    assert stopped == 11
    assert made["train_victim"] == 6
    assert Counter(desk.statuses()) == {"done": 61, "failed": 11}


def test_an_ascent_ends_with_the_last_trial_that_needs_it(tmp_path: Path, store: str) -> None:
    desk = Desk(study_of("nobody", store), tmp_path)

    def ascends(job: Job) -> bool:
        return job.text == "ascent" and job.scenario.number == 1

    _, made = stopping(desk, ascends, lambda t: t.scenario.number == 1)
    assert made["train_victim"] == 6
    assert made["unlearn"] == 5


@pytest.mark.parametrize("both", [True, False], ids=["both", "one of them"])
def test_a_relearning_that_two_trials_share_ends_if_both_are_stopped(
    both: bool,  # noqa: FBT001
    tmp_path: Path,
    store: str,
) -> None:
    """Reinit ratios 0.5 and 0.55 of eight weights are both four; the first has it made."""
    desk = Desk(study_of("nobody", store), tmp_path)
    runs: list[str] = []

    def relearns(job: Job) -> bool:
        if not job.is_trial or job.scenario.number != 2:
            return False
        runs.append(job.name)
        return True

    def chosen(trial: Trial) -> bool:
        return trial.name == runs[0] or (both and trial in twins(desk, runs[0]))

    crew = Workers(Random(3), 1)
    stopped, _ = stopping(desk, relearns, chosen, crew)
    mine, *others = twins(desk, runs[0])
    assert others
    assert stopped == (1 + len(others) if both else 1)
    key = desk.scheduler.scores[mine.number].relearn_key
    assert crew.executed["relearn", key] == (0 if both else 1)
    expected = {mine.number: "failed"} | {t.number: "failed" if both else "done" for t in others}
    statuses = dict(enumerate(desk.statuses()))
    assert {number: statuses[number] for number in expected} == expected


def twins(desk: Desk, name: str) -> list[Trial]:
    """Return the trial of that name, and those that have the same relearning."""
    scores = desk.scheduler.scores
    (mine,) = (trial for trial in desk.plan.trials if trial.name == name)
    key = scores[mine.number].relearn_key
    same = [t for t in desk.plan.trials if t.number in scores and t is not mine]
    return [mine, *(t for t in same if scores[t.number].relearn_key == key)]


def test_a_helper_ends_with_the_last_scenario_that_waits_for_it(tmp_path: Path, store: str) -> None:
    brief: dict[str, Any] = {"steps": 2}
    attacks = [choice(ATTACKS["trojannn"](**brief)), choice(ATTACKS["badnets"]())]
    desk = Desk(small_study(attacks=attacks, store=store), tmp_path)
    _, made = stopping(
        desk,
        lambda job: job.helper is not None,
        lambda t: t.scenario.columns["attack"] == "trojannn",
    )
    assert made["train_helper"] == 0
    assert made["train_victim"] == 1


def test_what_is_over_is_not_stopped(tmp_path: Path, store: str) -> None:
    desk = Desk(study_of("nobody", store), tmp_path)
    Workers().run(desk)
    assert desk.scheduler.stop(desk.plan.trials) == 0
    assert set(desk.statuses()) == {"done"}


GRID = """\
name: tiny
grid:
  attack: badnets
  dataset: digits
  architecture: {name: preact_resnet18, width: 1}
  clean_ratio: 1.0
  unlearn_epochs: 1
  relearn_epochs: [1, 1000, 2]
victim: {epochs: 1, batch_size: 64, min_acc: 0, min_asr: 0}
prune: none
mlflow: {log_models: none}
"""


@pytest.fixture
def grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("grid.yaml").write_text(GRID)
    return tmp_path


def test_the_command_stops_a_trial_of_a_study_in_work(
    grid: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without it, the study would relearn 1,000 epochs for minutes."""
    study, found = o.load_study("grid.yaml"), list[Results]()
    relearned, folder = threading.Event(), grid / "runs/tiny"
    console = io.StringIO()
    monkeypatch.setattr(o.api, "_console", lambda: Console(file=console, width=200))

    class Watch(StudyFolder):
        def record(self, runs: Iterable[StageRun]) -> None:
            super().record(runs)
            if self.executed["relearn"]:
                relearned.set()

    monkeypatch.setattr("orchestrator.cli.run.StudyFolder", Watch)
    thread = threading.Thread(target=lambda: found.append(o.run_study(study, inline=True)))
    thread.start()
    assert relearned.wait(60)
    assert command.main(["grid.yaml", "--stop", "relearn_epochs=1"]) == 2
    text = "--stop: 1 trial met the filter, and none of them runs or waits"
    assert text in capsys.readouterr().err
    assert command.main(["grid.yaml", "--stop", "relearn_epochs=1000 and attack=badnets"]) == 0
    assert capsys.readouterr().out.startswith("stopped 1 trial; to run them later")
    thread.join(60)
    assert not thread.is_alive()
    frame = found[0].frame.set_index("relearn_epochs")
    assert frame["status"].to_dict() == {1: "done", 1000: "failed", 2: "done"}
    assert frame.loc[1000, "error"] == STOPPED
    with closing(sqlite3.connect("runs/mlflow.db")) as table:
        statuses = Counter(status for (status,) in table.execute("SELECT status FROM runs"))
    assert statuses == {"KILLED": 1, "FINISHED": 4}  # study, scenario, two trials
    assert not found[0].complete
    assert "1 trial stopped by the user; the same command runs them again" in console.getvalue()
    assert f"{STOPPED}</" in (folder / "report.html").read_text()
    log = (folder / "logs/trial-00001.log").read_text()
    assert "\noutcome   failed, stopped by the user\n" in log
    assert StudyFolder(folder).holder() == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--stop", "seed=0"], "--stop: no study runs in {here}/runs/tiny, so there is nothing"),
        (["--stop", "sed=0"], "--stop: 'sed' names no trial; did you mean 'seed'?"),
        (["--stop", "seed=9"], "--stop: no trial has seed=9; there are 0"),
        (["--stop", "seed"], "--stop: 'seed' is no condition; write COLUMN=VALUE"),
        (["--stop", "status=done"], "--stop: 'status' names no trial; "),
        (["--stop", "seed=0", "--plan"], "--stop stops trials and --plan changes nothing"),
        (["--stop", "seed=0", "--redo", "seed=0"], "--redo is for a study that does not run"),
    ],
)
def test_what_cannot_be_stopped_is_refused(
    words: list[str], message: str, grid: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["grid.yaml", *words]) == 2
    first = capsys.readouterr().err.splitlines()[0]
    assert first.startswith("command line: ")
    assert message.format(here=grid) in first
    assert [path.name for path in grid.iterdir()] == ["grid.yaml"]


def test_a_driver_that_was_killed_cannot_be_asked(grid: Path) -> None:
    folder = StudyFolder(grid / "runs/tiny")
    with folder.held():
        left = (folder.logs / "driver.json").read_text()
        assert folder.holder().startswith("process ")
    (folder.logs / "driver.json").write_text(left)
    with pytest.raises(SpecError, match="no study runs in"):
        stop_trials(o.load_study("grid.yaml"), folder, ["seed=0"])


def test_a_driver_that_is_busy_answers_later(grid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redo, "ANSWER_SECONDS", 0.0)
    folder = StudyFolder(grid / "runs/tiny")
    with folder.held():
        text = stop_trials(o.load_study("grid.yaml"), folder, ["trial=trial-00001"])
        assert "was asked to stop; it does so as soon as" in text
        ((name, keys),) = folder.stops_asked()
        assert len(keys) == 1
        assert folder.stops_asked() == []
        assert folder.stop_answered(name) is None
        folder.answer_stop(name, 1)
        assert folder.stop_answered(name) == 1
        assert folder.stops_asked() == []
    with StudyFolder(folder.path).held():  # the request was for the former start
        assert StudyFolder(folder.path).stops_asked() == []


def test_the_driver_looks_for_requests_once_a_second(
    tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(study_of("nobody", store), tmp_path)
    desk.scheduler.open()
    now = [100.0]
    monkeypatch.setattr("orchestrator.scheduler.scheduler.time.monotonic", lambda: now[0])
    first, second = desk.plan.trials[:2]

    def asked(trial: Trial, later: float) -> bool:
        now[0] += later
        name = desk.folder.ask_to_stop([trial.key])
        StudyScheduler.heed(desk.scheduler)
        return desk.folder.stop_answered(name) == 1

    assert asked(first, 0.0)
    assert not asked(second, 0.5)
    assert asked(first, 0.6) is False  # over
    assert desk.scheduler.stopped_count == 2
