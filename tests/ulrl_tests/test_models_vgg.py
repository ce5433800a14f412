"""VGG19 with batch normalisation, against torchvision's and the benchmark's names."""

import pytest
import torch
from torch import Generator, nn
from torch.nn.functional import adaptive_avg_pool2d

from ulrl.models.vgg import VGG19BN, _resized

CONVOLUTIONS = (0, 3, 7, 10, 14, 17, 20, 23, 27, 30, 33, 36, 40, 43, 46, 49)


def shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def test_vgg19_bn_has_the_benchmarks_names_and_shapes() -> None:
    with torch.device("meta"):
        network = VGG19BN().build(classes=10, channels=3, side=32)
    state = shapes(network)
    assert len(state) == 118
    assert sum(parameter.numel() for parameter in network.parameters()) == 139_622_218
    norms = {f"features.{index + 1}.running_var" for index in CONVOLUTIONS}
    assert {name for name in state if name.endswith("running_var")} == norms
    assert {name for name, shape in state.items() if len(shape) == 4} == {
        f"features.{index}.weight" for index in CONVOLUTIONS
    }
    assert state["classifier.0.weight"] == (4096, 25088)
    assert state["classifier.3.weight"] == (4096, 4096)
    assert state["classifier.6.weight"] == (10, 4096)


def test_vgg19_bn_is_torchvisions_in_names_draw_and_numbers() -> None:
    from torchvision.models import vgg19_bn  # type: ignore[import-untyped]

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        reference = vgg19_bn(num_classes=3).eval()
        torch.manual_seed(0)
        network = VGG19BN().build(classes=3, channels=3, side=32).eval()
    state, expected = network.state_dict(), reference.state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(value, expected[name]) for name, value in state.items())
    for side in (32, 64):
        images = torch.randn(2, 3, side, side, generator=Generator().manual_seed(side))
        with torch.no_grad():
            assert torch.allclose(network(images), reference(images), atol=1e-5)


@pytest.mark.parametrize("side", [1, 2, 3, 5, 7, 10, 14])
def test_features_are_pooled_as_torchs_adaptive_pool_does(side: int) -> None:
    features = torch.randn(2, 3, side, side, generator=Generator().manual_seed(0))
    assert torch.allclose(_resized(features), adaptive_avg_pool2d(features, 7), atol=1e-6)


def test_options_scale_the_stages_and_the_classifier() -> None:
    network = VGG19BN(width=2, dropout=0.25).build(classes=4, channels=1, side=8)
    state = shapes(network)
    assert state["features.0.weight"] == (2, 1, 3, 3)
    assert state["features.49.weight"] == (16, 16, 3, 3)
    assert state["classifier.0.weight"] == (128, 16 * 49)
    dropouts = [layer.p for layer in network.modules() if isinstance(layer, nn.Dropout)]
    assert dropouts == [0.25, 0.25]
