"""SAU: shared adversarial images, and unlearning by them."""

from collections.abc import Callable
from math import log

import pytest
import torch
from scipy.spatial.distance import jensenshannon
from torch import Generator, Tensor

from tests.ulrl_tests.repairs import CPU, clean_samples, rates, repaired, repaired_exactly
from tests.ulrl_tests.states import same
from ulrl.datasets import ImageSet
from ulrl.errors import DivergedError
from ulrl.fitting import Sources
from ulrl.methods.sau import SAU, divergences, shared_perturbations, shared_risk
from ulrl.models import Weights, restore
from ulrl.poison import Poison


def scores(seed: int, count: int = 8) -> Tensor:
    return 3 * torch.randn(count, 5, generator=Generator().manual_seed(seed))


def test_the_divergence_is_scipys_and_nothing_for_equal_outputs() -> None:
    first, second = scores(0), scores(1)
    p, q = first.softmax(dim=1).numpy(), second.softmax(dim=1).numpy()
    wanted = torch.from_numpy(jensenshannon(p, q, axis=1) ** 2)
    assert float(wanted.min()) > 0.01
    torch.testing.assert_close(divergences(first, second), wanted, rtol=1e-4, atol=1e-6)
    assert float(divergences(first, first + 7).abs().max()) < 1e-6
    apart = divergences(torch.tensor([[200.0, 0.0]]), torch.tensor([[0.0, 200.0]]))
    assert float(apart) == pytest.approx(log(2))


def test_the_shared_risk_is_the_formula() -> None:
    outputs, misled = scores(0, 4), torch.tensor([0, 1, 2, 3])
    outputs[1, 1], outputs[2, 2] = 40.0, -40.0  # probabilities of 1 and 0, which are clamped
    wrong = torch.tensor([True, True, True, False])
    total = 0.0
    for row in range(3):
        p = float(outputs[row].softmax(dim=0)[row])
        total += log(1e-6 + min(1 - p, 0.999)) + log(1 + 1e-6 - max(p, 0.001))
    assert float(shared_risk(outputs, misled, wrong)) == pytest.approx(-total / 8, rel=1e-4)
    assert float(shared_risk(outputs, misled, wrong & False)) == 0.0


def linear(noise: float) -> Callable[[Tensor], Tensor]:
    source = Generator().manual_seed(1)
    weight = torch.randn(12, 5, generator=source)
    weight = (weight + noise * torch.randn(12, 5, generator=source)) / 255

    def logits(images: Tensor) -> Tensor:
        return images.flatten(1).float() @ weight

    return logits


def plain_perturbation(
    networks: tuple[Callable[[Tensor], Tensor], ...],
    image: Tensor,
    label: int,
    steps: int,
    batch: int,
) -> Tensor:
    """One image's change, as published, by scalars."""
    delta = torch.full(image.shape, 0.2)
    for _ in range(steps):
        moving = delta.clone().requires_grad_()
        probabilities = [n(image[None] + 255 * moving)[0].softmax(0) for n in networks]
        guesses = [int(p.argmax()) for p in probabilities]
        if guesses[0] == guesses[1] != label:
            break
        middle = (probabilities[0] + probabilities[1]) / 2
        loss = torch.zeros(())
        for p, guess in zip(probabilities, guesses, strict=True):
            loss = loss + 0.5 * (p * (p / middle).log()).sum()
            if guess == label:
                loss = loss - 0.01 * 0.5 * -p[label].log() / batch
        (gradient,) = torch.autograd.grad(loss, moving)
        delta = (delta - 0.2 * gradient.sign()).clamp(-0.2, 0.2)
    return delta


def test_perturbations_are_those_of_a_plain_writing_and_within_the_bound() -> None:
    source = Generator().manual_seed(0)
    images = torch.randint(256, (40, 3, 2, 2), generator=source).to(torch.uint8)
    networks = (linear(0.0), linear(0.3))
    labels = networks[0](images).argmax(dim=1)
    found = shared_perturbations(networks, images, labels, bound=0.2, steps=5)
    assert bool((found.abs() <= torch.tensor(0.2)).all())
    wanted = [
        plain_perturbation(networks, image.float(), int(label), 5, 40)
        for image, label in zip(images, labels, strict=True)
    ]
    torch.testing.assert_close(found, torch.stack(wanted))
    # Some are shared from the start, some later; else this would prove little.
    stayed = (found == 0.2).flatten(1).all(dim=1)
    assert 0 < int(stayed.sum()) < 40
    assert int((found == 0).sum()) > 0


def test_no_round_is_the_victim(victim_of: Callable[[int], Weights], pictures: ImageSet) -> None:
    found = repaired(SAU(rounds=0), victim_of(0), clean_samples(pictures))
    assert same(dict(found.weights.state), dict(victim_of(0).state))
    assert len(found.shown) == 1


