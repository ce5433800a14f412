"""What a person sees while a study runs, and which setting leads."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from io import StringIO
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import Mock

import pytest
from rich.console import Console

from orchestrator.cli.plan import counts
from orchestrator.cli.progress import BestSoFar, ProgressState, ProgressView
from orchestrator.cli.remaining_time import RemainingTime
from orchestrator.plan.columns import STOPPED, span
from orchestrator.plan.jobs import JobResult, Progress, trial_job, victim_job
from orchestrator.plan.labels import DAGGER_NOTE, setting_text
from orchestrator.plan.plan import Plan, Trial, make_plan
from orchestrator.reporting.read_folder import read_results
from orchestrator.reporting.summary import summarise
from orchestrator.scheduler.auditing import StudyAudits
from orchestrator.scheduler.decisions import Status, Verdict
from orchestrator.spec.model import Objective, Prune, VictimRule
from orchestrator.store.lookup import objective_value
from tests.orchestrator_tests.simulation import Desk, Recorder, Workers
from tests.orchestrator_tests.small_studies import (
    BADNETS,
    BLENDED,
    MEDIAN,
    WILCOXON,
    choice,
    small_study,
    table_study,
)
from tests.system_tests.commands import wait_until
from ulrl.methods import RepairMethod
from ulrl.methods._tuning import Tune
from ulrl.methods.fine_tuning import FineTuning
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
        (59.6, "1:00"),
        (185, "3:05"),
        (3599.7, "1:00:00"),
        (7800, "2:10:00"),
        (259_199, "71:59:59"),
        (1_000_000, "11.6 days"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert span(seconds) == text


def verdict(plan: Plan, number: int, status: Status = Status.DONE) -> Verdict:
    return Verdict(trial=plan.trials[number], status=status)


def nothing(_: Trial) -> None:
    return None


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
    remaining = Mock(spec=RemainingTime)
    remaining.left.return_value = None
    screen = ProgressView(shown, ProgressState(plan, lambda _: 0.75, remaining))
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
        remaining.left.return_value = 190.0
        clock.now += 61
        screen.progressed(trial, Progress(stage="relearn", epoch=1, epochs=20))
        screen.decided(verdict(plan, 0))
    best = "1/8 trials (1 done); best DER 0.750 in 1 scenario: alpha=0.8"
    assert output(shown).splitlines() == [
        f"0:00  {best}",
        "      victim of badnets, seed=1",
        f"0:12  {best}",
        "      train victim 4/20 of badnets, seed=1",
        f"1:13  {best}; about 3:10 left",
        "      relearn 1/20 of badnets, seed=0",
        "1:13  2/8 trials (2 done); best DER 0.750 in 2 scenarios: alpha=0.8",
    ]


def test_audits_are_counted_once_they_have_begun(plan: Plan) -> None:
    state = ProgressState(plan, nothing)
    before = state.counts()
    state.audits = Mock(spec=StudyAudits, begun=False, over=2, targets=dict.fromkeys("abcde"))
    assert state.counts() == before
    state.audits.begun = True
    assert state.counts() == f"{before}, 2/5 audits"


def test_silence_is_said_ever_more_rarely_with_what_it_is_of(
    plan: Plan, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that is cut off, or a stage that takes long."""
    monkeypatch.setattr("orchestrator.cli.progress.LOOK", 0.005)
    shown = console()

    def said(lines: int) -> bool:
        return output(shown).count("no news") == lines

    with ProgressView(shown, ProgressState(plan, nothing)) as screen:
        for number, scenario in enumerate(plan.scenarios[:2]):
            victim, place = victim_job(scenario), f"node{number}:7"
            screen.started(victim)
            screen.progressed(victim, Progress(stage="unlearn", epoch=3, epochs=20, place=place))
        for count, seconds in enumerate((30, 30, 60), start=1):
            clock.now += seconds
            wait_until(partial(said, count), "a line", 10)
    where = "unlearn 3/20 of badnets, seed=0 on node0/1; unlearn 3/20 of badnets, seed=1 on node1/2"
    assert [line for line in output(shown).splitlines() if "no news" in line] == [
        f"{after}  no news for {after} of {where}" for after in ("0:30", "1:00", "2:00")
    ]


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


