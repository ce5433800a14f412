"""Parts that repair methods share: rules of cuts, held-out samples, and the loop of steps."""

import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import ulrl
from tests.ulrl_tests.repairs import CPU, clean_samples, repaired
from tests.ulrl_tests.states import same
from ulrl.clean import CleanSamples
from ulrl.datasets import ImageSet, Preprocessing
from ulrl.fitting import Samples, SGDConfig, Sources, train
from ulrl.hyperparameters import Preset, assemble, preset_values
from ulrl.layers import Layers, as_rows
from ulrl.methods import METHODS, RepairContext
from ulrl.methods._ascent import Unlearn
from ulrl.methods._cuts import Cut, Rule, apply, edit_at, findings, stay_cut, sweep
from ulrl.methods._loop import Passes, hold_out, train_by
from ulrl.methods._tuning import Tune
from ulrl.methods.clp import CLP
from ulrl.methods.fine_tuning import FineTuning
from ulrl.methods.rnp import RNP
from ulrl.methods.ulrl import Ulrl
from ulrl.models import TOO_SMALL, Weights, restore
from ulrl.models.preact_resnet import PreActResNet18
from ulrl.relearning import relearn
from ulrl.unlearning import UnlearnConfig, unlearn
from ulrl.weight_selection import Suspects

SCORES = {"a": torch.tensor([0.1, 0.5, 0.9]), "b": torch.tensor([[0.4], [0.8]])}


def swept(kept: list[float], levels: list[float], victim: float) -> dict[str, Tensor]:
    found = findings(SCORES)
    numbers = {"levels": levels, "accuracies": kept, "victim": [victim]}
    return found | {n: torch.tensor(v, dtype=torch.float64) for n, v in numbers.items()}


@pytest.mark.parametrize(
    ("cut", "first", "second"),
    [
        (Cut(rule=Rule.THRESHOLD, strength=0.5), [False, True, True], [[False], [True]]),
        (Cut(rule=Rule.THRESHOLD, strength=0.85), [False, False, True], None),
        (Cut(rule=Rule.LARGEST, strength=0.4), [False, False, True], [[False], [True]]),
        (Cut(rule=Rule.LARGEST, strength=1.0), [True, True, True], [[True], [True]]),
        (Cut(rule=Rule.LARGEST, strength=0.0), None, None),
        # 0.76 of 0.8 is what a twentieth less leaves: the level 0.6 keeps it, 0.3 does not.
        (Cut(rule=Rule.BUDGET, strength=0.05), [False, False, True], [[False], [True]]),
        (Cut(rule=Rule.BUDGET, strength=0.5), [False, True, True], [[True], [True]]),
        (Cut(rule=Rule.BUDGET, strength=0.0), None, None),
    ],
)
def test_rules_choose_by_hand(
    cut: Cut, first: list[bool] | None, second: list[list[bool]] | None
) -> None:
    edit = cut.choose(swept([0.79, 0.76, 0.5], [0.95, 0.6, 0.3], 0.8))
    assert {name: mask.tolist() for name, mask in edit.items()} == {
        name: mask for name, mask in {"a": first, "b": second}.items() if mask is not None
    }


def test_a_share_of_equal_scores_is_no_more_than_the_share() -> None:
    scores = {"b": torch.ones(2, 3), "a": torch.tensor([1.0, 1.0, 2.0, float("nan")])}
    edit = Cut(rule=Rule.LARGEST, strength=0.5).choose(findings(scores))
    # Of 9 scores 4 (4.5 rounds to even): the 2, then those of 1 in the order of their places.
    assert {name: mask.tolist() for name, mask in edit.items()} == {
        "a": [True, True, True, False],
        "b": [[True, False, False], [False, False, False]],
    }


