"""Models as MLflow loads and serves them, with nothing of this project at hand."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import save_file

from orchestrator.processes import scratch
from orchestrator.store.store import Entry, Store
from orchestrator.tracking.model_export import ExportedGraphs, ModelExporter, serve
from orchestrator.tracking.models import materialise
from orchestrator.tracking.sync import ModelError
from tests.servers import free_port, running, wait_for
from tests.system_tests.commands import wait_until
from ulrl.models import ARCHITECTURES

KINDS: dict[str, dict[str, Any]] = {
    "preact_resnet18": {"width": 1},
    "vit_b_16": {"size": 32, "width": 12, "depth": 1},
}

NAMES = {"first": "preact_resnet18", "second": "preact_resnet18", "third": "vit_b_16"}


def description(kind: str, key: str) -> dict[str, Any]:
    return {
        "stage": "repaired",
        "key": key,
        "architecture": kind,
        "options": KINDS[kind],
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
    return store


@pytest.fixture(scope="module")
def foundry(store: Store) -> Iterator[ModelExporter]:
    foundry = ModelExporter(store.url)
    foundry.hurry()
    yield foundry
    foundry.close()


@pytest.fixture(scope="module")
def models(store: Store, foundry: ModelExporter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two models of each kind, what each is asked, and what it shall say."""
    folder = tmp_path_factory.mktemp("models")
    images = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    for name, kind in NAMES.items():
        assert foundry.make(description(kind, name), folder / name)
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


def test_a_model_asks_for_torch_and_mlflow_alone_and_for_no_gpu(models: Path) -> None:
    wanted = (models / "first/requirements.txt").read_text().splitlines()
    assert sorted(line.partition("==")[0] for line in wanted) == ["mlflow", "torch"]
    assert "device: cpu" in (models / "first/MLmodel").read_text()
    files = [path.name for path in (models / "first").rglob("*") if path.is_file()]
    assert not [name for name in files if name.endswith((".pth", ".pkl", ".py"))]


def test_weights_that_are_gone_are_no_model(foundry: ModelExporter, tmp_path: Path) -> None:
    assert not foundry.make(description("preact_resnet18", "nothing"), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_weights_of_another_network_are_no_model(
    store: Store, foundry: ModelExporter, tmp_path: Path
) -> None:
    store.write("repaired", "odd", Entry(values={}, tensors={}, seconds=1.0, study="s"))
    assert not foundry.make(description("preact_resnet18", "odd"), tmp_path / "odd")
    assert not foundry.make(description("preact_resnet18", "third"), tmp_path / "third")


def test_what_cannot_be_made_is_told_in_a_line(foundry: ModelExporter, tmp_path: Path) -> None:
    odd = {**description("preact_resnet18", "first"), "options": {"depth": 3}}
    with pytest.raises(ModelError, match=r"^the model cannot be made: [^\n]*depth"):
        foundry.make(odd, tmp_path / "odd")
    assert len(foundry.impossible) == 1
    assert foundry.make(description("preact_resnet18", "first"), tmp_path / "sound")


def test_a_maker_that_died_is_started_again(store: Store, tmp_path: Path) -> None:
    foundry = ModelExporter(store.url)
    answers = iter(["os._exit(1)", json.dumps({"made": True, "error": ""})])
    code = "import os, sys; sys.stdin.readline(); {}"

    def start(*_: Any, **options: Any) -> subprocess.Popen[str]:
        answer = next(answers)
        told = code.format(answer if answer.startswith("os") else f"print({answer!r})")
        return popen([sys.executable, "-c", told], **options)

    popen, subprocess.Popen = subprocess.Popen, start  # type: ignore[assignment, misc]
    try:
        with pytest.raises(RuntimeError, match="the process that makes models ended"):
            foundry.make({}, tmp_path / "model")
        assert foundry.make({}, tmp_path / "model")
    finally:
        subprocess.Popen = popen  # type: ignore[misc]
        foundry.close()


def test_one_process_is_started_before_it_is_needed(store: Store, tmp_path: Path) -> None:
    foundry = ModelExporter(store.url)
    started = time.monotonic()
    foundry.prepare()
    foundry.prepare()
    assert time.monotonic() - started < 2, "it waits for nothing"
    process = foundry._process
    assert process is not None
    scratch = Path(str(process.args[5]))  # type: ignore[index]
    try:
        assert foundry.make(description("preact_resnet18", "first"), tmp_path / "first")
        assert foundry._process is process
        assert any(scratch.iterdir())
    finally:
        foundry.close()
    assert process.poll() is not None
    assert not scratch.exists()
    foundry.prepare()
    assert foundry._process is None
    with pytest.raises(RuntimeError, match="no more models are made"):
        foundry.make(description("preact_resnet18", "first"), tmp_path / "second")


def test_a_process_that_cannot_be_started_ends_no_study(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", refused)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    foundry = ModelExporter(store.url)
    foundry.prepare()
    with pytest.raises(RuntimeError, match=r"cannot be started: .*Resource temporarily"):
        foundry.make(description("preact_resnet18", "first"), tmp_path / "first")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    foundry.prepare()
    with pytest.raises(RuntimeError, match=r"cannot be started: .*No such file"):
        foundry.make(description("preact_resnet18", "first"), tmp_path / "first")


DRIVER = """
import os, sys
from pathlib import Path
from orchestrator.tracking.model_export import ModelExporter
foundry = ModelExporter(sys.argv[1])
foundry.prepare()
print(foundry._process.pid, flush=True)
sys.stdin.readline()
"""


def test_it_ends_with_a_driver_that_is_killed_and_the_next_leaves_nothing(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-c", DRIVER, store.url.reveal()]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment) as driver:
        assert driver.stdout is not None
        foundry = psutil.Process(int(driver.stdout.readline()))
        wait_until(lambda: foundry.num_threads() > 1, "it is at work", 60)
        driver.kill()
    wait_until(lambda: not foundry.is_running(), "it is gone too", 2)
    assert list(tmp_path.iterdir())
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with scratch() as mine:
        assert list(tmp_path.iterdir()) == [mine]


def test_models_are_made_aside_until_nothing_else_is_computed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits for a process that gives way to all others may wait for long."""
    nice: list[int] = []

    def cast(*_: object) -> None:
        nice.append(os.getpriority(os.PRIO_PROCESS, 0))  # of this thread

    monkeypatch.setattr(ExportedGraphs, "cast", cast)
    request = {
        "store": store.url.reveal(),
        "description": description("preact_resnet18", "first"),
        "folder": "any",
    }
    lines = [json.dumps({**request, "urgent": urgent}) for urgent in (False, True)]
    answers = StringIO()
    serve(tmp_path, StringIO("\n".join(lines)), answers)
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert nice == [min(own + 10, 19)] * 2 + [own]
    assert [json.loads(line) for line in answers.getvalue().splitlines()] == [
        {"made": True, "error": "", "final": False}
    ] * 2


def test_a_model_serves(models: Path, tmp_path: Path) -> None:
    port = free_port()
    command = ["mlflow", "models", "serve", "-m", str(models / "third"), "--env-manager", "local"]
    with running([*command, "--port", str(port)], tmp_path, outside(tmp_path)):
        wait_for(f"http://127.0.0.1:{port}/ping")
        example = (models / "third/serving_input_example.json").read_bytes()
        request = Request(
            f"http://127.0.0.1:{port}/invocations", example, {"Content-Type": "application/json"}
        )
        with build_opener(ProxyHandler({})).open(request, timeout=60) as answer:
            found = np.array(json.load(answer)["predictions"])
    assert found.shape == (2, 4)
    assert np.isfinite(found).all()