def test_a_round_is_that_of_a_plain_writing(
    victim_of: Callable[[int], Weights], pictures: ImageSet
) -> None:
    """One round of two batches, each image by itself, with AMSGrad written out."""
    clean = clean_samples(pictures)
    method = SAU(rounds=1, batch_size=40, inner_steps=2, lr=1e-3, adversarial_weight=0.5)
    found = repaired(method, victim_of(0), clean)
    network, victim = restore(victim_of(0), CPU), restore(victim_of(0), CPU)
    network.network.eval()
    victim.network.eval()
    weights = dict(network.network.named_parameters())
    order = torch.randperm(60, generator=Sources.of(0, "sau").order)
    moments = {n: [torch.zeros_like(w) for _ in range(3)] for n, w in weights.items()}
    pictured, truth = clean.samples.images[order].float(), clean.samples.labels[order]
    perturbed = 0
    for step, (start, end) in enumerate(((0, 40), (40, 60)), start=1):
        images, labels, count = pictured[start:end], truth[start:end], end - start
        networks = (network.logits, victim.logits)
        delta = shared_perturbations(networks, images, labels, bound=0.2, steps=2)
        loss = torch.zeros(())
        for image, change, label in zip(images, delta, labels, strict=True):
            clean_p = network.logits(image[None])[0].softmax(0)
            moved = image[None] + 255 * change
            p = network.logits(moved)[0].softmax(0)
            guess = int(victim.logits(moved).argmax())
            loss = loss - (clean_p[label].log() + 0.5 * p[label].log()) / count
            if guess not in {int(label), int(victim.logits(image[None]).argmax())}:
                perturbed += 1
                low, high = (1 - p[guess]).clamp(max=0.999), p[guess].clamp(min=0.001)
                loss = loss - ((1e-6 + low).log() + (1 + 1e-6 - high).log()) / (2 * count)
        gradients = torch.autograd.grad(loss, list(weights.values()))
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
            first, second, most = moments[name]
            first.mul_(0.9).add_(0.1 * gradient)
            second.mul_(0.999).add_(0.001 * gradient**2)
            most.copy_(torch.maximum(most, second))
            root = (most / (1 - 0.999**step)).sqrt() + 1e-8
            weight.data -= 1e-3 * first / (1 - 0.9**step) / root
    assert perturbed > 5
    found_moves, moves = (moves_of(w, victim_of(0)) for w in (found.weights, network.weights()))
    # Adam's first steps are ±lr where a gradient is rounding alone: few of them may differ.
    close = torch.isclose(found_moves, moves, rtol=0.02, atol=2e-5)
    assert float(close.float().mean()) > 0.97
    assert float((moves.abs() > 5e-4).float().mean()) > 0.5


def moves_of(weights: Weights, before: Weights) -> Tensor:
    return torch.cat([(v - before.state[n]).flatten() for n, v in weights.state.items()])


def test_it_repairs_a_victim(
    victim_of: Callable[[int], Weights], pictures: ImageSet, badnets: Poison
) -> None:
    before = rates(victim_of(0), badnets, pictures)
    method = SAU(rounds=6, lr=1e-3, batch_size=30)
    found = repaired_exactly(method, victim_of(0), clean_samples(pictures, 0.5))
    after = rates(found.weights, badnets, pictures)
    assert before.asr > 0.9
    assert after.asr < 0.3
    assert after.acc > before.acc - 0.1
    assert len(found.shown) == 6


def test_the_same_bits_twice(victim_of: Callable[[int], Weights], pictures: ImageSet) -> None:
    first, second = (
        repaired(SAU(rounds=2), victim_of(0), clean_samples(pictures)) for _ in range(2)
    )
    assert same(dict(first.weights.state), dict(second.weights.state))
    assert not same(dict(first.weights.state), dict(victim_of(0).state))


def test_the_number_of_rounds_depends_on_the_dataset() -> None:
    assert SAU().resolved("cifar10").rounds == 100
    assert SAU().resolved("tiny_imagenet").rounds == 20
    assert SAU(rounds=3).resolved("tiny_imagenet").rounds == 3


def test_a_rate_that_is_too_large_is_an_error(
    victim_of: Callable[[int], Weights], pictures: ImageSet
) -> None:
    with pytest.raises(DivergedError, match=r"sau diverged in epoch .* smaller lr may help"):
        repaired(SAU(rounds=20, lr=100.0), victim_of(0), clean_samples(pictures))


@pytest.mark.parametrize(
    ("option", "value", "rule"),
    [
        ("bound", 0.0, "in .0, 1. pixel units, above 0"),
        ("rounds", -1, "from 0 to 1000"),
        ("inner_steps", 0, "from 1 to 100"),
        ("lr", 0.0, "above 0 and at most 100"),
        ("batch_size", 0, "at least 1"),
        ("shared_weight", -1.0, "in .0, 1000."),
        ("adversarial_weight", float("nan"), "in .0, 1000."),
    ],
)
def test_options_out_of_range_are_refused(option: str, value: float, rule: str) -> None:
    with pytest.raises(ValueError, match=f"{option} is {rule}"):
        SAU(**{option: value})  # type: ignore[arg-type]
