"""Phase 2: the cosine term, and what suspects change."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy

from tests.ulrl_tests.tiny_networks import Victims
from ulrl.clean import CleanConfig, CleanSamples, draw_clean_samples
from ulrl.datasets import ImageSet
from ulrl.fitting import SGDConfig, Sources, train
from ulrl.hyperparameters import assemble
from ulrl.models import Classifier, Weights, restore
from ulrl.relearning import (
    CosineForm,
    CosineReduction,
    ReinitDistribution,
    RelearnConfig,
    RelearnRun,
    _cosines,
    cosine_term,
    relearn,
)
from ulrl.weight_selection import LayerSuspects, Suspects

CONFIG = RelearnConfig(relearn_epochs=3, relearn_batch_size=16)


@pytest.fixture(scope="module")
def clean(pictures: ImageSet) -> CleanSamples:
    return draw_clean_samples(CleanConfig(clean_ratio=0.12), pictures, seed=0)


def finish(run: RelearnRun) -> Weights:
    for _ in run.epochs:
        pass
    return run.classifier.weights()


def same(a: Weights, b: Weights) -> bool:
    return all(torch.equal(value, b.state[name]) for name, value in a.state.items())


def suspects(*rows: int, reset: bool = True) -> Suspects:
    marks = torch.full((len(rows), 32), reset)
    layer = LayerSuspects(weight="linear.weight", rows=rows, reset=marks)
    return Suspects(layers=(layer,) if rows else (), reset_bias=reset)


def penalty(rows: Tensor, original: Tensor, **config: Any) -> Tensor:
    """The term whose gradient relearning follows, for rows that were `original`."""
    return cosine_term(RelearnConfig(**config), _cosines(rows, original))


def test_gradient_of_the_cosine_term() -> None:
    source = Generator().manual_seed(0)
    rows = torch.randn(3, 7, generator=source, dtype=torch.float64, requires_grad=True)
    original = torch.randn(3, 7, generator=source, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(penalty(rows, original), rows)
    for k in range(3):
        w, u = rows[k].detach(), original[k]
        length = (w @ w).sqrt()
        cosine = w @ u / (length * (u @ u).sqrt())
        expected = (u / (u @ u).sqrt() - cosine * w / length) / length
        assert torch.allclose(gradient[k], expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("config", "term", "slopes"),
    [
        ({}, 0.6 - 0.8, (1, 1)),
        ({"cosine_reduction": "mean"}, (0.6 - 0.8) / 2, (0.5, 0.5)),
        ({"cosine_form": "absolute"}, 0.6 + 0.8, (1, -1)),
        ({"cosine_form": "clamped"}, 0.6, (1, 0)),
        ({"cosine_form": "absolute", "cosine_reduction": "mean"}, 0.7, (0.5, -0.5)),
    ],
)
def test_forms_and_reductions(
    config: dict[str, str], term: float, slopes: tuple[float, float]
) -> None:
    cosines = torch.tensor([0.6, -0.8], requires_grad=True)
    found = cosine_term(assemble(config).relearn, cosines)
    assert found.item() == pytest.approx(term)
    found.backward()  # type: ignore[no-untyped-call]
    assert cosines.grad is not None
    assert cosines.grad.tolist() == pytest.approx(slopes)


def test_a_row_of_zeros_has_no_direction() -> None:
    """Torch alone would give it a gradient of 1 / epsilon, and one step would throw it away."""
    original = torch.tensor([[3.0, 4.0], [3.0, 4.0]])
    rows = torch.tensor([[0.0, 0.0], [0.0, 2.0]], requires_grad=True)
    term = penalty(rows, original)
    assert term.item() == pytest.approx(0.8)
    (gradient,) = torch.autograd.grad(term, rows)
    # (u / |u| - cos w / |w|) / |w| = ((0.6, 0.8) - 0.8 (0, 1)) / 2
    assert gradient.flatten().tolist() == pytest.approx([0, 0, 0.3, 0], abs=1e-6)


def test_without_suspects_it_is_plain_fine_tuning(
    victim_of: Victims, clean: CleanSamples, cpu: torch.device
) -> None:
    victim = victim_of(0)
    plain = restore(victim, cpu)
    sgd = SGDConfig(epochs=3, batch_size=16, rate=CONFIG.rate)
    for _ in train(plain, clean.samples, cross_entropy, sgd, Sources.of(0, "relearn")):
        pass
    for alpha in (0.0, 0.7, 1000.0):
        config = replace(CONFIG, alpha=alpha)
        assert same(finish(relearn(config, victim, suspects(), clean, cpu)), plain.weights())


@pytest.mark.parametrize(
    ("chosen", "unused"),
    [
        (
            suspects(),
            {"alpha": 3.0, "cosine_form": CosineForm.ABSOLUTE}
            | {"cosine_reduction": CosineReduction.MEAN},
        ),
        (suspects(1, reset=False), {}),
    ],
    ids=["no suspects", "no weights marked"],
)
def test_what_suspects_leave_unused_changes_no_bit(
    clean: CleanSamples,
    victim_of: Victims,
    cpu: torch.device,
    chosen: Suspects,
    unused: dict[str, Any],
) -> None:
    """So that such configurations may share their result."""
    drawn: dict[str, Any] = {"reinit_distribution": ReinitDistribution.NORMAL, "reinit_scale": 2.0}
    other = replace(CONFIG, **unused, **drawn)
    assert other.effective(chosen) == CONFIG
    assert other.effective(suspects(1)) == other
    one, two = (finish(relearn(c, victim_of(0), chosen, clean, cpu)) for c in (CONFIG, other))
    assert same(one, two)


@pytest.mark.parametrize(
    ("config", "suspects", "refused"),
    [
        ({"alpha": 0.4}, 10, True),  # the least weight that is known to invert
        ({"alpha": 0.39}, 10, False),
        ({"alpha": 0.7}, 9, False),  # not the whole head
        ({"alpha": 0.7, "cosine_form": "absolute"}, 10, False),
        ({"alpha": 0.7, "cosine_form": "clamped"}, 10, False),
        ({"alpha": 4.0, "cosine_reduction": "mean"}, 10, True),  # 0.4 for each of ten rows
        ({"alpha": 3.9, "cosine_reduction": "mean"}, 10, False),
        ({"alpha": 0.7}, 0, False),
    ],
)
def test_a_signed_cosine_of_the_whole_head_is_refused(
    config: dict[str, Any], suspects: int, *, refused: bool
) -> None:
    relearning = assemble(config).relearn
    if refused:
        with pytest.raises(ValueError, match=r"all 10 rows of the head.* weight 0\.4 for each"):
            relearning.check(suspects, classes=10)
    else:
        relearning.check(suspects, classes=10)


def test_an_observer_sees_each_epoch_and_changes_nothing(
    victim_of: Victims, clean: CleanSamples, cpu: torch.device
) -> None:
    heads: list[Tensor] = []

    def observe(classifier: Classifier) -> None:
        classifier.predict(clean.samples.images)
        torch.rand(5)
        heads.append(classifier.head.weight.detach().clone())

    watched = finish(relearn(CONFIG, victim_of(0), suspects(1), clean, cpu, observe=observe))
    alone = finish(relearn(CONFIG, victim_of(0), suspects(1), clean, cpu))
    assert same(watched, alone)
    assert len(heads) == CONFIG.relearn_epochs
    assert torch.equal(heads[-1], watched.head)
    assert not torch.equal(heads[0], heads[1])
