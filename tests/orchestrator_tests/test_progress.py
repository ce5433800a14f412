"""What a person sees while a study runs."""

import re
import time
from io import StringIO
from pathlib import Path
from random import Random
from typing import Any

import pytest
from rich.console import Console

from orchestrator.cli.progress import ProgressState, ProgressView, TrialValue
from orchestrator.plan.columns import span
from orchestrator.plan.jobs import JobResult, Progress, trial_job, victim_job
from orchestrator.plan.plan import Plan, Trial, make_plan
from orchestrator.scheduler.decisions import Decisions, Status, TrialOutcome, Verdict, sentence
from orchestrator.spec.model import Prune, VictimRule
from tests.orchestrator_tests.made_up import metrics
from tests.orchestrator_tests.outcomes import ACROSS, in_order, plan_of
from tests.orchestrator_tests.simulation import Desk, Workers
from tests.orchestrator_tests.small_studies import (
    BADNETS,
    MEDIAN,
    WILCOXON,
    choice,
    small_study,
    table_study,
)
from tests.system_tests.commands import wait_until
from ulrl.metrics import Metrics


class Clock:
    """Time as a test wants it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("orchestrator.cli.progress.time", clock)
    monkeypatch.setattr("orchestrator.cli.progress.LOOK", 3600.0)
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


def reached(value: float) -> TrialValue:
    return TrialValue(value=value, metrics=Metrics(acc=0.9, asr=0.05, ra=0.8))


def nothing(_: Trial) -> None:
    return None


def test_counts(plan: Plan, clock: Clock) -> None:
    state = ProgressState(plan, nothing)
    assert state.counts() == "0/8 trials"
    state.decided(verdict(plan, 0))
    state.decided(verdict(plan, 1))
    state.decided(verdict(plan, 2, Status.PRUNED))
    state.decided(verdict(plan, 3, Status.FAILED))
    assert state.decided_count == 4
    assert state.counts() == "4/8 trials (2 done, 1 pruned, 1 failed)"
    assert state.best() == ""
    clock.now += 65
    assert state.elapsed == 65
    state.begin()
    assert state.elapsed == 0


def finding(acc: float = 0.9, asr: float = 0.95) -> Any:
    from orchestrator.store.lookup import VictimResult
    from ulrl.evaluation import Evaluation
    from ulrl.metrics import Metrics

    half = Metrics(acc=acc, asr=asr, ra=0.01)
    evaluation = Evaluation(selection=half, report=half)
    return VictimResult(
        key="k",
        evaluation=evaluation,
        counts={},
        training=(),
        seconds=1.0,
        runs=(),
        specimens={},
    )


def test_plain_lines_where_it_is_no_terminal(plan: Plan, clock: Clock) -> None:
    shown = console()
    screen = ProgressView(shown, ProgressState(plan, lambda _: reached(0.75)))
    victim = victim_job(plan.scenarios[1])
    trial = trial_job(plan.trials[0], stream=True)
    screen.decided(verdict(plan, 2))  # stored: told before the clock starts
    with screen:
        screen.started(victim)
        clock.now += 9
        screen.progressed(victim, Progress(stage="train_victim", epoch=3, epochs=20))
        clock.now += 3
        screen.progressed(victim, Progress(stage="train_victim", epoch=4, epochs=20))
        screen.ended(victim, JobResult())
        screen.started(trial)
        clock.now += 61
        screen.progressed(trial, Progress(stage="relearn", epoch=1, epochs=20))
        screen.decided(verdict(plan, 0))
    best = "1/8 trials (1 done); best DER 0.750 in 1 scenario: alpha=0.8"
    last = "      last: trial-00002 ACC 90.0%, ASR 5.0%, DER 0.750 (badnets, seed=1; alpha=0.8)"
    assert re.sub(r"; about [\d:]+ left", "; about a while left", output(shown)).splitlines() == [
        f"0:00  {best}",
        "      victim of badnets, seed=1",
        last,
        f"0:12  {best}; about a while left",
        "      train victim 4/20 of badnets, seed=1",
        last,
        f"1:13  {best}; about a while left",
        "      relearn 1/20 of badnets, seed=0",
        last,
        "1:13  2/8 trials (2 done); best DER 0.750 in 2 scenarios: alpha=0.8",
    ]


def test_silence_is_told_ever_more_rarely_with_what_it_is_of(
    plan: Plan, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that is cut off, or a stage that takes long."""
    monkeypatch.setattr("orchestrator.cli.progress.LOOK", 0.005)
    shown = console()
    screen = ProgressView(shown, ProgressState(plan, nothing))
    victims = [victim_job(scenario) for scenario in plan.scenarios[:2]]

    def told(count: int) -> None:
        wait_until(lambda: output(shown).count("no news") == count, f"{count} lines", 10)

    with screen:
        for number, victim in enumerate(victims):
            screen.started(victim)
            place = f"node{number}:7"
            screen.progressed(victim, Progress(stage="unlearn", epoch=3, epochs=20, place=place))
        clock.now += 29
        time.sleep(0.05)
        told(0)
        for count, seconds in enumerate((1, 30, 60), start=1):
            clock.now += seconds
            told(count)
        clock.now += 100
        screen.progressed(victims[0], Progress(stage="unlearn", epoch=4, epochs=20))
        clock.now += 40
        told(4)
    lines = [line for line in output(shown).splitlines() if "no news" in line]
    where = "unlearn 3/20 of badnets, seed=0 on node0/1; unlearn 3/20 of badnets, seed=1 on node1/2"
    assert lines[:3] == [
        f"0:30  no news for 0:30 of {where}",
        f"1:00  no news for 1:00 of {where}",
        f"2:00  no news for 2:00 of {where}",
    ]
    assert lines[3].startswith("4:20  no news for 0:40 of unlearn 4/20 of badnets, seed=0")


