"""Models as MLflow loads and serves them, with nothing of this project at hand."""

import os
import shutil
import signal
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

from orchestrator.plan.jobs import Job
from orchestrator.scheduler.decisions import Verdict
from orchestrator.store.store import Entry, Store
from orchestrator.terminal import Interrupts
from orchestrator.tracking import model_export
from orchestrator.tracking.model_export import ExportState, ModelExporter
from orchestrator.tracking.models import materialise
from orchestrator.tracking.records import Record
from orchestrator.tracking.sqlite_setup import ensure_database
from orchestrator.tracking.sync import EndProgress, SyncWorker, open_sync
from ulrl.models import ARCHITECTURES

KINDS: dict[str, dict[str, Any]] = {
    "preact_resnet18": {"width": 1},
    "vit_b_16": {"size": 32, "width": 12, "depth": 1},
}
NAMES = {"first": "preact_resnet18", "second": "preact_resnet18", "third": "vit_b_16"}


def description(kind: str, key: str, **options: Any) -> dict[str, Any]:
    return {
        "stage": "repaired",
        "key": key,
        "architecture": kind,
        "options": {**KINDS[kind], **options},
        "classes": 4,
        "channels": 3,
        "side": 32,
        "treatment": {"mean": [0.4] * 3, "std": [0.3] * 3, "padding": 4, "flip": True},
    }


def fill(store: Store, kind: str, key: str, seed: int) -> None:
    """Store a network of made-up weights."""
    network = ARCHITECTURES[kind](**KINDS[kind]).build(classes=4, channels=3, side=32)
    source = torch.Generator().manual_seed(seed)
    state = {
        name: torch.rand(value.shape, generator=source) if value.is_floating_point() else value
        for name, value in network.state_dict().items()
    }
    entry = Entry(values={}, tensors=state, seconds=1.0, study="s")
    store.write("repaired", key, entry)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(str(tmp_path_factory.mktemp("store")))
    for number, (name, kind) in enumerate(NAMES.items()):
        fill(store, kind, name, number)
    store.write("repaired", "odd", Entry(values={}, tensors={}, seconds=1.0, study="s"))
    return store


STUDY = Record(key="study", parent=None, name="demo")
CASES = {name: description(kind, name) for name, kind in NAMES.items()} | {
    "gone": description("preact_resnet18", "nothing"),
    "odd": description("preact_resnet18", "odd"),  # weights of no network
    "of another": description("preact_resnet18", "third"),
    "impossible": description("preact_resnet18", "first", depth=3),
}


def trial(name: str) -> Record:
    return Record(key=name, parent="study", name=name, model=CASES[name])


class Driver:
    """The end of a study with some runs that have models."""

    def __init__(self, folder: Path, store: Store) -> None:
        self._folder, self._store = folder, store
        self.uri = f"sqlite:///{folder}/mlflow.db"
        self.text = StringIO()

    def worker(self, *names: str) -> SyncWorker:
        worker = open_sync(self.uri, "demo", self._folder / "runs.sqlite", "study-id")
        for record in (STUDY, *map(trial, names)):
            worker.record(record)
        worker.flush(120)
        return worker

    def export(self, *names: str, interrupts: Interrupts | None = None) -> ExportState:
        worker, exporter = self.worker(*names), ModelExporter()
        console = Console(file=self.text, width=100)
        try:
            with EndProgress(console, interrupts or Interrupts()) as progress:
                return exporter.export(worker, self.uri, "demo", self._store.url, progress)
        finally:
            exporter.close()
            worker.close(10)

    def models(self) -> dict[str, tuple[str | None, str | None]]:
        """Return the place of each trial's model, and the tag for what is missing."""
        from mlflow import MlflowClient

        client = MlflowClient(self.uri)
        experiment = client.get_experiment_by_name("demo")
        assert experiment is not None
        found: dict[str, tuple[str | None, str | None]] = {}
        for run in client.search_runs([experiment.experiment_id]):
            query = f"source_run_id = '{run.info.run_id}'"
            models = client.search_logged_models([experiment.experiment_id], query)
            assert len(models) <= 1
            places = [str(model.artifact_location) for model in models]
            found[str(run.info.run_name)] = (
                next(iter(places), None),
                run.data.tags.get("ulrl.missing"),
            )
        return found


