"""Parts of methods combined by name: any cut with any tuner."""

from collections.abc import Callable
from typing import Any

import pytest

import ulrl
from tests.ulrl_tests.repairs import CPU, Found, clean_samples, repaired
from tests.ulrl_tests.states import same
from ulrl.datasets import ImageSet
from ulrl.methods import METHODS, TUNERS, RepairContext, RepairMethod
from ulrl.methods._cuts import Rule, apply
from ulrl.methods._sam import SAMTuner
from ulrl.methods._tuning import CuttingMethod, NoTuning, SGDTuner
from ulrl.methods.anp import ANP
from ulrl.methods.bnp import BNP
from ulrl.methods.clp import CLP
from ulrl.methods.fine_pruning import FinePruning
from ulrl.methods.fine_tuning import FineTuning
from ulrl.methods.ft_sam import FTSAM
from ulrl.methods.rnp import RNP
from ulrl.methods.tsbd import TSBD, GradientNorm
from ulrl.models import Weights, restore

CUTTING = [method for method in METHODS.values() if issubclass(method, CuttingMethod)]


def test_the_tuners_are_the_methods_that_only_train_and_two_parts() -> None:
    assert set(TUNERS) == {
        *("fine_tuning", "super_fine_tuning", "ft_sam", "gradient_norm", "none"),
    }
    assert {ANP, RNP, CLP, BNP, FinePruning, TSBD} <= set(CUTTING)


@pytest.mark.parametrize("method", CUTTING, ids=lambda method: method.name)
@pytest.mark.parametrize("tuner", TUNERS.values(), ids=lambda tuner: tuner.name)
def test_every_cut_goes_with_every_tuner(method: type[CuttingMethod], tuner: type[Any]) -> None:
    usual, other = method(), method(tune=tuner())
    assert usual.stages[:-1] == other.stages[:-1]
    tuned: Any = other.stages[-1]
    assert tuned.tuner == tuner().tuner
    assert tuned.cut == usual.stages[-1].cut  # type: ignore[attr-defined]


def test_the_own_tuner_by_its_name_is_the_default() -> None:
    assert TSBD(tune=GradientNorm()).stages == TSBD().stages
    assert FinePruning(tune=FineTuning()).stages == FinePruning().stages
    assert CLP(tune=NoTuning()).stages == CLP().stages


def test_the_victim_is_cut_then_trained(
    victim_of: Callable[[int], Weights], pictures: ImageSet
) -> None:
    """CLP's cut before FT-SAM is what both do one after the other."""
    victim, clean = victim_of(0), clean_samples(pictures)
    found = repaired(CLP(u=2.0, tune=FTSAM(rho=1.0, epochs=2)), victim, clean)
    cut = repaired(CLP(u=2.0), victim, clean).weights
    assert not same(dict(cut.state), dict(victim.state))
    context = RepairContext(victim=victim, clean=clean, device=CPU, observe=print)
    classifier = restore(cut, CPU)
    list(SAMTuner(rho=1.0, epochs=2).train(classifier, context))
    assert same(dict(found.weights.state), dict(classifier.weights().state))
    assert len(found.shown) == 2


def test_without_a_tuner_tsbd_only_cuts(
    victim_of: Callable[[int], Weights], pictures: ImageSet
) -> None:
    method = TSBD(unlearn_lr=0.01, unlearn_threshold=0.4, tune=NoTuning())
    found = repaired(method, victim_of(0), clean_samples(pictures))
    edit = method.stages[-1].reads(found.stages[-2])
    assert edit
    classifier = restore(victim_of(0), CPU)
    apply(edit, classifier)
    assert same(dict(found.weights.state), dict(classifier.weights().state))


def test_options_of_the_own_tuner_are_refused_beside_another() -> None:
    with pytest.raises(ValueError, match=r"^lr is of fine_pruning's own tuner, and tune names "):
        FinePruning(lr=0.1, tune=FTSAM())
    with pytest.raises(ValueError, match=r"^radius is of tsbd's own tuner"):
        TSBD(radius=0.1, tune=FTSAM())
    assert TSBD(batch_size=64, tune=FTSAM()).stages[0] == TSBD(batch_size=64).stages[0]


def test_a_label_names_the_tuner_with_its_options() -> None:
    assert RNP(mask_threshold=0.4, tune=FTSAM(rho=1.0)).label == (
        "rnp(tune=ft_sam(rho=1.0),mask_threshold=0.4)"
    )


def by_library(victim: Weights, pictures: ImageSet, method: str, **options: Any) -> Any:
    samples, network = clean_samples(pictures).samples, restore(victim, CPU).network
    return ulrl.repair(
        network,
        samples.images,
        samples.labels,
        victim.model_spec.preprocessing,
        method=method,
        **options,
    )


@pytest.mark.parametrize(
    ("options", "method"),
    [
        ({"u": 2.0, "tune": "none"}, CLP(u=2.0)),
        (
            {"u": 2.0, "tune": {"name": "fine_tuning", "epochs": 1}},
            CLP(u=2.0, tune=FineTuning(epochs=1)),
        ),
        ({"rule": "budget", "budget": 0.3}, CLP(rule=Rule.BUDGET, budget=0.3)),
    ],
)
def test_the_library_takes_names(
    victim_of: Callable[[int], Weights],
    pictures: ImageSet,
    options: dict[str, Any],
    method: RepairMethod,
) -> None:
    found = by_library(victim_of(0), pictures, "clp", **options)
    wanted: Found = repaired(method, victim_of(0), clean_samples(pictures))
    assert not same(dict(wanted.weights.state), dict(victim_of(0).state))
    assert same(dict(found.network.state_dict()), dict(wanted.weights.state))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"tune": "ft_sm"}, ValueError, r"^no tuner is called 'ft_sm'; did you mean 'ft_sam'"),
        ({"tune": {"rho": 1}}, ValueError, r"^tune has the name of a tuner beside"),
        ({"tune": {"name": "ft_sam", "rh": 1}}, TypeError, r"^ft_sam has no option 'rh'; did "),
        ({"tune": {"name": "ft_sam", "rho": -1}}, ValueError, r"^rho is a distance"),
        ({"rule": "budge"}, ValueError, r"^rule is budget or threshold .*; got 'budge'"),
    ],
)
def test_the_library_refuses_other_names(
    victim_of: Callable[[int], Weights],
    pictures: ImageSet,
    options: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        by_library(victim_of(0), pictures, "clp", **options)


def test_what_is_cut_may_grow_back_but_in_fine_pruning() -> None:
    kept = {m.name: m(tune=FineTuning()).stages[-1].keep_cut for m in CUTTING}  # type: ignore[attr-defined]
    assert [name for name, keep in kept.items() if keep] == ["fine_pruning"]
    assert SGDTuner() == FineTuning().tuner
