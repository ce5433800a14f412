"""B3D: triggers from a network's probabilities alone."""

from itertools import product

import pytest
import torch
from torch import Generator, Tensor

from tests.ulrl_tests.audited import CPU, audited, audited_exactly, found_by
from tests.ulrl_tests.repairs import clean_samples
from tests.ulrl_tests.small_models import TRIGGER, small_models
from tests.ulrl_tests.states import same
from tests.ulrl_tests.tiny_networks import HeadAlone, Made
from ulrl.audits import AUDITS, Audit, audit_context
from ulrl.audits._queries import Estimator, Oracle
from ulrl.audits.b3d import B3D
from ulrl.audits.b3d_ss import B3DSS
from ulrl.clean import CleanSamples
from ulrl.datasets import ImageSet, Preprocessing
from ulrl.fitting import Samples
from ulrl.models import ModelSpec, Weights, restore

SHORT = B3D(steps=12, batch_size=4, draws=3)


def planted(target: int) -> Weights:
    """Return a linear network of six classes, one of which three pixels decide."""
    model_spec = ModelSpec(
        architecture=Made(network=lambda: HeadAlone(3 * 8 * 8, 6)),
        classes=6,
        channels=3,
        side=8,
        preprocessing=Preprocessing(mean=(0.5,) * 3, std=(0.25,) * 3, padding=1, flip=True),
    )
    source = Generator().manual_seed(0)
    weight = torch.empty(6, 3, 8, 8).normal_(std=0.1, generator=source)
    weight[target, :, 2, 2:5] += 3.0
    return Weights(
        model_spec=model_spec,
        state={"head.weight": weight.flatten(1), "head.bias": torch.zeros(6)},
    )


def noise(count: int) -> CleanSamples:
    source = Generator().manual_seed(1)
    images = torch.randint(60, 190, (count, 3, 8, 8), generator=source).to(torch.uint8)
    samples = Samples(images=images, labels=torch.arange(count) % 6)
    return CleanSamples(samples=samples, index=torch.arange(count), seed=0)


def curved(x: Tensor) -> Tensor:
    """Return a loss of four numbers."""
    return (x[..., 0] - 0.3 * x[..., 1]).sin() + x[..., 2] * x[..., 3] + 0.5 * x[..., 1] ** 2


def chance_of(free: Tensor) -> Tensor:
    return free.tanh() / 2 + 0.5


def test_the_mean_of_mask_gradients_is_the_slope_of_the_expected_loss() -> None:
    """Sixteen masks of four pixels, each with its probability, are all there are."""
    free = torch.tensor([0.2, -0.5, 0.1, 0.4], dtype=torch.float64)

    def expected(free: Tensor) -> float:
        chance, total = chance_of(free), 0.0
        for bits in product((0.0, 1.0), repeat=4):
            mask = torch.tensor(bits, dtype=torch.float64)
            odds = torch.where(mask > 0, chance, 1 - chance).prod()
            total += float(odds * curved(mask))
        return total

    step = 1e-5
    wanted = [
        (expected(free + step * one) - expected(free - step * one)) / (2 * step)
        for one in torch.eye(4, dtype=torch.float64)
    ]
    repeats, draws = 40_000, 5
    chance = chance_of(free).reshape(1, 1, 2, 2).expand(repeats, 1, 2, 2)
    source = Generator().manual_seed(0)
    uniform = torch.rand(repeats, draws, 1, 2, 2, generator=source, dtype=torch.float64)
    masks = (uniform < chance[:, None]).double()
    losses = 3 + curved(masks.flatten(2))  # what all draws have in common changes nothing
    found = Estimator(draws=draws, sigma=0.1).of_mask(losses, masks, chance)
    torch.testing.assert_close(
        found.mean(dim=0).flatten(), torch.tensor(wanted).double(), rtol=0, atol=0.01
    )


