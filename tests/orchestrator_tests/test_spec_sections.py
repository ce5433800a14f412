"""Every section but the grid: its places, and its mistakes by the whole text."""

import time
from pathlib import Path

import pytest

from tests.orchestrator_tests.spec_files import SMALL, load, mistakes

SECTIONS = (
    "name, preset, grid, exclude, search, victim, prune, objective, resources, limits, budget, "
    "optuna, mlflow, "
    "store"
)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


SECTIONS_CASES = {
    "objectiv: asr\n": "6: objectiv: unknown key; did you mean 'objective'?",
    "zzz: 1\n": f"6: zzz: unknown key; the keys are {SECTIONS}",
    "'a\\nb': 1\n": f"6: a\\nb: unknown key; the keys are {SECTIONS}",
    "optuna: {storage: 'sqlite://x'}\n": (
        "6: optuna.storage: storage is sqlite:///FILE, with three slashes and a file; got "
        "'sqlite://x'"
    ),
    "optuna: {storage: redis://h/0}\n": (
        "6: optuna.storage: storage is a path of a journal, or sqlite:///, postgresql:// or "
        "mysql://; got 'redis://h/0'"
    ),
    "optuna: {storage: postgresql://}\n": (
        "6: optuna.storage: storage is postgresql://HOST and so on; got 'postgresql://'"
    ),
    "optuna: {url: a}\n": "6: optuna.url: unknown key; the keys are storage",
    "preset: offical\n": (
        "6: preset: preset is default, official or fine_tuning; got 'offical'; did you mean "
        "'official'?"
    ),
    "preset:\n": "6: preset: preset is default, official or fine_tuning; got nothing",
    "objective: [der]\n": "6: objective: objective is der, asr, acc or ra; got a list",
    "victim: {epoch: 3}\n": "6: victim.epoch: unknown key; did you mean 'epochs'?",
    "victim: {epochs: 0}\n": "6: victim.epochs: epochs is at least 1; got 0",
    "victim: {epochs: 2.5}\n": "6: victim.epochs: epochs is a whole number; got 2.5",
    "victim: {epochs: '3'}\n": "6: victim.epochs: epochs is a whole number; got '3'",
    "victim: {epochs: true}\n": "6: victim.epochs: epochs is a whole number; got true",
    f"victim: {{epochs: {'9' * 30}}}\n": (
        f"6: victim.epochs: epochs is at most 10^18; got {'9' * 30}"
    ),
    "victim: {lr: .nan}\n": "6: victim.lr: lr is a number; got nan",
    "victim: {lr: .inf}\n": "6: victim.lr: lr is a number; got inf",
    "victim: {lr: 1e999}\n": ("6: victim.lr: lr is at most 1.8e+308 in magnitude; got '1e999'"),
    "victim: {lr: '1e-3'}\n": "6: victim.lr: lr is a number; got '1e-3'",
    "victim: {lr: 010}\n": "6: victim.lr: lr is a number; got '010'",
    "victim: {lr: 1:30}\n": "6: victim.lr: lr is a number; got '1:30'",
    "victim: {lr: 0}\n": "6: victim.lr: lr is a learning rate, above 0 and at most 100; got 0.0",
    "victim: {min_asr: 80}\n": "6: victim.min_asr: min_asr is in [0, 1]; got 80",
    "victim: {recipe: slow}\n": "6: victim.recipe: recipe is fast or backdoorbench; got 'slow'",
    "victim: {momentum: 0}\n": "6: victim: nesterov wants a momentum above 0; got 0",
    "victim: {period: 0}\n": "6: victim.period: period is in epochs, at least 1; got 0",
    "victim: {precision: fp8}\n": (
        "6: victim.precision: precision is fp32, bf16, fp16, auto or amp; got 'fp8'"
    ),
    "victim: 3\n": "6: victim: victim is a mapping; got 3",
    "resources: {workers: 0}\n": "6: resources.workers: workers is at least 1; got 0",
    "resources: {cpu: 0.5}\n": "6: resources.cpu: cpu is a whole number; got 0.5",
    "resources: {gpu: 1.5}\n": "6: resources.gpu: gpu is at most 1, or a whole number; got 1.5",
    "resources: {gpu: -1}\n": "6: resources.gpu: gpu is at least 0; got -1",
    "resources: {worker: 2}\n": "6: resources.worker: unknown key; did you mean 'workers'?",
    "mlflow: {url: a}\n": "6: mlflow.url: unknown key; did you mean 'uri'?",
    "mlflow: {log_models: yes}\n": (
        "6: mlflow.log_models: log_models is best, all or none; got true"
    ),
    "mlflow: {register: 1}\n": "6: mlflow.register: register is true or false; got 1",
    "mlflow: {log_models: none, register: true}\n": (
        "6: mlflow.register: a registered model is a logged one; let log_models be best or all"
    ),
    "mlflow: {uri: mlruns}\n": (
        "6: mlflow.uri: uri is a server's http(s):// address or a database's, since MLflow "
        "no longer writes to folders; got 'mlruns'; write sqlite:///runs/mlflow.db"
    ),
    "mlflow: {uri: 'file:///a'}\n": (
        "6: mlflow.uri: uri is a server's http(s):// address or a database's, since MLflow "
        "no longer writes to folders; got 'file:///a'; write sqlite:///runs/mlflow.db"
    ),
    "mlflow: {uri: 'sqlite://a.db'}\n": (
        "6: mlflow.uri: uri is sqlite:///FILE, with three slashes and a file; got 'sqlite://a.db'"
    ),
    "mlflow: {uri: 'sqlite:///:memory:'}\n": (
        "6: mlflow.uri: uri is sqlite:///FILE, with three slashes and a file; got "
        "'sqlite:///:memory:'"
    ),
    "mlflow: {uri: 'http://'}\n": "6: mlflow.uri: uri is http://HOST and so on; got 'http://'",
    "mlflow: {uri: 'htttp://a'}\n": (
        "6: mlflow.uri: uri is an http(s)://, sqlite:/// or postgresql:// address; got "
        "'htttp://a'; did you mean 'http'?"
    ),
    "store: ''\n": "6: store: store is a text; got ''",
    "store: 3\n": "6: store: store is a text; got 3; quote it to make it one",
    "store: s33://bucket\n": (
        "6: store: store is a path, or a URL of what keeps files for all machines; got "
        "'s33://bucket'; did you mean 's3'?"
    ),
    "store: ~nobody-here/x\n": "6: store: store is a path; Could not determine home directory.",
}


