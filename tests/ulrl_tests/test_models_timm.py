"""Models of timm: which layer ULRL judges, at which size they run, what is refused."""

from typing import Any

import pytest
import torch
from torch import Generator, nn

from ulrl.models.timm_model import TimmModel

IMAGES = torch.randn(2, 3, 32, 32, generator=Generator().manual_seed(0))


def built(options: TimmModel, *, channels: int = 3, side: int = 32) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return options.build(classes=5, channels=channels, side=side).eval()


@pytest.mark.parametrize(
    ("model", "head"),
    [
        ("resnet18", "1.fc"),
        ("mobilenetv3_small_050", "1.classifier"),
        ("convnext_atto", "1.head.fc"),
        ("vit_tiny_patch16_224", "1.head"),
        ("deit_tiny_patch16_224.fb_in1k", "1.head"),
    ],
)
def test_the_head_is_the_layer_that_gives_the_scores(model: str, head: str) -> None:
    options = TimmModel(model=model)
    assert options.head == head
    with torch.device("meta"):
        network = options.build(classes=5, channels=3, side=32).eval()
    layer = network.get_submodule(head)
    assert isinstance(layer, nn.Linear)
    outputs = []
    layer.register_forward_hook(lambda *told: outputs.append(told[-1]))
    with torch.device("meta"), torch.no_grad():
        scores = network(torch.empty(2, 3, 32, 32))
    assert scores.shape == (2, 5)
    assert outputs[0] is scores


def test_a_network_is_timms_own() -> None:
    import timm

    network = built(TimmModel(model="resnet10t"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        reference = timm.create_model("resnet10t", num_classes=5).eval()
    expected = {f"1.{name}": value for name, value in reference.state_dict().items()}
    state = network.state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(value, expected[name]) for name, value in state.items())
    with torch.no_grad():
        assert torch.equal(network(IMAGES), reference(IMAGES))


@pytest.mark.parametrize(
    ("model", "size", "side", "inside"),
    [
        ("resnet18", None, 32, 32),  # its own side
        ("resnet18", 48, 32, 48),
        ("vit_tiny_patch16_224", None, 32, 224),  # takes no other
        ("vit_tiny_patch16_224", 64, 32, 64),  # unless it is built for another
        ("inception_v3", None, 32, 299),  # nothing would be left of 32 px
        ("inception_v3", None, 128, 128),
    ],
)
def test_the_size_that_a_model_sees(model: str, size: int | None, side: int, inside: int) -> None:
    with torch.device("meta"):
        network = TimmModel(model=model, size=size).build(classes=5, channels=1, side=side).eval()
        seen = []
        network.get_submodule("1").register_forward_pre_hook(lambda *told: seen.append(told[1][0]))
        assert network(torch.empty(2, 1, side, side)).shape == (2, 5)
    assert seen[0].shape == (2, 1, inside, inside)


def test_a_look_at_a_model_draws_nothing() -> None:
    """Else the first network of a process would differ from later ones."""
    import ulrl.models._timm as looks

    options = TimmModel(model="resnet10t")
    states = []
    for _ in range(2):
        for look in (looks.check, looks.default_size, looks._sketch):
            look.cache_clear()
        states += [built(options, side=24).state_dict() for _ in range(2)]
    assert all(torch.equal(v, s[name]) for s in states for name, v in states[0].items())


def test_labels_and_what_keys_know() -> None:
    assert TimmModel(model="resnet18").label == "timm:resnet18"
    assert TimmModel(model="resnet18").identity() == {}
    options = TimmModel(model="resnet18", size=64, weights="imagenet")
    assert options.label == "timm:resnet18(size=64,weights=imagenet)"
    assert options.identity() == {"weights": "timm/resnet18.a1_in1k"}
    assert TimmModel(model="resnet18.tv_in1k").published == "timm/resnet18.tv_in1k"
    file = TimmModel(model="resnet18", weights="/somewhere/else/w.pth")
    assert file.label == "timm:resnet18(weights=w.pth)"


def test_imagenet_is_all_but_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    create = timm.create_model

    def offline(name: str, *, pretrained: bool = False, **options: Any) -> nn.Module:
        network: nn.Module = create(name, **options)
        for value in network.parameters() if pretrained else ():
            nn.init.constant_(value, 0.5)
        return network

    monkeypatch.setattr(timm, "create_model", offline)
    options = TimmModel(model="resnet10t", weights="imagenet")
    network = built(options, channels=1)
    drawn = {name: value.clone() for name, value in network.state_dict().items()}
    options.start(network)
    state = network.state_dict()
    assert torch.equal(state["1.fc.weight"], drawn["1.fc.weight"])
    assert bool((state["1.layer1.0.conv1.weight"] == 0.5).all())
    assert bool((state["1.conv1.0.weight"] == 1.5).all())  # red, green and blue together


def test_a_file_of_timm_loads(tmp_path: Any) -> None:
    import timm

    reference = timm.create_model("resnet10t", num_classes=5).eval()
    torch.save({"model": reference.state_dict()}, tmp_path / "w.pt")
    options = TimmModel(model="resnet10t", weights=str(tmp_path / "w.pt"))
    network = built(options)
    options.start(network)
    with torch.no_grad():
        assert torch.equal(network(IMAGES), reference(IMAGES))


def test_a_file_of_another_size_is_interpolated_by_timm(tmp_path: Any) -> None:
    import timm

    reference = timm.create_model("vit_tiny_patch16_224", img_size=48, num_classes=5)
    torch.save(reference.state_dict(), tmp_path / "w.pt")
    options = TimmModel(model="vit_tiny_patch16_224", size=32, weights=str(tmp_path / "w.pt"))
    network = built(options)
    options.start(network)
    assert network.state_dict()["1.pos_embed"].shape == (1, 5, 192)
    assert torch.equal(network.state_dict()["1.head.weight"], reference.state_dict()["head.weight"])
