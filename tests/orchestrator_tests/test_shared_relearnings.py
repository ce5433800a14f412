"""What a plan expects before anything has run, and what pruning has spared already."""

from collections.abc import Callable, Iterator
from io import StringIO
from itertools import cycle
from pathlib import Path
from random import Random
from typing import Any

import pytest
from rich.console import Console

from orchestrator.cli.plan import StudyPlan
from orchestrator.plan.cost_model import Calibration, Speed
from orchestrator.plan.plan import make_plan
from orchestrator.plan.resources import Compute
from orchestrator.scheduler.estimate import PlanEstimate, estimate
from orchestrator.spec.model import Study
from orchestrator.store.keys import CacheKeys
from orchestrator.store.store import Store
from tests.orchestrator_tests.pruned_studies import PRUNES, study_of, with_status
from tests.orchestrator_tests.simulation import Desk, Workers
from tests.orchestrator_tests.small_studies import BADNETS, choice, small_study

THRESHOLDS = (0.2, 0.3, 0.4)


@pytest.fixture(autouse=True)
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose speed does not change from one measurement to the next."""
    monkeypatch.setattr(Calibration, "_measure", lambda *_: Speed(train=1.0, test=0.5, timed=True))


def expected(store: Path | str, **settings: tuple[Any, ...]) -> PlanEstimate:
    study = small_study(
        store=str(store),
        attacks=[choice(BADNETS)],
        settings=settings,
        grid={"seeds": (0, 2)},  # made-up ascents of even seeds flag the same row throughout
        few={},
        prune=PRUNES["nobody"],
    )
    return cost(study)


def cost(study: Study, desk: Desk | None = None) -> PlanEstimate:
    keys = CacheKeys(study.victim, Compute())
    cuts = None if desk is None else desk.folder.cuts()
    return estimate(make_plan(study), Store(study.store), keys, 2, 0.0, cuts)


@pytest.mark.parametrize(
    ("ratios", "relearns"), [((1.0,), 1), ((0.0, 1.0), 2), ((0.5,), 3), ((0.0, 0.5, 0.7, 1.0), 8)]
)
def test_thresholds_share_where_they_mark_all_weights_or_none(
    tmp_path: Path, ratios: tuple[float, ...], relearns: int
) -> None:
    found = expected(tmp_path, unlearn_threshold=THRESHOLDS, reinit_ratio=ratios)
    assert found.runs["relearn"] == 2 * 3 * len(ratios)
    assert found.relearns == 2 * relearns


def test_the_time_is_of_what_is_expected_not_of_the_bound(tmp_path: Path) -> None:
    one = expected(tmp_path, unlearn_threshold=(0.2,), reinit_ratio=(0.0, 1.0))
    several = expected(tmp_path, unlearn_threshold=THRESHOLDS, reinit_ratio=(0.0, 1.0))
    apart = expected(tmp_path, unlearn_threshold=THRESHOLDS, reinit_ratio=(0.5,))
    assert several.runs["relearn"] == 3 * one.runs["relearn"]
    assert several.seconds == one.seconds
    assert several.longest == one.longest
    assert several.disk > one.disk
    assert apart.seconds > several.seconds


def test_without_suspects_only_the_relearning_itself_counts(tmp_path: Path) -> None:
    found = expected(
        tmp_path,
        unlearn_threshold=THRESHOLDS,
        reinit_ratio=(0.5, 1.0),
        max_suspects=(0,),
        alpha=(0.3, 0.7),
        relearn_lr=(0.01, 0.02),
    )
    assert (found.runs["relearn"], found.relearns) == (2 * 24, 2 * 2)


def test_what_is_expected_is_what_is_run_where_thresholds_flag_alike(store: str) -> None:
    axes: dict[str, tuple[Any, ...]] = {
        "unlearn_threshold": THRESHOLDS,
        "reinit_ratio": (0.0, 1.0),
        "alpha": (0.3, 0.7),
    }
    found = expected(store, **axes)
    study = small_study(
        store=store,
        attacks=[choice(BADNETS)],
        settings=axes,
        grid={"seeds": (0, 2)},
        few={},
        prune=PRUNES["nobody"],
    )
    crew = Workers()
    crew.run(Desk(study, Path(store.removeprefix("memory://")) / "run"))
    assert found.relearns == sum(stage == "relearn" for stage, _ in crew.executed)


@pytest.mark.parametrize("prune", PRUNES)
def test_nothing_is_left_of_a_pruned_study_that_is_done(
    tmp_path: Path, store: str, prune: str
) -> None:
    study = study_of(prune, store)
    desk = Desk(study, tmp_path)
    Workers(Random(3), 3).run(desk)
    assert bool(with_status(desk, "pruned")) == (prune != "nobody")
    found = cost(study, desk)
    assert found.cached == found.runs
    assert (found.seconds, found.hours) == (0, 0)


@pytest.mark.parametrize("prune", ["settings", "both"])
def test_what_is_left_of_an_interrupted_study_is_no_more_than_unpruned(
    tmp_path: Path, store: str, prune: str
) -> None:
    """Of settings that are given up already nothing is counted any more."""
    study = study_of(prune, store)
    desk = Desk(study, tmp_path)
    Workers(Random(3), 3).run(desk, steps=170)
    given_up = len(with_status(desk, "pruned"))
    assert given_up
    assert with_status(desk, "pending")
    left, all_of_it = cost(study, desk), cost(study_of("nobody", store), desk)
    assert 0 < left.seconds < all_of_it.seconds
    assert left.cached == all_of_it.cached


def test_a_network_is_as_fast_as_its_median_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not as its fastest: what is waited for is all of them."""
    calibration = Calibration("cpu", 1, 1)
    monkeypatch.setattr(calibration, "_slice", 1e9)
    monkeypatch.setattr(calibration, "_clock", clock(1.0, 2.0, 2.0, 7.0, 2.0).__next__)
    assert calibration._repeat(lambda: None) == 2.0


def clock(*durations: float) -> Iterator[float]:
    """Yield begin and end of acts that take so long in turn."""
    now = 0.0
    for duration in cycle(durations):
        yield now
        now += duration
        yield now


@pytest.fixture
def shown(tmp_path: Path) -> Callable[..., str]:
    def show(prune: str, *, inline: bool, **settings: tuple[Any, ...]) -> str:
        study = small_study(
            store=str(tmp_path / "store"), settings=settings, few={}, prune=PRUNES[prune]
        )
        text = StringIO()
        StudyPlan(study, tmp_path / "run", inline=inline).show(Console(file=text))
        assert list(tmp_path.iterdir()) == []
        return text.getvalue()

    return show


def test_a_plan_says_what_its_time_counts(shown: Callable[..., str]) -> None:
    axes = {"unlearn_threshold": THRESHOLDS, "reinit_ratio": (0.0, 1.0)}
    lines = shown("settings", inline=False, **axes).splitlines()
    assert lines[-2] == (
        "it counts 4 relearns, as if thresholds flag the same neurons and pruning spares none"
    )
    assert lines[-1] == (
        "the pruner of settings has no effect: it needs 4 scenarios to abandon one, and there are 2"
    )
    lines = shown("nobody", inline=False, **axes).splitlines()
    assert lines[-1] == "it counts 4 relearns, as if thresholds flag the same neurons"
    lines = shown("nobody", inline=False, reinit_ratio=(0.0, 1.0)).splitlines()
    assert lines[-1].startswith("the time is estimated from: ")


def test_inline_is_one_worker(shown: Callable[..., str]) -> None:
    assert " on 1 worker; " in shown("nobody", inline=True, reinit_ratio=(0.0, 1.0))