def test_scale_and_shift_of_a_channel_are_one_part_of_a_share() -> None:
    channels = torch.tensor([1.0, 3.0, 2.0])
    scores = {"l.weight": channels[:, None, None], "l.bias": channels, "m.bias": channels - 0.5}
    edit = Cut(rule=Rule.LARGEST, strength=0.5).choose(findings(scores))
    assert {name: mask.flatten().tolist() for name, mask in edit.items()} == {
        "l.weight": [False, True, True],  # of 6 channels 3: those of 3, 2.5 and 2
        "l.bias": [False, True, True],
        "m.bias": [False, True, False],
    }
    assert edit["l.weight"].shape == (3, 1, 1)


def test_scores_that_are_not_finite_are_never_cut() -> None:
    found = findings({"a": torch.tensor([float("nan"), float("inf"), 1.0])})
    assert bool(found["score/a"].isfinite().all())  # as every result of a stage is
    assert edit_at({"a": found["score/a"]}, -1e30)["a"].tolist() == [False, False, True]
    with pytest.raises(ValueError, match="finite score"):
        findings({"a": torch.tensor([float("nan")])})


def test_the_sweep_measures_each_cut_and_restores_the_network(
    victim_of: Callable[[int], Weights], pictures: ImageSet
) -> None:
    victim = victim_of(0)
    classifier = restore(victim, CPU)
    held = clean_samples(pictures)
    head = f"{victim.model_spec.head}.weight"
    found = findings({head: torch.arange(10.0)[:, None]})
    steps = sweep(found, [9.0, 5.0, 20.0], classifier, held)
    try:
        while True:
            next(steps)
    except StopIteration as end:
        result = end.value
    assert same(dict(classifier.weights().state), dict(victim.state))
    assert result["levels"].tolist() == [20.0, 9.0, 5.0]
    for level, kept in zip((20, 9, 5), result["accuracies"].tolist(), strict=True):
        cut = restore(victim, CPU)
        with torch.no_grad():
            cut.head.weight[level:] = 0.0
        hits = cut.predict(held.samples.images) == held.samples.labels
        assert kept == pytest.approx(float(hits.float().mean()), abs=1e-6)
    assert result["victim"].item() == result["accuracies"][0].item()


def test_what_stays_cut_is_zero_after_training(
    victim_of: Callable[[int], Weights], pictures: ImageSet
) -> None:
    classifier = restore(victim_of(0), CPU)
    head = f"{classifier.model_spec.head}.weight"
    mask = torch.zeros(classifier.head.weight.shape, dtype=torch.bool)
    mask[:, :3] = True
    edit = {head: mask}
    apply(edit, classifier)
    stay_cut(edit, classifier)
    config = SGDConfig(epochs=1, batch_size=20, rate=lambda _: 0.1, weight_decay=0.01)
    clean = clean_samples(pictures)
    before = classifier.head.weight.detach().clone()
    list(train(classifier, clean.samples, cross_entropy, config, Sources.of(0, "test")))
    after = classifier.head.weight.detach()
    assert bool((after[:, :3] == 0).all())
    assert not torch.equal(after[:, 3:], before[:, 3:])


@pytest.mark.parametrize(("count", "per_class"), [(300, 6), (40, None)])
def test_held_out_samples_are_a_fifth_of_each_class(
    pictures: ImageSet, count: int, per_class: int | None
) -> None:
    clean = clean_samples(pictures, count / 300)
    fit, held = hold_out(clean, 0.2, 10)
    assert sorted([*fit.index.tolist(), *held.index.tolist()]) == sorted(clean.index.tolist())
    assert len(held.index) == count // 5
    if per_class is not None:
        assert torch.bincount(held.samples.labels).tolist() == [per_class] * 10
    again = hold_out(clean, 0.2, 10)[1]
    assert torch.equal(again.index, held.index)
    assert not torch.equal(hold_out(replace(clean, seed=1), 0.2, 10)[1].index, held.index)
    assert torch.equal(pictures.train_labels[held.index], held.samples.labels)


def test_two_samples_leave_one_on_either_side(pictures: ImageSet) -> None:
    labels = pictures.train_labels[:2]
    samples = Samples(images=pictures.train_images[:2], labels=labels)
    clean = CleanSamples(samples=samples, index=torch.arange(2), seed=0)
    fit, held = hold_out(clean, 0.2, 10)
    assert len(fit.index) == len(held.index) == 1


