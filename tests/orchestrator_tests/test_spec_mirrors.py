"""Where datasets come from, and how models of timm are left out, in a study file."""

from pathlib import Path

import pytest

from orchestrator.plan.plan import make_plan
from orchestrator.spec.dump import resolved_yaml
from orchestrator.spec.load import missing_data
from tests.orchestrator_tests.spec_files import SMALL, load, mistakes
from ulrl.datasets.gtsrb import Gtsrb


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def with_dataset(entry: str) -> str:
    return SMALL.replace("dataset: digits", f"dataset: {entry}")


@pytest.mark.parametrize(
    ("mirror", "expected"),
    [
        ("https://mirror.example/gtsrb", "https://mirror.example/gtsrb"),
        ("archives", "{here}/archives"),
        ("~", None),
    ],
)
def test_a_mirror_is_an_address_or_a_folder(
    tmp_path: Path, mirror: str, expected: str | None
) -> None:
    study = load(with_dataset(f"{{name: gtsrb, root: pictures, mirror: {mirror}}}"))
    (dataset,) = study.grid.datasets
    place = None if expected is None else expected.format(here=tmp_path)
    assert dataset == Gtsrb(root=str(tmp_path / "pictures"), mirror=place)
    Path("again.yaml").write_text(resolved_yaml(study))
    assert load(Path("again.yaml").read_text()) == study


def test_other_addresses_are_refused() -> None:
    (line,) = mistakes(with_dataset("{name: gtsrb, mirror: 'ftp://mirror.example'}"))
    assert "mirror is a URL that begins with http:// or https://" in line


def test_an_exclusion_names_a_model_of_timm() -> None:
    text = SMALL.replace("preact_resnet18", "[preact_resnet18, 'timm:resnet18', 'timm:resnet10t']")
    study = load(text + "exclude: [{architecture: 'timm:resnet18'}]\n")
    labels = [scenario.architecture.label for scenario in make_plan(study).scenarios]
    assert labels == ["preact_resnet18", "timm:resnet10t"]


def test_weights_that_are_not_there_are_told_before_anything_runs() -> None:
    entry = "{name: preact_resnet18, weights: w/start.safetensors}"
    study = load(SMALL.replace("preact_resnet18", entry))
    (line,) = missing_data(study)
    assert line.startswith("grid.architecture.0: ")
    assert "start.safetensors" in line
