"""What holds for every test of the orchestrator."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.plan.plan import Plan
from orchestrator.report import main
from orchestrator.reporting.build import write_report
from orchestrator.tracking import sync
from orchestrator.tracking.sync import RunTable, SyncWorker
from tests.orchestrator_tests.fake_experiment import FakeExperiment, Start
from tests.orchestrator_tests.places import STAGES, Place, plan_of
from tests.orchestrator_tests.pruned_studies import PRUNES, study_of
from tests.orchestrator_tests.report_folders import mixed_rows, write_pruning, write_study
from tests.orchestrator_tests.simulation import Desk, Workers


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """One torch thread, as every trial of a study has."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def plan() -> Plan:
    """Return a plan of one scenario and four settings."""
    return plan_of(0)


@pytest.fixture(scope="session")
def made(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Return a store with all of that plan in it; not to be changed."""
    place = Place(plan, tmp_path_factory.mktemp("made"))
    place.do_all()
    return place


@pytest.fixture
def copy(plan: Plan, made: Place, tmp_path: Path) -> Place:
    """Return a store with all of that plan in it, of a test's own."""
    place = Place(plan, tmp_path)
    place.take(made, *STAGES)
    return place


@pytest.fixture
def store(tmp_path: Path) -> str:
    """Return the place of a store of a test's own, in memory."""
    return f"memory://{tmp_path}"


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each pruned study when one worker does all of it, in order."""
    rows = {}
    for prune in PRUNES:
        path = tmp_path_factory.mktemp(prune)
        desk = Desk(study_of(prune, f"memory://{path}"), path)
        Workers().run(desk)
        assert desk.scheduler.decisions.complete()
        rows[prune] = desk.rows()
    return rows


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a made-up study folder with everything that can happen, and its report."""
    folder = write_study(tmp_path_factory.mktemp("study") / "mixed", mixed_rows())
    write_pruning(folder, "badnets, digits")
    write_report(folder)
    return folder


@pytest.fixture
def refusal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """Return a function that runs the report and returns the line by which it refuses."""

    def run() -> str:
        assert main([str(tmp_path)]) == 2
        told = capsys.readouterr()
        assert told.out == ""
        assert not (tmp_path / "report.html").exists()
        assert not (tmp_path / "figures").exists()
        line, end, rest = told.err.partition("\n")
        assert (end, rest) == ("\n", "")
        return line.replace(str(tmp_path), "DIR")

    return run


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Return a function that starts delivery to an experiment; its pauses are short."""
    monkeypatch.setattr(sync, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(sync, "LONGEST_PAUSE", 0.02)
    workers: list[SyncWorker] = []

    def start_one(experiment: FakeExperiment) -> SyncWorker:
        table = RunTable(tmp_path / "runs.sqlite")
        workers.append(SyncWorker(experiment.connect, table, "study-id", "uri"))
        return workers[-1]

    yield start_one
    for worker in workers:
        worker.close(5)
