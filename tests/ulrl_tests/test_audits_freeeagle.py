"""FreeEagle: features invented for each class, and where else they lean."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from tests.steps import finished
from tests.ulrl_tests.audited import audited_exactly, benign_model, found_by
from tests.ulrl_tests.states import same
from tests.ulrl_tests.tiny_networks import HeadAlone, classifier_of
from ulrl.audits.freeeagle import FreeEagle, InventFeatures, Tail, cut_of, spread, tendencies_of
from ulrl.datasets import ImageSet
from ulrl.models import ARCHITECTURES, Classifier, Weights, restore
from ulrl.models.preact_resnet import PreActResNet18
from ulrl.poison import Poison


class Cut(nn.Module):
    """A body of no weights, perhaps with a way around it, and a linear tail."""

    def __init__(self, body: nn.Module, *, around: bool = False) -> None:
        super().__init__()
        self.body, self.around = body, around
        self.head = nn.Linear(2 * 5 * 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(x)
        if self.around:
            features = features + x
        logits: Tensor = self.head(features.flatten(1))
        return logits


def features_of(body: nn.Module, steps: int) -> tuple[Classifier, Tensor]:
    classifier = classifier_of(lambda: Cut(body))
    stage = InventFeatures(cut="body", steps=steps, lr=0.01, weight_decay=0.3, seed=0)
    return classifier, finished(stage.invent(classifier, [0, 1, 2]))[1]


@pytest.mark.parametrize(("body", "least"), [(nn.Identity(), None), (nn.ReLU(), 0.0)])
def test_features_of_a_linear_tail_are_the_optimum(body: nn.Module, least: float | None) -> None:
    """The loss is strictly convex: a cross-entropy with an L2 penalty, perhaps on a quadrant."""
    classifier, found = features_of(body, 3000)
    weight = classifier.head.weight.detach().double().numpy()
    bias = classifier.head.bias.detach().double().numpy()
    for label in range(3):

        def loss(features: np.ndarray, label: int = label) -> float:
            logits = weight @ features + bias
            value = np.logaddexp.reduce(logits) - logits[label] + 0.15 * features @ features
            return float(value)

        bounds = None if least is None else [(least, None)] * 50
        best = minimize(loss, np.full(50, 0.1), bounds=bounds, method="L-BFGS-B")
        np.testing.assert_allclose(found[label].flatten().numpy(), best.x, atol=5e-3)
        assert loss(found[label].flatten().double().numpy()) == pytest.approx(best.fun, abs=1e-4)


def test_a_batch_of_all_classes_is_a_batch_of_each(victim_of: Callable[[int], Weights]) -> None:
    stage = InventFeatures(cut=None, steps=5, lr=0.01, weight_decay=0.005, seed=0)
    classifier = restore(victim_of(0), torch.device("cpu"))
    _, together = finished(stage.invent(classifier, list(range(10))))
    for label in (0, 7):
        classifier = restore(victim_of(0), torch.device("cpu"))
        alone = finished(stage.invent(classifier, [label]))[1]
        torch.testing.assert_close(together[label], alone[0], rtol=1e-3, atol=1e-3)


def test_the_tail_of_what_the_cut_gives_is_the_network(victim_of: Callable[[int], Weights]) -> None:
    classifier = restore(victim_of(0), torch.device("cpu"))
    tail = Tail(classifier, None, 0)
    assert tail.shape == (8, 8, 8)  # of layer2, a sum without a ReLU
    assert not tail.above_zero
    with torch.no_grad():
        torch.testing.assert_close(tail(tail._outputs()), classifier.logits(tail._images))


def test_tendencies_and_their_spread_are_the_formulas() -> None:
    probabilities = torch.softmax(torch.randn(7, 7, generator=torch.Generator().manual_seed(0)), 1)
    wanted = [np.mean([float(probabilities[s, t]) for s in range(7) if s != t]) for t in range(7)]
    np.testing.assert_allclose(tendencies_of(probabilities).numpy(), wanted, rtol=1e-5)
    values = torch.tensor([0.0, 0.4, 0.1, 0.2, 0.9, 0.3, 0.0, 0.25, 0.15])
    # 0.1 0.15 0.2 0.25 0.3 0.4 0.9: the quartiles of seven are the second and the sixth.
    assert spread(values) == pytest.approx((0.9 - 0.4) / (0.4 - 0.15), rel=1e-5)
    assert spread(torch.tensor([0.0, 0.2, 0.2, 0.2, 0.2, 0.9])) == 0
    assert spread(torch.zeros(5)) == 0


def leaning(target: int) -> dict[str, Tensor]:
    source = torch.Generator().manual_seed(0)
    probabilities = 0.9 * torch.eye(8) + 0.01 * torch.rand(8, 8, generator=source)
    probabilities[:, target] += 0.05
    return {"probabilities": probabilities}


def test_without_a_threshold_there_is_no_verdict() -> None:
    found = FreeEagle().result(leaning(3), 0)
    assert (found.threshold, found.suspects) == (None, None)
    assert found.rank(3) == 1
    assert FreeEagle(threshold=2.0).result(leaning(3), 0).suspects == (3,)
    assert FreeEagle(threshold=1e6).result(leaning(3), 0).suspects == ()
    assert FreeEagle(threshold=2.0).stages == FreeEagle().stages


def test_it_does_not_tell_these_models_apart(
    victim_of: Callable[[int], Weights], pictures: ImageSet, badnets: Poison
) -> None:
    """The target has ranks 2, 10 and 1 in victims of three seeds.

    The statistics are 0.4, 0.3 and 2.0 there, and 3.2, 1.3 and 0.3 in benign models.
    """
    audit = FreeEagle(steps=100)
    spec = victim_of(0).model_spec
    victims = [audited_exactly(audit, victim_of(seed), None) for seed in range(3)]
    benign = [audited_exactly(audit, benign_model(spec, pictures, seed), None) for seed in range(3)]
    assert max(victim.rank(badnets.target_label) for victim in victims) > 5
    assert max(model.statistic for model in benign) > max(v.statistic for v in victims) + 0.5
    assert {victim.passes for victim in victims} == {1000}


def test_twice_is_the_same_and_another_start_is_not(victim_of: Callable[[int], Weights]) -> None:
    first, second, other = (
        found_by(FreeEagle(steps=3, seed=seed), victim_of(0), None)[0] for seed in (0, 0, 1)
    )
    assert same(dict(first), dict(second))
    assert not same(dict(first), dict(other))


@pytest.mark.parametrize(
    ("architecture", "cut"),
    [
        ("preact_resnet18", "layer2"),
        ("resnet18_cifar", "layer2"),
        ("vgg19_bn", "features.26"),
        ("vit_b_16", "1.encoder.layers.encoder_layer_5"),
    ],
)
def test_each_architecture_has_a_cut(architecture: str, cut: str) -> None:
    with torch.device("meta"):
        network = ARCHITECTURES[architecture]().build(classes=10, channels=3, side=32)
    assert cut_of(network, None)[0] == cut
    FreeEagle().check(network, "", 10)


def test_cuts_that_are_none_are_refused() -> None:
    network = Cut(nn.ReLU())
    with pytest.raises(ValueError, match="cut has no default for this network; name the path"):
        FreeEagle().check(network, "head", 10)
    with pytest.raises(ValueError, match="got 'boddy'; did you mean 'body'"):
        FreeEagle(cut="boddy").check(network, "head", 10)
    with pytest.raises(ValueError, match="for fewer than 5 classes; there are 4"):
        FreeEagle(cut="body").check(network, "head", 4)
    FreeEagle(cut="body").check(network, "head", 5)
    with pytest.raises(ValueError, match="body is passed by"):
        Tail(classifier_of(lambda: Cut(nn.ReLU(), around=True)), "body", 0)


class Ends(nn.Module):
    """A linear layer, and what has no weights after it."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.inner = nn.ReLU(), nn.Sequential(nn.Flatten(), nn.Linear(2 * 5 * 5, 3))
        self.end = nn.Identity()
        self.head = self.inner[1]  # the same layer, under the name that the others have

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.end(self.inner(self.body(x)))
        return logits


