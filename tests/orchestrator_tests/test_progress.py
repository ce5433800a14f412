"""What a person sees while a study runs."""

from collections.abc import Callable
from io import StringIO
from pathlib import Path
from random import Random
from typing import Any

import pytest
from rich.console import Console

from orchestrator.decisions import Status, Verdict
from orchestrator.definition import Objective, Prune, VictimRule
from orchestrator.plan import Plan, make_plan
from orchestrator.progress import Screen, Tally, span
from orchestrator.work import Finished, Progress, TrialItem, VictimItem
from tests.orchestrator_tests.simulation import Desk, Workers
from tests.orchestrator_tests.small_studies import (
    BADNETS,
    MEDIAN,
    WILCOXON,
    choice,
    small_study,
    table_study,
)


class Clock:
    """Time as a test wants it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("orchestrator.progress.time", clock)
    return clock


@pytest.fixture
def plan() -> Plan:
    return make_plan(table_study(2, 4))


def console(*, terminal: bool = False, width: int = 80) -> Console:
    return Console(
        file=StringIO(), force_terminal=terminal, width=width, height=40, highlight=False
    )


def output(console: Console) -> str:
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (0.4, "0:00"),
        (9, "0:09"),
        (42, "0:42"),
        (59.6, "1:00"),
        (185, "3:05"),
        (600, "10:00"),
        (3599.7, "1:00:00"),
        (7800, "2:10:00"),
        (36_000, "10:00:00"),
        (90_061, "25:01:01"),
        (259_199, "71:59:59"),
        (1_000_000, "11.6 days"),
        (864_000_000, "10,000.0 days"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert span(seconds) == text


def verdict(plan: Plan, number: int, status: Status = Status.DONE) -> Verdict:
    return Verdict(trial=plan.trials[number], status=status)


def test_counts(plan: Plan, clock: Clock) -> None:
    tally = Tally(plan, lambda _: None)
    assert tally.line() == "0/8 trials"
    tally.decided(verdict(plan, 0))
    tally.decided(verdict(plan, 1))
    tally.decided(verdict(plan, 2, Status.PRUNED))
    tally.decided(verdict(plan, 3, Status.FAILED))
    assert tally.decided_count == 4
    assert tally.line() == "4/8 trials (2 done, 1 pruned, 1 failed)"
    clock.now += 65
    assert tally.elapsed == 65
    tally.begin()
    assert tally.elapsed == 0


@pytest.mark.parametrize(
    ("objective", "shown"),
    [
        (Objective.DER, "best DER 0.900 (alpha=0.8)"),
        (Objective.ASR, "best ASR 10.0% (alpha=0.7)"),
        (Objective.RA, "best RA 90.0% (alpha=0.8)"),
    ],
)
def test_the_best_is_the_objectives(objective: Objective, shown: str) -> None:
    plan = make_plan(table_study(2, 1, objective=objective))
    tally = Tally(plan, lambda trial: {0: 0.9, 1: 0.1}[trial.number])
    for number in (0, 1):
        tally.decided(verdict(plan, number))
    assert tally.line() == f"2/2 trials (2 done); {shown}"


def test_what_is_pruned_or_failed_is_not_the_best(plan: Plan) -> None:
    tally = Tally(plan, lambda _: 1.0)
    tally.decided(verdict(plan, 0, Status.PRUNED))
    tally.decided(verdict(plan, 1, Status.FAILED))
    assert tally.best is None


def test_the_first_of_equals_stays_the_best(plan: Plan) -> None:
    tally = Tally(plan, lambda _: 0.5)
    tally.decided(verdict(plan, 3))
    tally.decided(verdict(plan, 0))
    assert tally.best == (0.5, plan.trials[3])


def test_time_left_comes_from_what_items_took(plan: Plan, clock: Clock) -> None:
    tally = Tally(plan, lambda _: None)
    for number in range(3):
        assert tally.left is None
        item = TrialItem(trial=plan.trials[number], rules=(), stream=False)
        tally.start(item)
        clock.now += 10
        tally.end(item.name)
        tally.decided(verdict(plan, number))
    tally.victims_left = 2
    victim = VictimItem(scenario=plan.scenarios[3])
    tally.start(victim)
    clock.now += 100
    tally.end(victim.name)
    assert tally.left == 2 * 100 + 5 * 10
    for number in (3, 4):  # two run at once
        tally.start(TrialItem(trial=plan.trials[number], rules=(), stream=False))
    assert tally.left == (2 * 100 + 5 * 10) / 2
    assert tally.line() == "3/8 trials (3 done); about 2:05 left"


def finding(acc: float = 0.9, asr: float = 0.95) -> Any:
    from orchestrator.findings import VictimFinding
    from ulrl.evaluation import Evaluation
    from ulrl.metrics import Metrics

    half = Metrics(acc=acc, asr=asr, ra=0.01)
    evaluation = Evaluation(selection=half, report=half)
    return VictimFinding(
        key="k", evaluation=evaluation, training=(), seconds=1.0, runs=(), specimens={}
    )


def test_plain_lines_where_it_is_no_terminal(plan: Plan, clock: Clock) -> None:
    shown = console()
    screen = Screen(shown, Tally(plan, lambda _: 0.75))
    victim = VictimItem(scenario=plan.scenarios[1])
    trial = TrialItem(trial=plan.trials[0], rules=(), stream=True)
    screen.decided(verdict(plan, 2))  # stored: told before the clock starts
    with screen:
        screen.started(victim)
        clock.now += 9
        screen.progressed(victim, Progress(stage="train_victim", epoch=3, epochs=20))
        clock.now += 3
        screen.progressed(victim, Progress(stage="train_victim", epoch=4, epochs=20))
        screen.ended(victim, Finished())
        screen.started(trial)
        clock.now += 61
        screen.progressed(trial, Progress(stage="relearn", epoch=1, epochs=20))
        screen.decided(verdict(plan, 0))
    assert output(shown).splitlines() == [
        "0:00  1/8 trials (1 done); best DER 0.750 (alpha=0.8)",
        "      victim of badnets, seed=1",
        "0:12  1/8 trials (1 done); best DER 0.750 (alpha=0.8)",
        "      train_victim of badnets, seed=1 4/20",
        "1:13  1/8 trials (1 done); best DER 0.750 (alpha=0.8)",
        "      relearn of badnets, seed=0 1/20",
    ]


def test_failures_and_weak_victims_are_told_at_once(clock: Clock) -> None:
    plan = make_plan(table_study(2, 4, victim_rule=VictimRule(min_acc=0.5, min_asr=0.8)))
    shown = console()
    screen = Screen(shown, Tally(plan, lambda _: None))
    screen.victim(plan.scenarios[0], finding())
    screen.victim(plan.scenarios[1], finding(acc=0.4999))
    screen.victim(plan.scenarios[2], finding(asr=0.5))
    item = TrialItem(trial=plan.trials[1], rules=(), stream=False)
    screen.ended(item, Finished(error="RuntimeError: [bold]all[/] of a very long line " + "x" * 90))
    clock.now += 1
    assert output(shown).splitlines() == [
        "weak victim: badnets, seed=1: ACC 50.0%, ASR 95.0%",
        "weak victim: badnets, seed=2: ACC 90.0%, ASR 50.0%",
        "failed: trial-00001 (badnets, seed=0): RuntimeError: [bold]all[/] of a very long line "
        + "x" * 90,
    ]


def test_the_live_view_shows_what_runs(plan: Plan) -> None:
    shown = console(terminal=True)
    screen = Screen(shown, Tally(plan, lambda _: 0.75))
    with screen:
        for number in range(3):
            item = TrialItem(trial=plan.trials[number], rules=(), stream=False)
            screen.started(item)
            screen.progressed(item, Progress(stage="relearn", epoch=number, epochs=20))
        screen.started(VictimItem(scenario=plan.scenarios[1]))
        screen.decided(verdict(plan, 0))
        view = console()
        view.print(screen._render())
    text = output(view)
    assert "1/8 trials (1 done); best DER 0.750 (alpha=0.8)" in " ".join(text.split())
    rows = [line.split() for line in text.splitlines() if "trial-" in line or "victim-" in line]
    assert rows == [
        ["trial-00001", "relearn", "1/20", "badnets,", "seed=0", "alpha=0.7"],
        ["trial-00002", "relearn", "2/20", "badnets,", "seed=1", "alpha=0.8"],
        ["victim-0001", "starts", "badnets,", "seed=1", "victim"],
    ]


def test_a_narrow_terminal_cuts_no_number_off(clock: Clock) -> None:
    settings = {"unlearn_threshold": (0.1, 0.2), "reinit_ratio": (0.25, 1.0), "alpha": (0.7, 0.8)}
    study = small_study(settings=settings, grid={"seeds": (0, 1)})
    plan = make_plan(study)
    tally = Tally(plan, lambda _: 0.912)
    screen = Screen(console(), tally)
    for trial in plan.trials[:20]:
        item = TrialItem(trial=trial, rules=(), stream=False)
        screen.started(item)
        screen.progressed(item, Progress(stage="relearn", epoch=11, epochs=20))
        clock.now += 1000
    screen.decided(verdict(plan, 15))
    view = console(width=80)
    view.print(screen._render())
    text = output(view)
    assert "…" not in text
    assert text.count("11/20") == 16  # so many fit a screen
    assert min(text.count("alpha=0.7"), text.count("alpha=0.8")) >= 8


@pytest.mark.parametrize("prune", [Prune(), Prune(setting=WILCOXON, curve=MEDIAN)])
def test_a_whole_study_ends_with_all_counted_and_nothing_running(
    prune: Prune, tmp_path: Path, clock: Clock
) -> None:
    study = small_study(
        store=f"memory://{tmp_path}",
        attacks=[choice(BADNETS)],
        settings={"alpha": (0.3, 0.5, 0.7, 0.9)},
        grid={"seeds": tuple(range(6))},
        few={},
        prune=prune,
    )
    desk = Desk(study, tmp_path)
    value: Callable[[Any], Any] = lambda trial: desk.results.row(trial)["der_selection"]  # noqa: E731
    tally = Tally(desk.plan, value)
    shown = console(width=100)
    screen = Screen(shown, tally)
    desk.watch(screen)
    with screen:
        Workers(Random(1), 3).run(desk)
    assert tally.running == {}
    assert tally.victims_left == 0
    statuses = desk.statuses()
    assert tally.statuses == {Status(s): statuses.count(s) for s in set(statuses)}
    assert len(desk.recorder.verdicts) == 24
    values = [row["der_selection"] for row in desk.rows() if row["status"] == "done"]
    assert tally.best is not None
    assert tally.best[0] == max(values)
    assert output(shown).startswith("0:00  0/24 trials\n")
    clock.now += 1
