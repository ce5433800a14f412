"""Rules that no single module can keep: who imports whom, what is packaged, what is never done."""

import ast
import os
import subprocess
import sys
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.plan.plan import make_plan
from orchestrator.spec.load import load_study

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(path for name in ("orchestrator", "ulrl") for path in (ROOT / name).rglob("*.py"))
VENDORS = {
    "ray": "orchestrator/executor",
    "optuna": "orchestrator/search",
    "mlflow": "orchestrator/tracking",
}
HEAVY = {"ray", "optuna", "mlflow", "pandas", "timm", "torchvision", "sklearn"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> Iterator[str]:
    """Yield the top-level name of every import in a file, lazy ones too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)} imports relatively"
            yield (node.module or "").partition(".")[0]


@pytest.mark.parametrize(("vendor", "package"), VENDORS.items())
def test_one_vendor_one_package(vendor: str, package: str) -> None:
    importers = {name_of(path.parent) for path in SOURCES if vendor in imports(path)}
    assert importers == {package}


def test_the_core_and_plans_need_nothing_that_only_unix_has() -> None:
    code = """
import signal, sys
sys.modules["fcntl"] = None
for name in ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU"):
    delattr(signal, name)
import ulrl, orchestrator.study, orchestrator.cli.plan
from orchestrator.terminal import Interrupts
print(ulrl.repair.__name__, Interrupts().watched().__enter__().signum)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "repair None\n", done.stderr


def test_packages_are_few_modules_and_a_class_name_exists_once() -> None:
    owners = defaultdict(set)
    for path in (ROOT / "orchestrator").rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                owners[node.name].add(name_of(path))
    assert {name: found for name, found in owners.items() if len(found) > 1} == {}
    for package in (ROOT / "orchestrator").iterdir():
        if package.is_dir():
            modules = [path for path in package.glob("*.py") if path.stem != "__init__"]
            assert len(modules) <= 12, package.name


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        (("ulrl", "ulrl.datasets", "ulrl.attacks", "ulrl.models"), {"orchestrator"}),
        (
            ("orchestrator.spec.load", "orchestrator.plan.plan", "orchestrator.study"),
            {"matplotlib"},
        ),
    ],
    ids=["the core", "reading a study"],
)
def test_importing_loads_nothing_heavy(modules: tuple[str, ...], heavy: set[str]) -> None:
    names = HEAVY | heavy
    code = f"import sys, {', '.join(modules)}; print(*[n for n in {names} if n in sys.modules])"
    assert run(code).split() == []


def run(code: str) -> str:
    """Return what a fresh process prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_mlflow_is_the_library_even_from_here() -> None:
    place = run("import mlflow; print(mlflow.__file__)").strip()
    assert not Path(place).is_relative_to(ROOT / "mlflow")
    assert Path(place).name == "__init__.py"


# Calls that ruff does not know: global seeds, and files that are read with a switch missing.
SEEDS = {
    "torch.manual_seed",
    "torch.seed",
    "torch.cuda.manual_seed_all",
    "torch.random.manual_seed",
}
SAFE = {"torch.load": ("weights_only", "True"), "np.load": ("allow_pickle", "False")}


def test_nothing_is_seeded_for_all_and_nothing_is_unpickled() -> None:
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                options = {word.arg: ast.unparse(word.value) for word in node.keywords}
                option, value = SAFE.get(called, ("", None))
                if called in SEEDS or options.get(option) != value:
                    found.append(f"{name_of(path)}:{node.lineno}: {called}")
    assert found == []


# What comes with the program.


@pytest.mark.parametrize(
    "path", sorted((ROOT / "studies").glob("*.yaml")), ids=lambda path: path.stem
)
def test_every_study_that_comes_along_loads_and_expands(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # no data is there, and none is needed
    plan = make_plan(load_study(str(path)))
    assert plan.planned_trials >= 2
    if plan.study.search is None:  # else settings, and trials with them, are drawn by and by
        assert {trial.scenario.number for trial in plan.trials} == set(range(len(plan.scenarios)))
    assert list(tmp_path.iterdir()) == []


def test_the_wheel_holds_the_two_packages_and_the_studies(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir"]
    done = subprocess.run(
        [*command, str(tmp_path), str(ROOT)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    (info,) = (top for top in tops if top.endswith(".dist-info"))
    data = f"{info.removesuffix('.dist-info')}.data"
    assert tops == {"orchestrator", "ulrl", info, data}
    shipped = {name for name in names if name.startswith(f"{data}/")}
    place = f"{data}/data/share/ulrl-orchestrator/studies"
    assert shipped == {f"{place}/{path.name}" for path in (ROOT / "studies").iterdir()}
    assert info.startswith("ulrl_orchestrator-")
    assert {name_of(path) for path in SOURCES} <= set(names)
    templates = [name for name in names if name.endswith((".jinja", ".css", "py.typed"))]
    assert len(templates) >= 4