@pytest.mark.parametrize("cut", ["inner.1", "inner", "end"])
def test_a_cut_that_no_weights_follow_is_refused(cut: str) -> None:
    """Its tail is the same function in every network, so no network could differ by it."""
    message = f"layers with weights follow, and none follows {cut}; name one"
    with pytest.raises(ValueError, match=message):
        Tail(classifier_of(Ends), cut, 0)
    with torch.device("meta"):
        network = Ends()
    with pytest.raises(ValueError, match=message):
        FreeEagle(cut=cut).check_images(network, 2, 5)
    if cut != "end":  # the paths alone tell
        with pytest.raises(ValueError, match=message):
            FreeEagle(cut=cut).check(network, "inner.1", 5)
    for right in ("body", "inner.0"):
        FreeEagle(cut=right).check_images(network, 2, 5)
        assert Tail(classifier_of(Ends), right, 0).shape


class Runless(Cut):
    """A network whose path depends on numbers, which it lacks on torch's ``meta``."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if float(x.sum()) > 0 else -x)


def test_a_trial_without_numbers_finds_what_the_audit_would() -> None:
    with torch.device("meta"):
        around, through, runless = Cut(nn.ReLU(), around=True), Cut(nn.ReLU()), Runless(nn.ReLU())
        resnet = PreActResNet18(width=2).build(classes=10, channels=1, side=12)
    FreeEagle(cut="body").check_images(through, 2, 5)
    FreeEagle(cut="body").check_images(runless, 2, 5)  # left to the audit
    with pytest.raises(ValueError, match="body is passed by"):
        FreeEagle(cut="body").check_images(around, 2, 5)
    for cut in ("layer1", "layer2", "layer4.1", None):
        FreeEagle(cut=cut).check_images(resnet, 1, 12)
    with pytest.raises(ValueError, match=r"layer2\.0\.conv1 is passed by"):
        FreeEagle(cut="layer2.0.conv1").check_images(resnet, 1, 12)


@pytest.mark.parametrize(
    ("option", "value", "rule"),
    [
        ("cut", "", "the path of a module"),
        ("steps", 0, "from 1 to 100000"),
        ("lr", 0.0, "above 0 and at most 100"),
        ("weight_decay", 1.0, "in .0, 1."),
        ("seed", -1, "at least 0"),
        ("threshold", -1.0, "at least 0"),
    ],
)
def test_options_out_of_range_are_refused(option: str, value: object, rule: str) -> None:
    with pytest.raises(ValueError, match=f"{option} is {rule}"):
        FreeEagle(**{option: value})  # type: ignore[arg-type]


def test_a_network_of_one_layer_has_no_middle() -> None:
    with pytest.raises(ValueError, match="cut has no default"):
        FreeEagle().check(HeadAlone(4, 5), "head", 5)
