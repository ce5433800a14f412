"""The callback that keeps MLflow's record of a study."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.files import write_text
from orchestrator.plan.columns import Outcome
from orchestrator.plan.plan import Plan, Scenario, Trial
from orchestrator.scheduler.callbacks import StudyCallback
from orchestrator.scheduler.decisions import Verdict
from orchestrator.scheduler.retention import ModelRetention
from orchestrator.scheduler.scheduler import StudyScheduler
from orchestrator.store.lookup import VictimResult
from orchestrator.tracking.run_records import STUDY, RunRecords, scenario_key
from orchestrator.tracking.sync import SyncWorker

PLAN = "plan.json"
LOGS = (PLAN, "starts.jsonl", "pruning.csv")  # among them where it ran, with which versions
TOP = (
    *("report.html", "results.csv", "results.parquet", "table.tex", "table.md"),
    *("league.tex", "league.md"),
    *("stages.csv", "curves.csv", "confusion.parquet", "edits.parquet"),
    *("study.yaml", "optuna.journal"),
)


class MlflowCallback(StudyCallback):
    """Sends a run for the study, each scenario and each trial to MLflow."""

    def __init__(
        self,
        worker: SyncWorker,
        scheduler: StudyScheduler,
        runs: RunRecords,
        retention: ModelRetention,
    ) -> None:
        self._worker, self._scheduler = worker, scheduler
        self._runs, self._retention = runs, retention
        self._known = set(worker.run_ids())  # keys of runs that are older than this start
        self._waiting: list[Trial] = []
        self._findings: dict[int, VictimResult | None] = {}  # by scenario
        self.study_record(status="RUNNING", metrics={}, artifacts=())

    def study_record(
        self,
        *,
        status: str,
        metrics: Mapping[str, float],
        artifacts: tuple[tuple[str, str], ...],
        found: Outcome | None = None,
    ) -> None:
        """Bring the parent run up to date."""
        self._worker.record(
            self._runs.study(status=status, metrics=metrics, artifacts=artifacts, found=found)
        )

    def victim(self, scenario: Scenario, finding: VictimResult) -> None:
        self._record_victim(scenario, finding)

    def decided(self, verdict: Verdict) -> None:
        trial = verdict.trial
        if trial.scenario.number not in self._findings:  # its victim failed
            self._record_victim(trial.scenario, None)
        if trial.key in self._known:  # right already, most likely: best or not, says `finish`
            self._waiting.append(trial)
        else:
            self._record_trial(trial, best=False)

    def outcomes(self, found: Mapping[tuple[str, ...], Outcome]) -> None:
        """Record what became of each scenario, named by its columns as text."""
        for scenario in self._scheduler.plan.scenarios:
            if scenario.number in self._findings:
                outcome = found.get(tuple(map(str, scenario.columns.values())))
                finding = self._findings[scenario.number]
                self._worker.record(self._runs.scenario(scenario, finding, outcome))

    def finish(self) -> None:
        """Mark each scenario's best trial, with its model where the policy says so."""
        best = {trial.number: trial for trial in self._retention.best.values()}
        for trial in self._waiting:  # first: a kill in between must not leave two best trials
            if trial.number not in best:
                self._record_trial(trial, best=False)
        for trial in best.values():
            self._record_trial(trial, best=True)
        audits = self._scheduler.audits
        audited = () if audits is None else (t.trial for t in audits.targets.values() if t.repaired)
        for trial in {trial.number: trial for trial in audited}.values():
            if trial.number not in best:  # now with what the audits found
                self._record_trial(trial, best=False)
        plan = self._scheduler.plan
        trials, scenarios = plan.trials, plan.scenarios
        self._worker.retire({STUDY, *(t.key for t in trials), *map(scenario_key, scenarios)})

    def _record_victim(self, scenario: Scenario, finding: VictimResult | None) -> None:
        self._findings[scenario.number] = finding
        if scenario_key(scenario) not in self._known:  # else `outcomes` says all of it
            self._worker.record(self._runs.scenario(scenario, finding))

    def _record_trial(self, trial: Trial, *, best: bool) -> None:
        self._worker.record(self._runs.trial(trial, best=best))


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
