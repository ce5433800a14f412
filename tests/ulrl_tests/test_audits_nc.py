"""Neural Cleanse as an audit: the norms of triggers, and which class stands out."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.ulrl_tests.audited import audited, audited_exactly, found_by
from tests.ulrl_tests.repairs import clean_samples
from tests.ulrl_tests.small_models import TRIGGER, small_models
from tests.ulrl_tests.states import same
from tests.ulrl_tests.tiny_networks import HeadAlone, Made
from ulrl.audits import AUDITS, audit_context
from ulrl.audits.nc import NeuralCleanseAudit
from ulrl.clean import CleanSamples
from ulrl.datasets import ImageSet, Preprocessing
from ulrl.fitting import Samples
from ulrl.methods.nc import NeuralCleanse, anomalies
from ulrl.models import ModelSpec, Weights

SHORT = NeuralCleanseAudit(steps=40, search_batch_size=30, mask_weight=0.01)


def planted(target: int) -> Weights:
    """Return a linear network of six classes, one of which three pixels decide."""
    model_spec = ModelSpec(
        architecture=Made(network=lambda: HeadAlone(3 * 8 * 8, 6)),
        classes=6,
        channels=3,
        side=8,
        preprocessing=Preprocessing(mean=(0.5,) * 3, std=(0.25,) * 3, padding=1, flip=True),
    )
    source = torch.Generator().manual_seed(0)
    weight = torch.empty(6, 3, 8, 8).normal_(std=0.1, generator=source)
    weight[target, :, 2, 2:5] += 3.0
    return Weights(
        model_spec=model_spec,
        state={"head.weight": weight.flatten(1), "head.bias": torch.zeros(6)},
    )


def noise(count: int) -> CleanSamples:
    source = torch.Generator().manual_seed(1)
    images = torch.randint(60, 190, (count, 3, 8, 8), generator=source).to(torch.uint8)
    samples = Samples(images=images, labels=torch.arange(count) % 6)
    return CleanSamples(samples=samples, index=torch.arange(count), seed=0)


def test_the_class_of_a_planted_trigger_is_the_suspect() -> None:
    audit = NeuralCleanseAudit(steps=300, search_batch_size=30)
    found = audited(audit, planted(4), noise(30))
    assert found.suspects == (4,)
    assert found.rank(4) == 1
    assert found.statistic > 2 == found.threshold
    assert found.passes == 300 * 30 * 6
    assert int(found.details["norms"].argmin()) == 4


def searched(norms: list[float], reached: list[bool] | None = None) -> dict[str, Tensor]:
    values = torch.tensor(norms)
    return {
        "norms": values,
        "reached": torch.tensor(reached or [True] * len(norms)),
        "anomaly": anomalies(values),
    }


def test_the_rule_is_two_deviations_below_the_median() -> None:
    """The median is 20, and a deviation 1.4826 × 2."""
    norms = [5.0, 20.0, 21.0, 22.0, 10.0, 18.0, 60.0]
    found = NeuralCleanseAudit().result(searched(norms), 30)
    assert found.suspects == (0, 4)  # and not 6, which is as far above
    assert found.statistic == pytest.approx((20 - 5) / (1.4826 * 2))
    assert found.scores.tolist() == [15.0, 0.0, -1.0, -2.0, 10.0, 2.0, -40.0]
    assert [found.rank(label) for label in (0, 4, 6)] == [1, 2, 7]
    assert NeuralCleanseAudit(threshold=4.0).result(searched(norms), 30).suspects == (0,)


def test_a_class_that_is_not_reached_is_no_suspect() -> None:
    norms = [5.0, 20.0, 21.0, 22.0, 10.0]
    found = NeuralCleanseAudit().result(searched(norms, [False, True, True, True, True]), 30)
    assert found.suspects == (4,)
    assert found.rank(0) == 4.5  # with class 3, whose norm is largest
    assert found.statistic == pytest.approx(10 / (1.4826 * 2))


def test_where_most_norms_are_equal_there_is_no_suspect() -> None:
    found = NeuralCleanseAudit().result(searched([3.0, 9.0, 9.0, 9.0]), 30)
    assert (found.statistic, found.suspects) == (0.0, ())
    assert found.rank(0) == 1  # the order of the norms is known all the same
    assert found.rank(2) == 3


def test_it_shares_the_search_of_the_repair_method() -> None:
    assert NeuralCleanseAudit().stages == NeuralCleanse().stages[:1]
    audit, method = NeuralCleanseAudit(steps=50, threshold=3.0), NeuralCleanse(steps=50, epochs=3)
    assert audit.stages == method.stages[:1]
    assert AUDITS["nc"] is NeuralCleanseAudit
    assert audit.label == "nc(threshold=3.0,steps=50)"


def test_the_victim_stands_out_more_than_the_benign_model(
    pictures: ImageSet, model_spec: ModelSpec
) -> None:
    """By the norms of triggers. The index depends on the spread of the other nine as much."""
    audit = NeuralCleanseAudit(steps=200, search_batch_size=30, mask_weight=0.01)
    models = small_models(pictures, model_spec)
    victim, benign = (audited_exactly(audit, model, clean_samples(pictures)) for model in models)
    assert victim.rank(TRIGGER.target_label) == 1
    assert benign.rank(TRIGGER.target_label) > 1
    least, of_benign = (
        float(norms[0] / norms[1])
        for norms in (result.details["norms"].sort().values for result in (victim, benign))
    )
    assert least < 0.6 < of_benign - 0.1


def test_twice_is_the_same(victim_of: Callable[[int], Weights], pictures: ImageSet) -> None:
    audit = replace(SHORT, steps=2)
    first, second = (found_by(audit, victim_of(0), clean_samples(pictures))[0] for _ in range(2))
    assert same(dict(first), dict(second))


def test_options_out_of_range_and_two_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="steps is from 1 to 100000; got 0"):
        NeuralCleanseAudit(steps=0)
    with pytest.raises(ValueError, match="needs at least 3 classes; there are 2"):
        NeuralCleanseAudit().check(HeadAlone(4, 2), "head", 2)


def test_without_samples_a_context_has_none(victim_of: Callable[[int], Weights]) -> None:
    context = audit_context(victim_of(0), None, torch.device("cpu"))
    assert len(context.clean.index) == 0
    assert context.clean.samples.images.shape == (0, 3, 16, 16)
