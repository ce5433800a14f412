"""``timm:NAME`` and starting weights in a study file."""

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.spec.dump import resolved_yaml
from tests.orchestrator_tests.spec_files import SMALL, load, mistakes
from ulrl.models.preact_resnet import PreActResNet18
from ulrl.models.timm_model import TimmModel
from ulrl.models.vit import ViTB16


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def with_architectures(entries: str) -> str:
    return SMALL.replace("architecture: preact_resnet18", f"architecture: {entries}")


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("timm:resnet18", [TimmModel(model="resnet18")]),
        ("{name: 'timm:resnet18', size: 64}", [TimmModel(model="resnet18", size=64)]),
        ("{name: timm, model: resnet18.a1_in1k}", [TimmModel(model="resnet18.a1_in1k")]),
        (
            "{name: timm, model: [resnet18, resnet10t]}",
            [TimmModel(model="resnet18"), TimmModel(model="resnet10t")],
        ),
        (
            "{name: 'timm:resnet18', size: [32, ~]}",
            [TimmModel(model="resnet18", size=32), TimmModel(model="resnet18")],
        ),
        (
            "['timm:resnet18', preact_resnet18]",
            [TimmModel(model="resnet18"), PreActResNet18()],
        ),
    ],
)
def test_entries(entry: str, expected: list[object]) -> None:
    assert list(load(with_architectures(entry)).grid.architectures) == expected


TIMM_MISTAKES = {
    "timm:resnet5o": (
        "5: grid.architecture: timm has no model 'resnet5o'; did you mean 'resnet50' or "
        "'resnet51q' or 'resnet50t'?"
    ),
    "{name: 'timm:resnet18', size: [64, 0]}": (
        "5: grid.architecture.size.1: size is in pixels, from 1 to 2048; got 0"
    ),
    "{name: 'timm:resnet18', width: 3}": (
        "5: grid.architecture.width: timm:resnet18 has no option 'width'; it has model, size, "
        "classifier, weights"
    ),
    "{name: 'timm:resnet18', model: resnet34}": (
        "5: grid.architecture.model: timm:resnet18 says its model in its name; leave model out"
    ),
    "timm": "5: grid.architecture: timm cannot stand alone; write timm:MODEL",
    "'timm:'": "5: grid.architecture: timm cannot stand alone; write timm:MODEL",
    "'tim:resnet18'": (
        "5: grid.architecture: no architecture is called 'tim:resnet18'; there are "
        "preact_resnet18, preact_resnet18_bn, resnet18_cifar, timm:MODEL, vgg19_bn, vit_b_16"
    ),
    "'timm:hf_hub:timm/resnet18.a1_in1k'": (
        "5: grid.architecture: timm has no model 'hf_hub:timm/resnet18.a1_in1k'; write "
        "timm:resnet18.a1_in1k"
    ),
    "resnet18": (
        "5: grid.architecture: no architecture is called 'resnet18'; did you mean 'resnet18_cifar'?"
    ),
    "['timm:resnet18', {name: timm, model: resnet18}]": (
        "5: grid.architecture.1: timm:resnet18 stands twice; first at grid.architecture.0"
    ),
    "{name: vit_b_16, weights: imagnet}": (
        "5: grid.architecture.weights: weights is imagenet or a file that ends in .safetensors, "
        ".pth or .pt; got 'imagnet'"
    ),
    "{name: vit_b_16, size: 100}": (
        "5: grid.architecture.size: size is a multiple of patch, here 16; got 100"
    ),
    "{name: vgg19_bn, weights: imagenet}": (
        "5: grid.architecture.weights: weights is a file that ends in .safetensors, .pth or .pt; "
        "got 'imagenet'"
    ),
}


@pytest.mark.parametrize(("entry", "expected"), TIMM_MISTAKES.items())
def test_mistakes(entry: str, expected: str) -> None:
    assert mistakes(with_architectures(entry)) == [expected]


def test_paths_of_weights_become_absolute_and_words_stay() -> None:
    entry = "{name: vit_b_16, weights: [imagenet, w/a.pth, ~]}"
    architectures = load(with_architectures(entry)).grid.architectures
    expected = ["imagenet", str(Path.cwd() / "w" / "a.pth"), None]
    assert [getattr(each, "weights", "") for each in architectures] == expected
    labels = ["vit_b_16(weights=imagenet)", "vit_b_16(weights=a.pth)", "vit_b_16"]
    assert [each.label for each in architectures] == labels
    assert architectures[2] == ViTB16()


def test_the_resolved_file_gives_the_same_study() -> None:
    entries = "[{name: 'timm:resnet18', size: 64}, {name: vit_b_16, weights: [imagenet, w/a.pth]}]"
    study = load(with_architectures(entries))
    assert load(resolved_yaml(study)).grid.architectures == study.grid.architectures


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


def test_options_that_go_together_are_judged_together() -> None:
    small = "{name: vit_b_16, size: 32, patch: 8, width: 32, depth: 2, heads: [2, 4]}"
    assert [one.heads for one in load(with_architectures(small)).grid.architectures] == [2, 4]  # type: ignore[attr-defined]
    (line,) = mistakes(with_architectures("{name: vit_b_16, width: 33, heads: 2}"))
    assert "width is a multiple of heads, here 2; got 33" in line
    lines = mistakes(with_architectures("{name: vit_b_16, width: 32, heads: 2, depth: 0}"))
    assert len(lines) == 1
    assert "depth" in lines[0]
