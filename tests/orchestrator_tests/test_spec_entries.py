"""Entries of datasets and architectures: mirrors, models of timm, starting weights."""

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.plan.plan import make_plan
from orchestrator.spec.dump import resolved_yaml
from orchestrator.spec.load import missing_data
from tests.orchestrator_tests.spec_files import SMALL, load
from ulrl.datasets.gtsrb import Gtsrb
from ulrl.models.preact_resnet import PreActResNet18
from ulrl.models.timm_model import TimmModel
from ulrl.models.vit import ViTB16

pytestmark = pytest.mark.usefixtures("empty_folder")


def with_architectures(entries: str) -> str:
    return SMALL.replace("preact_resnet18", entries)


RESNET18, RESNET10T = TimmModel(model="resnet18"), TimmModel(model="resnet10t")


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("timm:resnet18", [RESNET18]),
        ("{name: timm, model: [resnet18, resnet10t]}", [RESNET18, RESNET10T]),
        (
            "{name: 'timm:resnet18', size: [32, ~]}",
            [TimmModel(model="resnet18", size=32), RESNET18],
        ),
        ("['timm:resnet18', preact_resnet18]", [RESNET18, PreActResNet18()]),
    ],
)
def test_entries(entry: str, expected: list[object]) -> None:
    study = load(with_architectures(entry))
    assert list(study.grid.architectures) == expected
    assert load(resolved_yaml(study)).grid == study.grid


def test_paths_of_weights_become_absolute_and_words_stay() -> None:
    study = load(with_architectures("{name: vit_b_16, weights: [imagenet, w/a.pth, ~]}"))
    architectures = study.grid.architectures
    expected = ["imagenet", str(Path.cwd() / "w" / "a.pth"), None]
    assert [getattr(each, "weights", "") for each in architectures] == expected
    labels = ["vit_b_16(weights=imagenet)", "vit_b_16(weights=a.pth)", "vit_b_16"]
    assert [each.label for each in architectures] == labels
    assert architectures[2] == ViTB16()
    (line,) = missing_data(study)
    assert line.startswith("grid.architecture.1: ")
    assert "a.pth" in line


def test_options_that_go_together_are_judged_together() -> None:
    small = "{name: vit_b_16, size: 32, patch: 8, width: 32, depth: 2, heads: [2, 4]}"
    assert [one.heads for one in load(with_architectures(small)).grid.architectures] == [2, 4]  # type: ignore[attr-defined]


def test_an_exclusion_names_a_model_of_timm() -> None:
    text = with_architectures("[preact_resnet18, 'timm:resnet18', 'timm:resnet10t']")
    study = load(text + "exclude: [{architecture: 'timm:resnet18'}]\n")
    labels = [scenario.architecture.label for scenario in make_plan(study).scenarios]
    assert labels == ["preact_resnet18", "timm:resnet10t"]


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
    entry = f"{{name: gtsrb, root: pictures, mirror: {mirror}}}"
    study = load(SMALL.replace("digits", entry))
    place = None if expected is None else expected.format(here=tmp_path)
    assert study.grid.datasets == (Gtsrb(root=str(tmp_path / "pictures"), mirror=place),)
    assert load(resolved_yaml(study)) == study


def test_only_a_study_with_such_a_model_imports_timm() -> None:
    text = with_architectures("[preact_resnet18, vgg19_bn, vit_b_16]")
    Path("grid.yaml").write_text(text, encoding="utf-8")
    code = (
        "import sys; from orchestrator.spec.load import load_study; "
        "load_study('grid.yaml', ()); assert not {'timm', 'torchvision'} & set(sys.modules)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