@pytest.fixture(scope="module")
def driver(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Driver:
    folder = tmp_path_factory.mktemp("driver")
    ensure_database(folder / "mlflow.db")
    return Driver(folder, store)


@pytest.fixture(scope="module")
def models(store: Store, driver: Driver, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with MLflow's models, what each is asked, and what it shall say."""
    folder = tmp_path_factory.mktemp("models")
    state = driver.export(*CASES)
    assert (state.logged, state.gone, state.left, state.error) == (3, 3, 0, "")
    (reason,) = state.impossible
    assert reason.startswith("the model cannot be exported: ")
    assert "depth" in reason
    images = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    found = driver.models()
    assert found["gone"] == found["odd"] == found["of another"] == (None, "model")
    assert found["impossible"] == (None, f"model ({reason})")
    for name, kind in NAMES.items():
        place, missing = found[name]
        assert place is not None
        assert missing is None
        shutil.copytree(place.removeprefix("file://"), folder / name)
        made = materialise(store, description(kind, name))
        assert made is not None
        with torch.inference_mode():
            save_file({"images": images, "says": made[0](images)}, folder / f"{name}.asked")
    return folder


LOADER = """
import sys
from pathlib import Path
import mlflow, torch
from safetensors.torch import load_file
folder = Path(sys.argv[1])
answers = []
for asked in sorted(folder.glob("*.asked")):
    model = mlflow.pytorch.load_model(str(asked.with_suffix("")))
    case = load_file(asked)
    for images, says in ((case["images"], case["says"]), (case["images"][:1], case["says"][:1])):
        with torch.inference_mode():
            assert torch.allclose(model(images), says, rtol=1e-3, atol=1e-4), asked
    answers.append(case["says"])
assert len({tuple(answer.flatten().tolist()) for answer in answers}) == len(answers) == 3
assert not [name for name in sys.modules if name.partition(".")[0] in ("ulrl", "orchestrator")]
"""


def outside(tmp_path: Path) -> dict[str, str]:
    """Return an environment of somebody who has MLflow and torch, and unpickles nothing."""
    environment = {**os.environ, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    environment.pop("PYTHONPATH", None)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**environment, "PATH": path, "HOME": str(tmp_path)}


def test_models_load_elsewhere_and_say_what_they_should(models: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOADER, str(models)],
        cwd=tmp_path,
        env=outside(tmp_path),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    wanted = (models / "first/requirements.txt").read_text().splitlines()
    assert sorted(line.partition("==")[0] for line in wanted) == ["mlflow", "torch"]
    assert "device: cpu" in (models / "first/MLmodel").read_text()
    files = [path.name for path in (models / "first").rglob("*") if path.is_file()]
    assert not [name for name in files if name.endswith((".pth", ".pkl", ".py"))]


@pytest.mark.usefixtures("models")
def test_what_is_there_or_cannot_be_is_not_tried_again(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)  # no process is started
    assert driver.export(*CASES) == ExportState()


# What goes wrong with the process.


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let a program of the test's own take the place of the process that exports."""
    code: list[str] = []
    popen = subprocess.Popen

    def start(command: list[str], **options: Any) -> "subprocess.Popen[str]":
        if "orchestrator.tracking.model_export" not in command:
            return popen(command, **options)
        return popen([sys.executable, "-c", f"import os, sys, time\n{code[0]}"], **options)

    monkeypatch.setattr(subprocess, "Popen", start)
    return code


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("os._exit(3)", "the export of models ended with exit code 3"),
        ("sys.stdin.read(); print('no answer', flush=True)", "Expecting value"),
        ("time.sleep(60)", "no model was exported within 1 s"),
        (
            'sys.stdin.read(); print(\'["first", "later", "no space"]\', flush=True)',
            "no space",
        ),
    ],
)
def test_a_process_that_fails_leaves_its_models_for_the_next_start(
    store: Store,
    driver: Driver,
    tmp_path: Path,
    program: list[str],
    monkeypatch: pytest.MonkeyPatch,
    code: str,
    error: str,
) -> None:
    monkeypatch.setattr(model_export, "QUIET_SECONDS", 1.0)
    shutil.copyfile(driver.uri.removeprefix("sqlite:///"), tmp_path / "mlflow.db")
    program.append(code)
    state = Driver(tmp_path, store).export("first")
    assert (state.logged, state.left) == (0, 1)
    assert state.error.startswith(error)


def test_a_signal_ends_the_wait_for_models(
    store: Store, driver: Driver, tmp_path: Path, program: list[str]
) -> None:
    shutil.copyfile(driver.uri.removeprefix("sqlite:///"), tmp_path / "mlflow.db")
    program.append("time.sleep(60)")
    interrupts = Interrupts()
    interrupts.signum = signal.SIGINT
    state = Driver(tmp_path, store).export("first", interrupts=interrupts)
    assert (state.left, state.error) == (1, "interrupted")


@pytest.mark.parametrize(("last", "before_the_end"), [(0, [False] * 3), (1, [False, True, True])])
def test_the_process_starts_with_the_last_trials_or_by_export_only(
    last: int,
    before_the_end: list[bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With `last` 0 not even audits, which begin when no trial is undecided, start it."""
    begun: list[bool] = []
    monkeypatch.setattr(ModelExporter, "_start", lambda _: begun.append(True))
    exporter = ModelExporter(2, last)
    job, verdict = cast("Job", None), cast("Verdict", None)
    seen = []
    for undecided in (2, 1, 0):
        exporter.started(job)
        seen.append(bool(begun))
        if undecided:
            exporter.decided(verdict)
    assert seen == before_the_end
