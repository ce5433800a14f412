"""BNP: clean inputs against running statistics."""

from collections.abc import Callable
from math import pi

import pytest
import torch
from torch import Tensor, nn

from tests.ulrl_tests.repairs import CPU, clean_samples, rates, repaired, repaired_exactly
from tests.ulrl_tests.states import same
from tests.ulrl_tests.tiny_networks import HeadAlone
from ulrl.datasets import ImageSet
from ulrl.methods import bnp
from ulrl.methods._cuts import Rule
from ulrl.methods._loop import hold_out
from ulrl.methods.bnp import BNP, Moments, divergence
from ulrl.models import Weights, restore
from ulrl.poison import Poison


def gaussian(x: Tensor, mean: float, variance: float) -> Tensor:
    height: float = (2 * pi * variance) ** -0.5
    return height * (-(x - mean).square() / (2 * variance)).exp()


def test_the_divergence_is_that_of_numerical_integration() -> None:
    means, variances = [0.3, -1.0, 0.0], [0.5, 2.0, 1.0]
    others, spreads = [0.0, 0.5, 0.0], [1.0, 0.7, 1.0]
    x = torch.linspace(-20, 20, 200_001, dtype=torch.float64)
    by_integral = []
    for mean, variance, other, spread in zip(means, variances, others, spreads, strict=True):
        p, q = gaussian(x, mean, variance), gaussian(x, other, spread)
        by_integral.append(float(torch.trapezoid(torch.special.xlogy(p, p / q), x)))
    first = Moments(mean=torch.tensor(means), variance=torch.tensor(variances))
    second = Moments(mean=torch.tensor(others), variance=torch.tensor(spreads))
    assert divergence(first, second).tolist() == pytest.approx(by_integral, abs=1e-6)
    assert float(divergence(first, second)[2]) == 0.0