def test_the_mean_of_normal_gradients_is_the_slope_of_the_smoothed_loss() -> None:
    free, sigma = torch.tensor([0.2, -0.5, 0.1, 0.4], dtype=torch.float64), 0.3
    source = Generator().manual_seed(0)
    draws = sigma * torch.randn(200_000, 4, generator=source, dtype=torch.float64)
    step = 1e-4
    wanted = torch.stack(
        [
            (curved(free + step * one + draws) - curved(free - step * one + draws)).mean()
            / (2 * step)
            for one in torch.eye(4, dtype=torch.float64)
        ]
    )
    noise = torch.randn(40_000, 5, 1, 2, 2, generator=source, dtype=torch.float64)
    losses = 3 + curved(free + sigma * noise.flatten(2))
    found = Estimator(draws=5, sigma=sigma).of_normal(losses, noise)
    torch.testing.assert_close(found.mean(dim=0).flatten(), wanted, rtol=0, atol=0.02)


def test_queries_are_those_of_the_formula() -> None:
    found = audited(SHORT, planted(2), noise(30))
    assert found.queries == 6 * 12 * 2 * 3 * 4
    assert found.passes == found.queries / 3
    few = audited(SHORT, planted(2), noise(3))
    assert few.queries == 6 * 12 * 2 * 3 * 3  # there are no more images
    audit = B3DSS(steps=12, batch_size=4, draws=3, per_class=2, image_steps=5)
    assert audited(audit, planted(2), None).queries == found.queries + 6 * 2 * 5 * 3


def test_an_oracle_gives_probabilities_and_counts() -> None:
    classifier = restore(planted(2), CPU)
    oracle = Oracle(classifier)
    images = noise(7).samples.images
    answers = oracle(images.float())
    assert torch.equal(answers, classifier.logits(images).softmax(dim=1).detach())
    assert not answers.requires_grad
    oracle(images.float())
    assert oracle.queries == 14


class Closed:
    """A network that does nothing but answer, without a gradient."""

    def __init__(self, weights: Weights, device: torch.device) -> None:
        inner = restore(weights, device)
        self.logits = lambda images: inner.logits(images).detach()
        self.network = self

    def eval(self) -> None:
        """Do what a network in eval mode does."""


@pytest.mark.parametrize(
    ("audit", "clean"), [(SHORT, noise(30)), (B3DSS(steps=5, draws=3, image_steps=2), None)]
)
def test_nothing_but_answers_is_read(
    audit: Audit, clean: CleanSamples | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = found_by(audit, planted(2), clean)[-1]
    monkeypatch.setattr("ulrl.audits._queries.restore", Closed)
    assert same(dict(found_by(audit, planted(2), clean)[-1]), dict(wanted))


@pytest.mark.parametrize(
    ("audit", "clean"),
    [
        (B3D(steps=150, batch_size=8, draws=15), noise(30)),
        (B3DSS(steps=150, batch_size=8, draws=15, image_steps=30), None),
    ],
)
def test_the_class_of_a_planted_trigger_has_the_least_norm(
    audit: Audit, clean: CleanSamples | None
) -> None:
    """The paper's rule does not flag it, with norms of 6 and 12 pixels; Neural Cleanse's does."""
    found = audited(audit, planted(4), clean)
    assert found.rank(4) == 1
    assert found.suspects == ()
    assert 1.3 < found.statistic < 4
    assert (found.details["anomaly"] > 2).nonzero().flatten().tolist() == [4]


def searched(norms: list[float], reached: list[bool]) -> dict[str, Tensor]:
    return {
        "norms": torch.tensor(norms),
        "reached": torch.tensor(reached),
        "queries": torch.tensor(9),
    }


def test_the_rule_is_a_quarter_of_the_median() -> None:
    norms = [4.9, 20.0, 21.0, 22.0, 5.1, 64.0]
    found = B3D().result(searched(norms, [True] * 5 + [False]), 30)
    assert found.suspects == (0,)  # 20 is the median of those that were reached
    assert found.statistic == pytest.approx(20 / 4.9)
    assert found.rank(5) == 6
    assert float(found.details["anomaly"][5]) == 0
    assert float(found.details["anomaly"][0]) == pytest.approx(15.1 / (1.4826 * 2.0))
    assert B3D(ratio=3.0).result(searched(norms, [True] * 6), 30).suspects == (0, 4)
    nothing = B3D().result(searched(norms, [True, True] + [False] * 4), 30)
    assert (nothing.suspects, nothing.statistic) == ((), 0.0)


def test_a_class_that_is_not_reached_has_the_norm_of_the_image() -> None:
    audit = B3D(steps=1, batch_size=4, draws=3, success=1.0)
    found = audited(audit, planted(2), noise(30))
    assert not bool(found.details["reached"][0])
    assert float(found.details["norms"][0]) == 64


def test_twice_is_the_same_and_another_seed_is_not() -> None:
    first, second = (found_by(SHORT, planted(2), noise(30))[0] for _ in range(2))
    assert same(dict(first), dict(second))
    images = [
        found_by(B3DSS(steps=1, draws=2, image_steps=1, seed=seed), planted(2), None)[0]["images"]
        for seed in (0, 0, 1)
    ]
    assert torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])


