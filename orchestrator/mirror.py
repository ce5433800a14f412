"""What a study does, as records for MLflow."""

import dataclasses
import json
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch

from orchestrator.conductor import Conductor
from orchestrator.decisions import Status, Verdict
from orchestrator.definition import LogModels, Study
from orchestrator.findings import Findings, VictimFinding
from orchestrator.pictures import Pictures
from orchestrator.plan import Scenario, Trial
from orchestrator.records import Record
from orchestrator.reporting.summary import column_of
from orchestrator.results import METRICS, Results, key_of
from orchestrator.store import Store
from orchestrator.tracking import Tracker
from orchestrator.work import Finished, Item, Progress
from ulrl.datasets import Treatment
from ulrl.models import ARCHITECTURES, Blueprint, Weights
from ulrl.portable import to_pixel_model
from ulrl.registry import options_of

STUDY = "study"


class Mirror:
    """The observer that keeps MLflow's record, and the repaired models worth keeping."""

    def __init__(
        self, tracker: Tracker, findings: Findings, store: Store, pictures: Pictures
    ) -> None:
        self._tracker = tracker
        self._pictures = pictures
        self._findings = findings
        self._store = store
        self._scenarios: set[int] = set()
        self._best: dict[int, tuple[float, Trial]] = {}
        self._known: set[str] = set()  # trials whose runs are older than this start
        self._waiting: list[Trial] = []
        self.models_gone = 0  # wanted by the policy, but no longer in the store
        self._conductor: Conductor
        self._results: Results

    def attach(self, conductor: Conductor, results: Results) -> None:
        """Say whose study this is; the parent run is opened."""
        self._conductor, self._results = conductor, results
        self._known = set(self._tracker.run_ids())
        self.study_record(status="RUNNING", metrics={}, artifacts=())

    def study_record(
        self, *, status: str, metrics: Mapping[str, float], artifacts: tuple[tuple[str, str], ...]
    ) -> None:
        """Bring the parent run up to date."""
        study = self._conductor.plan.study
        record = Record(
            key=STUDY,
            parent=None,
            name=study.name,
            params={
                "preset": study.preset.value,
                "objective": study.objective.value,
                "scenarios": str(len(self._conductor.plan.scenarios)),
                "settings": str(len(self._conductor.plan.settings)),
                "trials": str(len(self._conductor.plan.trials)),
            },
            metrics=dict(metrics),
            curves={},
            tags={"kind": "study"},
            status=status,
            artifacts=artifacts,
        )
        self._tracker.record(record)

    def started(self, item: Item) -> None:
        """Runs appear when there is something to read in them."""

    def progressed(self, item: Item, progress: Progress) -> None:
        """Curves are sent whole."""

    def ended(self, item: Item, result: Finished) -> None:
        """A verdict follows."""

    def victim(self, scenario: Scenario, finding: VictimFinding) -> None:
        self._scenarios.add(scenario.number)
        self._pictures.draw(scenario, finding)
        metrics = {
            f"{metric}_before_{half}": getattr(getattr(finding.evaluation, half), metric)
            for metric in METRICS
            for half in ("selection", "report")
        }
        self._record_scenario(scenario, finding, metrics)

    def decided(self, verdict: Verdict) -> None:
        trial = verdict.trial
        if trial.scenario.number not in self._scenarios:  # its victim failed
            self._scenarios.add(trial.scenario.number)
            self._record_scenario(trial.scenario, None, {})
        if key_of(trial) in self._known:  # right already, most likely: best or not, says `finish`
            self._waiting.append(trial)
        else:
            self._record_trial(trial, best=False)
        if verdict.status is Status.DONE:
            self._compare(trial)

    def finish(self) -> None:
        """Mark each scenario's best trial, with its model where the policy says so."""
        best = {trial.number: trial for _, trial in self._best.values()}
        for trial in self._waiting:
            if trial.number not in best:
                self._record_trial(trial, best=False)
        for trial in best.values():
            self._record_trial(trial, best=True)

    def _compare(self, trial: Trial) -> None:
        """Keep the weights of the best trial of each scenario, if only those are wanted."""
        row = self._results.row(trial)
        study = self._conductor.plan.study
        reached = row[column_of(study.objective.value, "selection")]
        value = reached if study.objective.maximise else -reached
        number = trial.scenario.number
        standing = self._best.get(number)
        better = standing is None or (value, -trial.number) > (standing[0], -standing[1].number)
        loser = standing[1] if better and standing is not None else trial
        if better:
            self._best[number] = (value, trial)
        keys = {t.number: self._conductor.scores[t.number].relearn_key for t in (trial, loser)}
        kept = self._conductor.scores[self._best[number][1].number].relearn_key
        if study.mlflow.log_models is LogModels.BEST and keys[loser.number] != kept:
            self._store.delete("repaired", keys[loser.number])

    def _record_scenario(
        self, scenario: Scenario, finding: VictimFinding | None, metrics: dict[str, float]
    ) -> None:
        study = self._conductor.plan.study
        curves: dict[str, tuple[tuple[int, float], ...]] = {}
        model = None
        ok = "unknown"
        picture = self._pictures.of(scenario)
        if finding is not None:
            curves = _curves("train_victim", ("loss", "accuracy"), finding.training)
            ok = str(self._results.victim_ok(finding))
            if study.mlflow.log_models is LogModels.ALL:
                model = self._describe("train_victim", finding.key, scenario)
        record = Record(
            key=_scenario_key(scenario),
            parent=STUDY,
            name=self._conductor.plan.name_of(scenario),
            params={**_texts(scenario.columns), **_texts(_trained(study, scenario))},
            metrics=metrics,
            curves=curves,
            tags={"kind": "scenario", "victim_ok": ok, **_tags(scenario)},
            status="FAILED" if finding is None else "FINISHED",
            artifacts=() if picture is None else ((str(picture), ""),),
            model=model,
        )
        self._tracker.record(record)

    def _record_trial(self, trial: Trial, *, best: bool) -> None:
        row = self._results.row(trial)
        policy = self._conductor.plan.study.mlflow.log_models
        model = policy is LogModels.ALL or (best and policy is LogModels.BEST)
        scored = self._conductor.scores.get(trial.number)
        repaired = self._conductor.repairs.get(trial.number)
        done = row["status"] == Status.DONE.value
        curves: dict[str, tuple[tuple[int, float], ...]] = {}
        description = None
        if done and scored is not None and repaired is not None:
            ascent = self._findings.ascent(scored)
            curves = {
                **_curves("relearn", METRICS, repaired.curve),
                **_curves("unlearn", METRICS, ascent.get("curve", ())),
                "unlearn/accuracy": tuple(enumerate(ascent.get("accuracy", ()), start=1)),
            }
            if model:
                description = self._describe("repaired", scored.relearn_key, trial.scenario)
                self.models_gone += self._store.peek("repaired", scored.relearn_key) is None
        names = (
            *(f"{metric}_{when}_{half}" for metric in METRICS for when, half in _HALVES),
            *("der_selection", "der_report", "target_z", "target_rank", "stop_epoch"),
            *("accuracy_at_stop", "seconds"),
        )
        record = Record(
            key=key_of(trial),
            parent=_scenario_key(trial.scenario),
            name=trial.setting.text,
            params=_texts(self._parameters(trial)),
            metrics={name: float(row[name]) for name in names if row[name] is not None},
            curves=curves,
            tags={
                "kind": "trial",
                "status": row["status"],
                "best": str(best),
                "victim_ok": str(row["victim_ok"]),
                "flagged": row["flagged"] or "",
                "plain_fine_tuning": str(row["plain_fine_tuning"] or False),
                "error": row["error"] or "",
                **_tags(trial.scenario),
            },
            status="FAILED" if row["status"] == Status.FAILED.value else "FINISHED",
            model=description,
        )
        self._tracker.record(record)

    def _parameters(self, trial: Trial) -> dict[str, Any]:
        parts = dataclasses.asdict(trial.hyperparameters)
        resolved = {name: value for part in parts.values() for name, value in part.items()}
        return {**trial.scenario.columns, "defence_seed": trial.defence_seed, **resolved}

    def _describe(self, stage: str, key: str, scenario: Scenario) -> dict[str, Any] | None:
        """Return in plain values where weights are and what network they belong to."""
        facts = scenario.dataset.facts()
        if facts is None:
            return None
        return {
            "stage": stage,
            "key": key,
            "architecture": scenario.architecture.name,
            "options": options_of(scenario.architecture, places=False),
            "classes": facts.classes,
            "channels": facts.channels,
            "side": facts.side,
            "treatment": dataclasses.asdict(scenario.dataset.treatment),
        }