def test_failures_and_weak_victims_are_told_at_once(clock: Clock) -> None:
    plan = make_plan(table_study(2, 4, victim_rule=VictimRule(min_acc=0.5, min_asr=0.8)))
    shown = console()
    screen = ProgressView(shown, ProgressState(plan, nothing))
    screen.victim(plan.scenarios[0], finding())
    screen.victim(plan.scenarios[1], finding(acc=0.4999))
    screen.victim(plan.scenarios[2], finding(asr=0.5))
    item = trial_job(plan.trials[1])
    screen.ended(
        item, JobResult(error="RuntimeError: [bold]all[/] of a very long line " + "x" * 90)
    )
    clock.now += 1
    assert output(shown).splitlines() == [
        "weak victim: badnets, seed=1: ACC 50.0%, ASR 95.0%; wanted 50.0% and 80.0%",
        "weak victim: badnets, seed=2: ACC 90.0%, ASR 50.0%; wanted 50.0% and 80.0%",
        "failed: trial-00001 (badnets, seed=0): RuntimeError: [bold]all[/] of a very long line "
        + "x" * 90,
    ]


def test_a_decision_to_prune_is_told_with_its_evidence(clock: Clock, tmp_path: Path) -> None:
    decisions = Decisions(plan_of(2, 7, ACROSS))
    plan = decisions._plan
    shown = console()
    screen = ProgressView(
        shown, ProgressState(plan, nothing), lambda name: tmp_path / f"{name}.log"
    )
    best, worse = in_order(plan)
    with screen:
        for trials, value in ((best, 0.9), (worse, 0.8)):
            for trial in trials:
                for told in decisions.offer(trial, TrialOutcome(value=value)):
                    screen.decided(told)
    (pruning,) = decisions.prunings
    assert sentence(plan, pruning) in output(shown).splitlines()
    clock.now += 1