@pytest.mark.parametrize(("addition", "expected"), SECTIONS_CASES.items())
def test_sections(addition: str, expected: str) -> None:
    assert mistakes(SMALL + addition) == [expected]


@pytest.mark.parametrize("name", ["a b", ".hidden", "a/b", "x" * 101, "ä"])
def test_names_that_no_folder_should_have(name: str) -> None:
    rule = "letters, digits, - _ and . (not first), at most 100"
    shown = repr(name) if len(name) < 60 else f"'{'x' * 56}..."
    text = SMALL.replace("name: s", f"name: {name}")
    assert mistakes(text) == [f"1: name: name is {rule}; got {shown}"]


def test_keys_that_must_be_there() -> None:
    assert mistakes("objective: der\n") == [
        "1: name: this key is required",
        "1: grid: this key is required",
    ]
    assert mistakes("name: s\ngrid: {seed: 1}\n") == [
        "2: grid.attack: this axis is required",
        "2: grid.dataset: this axis is required",
        "2: grid.architecture: this axis is required",
    ]
    assert mistakes("name: s\ngrid: [1]\n") == [
        "2: grid: grid is a mapping of axes to values; got a list"
    ]


@pytest.mark.parametrize(
    ("store", "expected"),
    [
        ("here/store", "{cwd}/here/store"),
        ("/abs/store", "/abs/store"),
        ("~/store", "{home}/store"),
        ("file://rel/store", "{cwd}/rel/store"),
        ("file:///abs/store", "/abs/store"),
        ("s3://bucket/key", "s3://bucket/key"),
        ("gs://bucket", "gs://bucket"),
    ],
)
def test_the_store(
    store: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    found = load(f"{SMALL}store: {store}\n").store
    assert found.reveal() == expected.format(cwd=tmp_path, home="/home/someone")


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("sqlite:///a/b.db", "sqlite:///{cwd}/a/b.db"),
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
        ("sqlite:///a.db?timeout=30", "sqlite:///{cwd}/a.db?timeout=30"),
        ("http://localhost:5000", "http://localhost:5000"),
        ("mysql+pymysql://u@h/d", "mysql+pymysql://u@h/d"),
    ],
)
def test_the_tracking_uri(uri: str, expected: str, tmp_path: Path) -> None:
    study = load(f"{SMALL}mlflow: {{uri: '{uri}'}}\n")
    assert study.mlflow.uri.reveal() == expected.format(cwd=tmp_path)


def test_ten_mistakes_are_told_at_once_and_in_order() -> None:
    text = """\
name: a b
preset: best
grid:
  attack: [sgi, {name: badnets, size: 0}]
  dataset: digits
  seed: [0, 0]
  reinit_ratio: 2
  architecture: preact_resnet18
victim: {epochs: 0}
objective: dre
resources: {gpu: 1.5}
stor: x
"""
    start = time.perf_counter()
    found = mistakes(text)
    assert time.perf_counter() - start < 1
    assert found == [
        "1: name: name is letters, digits, - _ and . (not first), at most 100; got 'a b'",
        "2: preset: preset is default, official or fine_tuning; got 'best'",
        "4: grid.attack.0: no attack is called 'sgi'; did you mean 'sig'?",
        "4: grid.attack.1.size: size is in pixels, at least 1; got 0",
        "6: grid.seed.1: 0 stands twice; first at grid.seed.0",
        (
            "7: grid.reinit_ratio: reinit_ratio is a fraction of a neuron's weights, in [0, 1]; "
            "got 2.0"
        ),
        "9: victim.epochs: epochs is at least 1; got 0",
        "10: objective: objective is der, asr, acc or ra; got 'dre'; did you mean 'der'?",
        "11: resources.gpu: gpu is at most 1, or a whole number; got 1.5",
        "12: stor: unknown key; did you mean 'store'?",
    ]