def test_the_live_view_shows_who_does_what(plan: Plan, clock: Clock, tmp_path: Path) -> None:
    shown = console(terminal=True)
    state = ProgressState(plan, lambda _: 0.75)
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
    assert (tmp_path / "trial-00001.log").as_uri() in output(view)  # a link, on a terminal
    clock.now += 1


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

    state = ProgressState(desk.plan, lambda trial: desk.results.row(trial)["der_selection"])
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


def state_of(
    plan: Plan, values: dict[tuple[int, int], float], weak: Sequence[int] = ()
) -> ProgressState:
    """Return the state after all trials that have a value, by (setting, scenario)."""
    state = ProgressState(plan, lambda t: values[t.setting.number, t.scenario.number])
    for scenario in plan.scenarios:
        state.victim(scenario, weak=scenario.number in weak)
    for place in values:
        state.decided(Verdict(trial=plan.by_place[place], status=Status.DONE))
    return state


def leader_of(state: ProgressState) -> BestSoFar:
    assert state.leader is not None
    return state.leader


def test_a_setting_with_fewer_results_does_not_lead_by_easier_scenarios() -> None:
    plan = make_plan(table_study(2, 4))
    values = {(1, 0): 0.9, (1, 1): 0.8, (1, 2): 0.1, (1, 3): 0.1, (0, 0): 0.95, (0, 1): 0.95}
    leader = leader_of(state_of(plan, values))
    assert (leader.text, leader.scenarios, leader.lead) == ("alpha=0.7", 4, None)
    assert leader.value == pytest.approx(0.475)


@pytest.mark.parametrize(
    ("objective", "values", "shown"),
    [
        (Objective.ASR, (0.0, 0.0), "best ASR 0.0% in 1 scenario, level with the next: alpha=0.8"),
        (Objective.DER, (0.5, 0.5002), "best DER 0.500 in 1 scenario, level with the next: "),
        (Objective.ASR, (0.3, 0.1), "best ASR 10.0% in 1 scenario, 20.0% ahead: alpha=0.7"),
        (Objective.RA, (0.9, 0.1), "best RA 90.0% in 1 scenario, 80.0% ahead: alpha=0.8"),
    ],
)
def test_the_best_is_the_objectives_and_no_lead_is_negative(
    objective: Objective, values: tuple[float, float], shown: str
) -> None:
    plan = make_plan(table_study(2, 1, objective=objective))
    assert state_of(plan, {(0, 0): values[0], (1, 0): values[1]}).best().startswith(shown)


def test_the_leader_of_a_chain_of_pairs_is_never_behind() -> None:
    """Each of three settings beats another one where both have results: no lead goes in circles."""
    plan = make_plan(table_study(3, 3))
    values = {(0, 0): 0.9, (0, 1): 0.1, (1, 1): 0.9, (1, 2): 0.1, (2, 2): 0.9, (2, 0): 0.1}
    leader = leader_of(state_of(plan, values))
    assert leader.lead is not None
    assert leader.lead >= 0


def test_weak_victims_count_for_nothing() -> None:
    plan = make_plan(table_study(2, 2))
    values = {(0, 0): 1.0, (1, 0): 0.0, (0, 1): 0.5, (1, 1): 0.6}
    leader = leader_of(state_of(plan, values, weak=[0]))
    assert (leader.text, leader.scenarios) == ("alpha=0.7", 1)
    assert state_of(plan, values, weak=[0, 1]).leader is None
    assert state_of(plan, values, weak=[0, 1]).best() == ""


