"""Super-fine-tuning: a rate that swings in two phases."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from tests.ulrl_tests.repairs import CPU, clean_samples, rates, repaired, repaired_exactly
from tests.ulrl_tests.states import same
from ulrl.datasets import ImageSet
from ulrl.fitting import Sources
from ulrl.methods._loop import seen
from ulrl.methods.fine_tuning import FineTuning
from ulrl.methods.super_fine_tuning import CyclicTuner, SuperFineTuning
from ulrl.models import Weights, restore
from ulrl.poison import Poison


def tuner(epochs: int, cycle: int) -> CyclicTuner:
    return CyclicTuner(
        lr=0.01,
        peak=0.4,
        late_peak=0.05,
        epochs=epochs,
        first_phase=0.5,
        cycle=cycle,
        weight_decay=0.0,
        batch_size=8,
    )


def test_each_phase_swings_as_torchs_cyclic_rate() -> None:
    steps = 3  # per epoch
    for start, peak in ((0, 0.4), (12, 0.05)):
        sgd = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.01)
        theirs = torch.optim.lr_scheduler.CyclicLR(sgd, 0.01, peak, step_size_up=6)
        for step in range(12 * steps):
            found = tuner(epochs=24, cycle=4).rate(start + step / steps)
            assert found == pytest.approx(sgd.param_groups[0]["lr"])
            sgd.step()
            theirs.step()


def test_it_is_torchs_sgd_at_these_rates(
    victim_of: Callable[[int], Weights], pictures: ImageSet
) -> None:
    clean, victim = clean_samples(pictures), victim_of(0)
    method = SuperFineTuning(lr=0.01, peak=0.05, late_peak=0.02, epochs=4, cycle=2, batch_size=20)
    found = repaired(method, victim, clean)

    theirs = restore(victim, CPU)
    sources = Sources.of(clean.seed, "relearn")
    sgd = torch.optim.SGD(theirs.network.parameters(), lr=1.0, momentum=0.9, weight_decay=5e-4)
    step = 0
    for _ in range(4):
        order = torch.randperm(60, generator=sources.order)
        images = seen(theirs, clean.samples, sources, augment=True)
        theirs.network.train()
        for batch in torch.split(order, 20):
            sgd.zero_grad()
            loss = cross_entropy(theirs.logits(images[batch]), clean.samples.labels[batch])
            loss.backward()  # type: ignore[no-untyped-call]
            # Three steps an epoch: the peaks are after epochs 1 and 3, 2 begins the second phase.
            rate = np.interp(step, [0, 3, 6, 9, 12], [0.01, 0.05, 0.01, 0.02, 0.01])
            sgd.param_groups[0]["lr"] = float(rate)
            sgd.step()
            step += 1
    for name, value in theirs.weights().state.items():
        torch.testing.assert_close(found.weights.state[name], value, rtol=1e-3, atol=1e-5)
    assert len(found.shown) == 4


def test_it_repairs_a_victim_better_than_fine_tuning_and_alike_twice(
    victim_of: Callable[[int], Weights], badnets: Poison, pictures: ImageSet
) -> None:
    clean, victim = clean_samples(pictures, 0.5), victim_of(0)
    method = SuperFineTuning(epochs=20, cycle=10, batch_size=16)
    found = repaired_exactly(method, victim, clean)
    before, after = (rates(w, badnets, pictures) for w in (victim, found.weights))
    tuned = repaired_exactly(FineTuning(epochs=20, batch_size=16), victim, clean)
    plain = rates(tuned.weights, badnets, pictures)
    assert before.asr > 0.9
    assert after.asr < 0.3
    assert plain.asr > after.asr + 0.4
    assert after.acc > 0.9
    short = SuperFineTuning(epochs=2, cycle=2, batch_size=16)
    first, second = (repaired(short, victim, clean).weights.state for _ in range(2))
    assert same(first, second)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.0}, r"^lr is above 0"),
        ({"peak": 1e-4}, r"^peak is at least lr \(0\.0003\) and at most 100; got 0\.0001"),
        ({"late_peak": 1e-4}, r"^late_peak is at least lr"),
        ({"first_phase": 1.5}, r"^first_phase is a share of the epochs, in .*; got 1\.5"),
        ({"cycle": 0}, r"^cycle is in epochs, from 1 to 1000; got 0"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SuperFineTuning(**options)  # type: ignore[arg-type]
