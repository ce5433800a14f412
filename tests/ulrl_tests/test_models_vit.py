"""The vision transformer, against torchvision's, timm's and the benchmark's names."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from ulrl.models import WeightsError
from ulrl.models._resize import Resize
from ulrl.models.vit import ViTB16

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


def test_evaluation_computes_what_training_does_and_each_image_alone() -> None:
    network = seeded(lambda: SMALL.build(classes=5, channels=3, side=16))
    nn.init.eye_(network.get_submodule("1.heads.head").get_parameter("weight"))
    with torch.no_grad():
        scores = network(images(16))
        assert torch.equal(network(images(16)), scores)
        assert torch.allclose(network(images(16)[1:2]), scores[1:2], atol=1e-6)
    network.train()
    assert torch.equal(network(images(16)), scores)


@pytest.mark.parametrize(("side", "size"), [(32, 224), (8, 32), (28, 32), (64, 48), (32, 32)])
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


def test_the_head_stays_as_drawn_for_another_number_of_classes(tmp_path: Path) -> None:
    reference = timms(size=32, classes=7)
    network = from_file(tmp_path / "a.pth", reference.state_dict())
    assert not network.get_submodule("1.heads.head").get_parameter("weight").any()
    for model, head in ((network, "1.heads"), (reference, "head")):
        model.set_submodule(head, nn.Identity())
    same_numbers(network, reference)


def test_positions_are_interpolated_for_another_size(tmp_path: Path) -> None:
    """Values on a straight line stay on it, away from the border; the class token's stay."""
    state = timms(size=64, classes=5).state_dict()
    slope = torch.arange(8.0).repeat(8)  # of the columns of an 8×8 grid
    state["pos_embed"][0, 1:] = slope[:, None]
    network = from_file(tmp_path / "a.pth", state)
    positions = network.state_dict()["1.encoder.pos_embedding"]
    assert positions.shape == (1, 17, 32)
    assert torch.equal(positions[0, 0], state["pos_embed"][0, 0])
    assert torch.allclose(positions[0, [2, 3], 0], torch.tensor([2.5, 4.5]), atol=0.1)


def test_imagenet_is_timms_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of timm's but the download; at 64 px, where its positions are interpolated."""
    import timm

    create, asked = timm.create_model, []

    def offline(name: str, *, pretrained: bool, **options: Any) -> nn.Module:
        asked.append((name, pretrained))
        return filled(create(name, **options))

    monkeypatch.setattr(timm, "create_model", offline)
    options = ViTB16(size=64, weights="imagenet")
    network = seeded(lambda: options.build(classes=5, channels=1, side=16))
    before = torch.get_rng_state()
    options.start(network)
    assert torch.equal(torch.get_rng_state(), before)
    assert asked == [("vit_base_patch16_224.augreg_in1k", True)]
    assert not network.get_submodule("1.heads.head").get_parameter("weight").any()
    network.set_submodule("1.heads", nn.Identity())
    reference = filled(create("vit_base_patch16_224", img_size=64)).eval()
    reference.set_submodule("head", nn.Identity())
    grey = images(64, count=1)[:, :1]  # one channel counts as three alike
    with torch.no_grad():
        expected = reference(grey.expand(-1, 3, -1, -1))
        assert torch.allclose(network(grey), expected, atol=1e-3, rtol=1e-3)


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