@pytest.mark.parametrize("objective", list(Objective))
@pytest.mark.parametrize("seeds", [(None,), (3, 4, 5)])
@pytest.mark.parametrize("source", range(2))
def test_the_live_view_names_the_reports_best(
    tmp_path: Path, objective: Objective, seeds: tuple[int | None, ...], source: int
) -> None:
    """On the same results, some of them failed or pending, by every objective."""
    random = Random(source)
    study = small_study(
        store=f"memory://{tmp_path}",
        attacks=[choice(BADNETS), choice(BLENDED)],
        settings={"defence_seed": seeds, "alpha": (0.5, 0.6, 0.7)},
        grid={"seeds": (0, 1)},
        few={},
        objective=objective,
    )
    desk = Desk(study, tmp_path)
    findings = desk.findings
    reached: dict[int, Metrics] = {}

    def reach(trial: Trial) -> float | None:
        victim, repaired = findings.victim(trial.scenario), reached.get(trial.number)
        if victim is None or repaired is None:
            return None
        before = victim.evaluation.selection
        return objective_value(objective, before, repaired) if isinstance(before, Metrics) else None

    state = ProgressState(desk.plan, reach)
    failing = [t.name for t in desk.plan.trials if random.random() < 0.2]

    class Keeper(Recorder):
        def decided(self, verdict: Verdict) -> None:
            found = desk.scheduler.repairs.get(verdict.trial.number)
            if found is not None and isinstance(found.evaluation.selection, Metrics):
                reached[verdict.trial.number] = found.evaluation.selection

    desk.watch(Keeper(), ProgressView(Console(file=StringIO()), state))
    Workers(random, 2, failing=failing).run(desk, steps=random.choice([40, 80, 10**6]))
    desk.results.write(tmp_path, {})
    summary = summarise(read_results(tmp_path / "results.csv"), objective.value)
    if summary.common is None:
        assert state.leader is None
        return
    leader = leader_of(state)
    assert leader.text == setting_text(summary.common)
    assert "alpha=" in leader.text


def test_a_stopped_trial_is_not_failed_and_a_stage_has_its_own_name(plan: Plan) -> None:
    state = ProgressState(plan, lambda _: 0.75)
    for number, error in enumerate((STOPPED, "RuntimeError: boom", STOPPED)):
        found = replace(verdict(plan, number, Status.FAILED), error=error)
        state.decided(found)
    state.decided(replace(verdict(plan, 3, Status.SKIPPED), error="no convolution"))
    assert state.counts() == "4/8 trials (1 skipped, 1 failed, 2 stopped)"
    shown = console()
    job = trial_job(plan.trials[4])
    with ProgressView(shown, state) as view:
        view.started(job)
        view.progressed(job, Progress(stage="repair.mask_search", epoch=3, epochs=9))
        assert view._running() == "mask_search 3/9 of badnets, seed=2"
        view.ended(job, JobResult(error="no convolution", skipped=True))
    assert "skipped: trial-00004 (badnets, seed=2): no convolution" in output(shown)


@dataclass(frozen=True, kw_only=True)
class Cutting(RepairMethod):
    """A method whose strength an oracle may choose."""

    rule: str = "threshold"

    name = "cutting"
    stages = (Tune(cut=None),)


def test_an_oracles_setting_is_marked_and_does_not_lead() -> None:
    settings = {"repair": (Cutting(), Cutting(rule="oracle"), FineTuning())}
    plan = make_plan(small_study(attacks=[choice(BADNETS)], settings=settings, few={}))
    assert plan.methods == ("cutting", "cutting †", "fine_tuning")
    assert [trial.is_oracle for trial in plan.trials] == [False, True, False]
    texts = ["repair=cutting", "repair=cutting(rule=oracle) †", "repair=fine_tuning"]
    assert [setting.text for setting in plan.settings] == texts
    state = state_of(plan, {(0, 0): 0.6, (1, 0): 0.99, (2, 0): 0.5})
    leader = leader_of(state)
    # The rule varies, so its default is told.
    assert (leader.text, leader.value) == ("cutting(rule=threshold)", 0.6)
    assert leader.lead == pytest.approx(0.1)
    shown = StringIO()
    screen = ProgressView(Console(file=shown, width=120), state)
    Console(file=shown, width=120).print(screen._render())
    assert DAGGER_NOTE in shown.getvalue()


def test_defence_seeds_are_no_settings() -> None:
    settings = {"defence_seed": (3, 4, 5), "alpha": (0.5, 0.7)}
    plan = make_plan(small_study(attacks=[choice(BADNETS)], settings=settings, few={}))
    assert counts(plan) == "1 scenario × 2 settings × 3 defence seeds = 6 trials"


def test_one_setting_with_several_draws_is_named() -> None:
    """By threshold and ratio, since draws are no settings: an empty text says nothing."""
    settings = {"defence_seed": (3, 4, 5)}
    plan = make_plan(small_study(attacks=[choice(BADNETS)], settings=settings, few={}))
    leader = leader_of(state_of(plan, {(0, 0): 0.6, (1, 0): 0.5, (2, 0): 0.7}))
    assert leader.text == "unlearn_threshold=0.2, reinit_ratio=1.0"
