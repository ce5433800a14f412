"""Models of timm: which layer ULRL judges, at which size they run, what is refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from ulrl.models import WeightsError
from ulrl.models._resize import Resize
from ulrl.models.timm_model import TimmModel
from ulrl.models.vit import ViTB16

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


def test_a_file_of_another_size_is_interpolated_by_timm(tmp_path: Any) -> None:
    import timm

    reference = timm.create_model("vit_tiny_patch16_224", img_size=48, num_classes=5)
    torch.save(reference.state_dict(), tmp_path / "w.pt")
    options = TimmModel(model="vit_tiny_patch16_224", size=32, weights=str(tmp_path / "w.pt"))
    network = built(options)
    options.start(network)
    assert network.state_dict()["1.pos_embed"].shape == (1, 5, 192)
    assert torch.equal(network.state_dict()["1.head.weight"], reference.state_dict()["head.weight"])


# The vision transformer, against torchvision's, timm's and the benchmark's names.


SMALL = ViTB16(size=32, patch=8, width=32, depth=2, heads=2)


def images(side: int, count: int = 4) -> Tensor:
    return torch.randn(count, 3, side, side, generator=Generator().manual_seed(side))


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().eval()


def test_vit_b_16_has_the_benchmarks_names_and_shapes() -> None:
    with torch.device("meta"):
        network = ViTB16().build(classes=10, channels=3, side=32)
    state = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert len(state) == 152
    assert sum(parameter.numel() for parameter in network.parameters()) == 85_806_346
    layer = "1.encoder.layers.encoder_layer_11"
    expected = {
        "1.class_token": (1, 1, 768),
        "1.conv_proj.weight": (768, 3, 16, 16),
        "1.encoder.pos_embedding": (1, 197, 768),
        f"{layer}.ln_1.weight": (768,),
        f"{layer}.self_attention.in_proj_weight": (2304, 768),
        f"{layer}.self_attention.in_proj_bias": (2304,),
        f"{layer}.self_attention.out_proj.weight": (768, 768),
        f"{layer}.mlp.0.weight": (3072, 768),
        f"{layer}.mlp.3.weight": (768, 3072),
        "1.encoder.ln.bias": (768,),
        "1.heads.head.weight": (10, 768),
    }
    assert expected.items() <= state.items()
    assert all(name.startswith("1.") for name in state)


def test_a_draw_and_its_numbers_are_torchvisions() -> None:
    from torchvision.models import VisionTransformer  # type: ignore[import-untyped]

    reference = seeded(lambda: VisionTransformer(32, 8, 2, 2, 32, 128, num_classes=5))
    network = seeded(lambda: SMALL.build(classes=5, channels=3, side=16))
    expected = reference.state_dict()
    state = {name.removeprefix("1."): value for name, value in network.state_dict().items()}
    assert list(state) == list(expected)
    assert all(torch.equal(value, expected[name]) for name, value in state.items())
    assert not state["heads.head.weight"].any()
    for model, head in ((network, "1.heads.head"), (reference, "heads.head")):
        nn.init.eye_(model.get_submodule(head).get_parameter("weight"))
    with torch.no_grad():
        scores = network(images(32))
        assert torch.allclose(scores, reference(images(32)), atol=1e-5)
    assert scores.std() > 0.1


@pytest.mark.parametrize(("side", "size"), [(32, 224), (64, 48), (32, 32)])
def test_the_resize_is_torchvisions(side: int, size: int) -> None:
    from torchvision.transforms import Resize as Reference  # type: ignore[import-untyped]

    expected = Reference((size, size), antialias=True)(images(side))
    assert torch.allclose(Resize(size)(images(side)), expected, atol=1e-6)


def filled(network: nn.Module) -> nn.Module:
    """The network with numbers everywhere, so that no two parameters could be exchanged."""
    source = Generator().manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1, generator=source)
    return network.eval()


def timms(*, size: int, classes: int) -> nn.Module:
    """The small transformer as timm builds it."""
    from timm.models import VisionTransformer

    return filled(
        VisionTransformer(
            img_size=size, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=classes
        )
    )


def from_file(path: Path, state: dict[str, Any], *, classes: int = 5) -> nn.Module:
    """Return the small transformer that starts from a file with these weights."""
    torch.save(state, path)
    options = replace(SMALL, weights=str(path))
    network = seeded(lambda: options.build(classes=classes, channels=3, side=16))
    options.start(network)
    return network


def same_numbers(network: nn.Module, other: nn.Module) -> None:
    with torch.no_grad():
        assert torch.allclose(network(images(32)), other(images(32)), atol=1e-4)


@pytest.mark.parametrize("wrapped", [False, True])
def test_timms_weights_give_timms_numbers(tmp_path: Path, *, wrapped: bool) -> None:
    reference = timms(size=32, classes=5)
    state: dict[str, Any] = reference.state_dict()
    network = from_file(tmp_path / "a.pth", {"state_dict": state} if wrapped else state)
    same_numbers(network, reference)


@pytest.mark.parametrize("names", ["new", "old", "own", "parallel"])
def test_torchvisions_weights_give_torchvisions_numbers(tmp_path: Path, names: str) -> None:
    """Also under the names of torchvision before 0.13, and of BackdoorBench's files."""
    from torchvision.models import VisionTransformer

    reference = filled(VisionTransformer(32, 8, 2, 2, 32, 128, num_classes=5))
    state = reference.state_dict()
    if names == "old":
        old = {".mlp.0.": ".mlp.linear_1.", ".mlp.3.": ".mlp.linear_2."}
        for new, name in old.items():
            state = {key.replace(new, name): value for key, value in state.items()}
    prefix = {"own": "1.", "parallel": "module.1."}.get(names, "")
    network = from_file(tmp_path / "a.pt", {prefix + key: v for key, v in state.items()})
    same_numbers(network, reference)


def test_weights_that_cannot_be_fetched_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> nn.Module:
        raise ConnectionError("a long story\nof proxies")

    monkeypatch.setattr("timm.create_model", offline)
    options = ViTB16(weights="imagenet")
    with pytest.raises(WeightsError) as error:
        options.start(nn.Identity())
    assert str(error.value) == (
        "weights timm/vit_base_patch16_224.augreg_in1k cannot be fetched (ConnectionError); where "
        "there is no network, download the file elsewhere and write weights: FILE.safetensors"
    )