@pytest.mark.parametrize("sizes", [[7], [4, 3], [1, 1, 5]])
def test_moments_of_batches_are_those_of_all_at_once(sizes: list[int]) -> None:
    inputs = 3 + torch.randn(7, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    running = bnp._Running()
    for batch in inputs.split(sizes):  # type: ignore[no-untyped-call]
        running.add(nn.Identity(), (batch,))
    moments = running.moments
    assert moments is not None
    torch.testing.assert_close(moments.mean.float(), inputs.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(moments.variance.float(), inputs.var(dim=(0, 2, 3)))


def test_statistics_taken_on_the_same_samples_do_not_diverge(
    victim_of: Callable[[int], Weights], pictures: ImageSet
) -> None:
    clean = clean_samples(pictures)
    classifier = restore(victim_of(0), CPU)
    before = [divergence(a, b) for _, a, b in bnp._statistics(classifier, clean)]
    for module in classifier.network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # a pass leaves the batch's own
    classifier.network.train()
    classifier.logits(clean.samples.images)
    after = [divergence(a, b) for _, a, b in bnp._statistics(classifier, clean)]
    assert len(after) == 16
    assert max(float(values.max()) for values in after) < 1e-3
    assert min(float(values.max()) for values in before) > 1e-3


def test_scores_are_those_of_a_plain_loop(
    victim_of: Callable[[int], Weights], pictures: ImageSet
) -> None:
    clean = clean_samples(pictures)
    found = repaired(BNP(), victim_of(0), clean).stages[0]
    fit, _ = hold_out(clean, 0.2, 10)
    classifier = restore(victim_of(0), CPU)
    inputs: dict[str, Tensor] = {}
    for path, module in classifier.network.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(
                lambda _, given, path=path: inputs.update({path: given[0].detach()})
            )
    classifier.network.eval()
    classifier.logits(fit.samples.images)
    for path, values in inputs.items():
        channels = []
        state = victim_of(0).state
        for c in range(values.shape[1]):
            mean, variance = values[:, c].mean(), values[:, c].var()
            other, spread = state[f"{path}.running_mean"][c], state[f"{path}.running_var"][c]
            divergence_of_c = (
                (spread / variance).log() / 2
                + (variance + (mean - other) ** 2) / (2 * spread)
                - 0.5
            )
            channels.append(divergence_of_c)
        layer = torch.stack(channels)
        z = (layer - layer.mean()) / layer.std()
        torch.testing.assert_close(found[f"score/{path}.weight"], z, rtol=1e-3, atol=1e-3)
    assert len(inputs) == 16


def test_a_channel_of_other_statistics_is_the_one_that_is_cut(
    victim_of: Callable[[int], Weights], pictures: ImageSet
) -> None:
    """As if a trigger had moved a channel's mean by ten deviations."""
    state = {name: value.clone() for name, value in victim_of(0).state.items()}
    name = "layer4.1.bn2"
    state[f"{name}.running_mean"][5] += 10 * state[f"{name}.running_var"][5].sqrt()
    victim = Weights(model_spec=victim_of(0).model_spec, state=state)
    found = repaired(BNP(u=4.0), victim, clean_samples(pictures)).weights.state
    changed = [n for n, value in found.items() if not torch.equal(value, state[n])]
    assert changed == [f"{name}.weight"]  # the shift stays
    assert (found[f"{name}.weight"] != state[f"{name}.weight"]).nonzero().tolist() == [[5]]
    assert found[f"{name}.weight"][5] == 0


def test_a_channel_without_variance_hides_no_other(
    victim_of: Callable[[int], Weights], pictures: ImageSet
) -> None:
    state = {name: value.clone() for name, value in victim_of(0).state.items()}
    state["layer4.1.conv1.weight"][3] = 0.0  # what bn2 sees there is always 0
    victim = Weights(model_spec=victim_of(0).model_spec, state=state)
    scores = repaired(BNP(), victim, clean_samples(pictures)).stages[0]
    layer = scores["score/layer4.1.bn2.weight"]
    assert (layer < -1e30).nonzero().tolist() == [[3]]
    others = torch.cat([layer[:3], layer[4:]])
    assert float(others.mean()) == pytest.approx(0, abs=1e-5)
    assert float(others.std()) == pytest.approx(1, abs=1e-5)


def test_few_deviations_repair_a_victim_and_three_do_nothing_in_narrow_layers(
    wide_victim: Weights, pictures: ImageSet, badnets: Poison
) -> None:
    """Of n values none lies more than (n - 1) / sqrt(n) deviations above the mean.

    That is 2.5 for the first layers here, of 8 channels, and 7.9 for the last, of 64.
    """
    clean = clean_samples(pictures, 0.5)
    three = repaired_exactly(BNP(), wide_victim, clean)
    assert rates(three.weights, badnets, pictures).asr > 0.9
    assert len(three.shown) == 1
    for name, score in three.stages[0].items():
        if name.startswith("score/"):
            assert float(score.max()) <= (len(score) - 1) / len(score) ** 0.5 + 1e-5
    found = repaired_exactly(BNP(u=1.5), wide_victim, clean)
    after = rates(found.weights, badnets, pictures)
    assert after.asr < 0.3
    assert after.acc > 0.85


def test_the_same_inputs_give_the_same_bits(
    victim_of: Callable[[int], Weights], pictures: ImageSet
) -> None:
    clean = clean_samples(pictures)
    first, second = (repaired(BNP(), victim_of(0), clean) for _ in range(2))
    for one, other in zip(first.stages, second.stages, strict=True):
        assert same(dict(one), dict(other))


def test_trials_of_other_cuts_share_the_divergences() -> None:
    assert BNP(u=2.0).stages[0] == BNP(rule=Rule.BUDGET, budget=0.2).stages[0]
    assert BNP(u=2.0).stages[1] != BNP(rule=Rule.BUDGET, budget=0.2).stages[1]


def test_the_default_depends_on_the_dataset() -> None:
    assert [BNP().resolved(name).stages[1] for name in ("cifar10", "tiny_imagenet")] == [
        BNP(u=u).stages[1] for u in (3.0, 4.0)
    ]
    assert BNP(u=2.5).resolved("tiny_imagenet").u == 2.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": Rule.LARGEST}, "rule is deviations or budget or oracle for bnp; got largest"),
        ({"u": -1.0}, "u is a number of standard deviations, in .0, 100.; got -1.0"),
        ({"budget": 1.1}, "budget is a share"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BNP(**options)  # type: ignore[arg-type]


def test_a_network_without_batchnorm_is_refused() -> None:
    with pytest.raises(ValueError, match="bnp needs BatchNorm layers"):
        BNP().check(HeadAlone(4, 3), "head", 3)