def _trained(study: Study, scenario: Scenario) -> dict[str, Any]:
    """Return how a scenario's victim is trained, every value of it."""
    return dataclasses.asdict(study.victim.config(scenario.dataset.name))


def materialise(
    store: Store, description: Mapping[str, Any]
) -> tuple[torch.nn.Module, "np.ndarray[Any, Any]"] | None:
    """Return the model that a description names and an example of its input, if it is stored."""
    entry = store.read(description["stage"], description["key"])
    if entry is None:
        return None
    treatment: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in description["treatment"].items()
    }
    channels, side = description["channels"], description["side"]
    blueprint = Blueprint(
        architecture=ARCHITECTURES[description["architecture"]](**description["options"]),
        classes=description["classes"],
        channels=channels,
        side=side,
        treatment=Treatment(**treatment),
    )
    model = to_pixel_model(Weights(blueprint=blueprint, state=dict(entry.tensors)))
    return model, np.full((1, channels, side, side), 0.5, dtype=np.float32)


def artifacts_of(folder: Path) -> tuple[tuple[str, str], ...]:
    """Return the files of a study folder that its run shows."""
    wanted = (
        *("report.html", "results.csv", "results.parquet", "stages.csv", "study.yaml"),
        *("curves.csv", "table.tex", "table.md"),
    )
    files = [(str(folder / name), "") for name in wanted if (folder / name).exists()]
    figures = sorted((folder / "figures").glob("*"))
    return (*files, *((str(path), "figures") for path in figures))


_HALVES = tuple((when, half) for when in ("before", "after") for half in ("selection", "report"))


def _scenario_key(scenario: Scenario) -> str:
    return json.dumps(scenario.columns, sort_keys=True)


def _tags(scenario: Scenario) -> dict[str, str]:
    columns = scenario.columns
    return {name: str(columns[name]) for name in ("attack", "dataset", "architecture", "seed")}


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {k: str(v.value if isinstance(v, Enum) else v) for k, v in values.items()}


def _curves(
    stage: str, names: tuple[str, ...], points: Any
) -> dict[str, tuple[tuple[int, float], ...]]:
    """Return columns of a stage's per-epoch points as curves with epochs from 1."""
    return {
        f"{stage}/{name}": tuple((epoch, float(p[i])) for epoch, p in enumerate(points, start=1))
        for i, name in enumerate(names)
    }