def test_the_live_view_shows_who_does_what(plan: Plan, clock: Clock, tmp_path: Path) -> None:
    shown = console(terminal=True)
    state = ProgressState(plan, lambda _: reached(0.75))
    screen = ProgressView(shown, state, lambda name: tmp_path / f"{name}.log")
    with screen:
        for number in range(3):
            item = trial_job(plan.trials[number])
            place = ("north:11", "south:12", "north:13")[number]
            screen.started(item)
            screen.progressed(item, Progress(stage="relearn", epoch=number, epochs=20, place=place))
        screen.started(victim_job(plan.scenarios[1]))
        screen.decided(verdict(plan, 0))
        view = console(terminal=True, width=100)
        view.print(screen._render())
        plain = console(width=100)
        plain.print(screen._render())
    lines = output(plain).splitlines()
    assert lines[1] == "1/8 trials (1 done); victims 0/4"
    assert lines[2] == "best DER 0.750 in 1 scenario: alpha=0.8"
    assert [line.split() for line in lines[3:6]] == [
        ["north/3", "trial-00002", "relearn", "2/20", "badnets,", "seed=1", "alpha=0.8"],
        ["south/2", "trial-00001", "relearn", "1/20", "badnets,", "seed=0", "alpha=0.7"],
        ["victim-0001", "waits", "badnets,", "seed=1"],
    ] or [line.split()[1] for line in lines[3:5]] == ["trial-00001", "trial-00002"]
    assert "trial-00000 ACC 90.0%, ASR 5.0%, DER 0.750 (badnets, seed=0; alpha=0.8)" in lines[6]
    assert (tmp_path / "trial-00001.log").as_uri() in output(view)  # a link, on a terminal
    clock.now += 1


def test_a_narrow_terminal_cuts_no_number_off(clock: Clock) -> None:
    settings = {"unlearn_threshold": (0.1, 0.2), "reinit_ratio": (0.25, 1.0), "alpha": (0.7, 0.8)}
    study = small_study(settings=settings, grid={"seeds": (0, 1)})
    plan = make_plan(study)
    state = ProgressState(plan, lambda _: reached(0.912))
    screen = ProgressView(console(), state)
    for trial in plan.trials[:20]:
        item = trial_job(trial)
        screen.started(item)
        screen.progressed(item, Progress(stage="relearn", epoch=11, epochs=20))
        clock.now += 1000
    screen.decided(verdict(plan, 15))
    view = console(width=80)
    view.print(screen._render())
    text = output(view)
    assert "…" not in text
    assert text.count("11/20") == 16  # so many fit a screen
    assert "and 3 more" in text
    assert min(text.count("alpha=0.7"), text.count("alpha=0.8")) >= 8
    assert max(map(len, text.splitlines())) <= 80


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

    def of(trial: Trial) -> TrialValue | None:
        row = desk.results.row(trial)
        point = metrics(row["acc_after_selection"], row["asr_after_selection"])
        return TrialValue(value=row["der_selection"], metrics=Metrics(**point))

    state = ProgressState(desk.plan, of)
    shown = console(width=100)
    screen = ProgressView(shown, state)
    desk.watch(screen)
    with screen:
        Workers(Random(1), 3).run(desk)
    assert state.running == {}
    assert state.victims_left == 0
    statuses = desk.statuses()
    assert state.statuses == {Status(s): statuses.count(s) for s in set(statuses)}
    assert len(desk.recorder.verdicts) == 24
    assert state.leader is not None
    by_setting: dict[float, list[float]] = {}
    for row in desk.rows():
        if row["status"] == "done":
            by_setting.setdefault(row["alpha"], []).append(row["der_selection"])
    whole = {alpha: sum(v) / len(v) for alpha, v in by_setting.items() if len(v) == 6}
    assert state.leader.value == pytest.approx(max(whole.values()))
    assert state.left == 0
    assert output(shown).startswith("0:00  0/24 trials\n")
    clock.now += 1
