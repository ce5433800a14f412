"""Models out: what others can load, and what comes back."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from tests.ulrl_tests.tiny_networks import Victims
from ulrl.datasets import ImageSet
from ulrl.interchange import ImportRefused, export_model, load_exported
from ulrl.interchange._card import loading_code
from ulrl.interchange._config import inner_of
from ulrl.models import Architecture, ModelSpec, Weights, initialise, restore
from ulrl.models.preact_resnet import PreActResNet18
from ulrl.models.timm_model import TimmModel
from ulrl.models.vgg import VGG19BN
from ulrl.models.vit import ViTB16
from ulrl.portable import to_pixel_model
from ulrl.randomness import generator

CARD: Mapping[str, Mapping[str, Any]] = {
    "scenario": {"attack": "badnets", "dataset": "cifar10", "poison_ratio": 0.1, "seed": 0},
    "setting": {"unlearn_threshold": 0.2, "reinit_ratio": 1.0, "name": "a | b\nc"},
    "metrics": {"acc": 0.9134, "asr": 0.0123, "der": None},
}
SMALL_VIT = ViTB16(size=32, patch=16, width=16, depth=1, heads=2)
SMALL: dict[str, Architecture] = {
    "preact": PreActResNet18(width=4),
    "vit": SMALL_VIT,
    "vgg": VGG19BN(width=1),
    "timm at another size": TimmModel(model="test_vit", size=32),
    "timm resized": TimmModel(model="test_resnet", size=48),
}


@pytest.fixture(params=SMALL, ids=lambda name: name.replace(" ", "-"))
def weights(request: pytest.FixtureRequest, model_spec: ModelSpec, cpu: torch.device) -> Weights:
    plan = replace(model_spec, architecture=SMALL[request.param])
    state = initialise(plan, generator(0, "exported"), cpu).weights().state
    head = f"{plan.architecture.head}.weight"  # some start at zero
    state[head] = torch.randn(state[head].shape, generator=generator(0, "head"))
    return Weights(model_spec=plan, state=state)


def refusal(folder: Path) -> str:
    with pytest.raises(ImportRefused) as caught:
        load_exported(folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


def code_in(folder: Path) -> str:
    _, _, rest = (folder / "README.md").read_text().partition("```python\n")
    code, end, _ = rest.partition("```")
    assert end
    return code


def test_what_is_exported_comes_back(weights: Weights, tmp_path: Path) -> None:
    export_model(weights, tmp_path / "model", CARD)
    back = load_exported(tmp_path / "model")
    assert back.model_spec == weights.model_spec
    assert back.state.keys() == weights.state.keys()
    assert all(torch.equal(back.state[name], weights.state[name]) for name in back.state)


def test_the_cards_code_gives_the_same_scores(
    weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpu: torch.device
) -> None:
    export_model(weights, tmp_path / "model", CARD)
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8, generator=generator(0, "x"))
    classifier = restore(weights, cpu)
    classifier.network.eval()
    with torch.no_grad():
        expected = classifier.logits(images)
    assert expected.std() > 0

    monkeypatch.chdir(tmp_path / "model")
    code = code_in(tmp_path / "model")
    random = "torch.rand(1, 3, 16, 16)"
    assert random in code
    names: dict[str, Any] = {"given": images.float() / 255}
    with torch.no_grad():
        exec(code.replace(random, "given"), names)
    assert torch.allclose(names["scores"], expected, atol=1e-4)


@pytest.mark.parametrize("side", [32, 64])
@pytest.mark.parametrize(
    ("architecture", "resize"),
    [(VGG19BN(), None), (ViTB16(), 224), (ViTB16(size=64, weights="imagenet"), 64)],
)
def test_torchvision_has_the_networks_of_the_benchmarks(
    model_spec: ModelSpec, architecture: Architecture, resize: int | None, side: int
) -> None:
    plan = replace(model_spec, architecture=architecture, side=side)
    inner = inner_of(plan)
    assert inner.side == resize
    code = loading_code(plan, inner)
    assert "ulrl" not in code
    state = {name.removeprefix(inner.prefix): value for name, value in _meta_state(plan).items()}
    names: dict[str, Any] = {"torch": torch}
    build = next(line for line in code.splitlines() if line.startswith("model = "))
    with torch.device("meta"):
        exec(f"from torchvision.models import {architecture.name}\n{build}", names)
    names["model"].load_state_dict(state, assign=True)


def _meta_state(plan: ModelSpec) -> dict[str, Tensor]:
    with torch.device("meta"):
        network = plan.architecture.build(classes=10, channels=3, side=plan.side)
    state: dict[str, Tensor] = network.state_dict()
    return state


def test_what_the_configuration_says(victim_of: Victims, tmp_path: Path) -> None:
    export_model(victim_of(0), tmp_path / "model", CARD)
    assert json.loads((tmp_path / "model/config.json").read_text()) == {
        "format": "ulrl-model",
        "version": 1,
        "architecture": "preact_resnet18",
        "options": {"width": 4},
        "num_classes": 10,
        "channels": 3,
        "side": 16,
        "resize": None,
        "mean": [0.5, 0.4, 0.6],
        "std": [0.25, 0.3, 0.2],
        "padding": 1,
        "flip": True,
        "head": "linear",
    }
    with safe_open(tmp_path / "model/model.safetensors", "pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["ulrl"]) == json.loads((tmp_path / "model/config.json").read_text())


def test_what_the_card_says(victim_of: Victims, tmp_path: Path) -> None:
    export_model(victim_of(0), tmp_path / "model", CARD)
    text = (tmp_path / "model/README.md").read_text()
    assert text.startswith(
        "---\nlibrary_name: pytorch\npipeline_tag: image-classification\ntags:\n- backdoor\n"
        '- ulrl\ndatasets:\n- "cifar10"\n---\n\n# preact_resnet18(width=4)\n'
    )
    for row in (
        "| attack | badnets |",
        "| poison_ratio | 0.1 |",
        "| reinit_ratio | 1.0 |",
        r"| name | a \| b c |",
        "| acc | 91.34 % |",
        "| asr | 1.23 % |",
        "| der | – |",
    ):
        assert f"\n{row}\n" in text


def test_where_training_started_is_not_exported(
    model_spec: ModelSpec, tmp_path: Path, cpu: torch.device
) -> None:
    plan = replace(model_spec, architecture=SMALL_VIT)
    state = initialise(plan, generator(0, "exported"), cpu).weights().state
    theirs = replace(SMALL_VIT, weights=str(tmp_path / "secret/start.pth"))
    weights = Weights(model_spec=replace(plan, architecture=theirs), state=state)
    export_model(weights, tmp_path / "model", {})
    assert "secret" not in (tmp_path / "model/config.json").read_text()
    assert "secret" not in (tmp_path / "model/README.md").read_text()
    assert load_exported(tmp_path / "model").model_spec == plan


# Writing.


def test_the_same_model_gives_the_same_bytes(weights: Weights, tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        export_model(weights, tmp_path / name, CARD)
    contents = {
        tuple(path.read_bytes() for path in sorted((tmp_path / name).iterdir()))
        for name in ("one", "two", "three")
    }
    assert len(contents) == 1


def test_an_earlier_export_is_replaced(victim_of: Victims, tmp_path: Path) -> None:
    folder = tmp_path / "deep/model"
    export_model(victim_of(0), folder, CARD)
    changed = {name: value.clone() for name, value in victim_of(0).state.items()}
    changed["linear.bias"] += 1
    export_model(replace(victim_of(0), state=changed), folder, {})
    assert torch.equal(load_exported(folder).state["linear.bias"], changed["linear.bias"])
    assert "badnets" not in (folder / "README.md").read_text()
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_other_folders_are_left_alone(victim_of: Victims, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match="is there and no exported model"):
        export_model(victim_of(0), tmp_path, CARD)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_failed_export_leaves_nothing(
    victim_of: Victims, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="no space left"):
        export_model(victim_of(0), tmp_path / "model", CARD)
    assert list(tmp_path.iterdir()) == []


# Reading what may have been changed.


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format": "other"}, "config.json does not say format: ulrl-model"),
        ({"architecture": "lenet"}, "config.json: architecture is one of "),
        ({"options": {"width": 0}}, "config.json: width is in channels, from 1 to "),
        ({"options": {"widht": 4}}, "config.json: preact_resnet18 has no option 'widht'"),
        ({"options": 4}, "config.json: options is a dict; got 4"),
        ({"options": {"width": 8}}, "model.safetensors does not fit preact_resnet18(width=8): "),
        ({"num_classes": 11}, "does not fit preact_resnet18(width=4): 2 of another shape"),
        ({"num_classes": 0}, "config.json: num_classes is a whole number, at least 2; got 0"),
        ({"mean": [0.5]}, "config.json: mean is one finite number per channel; got [0.5]"),
        ({"architecture": "timm", "options": {"model": "no_such"}}, "timm has no model "),
    ],
)
def test_a_changed_configuration(
    victim_of: Victims, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    export_model(victim_of(0), tmp_path / "model", {})
    path = tmp_path / "model/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert reason in refusal(tmp_path / "model")


# A repaired model for those who have no ULRL.


def test_pixels_in_and_the_classifiers_scores_out(
    victim_of: Victims, pictures: ImageSet, cpu: torch.device
) -> None:
    weights, images = victim_of(0), pictures.test_images[:20]
    classifier, model = restore(weights, cpu), to_pixel_model(weights)
    classifier.network.eval()
    with torch.no_grad():
        expected, scores = classifier.logits(images), model(images.float() / 255)
    assert torch.allclose(scores, expected, atol=1e-4)
    assert not model.training
    assert {"mean", "std"} <= model.state_dict().keys()


def test_it_is_a_copy(victim_of: Victims) -> None:
    weights = victim_of(0)
    before = weights.head.clone()
    with torch.no_grad():
        for parameter in to_pixel_model(weights).parameters():
            parameter.zero_()
    assert torch.equal(weights.head, before)
