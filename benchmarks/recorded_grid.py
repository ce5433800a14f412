"""A finished study with no pruning as a table to replay: what every trial of its grid reached."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from orchestrator.plan.plan import Plan, Scenario, make_plan
from orchestrator.plan.resources import compute_here
from orchestrator.scheduler.decisions import Decisions, Status, TrialOutcome
from orchestrator.scheduler.scheduler import point_of
from orchestrator.search.best import Choice
from orchestrator.spec.load import load_study
from orchestrator.spec.model import Prune
from orchestrator.store.keys import CacheKeys
from orchestrator.store.lookup import StageResults, objective_value
from orchestrator.store.store import Store
from ulrl.metrics import Metrics


@dataclass(frozen=True, kw_only=True)
class Point:
    """One trial of the recorded grid.

    Attributes:
        value: The objective on the selection half.
        report: The same on the report half.
        curve: The same on the monitor subset after each relearn epoch.
        key: Of its relearning, which other trials may share.
        sound: Whether its victim took.
        relearn: Seconds of the relearning; `evaluate` those of the evaluation.
    """

    value: float
    report: float
    curve: tuple[float, ...]
    key: str
    sound: bool
    relearn: float
    evaluate: float

    @property
    def outcome(self) -> TrialOutcome:
        return TrialOutcome(value=self.value, curve=self.curve, sound=self.sound)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The plan of a study, and what each trial reached, by (setting, scenario) number.

    Attributes:
        preparation: Seconds of victim and ascents, by the scenario's number.
    """

    plan: Plan
    points: dict[tuple[int, int], Point]
    preparation: dict[int, float]


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """What a study with a pruner would have done; `whole` is the same without one.

    Attributes:
        trials, epochs, seconds: Share of the work that was saved, in [0, 1]; epochs of
            distinct relearnings, seconds of the whole study, victims included.
        lost: Whether the setting with the best mean over all scenarios was given up.
        regret: How much worse, on the report half, the setting is that was chosen instead.
    """

    trials: float
    epochs: float
    seconds: float
    lost: bool
    regret: float


def read_grid(folder: Path) -> Grid:
    """Return the recorded grid of a study folder, curves from the study's store.

    Raises:
        ValueError: The study pruned, failed, or is not finished.
    """
    study = load_study(str(folder / "study.yaml"))
    if study.prune != Prune():
        raise ValueError(f"{folder}: to replay a study it must have run with prune: none")
    keys = CacheKeys(study.victim, compute_here(study))
    return grid_of(make_plan(study), StageResults(Store(study.store), keys))


def grid_of(plan: Plan, findings: StageResults) -> Grid:
    """Return the grid that the results of a plan make.

    Raises:
        ValueError: One is missing.
    """
    study = plan.study
    points, preparation = {}, {}
    for trial in plan.trials:
        victim, scored = findings.victim(trial.scenario), findings.scores(trial)
        repaired = None if scored is None else findings.repair(trial, scored.relearn_key)
        if victim is None or scored is None or repaired is None:
            raise ValueError(f"{trial.name} has no result in the store; finish the study")
        before, after = victim.evaluation, repaired.evaluation
        monitored = (Metrics(acc=acc, asr=asr, ra=ra) for acc, asr, ra in repaired.curve)
        relearned, evaluated = repaired.runs
        points[trial.setting.number, trial.scenario.number] = Point(
            value=objective_value(study.objective, before.selection, after.selection),
            report=objective_value(study.objective, before.report, after.report),
            curve=tuple(
                objective_value(study.objective, before.selection, point) for point in monitored
            ),
            key=scored.relearn_key,
            sound=study.victim_rule.admits(before.selection),
            relearn=relearned.seconds,
            evaluate=evaluated.seconds,
        )
        preparation[trial.scenario.number] = victim.seconds + scored.seconds
    return Grid(plan=plan, points=points, preparation=preparation)