def test_plain_steps_are_those_of_the_one_training_loop(
    victim_of: Callable[[int], Weights], pictures: ImageSet
) -> None:
    """SGD without momentum, step by step, is what `ulrl.fitting.train` does in float32."""
    clean = clean_samples(pictures)
    config = SGDConfig(epochs=3, batch_size=16, rate=lambda e: 0.05 / (1 + e), momentum=0.0)
    ours, theirs = restore(victim_of(0), CPU), restore(victim_of(0), CPU)

    def take(images: Tensor, labels: Tensor, rate: float) -> tuple[Tensor, Tensor]:
        logits = ours.logits(images)
        loss = cross_entropy(logits, labels)
        ours.network.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for parameter in ours.network.parameters():
                assert parameter.grad is not None
                parameter.sub_(rate * parameter.grad)
        return loss, logits

    passes = Passes(epochs=3, batch_size=16, rate=config.rate)
    found = list(train_by(ours, clean.samples, take, passes, Sources.of(0, "test")))
    wanted = list(train(theirs, clean.samples, cross_entropy, config, Sources.of(0, "test")))
    for one, other in zip(found, wanted, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-5)
        assert one.accuracy == other.accuracy
    for name, value in ours.weights().state.items():
        torch.testing.assert_close(value, theirs.weights().state[name], rtol=1e-4, atol=1e-6)


def test_fine_tuning_is_the_preset_of_that_name(
    victim_of: Callable[[int], Weights], pictures: ImageSet
) -> None:
    clean = clean_samples(pictures)
    found = repaired(FineTuning(epochs=4), victim_of(0), clean)
    values = preset_values(Preset.FINE_TUNING, "cifar10") | {"relearn_epochs": 4}
    nothing = Suspects(layers=(), reset_bias=False)
    run = relearn(assemble(values).relearn, victim_of(0), nothing, clean, CPU)
    list(run.epochs)
    assert same(dict(found.weights.state), dict(run.classifier.weights().state))
    assert len(found.shown) == 4


def test_options_out_of_range_are_refused_by_their_names() -> None:
    with pytest.raises(ValueError, match=r"^lr is above 0 and at most 100; got -1\.0"):
        FineTuning(lr=-1.0)


def test_the_ascent_keeps_the_whole_network_at_the_stop(
    victim_of: Callable[[int], Weights], pictures: ImageSet
) -> None:
    config, clean = UnlearnConfig(layers=Layers.ALL, unlearn_batch_size=32), clean_samples(pictures)
    context = RepairContext(victim=victim_of(0), clean=clean, device=CPU, observe=print)
    steps = Unlearn(config=config, threshold=0.3).checked(context, {})
    *_, ascent = unlearn(config, victim_of(0), clean, 0.3, CPU)
    number = 0
    try:
        while True:
            number = next(steps).done
    except StopIteration as end:
        state = end.value
    assert number == ascent.stop_epoch(0.3) < config.unlearn_epochs
    for name, rows in ascent.at(number).items():
        assert torch.equal(as_rows(state[name]), rows)
    assert set(state) == set(victim_of(0).state)


def test_the_library_repairs_by_any_method(
    victim_of: Callable[[int], Weights], pictures: ImageSet
) -> None:
    victim, clean = restore(victim_of(0), CPU).network, clean_samples(pictures)
    images, labels = clean.samples.images, clean.samples.labels
    preprocessing = victim_of(0).model_spec.preprocessing
    heard: list[tuple[str, int]] = []
    found = ulrl.repair(
        victim,
        images,
        labels,
        preprocessing,
        method="clp",
        u=2.0,
        on_epoch=lambda stage, step, _: heard.append((stage, step)),
    )
    wanted = repaired(CLP(u=2.0), victim_of(0), clean)
    assert same(dict(found.network.state_dict()), dict(wanted.weights.state))
    assert same(dict(found.findings), dict(wanted.stages[0]))
    assert heard[-1] == ("tune", 1)
    assert not found.network.training


