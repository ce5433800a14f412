"""CLP: bounds of channels without data."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.ulrl_tests.repairs import clean_samples, repaired
from tests.ulrl_tests.tiny_networks import HeadAlone
from ulrl.datasets import ImageSet
from ulrl.methods._cuts import Rule
from ulrl.methods.clp import CLP, bounds, deviations
from ulrl.models import Weights


def layer(seed: int) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    torch.manual_seed(seed)
    convolution, norm = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
    with torch.no_grad():
        norm.weight.uniform_(-2, 2)
    assert norm.running_var is not None
    norm.running_var.uniform_(0.1, 3)
    return convolution, norm


def test_bounds_are_largest_singular_values_times_the_slope() -> None:
    convolution, norm = layer(0)
    assert norm.running_var is not None
    for channel, bound in enumerate(bounds(convolution, norm)):
        sigma = torch.linalg.svdvals(convolution.weight[channel].detach().reshape(3, 9))[0]
        slope = norm.weight[channel].abs() / norm.running_var[channel].sqrt()
        assert float(bound) == pytest.approx(float(sigma * slope.detach()), rel=1e-5)


def test_deviations_are_those_of_the_sample_and_leave_out_the_infinite() -> None:
    values = torch.tensor([1.0, 2.0, 3.0, torch.inf])
    assert deviations(values)[:3].tolist() == [-1.0, 0.0, 1.0]
    assert bool(deviations(values)[3].isnan())
    assert deviations(torch.ones(4)).tolist() == [-torch.inf] * 4


def test_the_filter_made_ten_times_larger_is_the_one_that_is_cut(
    victim_of: Callable[[int], Weights], pictures: ImageSet
) -> None:
    state: dict[str, Tensor] = {name: value.clone() for name, value in victim_of(0).state.items()}
    name = "layer4.1.conv1"
    state[f"{name}.weight"][5] *= 10
    victim = Weights(model_spec=victim_of(0).model_spec, state=state)
    found = repaired(CLP(u=4.0), victim, clean_samples(pictures)).weights.state
    changed = {
        n: value != state[n] for n, value in found.items() if not torch.equal(value, state[n])
    }
    assert set(changed) == {"layer4.1.bn2.weight", "layer4.1.bn2.bias"}
    for where, values in changed.items():
        assert found[where][5] == 0
        assert values.nonzero().flatten().tolist() == [5]


def test_the_default_depends_on_the_dataset() -> None:
    assert [CLP().resolved(name).stages[1] for name in ("cifar10", "tiny_imagenet")] == [
        CLP(u=u).stages[1] for u in (3.0, 5.0)
    ]
    assert CLP().resolved("tiny_imagenet").u == 5
    assert CLP(u=2.5).resolved("tiny_imagenet").u == 2.5


def test_a_budget_keeps_the_held_out_accuracy(
    victim_of: Callable[[int], Weights], pictures: ImageSet
) -> None:
    found = repaired(CLP(rule=Rule.BUDGET, budget=0.1), victim_of(0), clean_samples(pictures, 0.5))
    scores = found.stages[0]
    kept = dict(zip(scores["levels"].tolist(), scores["accuracies"].tolist(), strict=True))
    enough = [level for level, share in kept.items() if share >= 0.9 * scores["victim"].item()]
    cut = sum(int((score >= min(enough)).sum()) for n, score in scores.items() if "score/" in n)
    zeros = sum(
        int((value == 0).sum() - (victim_of(0).state[name] == 0).sum())
        for name, value in found.weights.state.items()
    )
    assert zeros == cut > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": Rule.LARGEST}, "rule is deviations or budget or oracle for clp; got largest"),
        ({"u": -1.0}, "u is a number of standard deviations"),
        ({"budget": 1.1}, "budget is a share"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CLP(**options)  # type: ignore[arg-type]


def test_a_network_without_batchnorm_is_refused() -> None:
    with pytest.raises(ValueError, match="clp needs BatchNorm layers"):
        CLP().check(HeadAlone(4, 3), "head", 3)
