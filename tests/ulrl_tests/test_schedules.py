"""Learning rates at points worked by hand."""

from math import sqrt

import pytest
import torch

from ulrl.relearning import RelearnConfig, RelearnSchedule
from ulrl.supervised import VictimConfig, VictimSchedule
from ulrl.unlearning import UnlearnConfig


@pytest.mark.parametrize(
    ("elapsed", "rate"),
    [
        (0.0, 0.01),
        (0.75, 0.01),
        (9.99, 0.01),
        (10.0, 0.001),
        (10.25, 0.001),
        (19.99, 0.001),
        (20.0, 0.0001),
    ],
)
def test_ascent_falls_to_a_tenth_at_each_milestone(elapsed: float, rate: float) -> None:
    assert UnlearnConfig().rate(elapsed) == pytest.approx(rate, rel=1e-12)


def test_ascent_without_milestones_keeps_its_rate() -> None:
    config = UnlearnConfig(unlearn_lr=0.3, unlearn_milestones=())
    assert {config.rate(elapsed) for elapsed in (0.0, 10.0, 500.0)} == {0.3}


@pytest.mark.parametrize(
    ("elapsed", "rate"),
    [
        (0.0, 0.4),
        (0.9, 0.4),
        (1.0, 0.4 * (1 + sqrt(1 / 2)) / 2),  # cos(pi / 4)
        (1.99, 0.4 * (1 + sqrt(1 / 2)) / 2),
        (2.0, 0.2),
        (3.0, 0.4 * (1 - sqrt(1 / 2)) / 2),
        (4.0, 0),
    ],
)
def test_relearning_falls_along_half_a_cosine_once_an_epoch(elapsed: float, rate: float) -> None:
    config = RelearnConfig(relearn_lr=0.4, relearn_epochs=4)
    assert config.rate(elapsed) == pytest.approx(rate, abs=1e-12)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        (RelearnSchedule.LINEAR, [0.4, 0.4, 0.3, 0.3, 0.2, 0.2, 0.1, 0.1, 0.0]),
        (RelearnSchedule.CONSTANT, [0.4] * 9),
    ],
)
def test_other_ways_of_relearning(schedule: RelearnSchedule, rates: list[float]) -> None:
    config = RelearnConfig(relearn_lr=0.4, relearn_epochs=4, relearn_schedule=schedule)
    assert [config.rate(half / 2) for half in range(9)] == pytest.approx(rates, abs=1e-12)


def test_every_epoch_of_the_official_relearning() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([parameter], lr=0.005)
    annealing = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=20)
    for epoch in range(20):
        (expected,) = annealing.get_last_lr()
        assert RelearnConfig().rate(epoch + 0.5) == pytest.approx(expected, rel=1e-9)
        optimiser.step()
        annealing.step()


@pytest.mark.parametrize(
    ("elapsed", "rate"),
    [
        (0.0, 0),
        (1.0, 0.02),  # a fifth of the way up
        (2.5, 0.05),
        (5.0, 0.1),  # the peak, after a quarter of 20 epochs
        (8.75, 0.1 * (1 + sqrt(1 / 2)) / 2),  # a quarter of the way down
        (12.5, 0.05),
        (16.25, 0.1 * (1 - sqrt(1 / 2)) / 2),
        (20.0, 0),
    ],
)
def test_victims_have_one_cycle(elapsed: float, rate: float) -> None:
    assert VictimConfig().rate(elapsed) == pytest.approx(rate, abs=1e-12)


COSINE = VictimConfig(epochs=50, lr=0.01, schedule=VictimSchedule.COSINE, period=100)


@pytest.mark.parametrize(
    ("elapsed", "rate"),
    [
        (0.0, 0.01),
        (0.99, 0.01),
        (25.5, 0.01 * (1 + sqrt(1 / 2)) / 2),  # a quarter of its period
        # The last epoch is the one from 49 on: (1 + cos(0.49 pi)) / 2, and cos(0.49 pi) is
        # sin(0.01 pi) = 0.0314107590781.
        (49.0, 0.01 * 1.0314107590781 / 2),
        (49.99, 0.01 * 1.0314107590781 / 2),
        (50.0, 0.005),
    ],
)
def test_a_cosine_of_a_longer_period_ends_half_way(elapsed: float, rate: float) -> None:
    assert COSINE.rate(elapsed) == pytest.approx(rate, rel=1e-12)


def test_a_cosine_without_a_period_ends_at_nothing() -> None:
    config = VictimConfig(epochs=4, lr=0.4, schedule=VictimSchedule.COSINE)
    rates = [config.rate(epoch + 0.5) for epoch in range(5)]
    expected = [0.4, 0.4 * (1 + sqrt(1 / 2)) / 2, 0.2, 0.4 * (1 - sqrt(1 / 2)) / 2, 0]
    assert rates == pytest.approx(expected, abs=1e-12)


def test_steps_fall_to_a_tenth_after_each_period() -> None:
    config = VictimConfig(epochs=250, lr=0.5, schedule=VictimSchedule.STEPS, period=100)
    rates = [config.rate(elapsed) for elapsed in (0.0, 99.99, 100.0, 199.5, 200.0, 249.9)]
    assert rates == pytest.approx([0.5, 0.5, 0.05, 0.05, 0.005, 0.005])
    assert VictimConfig(epochs=9, lr=0.5, schedule=VictimSchedule.STEPS).rate(8.99) == 0.5
