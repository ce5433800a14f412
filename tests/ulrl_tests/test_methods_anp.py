"""ANP: masks under adversarial noise."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.ulrl_tests import naive
from tests.ulrl_tests.plain_masks import PlainMask, clamp, put_plain_masks
from tests.ulrl_tests.repairs import CPU, Found, clean_samples, rates, repaired, repaired_exactly
from tests.ulrl_tests.states import same
from tests.ulrl_tests.tiny_networks import HeadAlone
from ulrl.augmentation import draw_views
from ulrl.clean import CleanSamples
from ulrl.datasets import ImageSet
from ulrl.methods._cuts import Cut, Rule, edit_at, scores_of
from ulrl.methods._loop import hold_out
from ulrl.methods.anp import ANP
from ulrl.models import Classifier, Weights, restore
from ulrl.poison import Poison
from ulrl.randomness import generator


@pytest.fixture(scope="module")
def found(wide_victim: Weights, pictures: ImageSet) -> Found:
    method = ANP(steps=60, batch_size=32)
    return repaired_exactly(method, wide_victim, clean_samples(pictures, 0.5))


class PlainBatches:
    """Batches of samples drawn with replacement, each in a view of its own."""

    def __init__(self, model: Classifier, clean: CleanSamples, size: int) -> None:
        self.model, self.clean, self.size = model, clean, size
        self.order = generator(0, "mask_search", "order")
        self.views = generator(0, "mask_search", "views")

    def draw(self) -> tuple[Tensor, Tensor]:
        count, preprocessing = len(self.clean.index), self.model.model_spec.preprocessing
        chosen = torch.randint(count, (self.size,), generator=self.order).tolist()
        views = draw_views(self.size, preprocessing, self.views, CPU)
        inputs = []
        for place, i in enumerate(chosen):
            image = self.clean.samples.images[i].to(torch.get_default_dtype())
            view = naive.crop(
                image,
                int(views.top[place]),
                int(views.left[place]),
                preprocessing.padding,
                mirrored=bool(views.mirrored[place]),
            )
            inputs.append(naive.normalised(self.model, view))
        return torch.stack(inputs), self.clean.samples.labels[chosen]


def plain_search(
    victim: Weights, clean: CleanSamples, steps: int, eps: float, noise_steps: int
) -> dict[str, PlainMask]:
    """Steps of batches of 16, with a rate of 0.3, and 0.25 of the loss without noise."""
    model = restore(victim, CPU)
    plain = put_plain_masks(model)
    masks = [module.mask for module in plain.values()]
    sgd = naive.SGD(masks, 0.9, 0.0)
    batches = PlainBatches(model, hold_out(clean, 0.2, 10)[0], 16)
    source = generator(0, "mask_search", "noise")
    for _ in range(steps):
        inputs, labels = batches.draw()
        draws = torch.rand((2, sum(map(len, masks))), generator=source)
        place = 0
        noises: list[Tensor] = []
        for module in plain.values():
            end = place + len(module.mask)
            module.scale_noise = ((2 * draws[0, place:end] - 1) * eps).requires_grad_()
            module.shift_noise = ((2 * draws[1, place:end] - 1) * eps).requires_grad_()
            noises += [module.scale_noise, module.shift_noise]
            place = end
        for _ in range(noise_steps):
            loss = naive.cross_entropy(model.network(inputs), labels)
            for noise, slope in zip(noises, torch.autograd.grad(loss, noises), strict=True):
                noise.data += eps / noise_steps * slope.sign()
        noisy = naive.cross_entropy(model.network(inputs), labels)
        for module in plain.values():
            module.scale_noise = torch.zeros(len(module.mask))
            module.shift_noise = torch.zeros(len(module.mask))
        clear = naive.cross_entropy(model.network(inputs), labels)
        sgd.step(0.25 * clear + 0.75 * noisy, 0.3, None)
        clamp(plain)
    return plain


@pytest.mark.parametrize(("eps", "noise_steps"), [(0.4, 1), (0.3, 2), (0.0, 1)])
def test_masks_are_those_of_a_plain_loop(
    victim_of: Callable[[int], Weights], pictures: ImageSet, eps: float, noise_steps: int
) -> None:
    victim, clean = victim_of(0), clean_samples(pictures)
    method = ANP(steps=4, batch_size=16, mask_lr=0.3, alpha=0.25, eps=eps, noise_steps=noise_steps)
    with naive.in_double():
        masks = repaired(method, victim, clean).stages[0]
        plain = plain_search(victim, clean, 4, eps, noise_steps)
    moved = 0
    for path, module in plain.items():
        ours = -masks[f"score/{path}.weight"].double()
        torch.testing.assert_close(ours, module.mask.data, rtol=0, atol=6e-5)  # rounded
        moved += int((ours < 0.99).sum())
    assert moved > 20


def test_without_noise_it_is_plain_descent_whatever_the_weights_of_the_losses(
    victim_of: Callable[[int], Weights], pictures: ImageSet
) -> None:
    victim, clean = victim_of(0), clean_samples(pictures)
    with naive.in_double():
        first, second = (
            repaired(ANP(steps=3, batch_size=16, eps=0.0, alpha=alpha), victim, clean)
            for alpha in (1.0, 0.0)
        )
    assert same(dict(first.stages[0]), dict(second.stages[0]))


def test_it_repairs_a_victim(
    found: Found, wide_victim: Weights, pictures: ImageSet, badnets: Poison
) -> None:
    before = rates(wide_victim, badnets, pictures)
    after = rates(found.weights, badnets, pictures)
    assert before.asr > 0.9
    assert after.asr < 0.3
    assert after.acc > before.acc - 0.1
    assert len(found.shown) == 1


def test_a_larger_mask_cuts_more_and_no_shift(found: Found, wide_victim: Weights) -> None:
    counts = []
    for threshold in (0.0, 0.2, 0.5, 0.9):
        edit = Cut(rule=Rule.THRESHOLD, strength=-threshold).choose(found.stages[0])
        counts.append(sum(int(mask.sum()) for mask in edit.values()))
        by_hand = edit_at(scores_of(found.stages[0]), -threshold)
        assert all(torch.equal(mask, edit[name]) for name, mask in by_hand.items())
    assert counts == sorted(set(counts))
    changed = [
        name
        for name, value in found.weights.state.items()
        if not torch.equal(value, wide_victim.state[name])
    ]
    assert changed
    assert all(name.endswith(("bn1.weight", "bn2.weight")) for name in changed)


def test_the_same_inputs_give_the_same_bits(
    victim_of: Callable[[int], Weights], pictures: ImageSet
) -> None:
    clean, method = clean_samples(pictures), ANP(steps=3, batch_size=16)
    first, second = (repaired(method, victim_of(0), clean) for _ in range(2))
    for one, other in zip(first.stages, second.stages, strict=True):
        assert same(dict(one), dict(other))


def test_trials_of_other_cuts_share_the_masks() -> None:
    weak = ANP(mask_threshold=0.5)
    assert weak.stages[0] == ANP(budget=0.2).stages[0]
    assert weak.stages[1] != ANP(budget=0.2).stages[1]
    assert ANP(eps=0.3).stages[0] != ANP().stages[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": Rule.DEVIATIONS}, "rule is budget or threshold or largest or oracle for anp"),
        ({"budget": 1.1}, "budget is a share"),
        ({"mask_threshold": -0.5}, "mask_threshold is a mask, in .0, 1.; got -0.5"),
        ({"share": 1.1}, "share is a share of what can be cut"),
        ({"eps": -0.1}, "eps is in .0, 10.; got -0.1"),
        ({"alpha": 1.5}, "alpha is in .0, 1.; got 1.5"),
        ({"mask_lr": 0.0}, "mask_lr is above 0"),
        ({"steps": 0}, "^steps is from 1 to 100000; got 0"),
        ({"noise_steps": 0}, "noise_steps is from 1 to 100; got 0"),
        ({"batch_size": 0}, "^batch_size is at least 1; got 0"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ANP(**options)  # type: ignore[arg-type]


def test_a_network_without_batchnorm_is_refused() -> None:
    with pytest.raises(ValueError, match="anp needs BatchNorm layers"):
        ANP().check(HeadAlone(4, 3), "head", 3)
