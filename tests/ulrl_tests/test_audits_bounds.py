"""Lower bounds of a network's outputs: nothing that is tried may lie below them."""

from collections.abc import Callable

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from ulrl.audits._bounds import Bounder, Box, enter

CLASSES, ROWS, COUNT = 4, 3, 5


class Plain(nn.Module):
    """Every kind of layer that can be bounded, in the forms that networks have them in."""

    def __init__(self, *, in_place: bool = False) -> None:
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.conv3 = nn.Conv2d(4, 6, 3, stride=2, groups=2)
        self.pool, self.drop = nn.AvgPool2d(2, stride=1), nn.Dropout(0.5)
        self.hidden, self.head = nn.Linear(6 * 4, 8), nn.Linear(8, CLASSES)
        self.act = nn.ReLU(inplace=in_place)
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm(self.conv1(x))
        active = self.act(out)
        branch = self.conv2(active)
        if self.in_place:
            branch += out  # which the activation has changed
        else:
            branch = branch + active
        out = functional.relu(self.conv3(branch))[:, :, ::1, :]
        out = self.drop(self.pool(out)).flatten(1)
        hidden: Tensor = self.hidden(out).relu()
        scores: Tensor = self.head(hidden)
        return scores


class Residual(nn.Module):
    """Blocks with activations before the convolutions, and a global average."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1, bias=False) for _ in range(3))
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = torch.add(x, conv(torch.relu(norm(x))))
        pooled = functional.adaptive_avg_pool2d(x, 1)
        scores: Tensor = self.head(pooled.view(x.size(0), -1) if x.ndim == 4 else x)
        return scores


def made(build: Callable[[], nn.Module], seed: int = 0, shift: float = 0.0) -> nn.Module:
    """Return a network with weights of a seed, in float64; `shift` is added to biases."""
    network = build().double().eval().requires_grad_(requires_grad=False)
    source = Generator().manual_seed(seed)
    for name, value in network.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2, generator=source)
        elif value.is_floating_point():
            value.normal_(std=0.4, generator=source)
        if name.endswith("bias") and shift:
            value.add_(shift * torch.sign(value))
    return network


def problem(seed: int = 0) -> tuple[Box, Tensor]:
    """Return images of 8 × 8 with a patch of 2 × 2 somewhere, and differences of outputs."""
    source = Generator().manual_seed(seed)
    images = torch.rand(COUNT, 2, 8, 8, generator=source, dtype=torch.float64)
    numbers = torch.arange(128).reshape(2, 8, 8)
    free = torch.stack([numbers[:, i : i + 2, 3:5].flatten() for i in range(COUNT)])
    center = images.flatten(1).scatter(1, free, 0.5).reshape(images.shape)
    radius = torch.zeros(COUNT, 128, dtype=torch.float64).scatter(1, free, 0.5)
    differences = torch.randn(COUNT, ROWS, CLASSES, generator=source, dtype=torch.float64)
    return Box(center=center, radius=radius.reshape(images.shape), free=free), differences


def least_of(network: nn.Module, box: Box, differences: Tensor) -> Tensor:
    return Bounder(network, (2, 8, 8), COUNT, ROWS).least(box, differences)


def tried(network: nn.Module, box: Box, differences: Tensor) -> Tensor:
    """Return the least differences that random patches, corners and descent come to."""
    source = Generator().manual_seed(9)
    best = torch.full((COUNT, ROWS), torch.inf, dtype=torch.float64)
    starts = []
    for number in range(300):
        free = torch.rand(COUNT, 1, 2, 8, 8, generator=source, dtype=torch.float64)
        if number % 2:
            free = free.round()
        values = _differences(
            network, box, differences, (2 * free - 1).expand(-1, ROWS, -1, -1, -1)
        )
        best = torch.minimum(best, values.detach())
        starts.append(free)
    content = (2 * starts[0] - 1).repeat(1, ROWS, 1, 1, 1).requires_grad_()
    for _ in range(150):
        values = _differences(network, box, differences, content)
        best = torch.minimum(best, values.detach())
        (slope,) = torch.autograd.grad(values.sum(), content)
        content = (content - 0.05 * slope.sign()).clamp(-1, 1).detach().requires_grad_()
    return best


def _differences(network: nn.Module, box: Box, differences: Tensor, content: Tensor) -> Tensor:
    images = box.center[:, None] + content * box.radius[:, None]
    outputs = network(images.flatten(0, 1)).unflatten(0, (COUNT, ROWS))
    result: Tensor = (outputs * differences).sum(dim=2)
    return result


NETWORKS = (Plain, Residual, lambda: Plain(in_place=True))


@pytest.mark.parametrize("build", NETWORKS)
@pytest.mark.parametrize("seed", [0, 1])
def test_no_patch_goes_below_the_bound(build: Callable[[], nn.Module], seed: int) -> None:
    network = made(build, seed)
    box, differences = problem(seed)
    least, best = least_of(network, box, differences), tried(network, box, differences)
    bounds = enter(network, box)
    assert any(bool(((low < 0) & (high > 0)).any()) for low, high in bounds)  # some are unstable
    assert bool((least <= best + 1e-9).all())
    spread = best.std()
    assert float((best - least).mean()) < float(spread)  # nor are the bounds far away


@pytest.mark.parametrize("build", NETWORKS)
def test_the_bound_is_exact_where_every_relu_is_stable(build: Callable[[], nn.Module]) -> None:
    """There the network is affine in the patch, so that its slopes at one point say all."""
    network = made(build, 0, shift=60.0)
    box, differences = problem()
    bounds = enter(network, box)
    assert all(bool(((low >= 0) | (high <= 0)).all()) for low, high in bounds)
    assert any(bool((high <= 0).any()) for _, high in bounds)
    center = box.center[:, None].repeat(1, ROWS, 1, 1, 1).requires_grad_()
    outputs = network(center.flatten(0, 1)).unflatten(0, (COUNT, ROWS))
    values = (outputs * differences).sum(dim=2)
    (slopes,) = torch.autograd.grad(values.sum(), center)
    exact = values - (slopes.abs() * box.radius[:, None]).flatten(2).sum(dim=2)
    torch.testing.assert_close(least_of(network, box, differences), exact.detach())


def test_bounds_before_each_relu_hold() -> None:
    network = made(Plain)
    box, _ = problem()
    seen: list[Tensor] = []
    hooks = [
        network.get_submodule(name).register_forward_hook(lambda *args: seen.append(args[2]))
        for name in ("norm", "conv3", "hidden")
    ]
    bounds = enter(network, box)
    source = Generator().manual_seed(3)
    for _ in range(100):
        seen.clear()
        content = (
            2 * torch.rand(box.center.shape, generator=source, dtype=torch.float64).round() - 1
        )
        network(box.center + content * box.radius)
        for value, (low, high) in zip(seen, bounds, strict=True):
            assert bool(((low <= value + 1e-9) & (value <= high + 1e-9)).all())
    for hook in hooks:
        hook.remove()


def test_two_unknown_pixels_by_brute_force() -> None:
    network = made(Plain, 2)
    box, differences = problem(2)
    free = box.free[:, :2]
    radius = torch.zeros(COUNT, 128, dtype=torch.float64).scatter(1, free, 0.5)
    box = Box(center=box.center, radius=radius.reshape(box.center.shape), free=free)
    least = least_of(network, box, differences)
    best = torch.full_like(least, torch.inf)
    grid = torch.linspace(0, 1, 21, dtype=torch.float64)
    for first in grid:
        for second in grid:
            images = box.center.flatten(1).clone()
            images.scatter_(1, free, torch.stack([first, second]).expand(COUNT, 2))
            outputs = network(images.reshape(box.center.shape))
            best = torch.minimum(best, (outputs[:, None] * differences).sum(dim=2))
    assert bool((least <= best + 1e-9).all())
    assert float((best - least).max()) < 0.1 * float(best.std())


def test_a_second_call_is_not_changed_by_the_first() -> None:
    network = made(Plain)
    bounder = Bounder(network, (2, 8, 8), COUNT, ROWS)
    first = bounder.least(*problem(0))
    bounder.least(*problem(1))
    assert torch.equal(bounder.least(*problem(0)), first)


class Odd(nn.Module):
    def __init__(self, layer: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.conv = layer, nn.Conv2d(2, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.conv(x)).flatten(1)


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (lambda x: functional.max_pool2d(x, 2), "max_pool2d"),
        (torch.sigmoid, "sigmoid"),
        (functional.gelu, "gelu"),
        (lambda x: functional.scaled_dot_product_attention(x, x, x), "scaled_dot_product"),
        (lambda x: x * x, "mul"),
        (lambda x: x + 1, "the sum of a layer's output and a constant"),
        (lambda x: torch.dropout(x, 0.5, train=True), "dropout"),
        (lambda x: x.mean(dim=0, keepdim=True), "a mean over the images"),
        (lambda x: x[0], "indexing"),
        (lambda x: x[:, :, 1:].relu_(), "in place on a part"),
        (lambda x: x[:, :, :] + x.relu_(), "in place on a part"),
        (lambda x: x.reshape(-1), "a reshape"),
        (lambda x: functional.batch_norm(x, None, None, training=True), "BatchNorm without"),
    ],
)
def test_other_layers_are_refused_by_name(layer: Callable[[Tensor], Tensor], name: str) -> None:
    network = Odd(layer).double().requires_grad_(requires_grad=False)
    with pytest.raises(ValueError, match=f"certify cannot bound .*{name}"):
        enter(network, problem()[0])
