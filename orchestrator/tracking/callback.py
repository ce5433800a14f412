"""The observer that keeps MLflow's record of a study."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.files import write_text
from orchestrator.plan.columns import column_of
from orchestrator.plan.jobs import Item, JobResult, Progress
from orchestrator.plan.plan import Plan, Scenario, Trial
from orchestrator.scheduler.decisions import Status, Verdict
from orchestrator.scheduler.results_table import ResultRows
from orchestrator.scheduler.scheduler import StudyScheduler, point_of
from orchestrator.scheduler.trigger_pictures import TriggerPictures
from orchestrator.search.best import Choice
from orchestrator.spec.model import LogModels
from orchestrator.spec.space import is_open
from orchestrator.store.lookup import StageResults, VictimResult
from orchestrator.store.serialization import STAGES
from orchestrator.store.store import Store
from orchestrator.tracking.run_records import STUDY, RunRecords, scenario_key
from orchestrator.tracking.tracker import Tracker

PLAN = "plan.json"
LOGS = (PLAN, "starts.jsonl", "pruning.csv")  # among them where it ran, with which versions
TOP = (
    *("report.html", "results.csv", "results.parquet", "table.tex", "table.md"),
    *("stages.csv", "curves.csv", "confusion.parquet", "study.yaml", "optuna.journal"),
)
SOON = 4  # trials before a scenario's last: its model is wanted in seconds or minutes


class MlflowCallback:
    """The observer that keeps MLflow's record, and the repaired models worth keeping."""

    def __init__(
        self, tracker: Tracker, findings: StageResults, store: Store, pictures: TriggerPictures
    ) -> None:
        self._tracker = tracker
        self._pictures = pictures
        self._findings = findings
        self._store = store
        self._scenarios: set[int] = set()
        self._best: dict[int, Trial] = {}  # of each scenario, so far
        self._done: dict[int, list[Trial]] = defaultdict(list)  # by scenario, until it is settled
        self._known: set[str] = set()  # trials whose runs are older than this start
        self._waiting: list[Trial] = []
        self._open: Counter[int | None] = Counter()  # undecided trials, by `_whole_of`
        self.models_gone = 0  # wanted by the policy, but no longer in the store
        self._conductor: StudyScheduler
        self._results: ResultRows
        self._runs: RunRecords

    def attach(self, conductor: StudyScheduler, results: ResultRows) -> None:
        """Say whose study this is; the parent run is opened."""
        self._conductor, self._results = conductor, results
        self._runs = RunRecords(conductor, results, self._findings, self._store, self._pictures)
        self._known = set(self._tracker.run_ids())
        plan = conductor.plan
        self._open.update(map(self._whole_of, plan.trials))
        if plan.study.search is not None:
            self._open[None] = plan.most_trials  # those that are yet to be drawn, too
        self.study_record(status="RUNNING", metrics={}, artifacts=())

    def study_record(
        self,
        *,
        status: str,
        metrics: Mapping[str, float],
        artifacts: tuple[tuple[str, str], ...],
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Bring the parent run up to date."""
        record = self._runs.study(
            status=status,
            metrics=metrics,
            artifacts=artifacts,
            tags=tags or {},
        )
        self._tracker.record(record)

    def started(self, item: Item) -> None:
        """Runs appear when there is something to read in them."""

    def progressed(self, item: Item, progress: Progress) -> None:
        """Curves are sent whole."""

    def ended(self, item: Item, result: JobResult) -> None:
        """A verdict follows."""

    def victim(self, scenario: Scenario, finding: VictimResult) -> None:
        self._scenarios.add(scenario.number)
        self._pictures.draw(scenario, finding)
        self._tracker.record(self._runs.scenario(scenario, finding))

    def decided(self, verdict: Verdict) -> None:
        trial = verdict.trial
        if trial.scenario.number not in self._scenarios:  # its victim failed
            self._scenarios.add(trial.scenario.number)
            self._tracker.record(self._runs.scenario(trial.scenario, None))
        if trial.key in self._known:  # right already, most likely: best or not, says `finish`
            self._waiting.append(trial)
        else:
            self._record_trial(trial, best=False)
        if verdict.status is Status.DONE:
            self._compare(trial)
        whole = self._whole_of(trial)
        self._open[whole] -= 1
        best_only = self._conductor.plan.study.mlflow.log_models is LogModels.BEST
        if best_only and self._open[whole] == SOON and trial.key not in self._known:
            self._tracker.expect_models()
        if whole is not None and not self._open[whole]:
            self._settle(whole)

    def _whole_of(self, trial: Trial) -> int | None:
        """Return the scenario that is done with its trials, or None where all are together.

        While settings are drawn no scenario has its last trial before the study has.
        """
        searching = self._conductor.plan.study.search is not None
        return None if searching else trial.scenario.number

    def _settle(self, scenario: int) -> None:
        """Tell a scenario's best once that is final: models are made while others are at work."""
        if self._several:
            self._choose(self._done.pop(scenario, []), self._conductor.plan.rows)
        best = self._best.get(scenario)
        if best is None or best.key in self._known:
            return
        others = [t for t in self._waiting if t.scenario.number == scenario]
        self._waiting = [t for t in self._waiting if t.scenario.number != scenario]
        for trial in others:  # first, lest a kill leave two bests behind
            self._record_trial(trial, best=False)
        del self._best[scenario]  # nothing is left to say of it
        self._record_trial(best, best=True)

    def finish(self) -> None:
        """Mark each scenario's best trial, with its model where the policy says so."""
        for trials in self._done.values() if self._several else ():
            undecided = self._open[self._whole_of(trials[0])]
            self._choose(trials, self._conductor.plan.rows, drop=not undecided)
        best = {trial.number: trial for trial in self._best.values()}
        for trial in self._waiting:
            if trial.number not in best:
                self._record_trial(trial, best=False)
        for trial in best.values():
            self._record_trial(trial, best=True)
        plan = self._conductor.plan
        trials, scenarios = plan.trials, plan.scenarios
        self._tracker.retire({STUDY, *(t.key for t in trials), *map(scenario_key, scenarios)})

    def _record_trial(self, trial: Trial, *, best: bool) -> None:
        record = self._runs.trial(trial, best=best)
        if record.model is not None:
            stage = STAGES[record.model["stage"]]
            self.models_gone += stage.peek(self._store, record.model["key"]) is None
        self._tracker.record(record)

    @property
    def _several(self) -> bool:
        """Whether settings meet several defence seeds, so that no trial is best by itself."""
        axis = self._conductor.plan.study.grid.settings.get("defence_seed")
        return axis is not None and is_open(axis)

    def _compare(self, trial: Trial) -> None:
        """Take in a done trial: as its scenario's best so far, or as one that is not."""
        if self._several:  # which trial is best depends on others of its setting
            self._done[trial.scenario.number].append(trial)
            return
        standing = self._best.get(trial.scenario.number)
        both = sorted([trial, *([] if standing is None else [standing])], key=_number)
        self._choose(both, both)

    def _choose(
        self, trials: Sequence[Trial], planned: Iterable[Trial], *, drop: bool = True
    ) -> None:
        """Find the best of a scenario's done trials; keep its weights only, if that is the policy.

        Args:
            trials: The trials.
            planned: All trials that say what a setting is, in the order of the results' rows.
            drop: Whether the others' weights may go: no further trial is to come.
        """
        best = self._best_of(trials, planned)
        if best is not None:
            self._best[best.scenario.number] = best
        if not drop or self._conductor.plan.study.mlflow.log_models is not LogModels.BEST:
            return
        keys = {trial.number: self._conductor.scores[trial.number].relearn_key for trial in trials}
        kept = None if best is None else keys[best.number]
        for key in {key for key in keys.values() if key != kept}:
            self._store.delete("repaired", key)

    def _best_of(self, trials: Sequence[Trial], planned: Iterable[Trial]) -> Trial | None:
        """Return the best trial of the best setting, by the rule of `orchestrator.search.best`."""
        objective = self._conductor.plan.study.objective
        reached = {trial.number: self._reached(trial) for trial in trials}
        rows = list(planned)
        choice = Choice(
            point_of(trial, objective, reached.get(trial.number), took=None) for trial in rows
        )
        ranked = choice.within(trials[0].scenario.number)
        if not ranked:
            return None
        own = [
            (point.value, trial)
            for trial, point in zip(rows, choice.points, strict=True)
            if trial.number in reached
            and point.value is not None
            and choice.name(point) == ranked[0].name
        ]
        return max(own, key=lambda pair: pair[0])[1]

    def _reached(self, trial: Trial) -> float | None:
        """Return a done trial's objective on the selection half; None for a wreck."""
        row = self._results.row(trial)
        if row["wrecked"]:
            return None
        value: float | None = row[
            column_of(self._conductor.plan.study.objective.value, "selection")
        ]
        return value


def _number(trial: Trial) -> int:
    return trial.number


def artifacts_of(folder: Path, plan: Plan) -> tuple[tuple[str, str], ...]:
    """Return the files of a study folder that its run shows, with the run's folders for them.

    What was planned is written beside them first.
    """
    write_text(folder / "logs" / PLAN, json.dumps(outline(plan), indent=1) + "\n")
    places = [
        *((folder / name, "") for name in TOP),
        *((folder / "logs" / name, "logs") for name in LOGS),
        *((path, "figures") for path in sorted((folder / "figures").glob("[!.]*"))),
    ]
    return tuple((str(path), place) for path, place in places if path.is_file())


def outline(plan: Plan) -> dict[str, Any]:
    """Return what a study does, as plain values: its scenarios and settings by name."""
    whole = len(plan.scenarios) * len(plan.settings)
    return {
        "trials": len(plan.trials),
        "excluded": whole - len(plan.trials),
        "scenarios": [scenario.text for scenario in plan.scenarios],
        "settings": [setting.text for setting in plan.settings],
        "order_of_scenarios": list(plan.scenario_order),
        "order_of_settings": list(plan.setting_order),
    }