def sub_study(grid: Grid, seeds: Sequence[int], prune: Prune, source: random.Random) -> Plan:
    """Return the plan with some of its seeds only, scenarios and settings in a random order.

    In a study the preset's own setting is first, and what is first cannot be abandoned: there
    was nothing before it to be worse than. Here any may be.
    """
    plan = grid.plan
    kept = [scenario for scenario in plan.scenarios if scenario.seed in seeds]
    order = list(plan.setting_order)
    source.shuffle(order)
    return replace(
        plan,
        study=replace(plan.study, prune=prune),
        scenarios=tuple(kept),
        trials=[trial for trial in plan.trials if trial.scenario.seed in seeds],
        scenario_order=_spread(kept, source),
        setting_order=order,
    )


def replay(grid: Grid, plan: Plan) -> Replayed:
    """Decide a study anew from what its trials reached, with the program's own decisions."""
    decisions = Decisions(plan)
    for trial in decisions.order:
        point = grid.points[trial.setting.number, trial.scenario.number]
        decisions.offer(trial, point.outcome)
    if not decisions.complete():
        raise RuntimeError("a replay decides every trial")
    cut = {p.trial.number: p.evidence.step for p in decisions.prunings if p.level == "curve"}
    epochs: dict[str, int] = {}  # of each distinct relearning, as far as any trial needs it
    whole: dict[str, int] = {}
    seconds = everything = sum(grid.preparation[s.number] for s in plan.scenarios)
    done: dict[int, dict[int, Point]] = {}
    finished: dict[str, bool] = {}
    points: dict[str, Point] = {}
    for trial in plan.trials:
        point = grid.points[trial.setting.number, trial.scenario.number]
        verdict = decisions.verdict(trial)
        points[point.key], whole[point.key] = point, len(point.curve)
        if verdict is not None and verdict.status is Status.DONE:
            epochs[point.key], finished[point.key] = len(point.curve), True
            done.setdefault(trial.setting.number, {})[trial.scenario.number] = point
        elif trial.number in cut:
            epochs[point.key] = max(epochs.get(point.key, 0), cut[trial.number])
    for key, point in points.items():
        everything += point.relearn + point.evaluate
        seconds += point.relearn * epochs.get(key, 0) / whole[key]
        seconds += point.evaluate if finished.get(key) else 0.0
    count = sum(len(found) for found in done.values())
    best, chosen = _truly_best(grid, plan), _chosen(plan, done)
    return Replayed(
        trials=1 - count / len(plan.trials),
        epochs=1 - sum(epochs.values()) / sum(whole.values()),
        seconds=1 - seconds / everything,
        lost=len(done.get(best, ())) < len(plan.scenarios),
        regret=_on_report(grid, plan, best) - _on_report(grid, plan, chosen),
    )


def _spread(scenarios: Sequence[Scenario], source: random.Random) -> tuple[int, ...]:
    """Return scenario numbers in a random order in which attacks take turns."""
    queues: dict[str, list[int]] = {}
    for scenario in scenarios:
        queues.setdefault(scenario.choice.attack.name, []).append(scenario.number)
    order = list(queues.values())
    source.shuffle(order)
    for queue in order:
        source.shuffle(queue)
    return tuple(number for turn in zip(*order, strict=True) for number in turn)


def _chosen(plan: Plan, done: dict[int, dict[int, Point]]) -> int:
    """Return the setting that a report names."""
    rows = plan.rows
    found = [done.get(trial.setting.number, {}).get(trial.scenario.number) for trial in rows]
    choice = Choice(
        point_of(
            trial,
            plan.study.objective,
            None if point is None else point.value,
            took=None if point is None else point.sound,
        )
        for trial, point in zip(rows, found, strict=True)
    )
    best = choice.overall()[0].name
    return next(
        trial.setting.number
        for trial, point in zip(rows, choice.points, strict=True)
        if choice.name(point) == best
    )


def _truly_best(grid: Grid, plan: Plan) -> int:
    everything = {
        setting.number: {s.number: grid.points[setting.number, s.number] for s in plan.scenarios}
        for setting in plan.settings
    }
    return _chosen(plan, everything)


def _on_report(grid: Grid, plan: Plan, setting: int) -> float:
    """Return a setting's mean on the report half, so that more is better."""
    sign = 1 if plan.study.objective.maximise else -1
    points = (grid.points[setting, scenario.number] for scenario in plan.scenarios)
    return sign * fmean(point.report for point in points if point.sound)