def test_ulrl_as_a_method_is_ulrl(victim_of: Callable[[int], Weights], pictures: ImageSet) -> None:
    victim, clean = restore(victim_of(0), CPU).network, clean_samples(pictures)
    preprocessing = victim_of(0).model_spec.preprocessing
    found = ulrl.repair(victim, clean.samples.images, clean.samples.labels, preprocessing)
    wanted = repaired(Ulrl(), victim_of(0), clean)
    assert same(dict(found.network.state_dict()), dict(wanted.weights.state))
    assert len(wanted.shown) == 20


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "clpp"}, ValueError, "no repair method is called 'clpp'; did you mean 'clp'?"),
        (
            {"method": "clp", "v": 2},
            TypeError,
            "clp has no option 'v'; it has tune, rule, u, budget",
        ),
        ({"method": "clp", "preset": "official"}, TypeError, "preset is of ULRL"),
        ({"method": "clp", "u": -2.0}, ValueError, "u is a number of standard deviations"),
    ],
)
def test_the_library_refuses_what_a_method_lacks(
    victim_of: Callable[[int], Weights],
    pictures: ImageSet,
    options: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    victim, samples = restore(victim_of(0), CPU).network, clean_samples(pictures).samples
    preprocessing = victim_of(0).model_spec.preprocessing
    with pytest.raises(error, match=re.escape(message)):
        ulrl.repair(victim, samples.images, samples.labels, preprocessing, **options)


@pytest.mark.parametrize(
    ("options", "cut"),
    [
        ({}, Cut(rule=Rule.BUDGET, strength=0.05)),
        ({"rule": Rule.BUDGET}, Cut(rule=Rule.BUDGET, strength=0.05)),
        ({"budget": 0.1}, Cut(rule=Rule.BUDGET, strength=0.1)),
        ({"mask_threshold": 0.4}, Cut(rule=Rule.THRESHOLD, strength=-0.4)),
        ({"rule": Rule.THRESHOLD}, Cut(rule=Rule.THRESHOLD, strength=-0.7)),
        ({"share": 0.1}, Cut(rule=Rule.LARGEST, strength=0.1)),
    ],
)
def test_the_option_that_is_given_is_the_rule(options: dict[str, Any], cut: Cut) -> None:
    tune = RNP(**options).stages[-1]
    assert isinstance(tune, Tune)
    assert tune.cut == cut


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"rule": Rule.BUDGET, "mask_threshold": 0.4}, "mask_threshold"),
        ({"budget": 0.1, "share": 0.1}, "share"),
        ({"rule": Rule.THRESHOLD, "budget": 0.1}, "budget"),
    ],
)
def test_an_option_of_another_rule_is_refused(options: dict[str, Any], option: str) -> None:
    with pytest.raises(ValueError, match=f"^{option} means nothing by the rule"):
        RNP(**options)


@pytest.mark.parametrize("name", sorted(METHODS.keys() - {"ulrl"}))
def test_batches_too_small_for_batchnorm_are_refused_in_words(name: str) -> None:
    """Of one image whose features are 1 × 1."""
    source = torch.Generator().manual_seed(0)
    images = torch.randint(256, (4, 1, 8, 8), generator=source).to(torch.uint8)
    network = PreActResNet18(width=2).build(classes=4, channels=1, side=8)
    preprocessing = Preprocessing(mean=(0.5,), std=(0.25,), padding=0, flip=False)
    length = ("batch_size", "epochs", "mask_epochs", "warmup_epochs", "steps", "rounds")
    options: Any = METHODS[name]
    ones: Any = {part.name: 1 for part in fields(options) if part.name.endswith(length)}
    spared = name in {"bnp", "clp", "i_bau", "nc", "sau"}  # they train on more at once, or not
    refused = pytest.raises(ValueError, match=f"^{re.escape(TOO_SMALL)}$")
    with nullcontext() if spared else refused:
        ulrl.repair(network, images, torch.arange(4), preprocessing, method=name, **ones)
