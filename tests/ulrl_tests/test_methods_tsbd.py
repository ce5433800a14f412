"""TSBD: weights by how far unlearning changes them, and fine-tuning by two gradients."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tests.ulrl_tests.repairs import CPU, clean_samples, rates, repaired, repaired_exactly
from tests.ulrl_tests.states import same
from tests.ulrl_tests.tiny_networks import HeadAlone
from ulrl.datasets import ImageSet
from ulrl.fitting import Sources
from ulrl.methods import RepairContext
from ulrl.methods._ascent import Unlearn
from ulrl.methods._cuts import Rule
from ulrl.methods._loop import seen
from ulrl.methods._tuning import SGDTuner
from ulrl.methods.tsbd import TSBD, GradientNormTuner, PooledCut
from ulrl.models import Weights, restore
from ulrl.poison import Poison
from ulrl.unlearning import unlearn

# Two layers: filters with sums of 6, 9 and 1; of 8 and 0.
SCORES = {
    "score/a": torch.tensor([[[[1.0, 2, 3]]], [[[0, 0, 9]]], [[[1, 0, 0]]]]),
    "score/b": torch.tensor([[[[4.0], [4]]], [[[0], [0]]]]),
}


@pytest.mark.parametrize(
    ("filters", "weights", "a", "b"),
    [
        # Filters of 9 and 8; of their five weights, three: 9, 4 and 4.
        (0.4, 0.6, [[0, 0, 0], [0, 0, 1], [0, 0, 0]], [[1, 1], [0, 0]]),
        # With the filter of 6, too, half of eight weights: 9, 4, 4 and 3.
        (0.6, 0.5, [[0, 0, 1], [0, 0, 1], [0, 0, 0]], [[1, 1], [0, 0]]),
        # Of the equal fours only the first.
        (0.4, 0.4, [[0, 0, 0], [0, 0, 1], [0, 0, 0]], [[1, 0], [0, 0]]),
        # Ten of all thirteen: those that are not 0, and the first three that are.
        (1.0, 0.8, [[1, 1, 1], [1, 1, 1], [1, 1, 0]], [[1, 1], [0, 0]]),
        (0.2, 1.0, [[0, 0, 0], [1, 1, 1], [0, 0, 0]], None),
        (1.0, 1.0, [[1, 1, 1]] * 3, [[1, 1]] * 2),
        (0.0, 1.0, None, None),
        (1.0, 0.0, None, None),
    ],
)
def test_the_pooled_cut_by_hand(
    filters: float, weights: float, a: list[list[int]] | None, b: list[list[int]] | None
) -> None:
    cut = PooledCut(rule=Rule.LARGEST, strength=filters, weights=weights)
    edit = dict(cut.choose(SCORES))
    backwards = cut.choose(dict(reversed(SCORES.items())))
    assert same(dict(backwards), edit)  # a store has an order of its own
    shapes = {"a": (3, 1, 1, 3), "b": (2, 1, 2, 1)}
    assert {name: tuple(mask.shape) for name, mask in edit.items()} == {
        name: shapes[name] for name, rows in (("a", a), ("b", b)) if rows is not None
    }
    assert {name: mask.flatten(1).int().tolist() for name, mask in edit.items()} == {
        name: rows for name, rows in (("a", a), ("b", b)) if rows is not None
    }


def quick(
    filters: float = 0.15, weights: float = 0.7, radius: float = 0.05, epochs: int = 1
) -> TSBD:
    return TSBD(
        filters=filters,
        weights=weights,
        radius=radius,
        epochs=epochs,
        unlearn_lr=0.01,
        unlearn_threshold=0.3,
        batch_size=16,
    )


def test_changes_are_those_of_an_ascent_without_decay_or_clipping(
    victim_of: Callable[[int], Weights], pictures: ImageSet
) -> None:
    clean, victim = clean_samples(pictures), victim_of(0)
    method = quick()
    found = repaired(method, victim, clean)
    first = method.stages[0]
    assert isinstance(first, Unlearn)
    assert (first.config.unlearn_weight_decay, first.config.unlearn_clip_norm) == (0.0, None)
    assert first.config.rate(500) == 0.01
    last = list(unlearn(first.config, victim, clean, 0.3, CPU))[-1]
    hits = restore(Weights(model_spec=victim.model_spec, state=dict(found.stages[0])), CPU).predict(
        clean.samples.images
    )
    assert int((hits == clean.samples.labels).sum()) / 60 == last.accuracy[-1] <= 0.3
    convolutions = {
        f"{path}.weight"
        for path, module in restore(victim, CPU).network.named_modules()
        if isinstance(module, nn.Conv2d) and "shortcut" not in path
    }
    assert set(found.stages[1]) == {f"score/{name}" for name in convolutions}
    for name in convolutions:
        change = (found.stages[0][name] - victim.state[name]).abs()
        assert torch.equal(found.stages[1][f"score/{name}"], change)
    assert len(found.shown) == 1
    assert same(found.weights.state, repaired(method, victim, clean).weights.state)


def test_all_of_all_is_every_weight_of_every_convolution(
    victim_of: Callable[[int], Weights], pictures: ImageSet
) -> None:
    clean, victim = clean_samples(pictures), victim_of(0)
    context = RepairContext(victim=victim, clean=clean, device=CPU, observe=print)
    changes = {
        f"score/{name}": torch.rand(value.shape, generator=torch.Generator().manual_seed(0))
        for name, value in victim.state.items()
        if value.ndim == 4
    }
    cut = quick(filters=1.0, weights=1.0).stages[-1].reads(changes)
    assert cut is not None
    assert {name: bool(mask.all()) for name, mask in cut.items()} == {
        name.removeprefix("score/"): True for name in changes
    }
    # A rate near 0 leaves what is cut where it is.
    still = TSBD(filters=1.0, weights=1.0, epochs=1, lr=1e-30)
    steps = still.stages[-1].checked(context, changes)
    try:
        while True:
            next(steps)
    except StopIteration as end:
        state = end.value
    for name, value in state.items():
        if value.ndim == 4:
            assert float(value.abs().max()) < 1e-20
        elif name.endswith("weight"):
            torch.testing.assert_close(value, victim.state[name])


def test_tuning_is_the_published_step_written_out(
    victim_of: Callable[[int], Weights], pictures: ImageSet
) -> None:
    clean, victim = clean_samples(pictures), victim_of(0)
    ours = restore(victim, CPU)
    context = RepairContext(victim=victim, clean=clean, device=CPU, observe=print)
    tuner = GradientNormTuner(epochs=2, batch_size=24, weight_decay=0.0)
    list(tuner.train(ours, context))

    theirs = restore(victim, CPU)
    sources = Sources.of(clean.seed, "relearn")
    parameters = list(theirs.network.parameters())
    velocity = [torch.zeros_like(p) for p in parameters]
    for _ in range(2):
        order = torch.randperm(60, generator=sources.order)
        images = seen(theirs, clean.samples, sources, augment=True)
        for batch in torch.split(order, 24):

            def gradients(batch: Tensor = batch, images: Tensor = images) -> list[Tensor]:
                theirs.network.train()
                loss = cross_entropy(theirs.logits(images[batch]), clean.samples.labels[batch])
                return list(torch.autograd.grad(loss, parameters))

            first = gradients()
            statistics = {n: b.clone() for n, b in theirs.network.named_buffers()}
            start = [p.detach().clone() for p in parameters]
            with torch.no_grad():
                for p, g in zip(parameters, first, strict=True):
                    p.add_(0.05 * g / g.pow(2).sum().sqrt())
            second = gradients()
            theirs.network.load_state_dict(statistics, strict=False)
            with torch.no_grad():
                for i, p in enumerate(parameters):
                    velocity[i] = 0.9 * velocity[i] + 0.3 * first[i] + 0.7 * second[i]
                    p.copy_(start[i] - 0.01 * velocity[i])
    wanted = theirs.weights().state
    for name, value in ours.weights().state.items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-3, atol=1e-4)


def test_without_a_radius_it_is_fine_tuning(
    victim_of: Callable[[int], Weights], pictures: ImageSet
) -> None:
    clean = clean_samples(pictures)
    found, plain = restore(victim_of(0), CPU), restore(victim_of(0), CPU)
    context = RepairContext(victim=victim_of(0), clean=clean, device=CPU, observe=print)
    options = {"epochs": 2, "batch_size": 24}
    list(GradientNormTuner(radius=0.0, **options).train(found, context))
    list(SGDTuner(constant=True, **options).train(plain, context))
    for name, value in plain.weights().state.items():
        torch.testing.assert_close(found.weights().state[name], value, rtol=1e-4, atol=1e-5)


def test_it_repairs_a_victim(
    victim_of: Callable[[int], Weights], badnets: Poison, pictures: ImageSet
) -> None:
    """Here the tuner alone does: without a cut, ASR falls as far."""
    method = replace(quick(filters=0.15, epochs=10), lr=0.05)
    found = repaired_exactly(method, victim_of(0), clean_samples(pictures, 0.5))
    before, after = (rates(w, badnets, pictures) for w in (victim_of(0), found.weights))
    assert before.asr > 0.9
    assert after.asr < 0.3
    assert after.acc > 0.9


def test_strengths_share_the_ascent_and_equal_cuts_the_rest() -> None:
    one, other = quick(filters=0.3, weights=0.2), quick()
    assert one.stages[:2] == other.stages[:2]
    cuts = [quick(filters=n).stages[-1].reads(SCORES) for n in (0.4, 0.45, 0.6)]
    assert cuts[0] is not None
    assert cuts[1] is not None
    assert cuts[2] is not None
    assert same(dict(cuts[0]), dict(cuts[1]))
    assert not same(dict(cuts[0]), dict(cuts[2]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"filters": 1.5}, r"^filters is a share, in \[0, 1\]; got 1\.5"),
        ({"weights": -0.1}, r"^weights is a share"),
        ({"unlearn_threshold": 2.0}, r"^unlearn_threshold is an accuracy"),
        ({"unlearn_lr": 0.0}, r"^unlearn_lr is above 0"),
        ({"radius": -1.0}, r"^radius is a distance, in \[0, 1000\]; got -1\.0"),
        ({"alpha": 2.0}, r"^alpha is a weight, in \[0, 1\]; got 2\.0"),
        ({"epochs": 0}, r"^epochs is from 1 to 1000; got 0"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TSBD(**options)  # type: ignore[arg-type]


def test_a_network_without_convolutions_is_refused() -> None:
    with pytest.raises(ValueError, match="tsbd cuts weights of convolutions"):
        TSBD().check(HeadAlone(4, 3), "head", 3)