def test_synthetic_images_are_of_their_class() -> None:
    audit = B3DSS(image_steps=60, draws=30)
    steps = audit.stages[0]
    run = steps.run(audit_context(planted(2), None, CPU), {})
    while True:
        try:
            next(run)
        except StopIteration as end:
            made = end.value
            break
    answers = restore(planted(2), CPU).predict(made["images"])
    assert float((answers == made["labels"]).float().mean()) > 0.9


def test_it_ranks_the_target_first(pictures: ImageSet, model_spec: ModelSpec) -> None:
    """The paper's rule is silent about the victim, too; Neural Cleanse's flags it.

    Victims of the other tests, of eighteen layers, would take minutes.
    """
    audit = B3D(steps=100, batch_size=10, draws=10, lr=0.1)
    models = small_models(pictures, model_spec)
    victim, benign = (audited_exactly(audit, model, clean_samples(pictures)) for model in models)
    target = TRIGGER.target_label
    assert (victim.rank(target), victim.suspects) == (1, ())
    assert int(victim.details["anomaly"].argmax()) == target
    assert float(victim.details["anomaly"][target]) > 5
    assert benign.rank(target) > 1
    assert benign.suspects == ()
    assert float(benign.details["anomaly"].max()) < 3


def test_two_classes_are_refused() -> None:
    for name in ("b3d", "b3d_ss"):
        audit = AUDITS[name]()
        with pytest.raises(ValueError, match=f"{name} compares each class .* there are 2"):
            audit.check(HeadAlone(4, 2), "head", 2)
        audit.check(HeadAlone(4, 3), "head", 3)


@pytest.mark.parametrize(
    ("kind", "option", "value", "rule"),
    [
        (B3D, "ratio", 0.5, "at least 1"),
        (B3D, "steps", 0, "from 1 to 100000"),
        (B3D, "batch_size", 0, "at least 1"),
        (B3D, "draws", 1, "from 2 to 10000"),
        (B3D, "sigma", 0.0, "above 0"),
        (B3D, "lr", 0.0, "above 0"),
        (B3D, "mask_weight", 0.0, "above 0"),
        (B3D, "success", 1.5, "in .0, 1."),
        (B3DSS, "per_class", 0, "at least 1"),
        (B3DSS, "image_steps", 0, "from 1 to 100000"),
        (B3DSS, "seed", -1, "at least 0"),
        (B3DSS, "draws", 1, "from 2 to 10000"),
    ],
)
def test_options_out_of_range_are_refused(
    kind: type[Audit], option: str, value: float, rule: str
) -> None:
    with pytest.raises(ValueError, match=f"{option} is {rule}"):
        kind(**{option: value})
