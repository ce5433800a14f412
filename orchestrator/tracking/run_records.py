"""Study, scenario and trial as records of runs."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from enum import Enum
from functools import lru_cache
from typing import Any, TypeAlias

import yaml

from orchestrator.plan.columns import COST, EDITED, METRICS, STOPPED, Outcome, slug
from orchestrator.plan.jobs import StageRun
from orchestrator.plan.plan import Scenario, Trial, options_text
from orchestrator.scheduler.auditing import target_rank
from orchestrator.scheduler.decisions import Pruning, Status
from orchestrator.scheduler.results_table import ResultRows, metric_columns, own_numbers
from orchestrator.scheduler.scheduler import StudyScheduler
from orchestrator.scheduler.trigger_pictures import TriggerPictures
from orchestrator.spec.dump import resolved_yaml
from orchestrator.spec.model import LogModels, Study
from orchestrator.store.lookup import ScoreResult, StageResults, VictimResult
from orchestrator.store.serialization import REPAIRED, VICTIM
from orchestrator.store.store import Store
from orchestrator.tracking.models import describe
from orchestrator.tracking.records import Dataset, Record, digest_of
from orchestrator.tracking.views import DESCRIPTION, KIND, described, views
from ulrl.hyperparameters import PARTS, Hyperparameters


class ImageSets:
    """Names the sets of scenarios and trials; what fixes a dataset's content is read once."""

    def __init__(self) -> None:
        self._identities: dict[Any, str] = {}

    def of_scenario(self, scenario: Scenario) -> tuple[Dataset, ...]:
        """Return what a victim was trained on, and what models are measured on."""
        label, info = scenario.dataset.label, scenario.dataset.info()
        shape, trained, tested = {}, None, None
        if info is not None:
            shape = {"classes": info.classes, "side": info.side, "channels": info.channels}
            trained, tested = sum(info.train_counts), info.test_count
        attack, poison = scenario.poison.attack.name, dict[str, Any]()
        if not scenario.benign:
            poison = {name: scenario.columns[name] for name in ("poison_ratio", "target_label")}
        return (
            Dataset(
                name=label if scenario.benign else f"{label} poisoned by {attack}",
                digest=self._digest(scenario, scenario.columns),
                context="training",
                facts={"images": trained, **shape, **poison},
            ),
            Dataset(
                name=label,
                digest=self._digest(scenario, "test"),
                context="evaluation",
                facts={"images": tested, **shape},
            ),
        )

    def of_trial(self, trial: Trial) -> tuple[Dataset, ...]:
        """Return the clean samples that the defender held."""
        clean_ratio = trial.hyperparameters.clean.clean_ratio
        drawn = {"clean_ratio": clean_ratio, "defence_seed": trial.defence_seed}
        name, digest = trial.scenario.dataset.label, self._digest(trial.scenario, drawn)
        return (Dataset(name=name, digest=digest, context="defence", facts=drawn),)

    def _digest(self, scenario: Scenario, part: Any) -> str:
        dataset = scenario.dataset
        if dataset not in self._identities:
            self._identities[dataset] = digest_of([dataset.label, dataset.identity()])
        return digest_of([self._identities[dataset], part])[:16]


Curves: TypeAlias = dict[str, tuple[tuple[int, float], ...]]

STUDY = "study"
_TRAINING = ("train_loss", "train_accuracy")  # "acc" is of test images
ADDRESSES = ("mlflow.uri", "store", "optuna.storage")  # the same study elsewhere
_HALVES = tuple((when, half) for when in ("before", "after") for half in ("selection", "report"))
_NUMBERS = (
    *(f"{metric}_{when}_{half}" for metric in METRICS for when, half in _HALVES),
    *("der_selection", "der_report", "target_z", "target_rank", "stop_epoch"),
    *("accuracy_at_stop", "collapse_class", "collapse_share", "seconds"),
    *("rir_selection", "rir_report"),
)
_COMPARED = (*(name for name in COST if name != "passes_planned"), *EDITED)  # of several methods


class RunRecords:
    """Makes the record of each run from what the driver knows at the moment."""

    def __init__(
        self,
        scheduler: StudyScheduler,
        results: ResultRows,
        findings: StageResults,
        store: Store,
        pictures: TriggerPictures,
    ) -> None:
        self._scheduler, self._results = scheduler, results
        self._findings, self._store, self._pictures = findings, store, pictures
        self._plan = scheduler.plan
        self._policy = scheduler.plan.study.mlflow.log_models
        self._sets = ImageSets()
        self._prunings: dict[tuple[str, int], Pruning] = {}
        self._pruned_before = 0  # of the prunings
        self._ascent: tuple[tuple[str, int], Curves] = (("", 0), {})  # the last that was shown

    def study(
        self,
        *,
        status: str,
        metrics: Mapping[str, float],
        artifacts: tuple[tuple[str, str], ...],
        found: Outcome | None,
    ) -> Record:
        """Return the parent of all, which also carries what the experiment's page shows."""
        plan = self._plan
        counts = {
            "scenarios": len(plan.scenarios),
            "settings": plan.most_settings,
            "trials": plan.planned_trials,
        }
        said = {"RUNNING": "running", "FINISHED": "done"}.get(status, "interrupted")
        return Record(
            key=STUDY,
            parent=None,
            name=plan.study.name,
            params={**_texts(_settled(plan.study)), **_texts(counts)},
            metrics=dict(metrics),
            tags={"kind": "study", "status": said, **_said(found)},
            status=status,
            artifacts=artifacts,
            experiment={
                **KIND,
                **views(plan.varied()),
                DESCRIPTION: described("" if found is None else found.text, plan.varied()),
            },
        )

    def scenario(
        self, scenario: Scenario, finding: VictimResult | None, found: Outcome | None = None
    ) -> Record:
        """Return a scenario's run: its victim, or that there is none, and what became of it."""
        metrics: dict[str, float] = {}
        curves: Curves = {}
        model = ended = began = None
        ok = "unknown"
        picture = self._pictures.of(scenario)
        if finding is not None:
            for metric in METRICS:
                for half in ("selection", "report"):
                    value = getattr(getattr(finding.evaluation, half), metric, None)
                    if value is not None:
                        metrics[f"{metric}_before_{half}"] = value
            own = own_numbers(self._plan.study.metrics, finding, "before")
            metrics |= {name: value for name, value in own.items() if value is not None}
            metrics |= {**_seconds(finding.runs), "seconds": finding.seconds}
            metrics |= {} if found is None else found.metrics
            metrics |= self._audited(None, scenario)
            curves = _curves("train_victim", ("loss", "accuracy"), finding.training)
            ok = str(self._results.victim_ok(finding))
            if self._policy is LogModels.ALL:
                model = describe(VICTIM, finding.key, scenario)
            ended = self._store.written("evaluate", finding.runs[-1].key)
            began = None if ended is None else ended - finding.seconds
        tags = {"kind": "scenario", "status": "failed" if finding is None else "done"}
        return Record(
            key=scenario_key(scenario),
            parent=STUDY,
            name=self._plan.name_of(scenario),
            params=_texts({**_given(scenario), **_made(self._plan.study, scenario)}),
            metrics=metrics,
            curves=curves,
            tags={**tags, "victim_ok": ok, **_tags(scenario), **_said(found)},
            status="FAILED" if finding is None else "FINISHED",
            artifacts=() if picture is None else ((str(picture), ""),),
            model=model,
            datasets=self._sets.of_scenario(scenario),
            began=began,
            ended=ended,
        )

    def trial(self, trial: Trial, *, best: bool) -> Record:
        """Return a trial's run; `best` says that it is its scenario's best."""
        row = self._results.row(trial)
        scored = self._scheduler.scores.get(trial.number)
        repaired = self._scheduler.repairs.get(trial.number)
        numbers = (*_NUMBERS, *_COMPARED, *metric_columns(self._plan.study.metrics))
        metrics = {name: float(row[name]) for name in numbers if row.get(name) is not None}
        curves: Curves = {}
        model = ended = began = None
        if row["status"] == Status.DONE.value and scored is not None and repaired is not None:
            curves = _curves("relearn", METRICS, repaired.curve)
            if isinstance(scored, ScoreResult):
                curves |= self._phase_one(scored)
            curves |= _curves("relearn", _TRAINING, repaired.training)
            metrics |= _seconds((*scored.runs, *repaired.runs))
            metrics |= self._audited(trial, trial.scenario)
            ended = self._store.written("evaluate", repaired.runs[-1].key)
            began = None if ended is None else ended - repaired.seconds
            if self._policy is LogModels.ALL or (best and self._policy is LogModels.BEST):
                model = describe(REPAIRED, scored.relearn_key, trial.scenario)
        named = best and row["victim_ok"] is not False  # a weak victim has no best repair
        wanted = named and self._plan.study.mlflow.register
        return Record(
            key=trial.key,
            parent=scenario_key(trial.scenario),
            name=f"{self._plan.name_of(trial.scenario)}: {trial.setting.text}",
            params={
                **_texts({**_given(trial.scenario), "defence_seed": trial.defence_seed}),
                **parameters(trial),
            },
            metrics=metrics,
            curves=curves,
            tags={
                "kind": "trial",
                "status": row["status"],
                "best": str(named),
                "victim_ok": str(row["victim_ok"]),
                "flagged": row["flagged"] or "",
                "plain_fine_tuning": str(row["plain_fine_tuning"] or False),
                "wrecked": str(row["wrecked"] or False),
                "error": row["error"] or "",
                **self._pruned(trial, row["status"]),
                **({"repair": trial.method_name} if "repair" in trial.setting.values else {}),
                **_tags(trial.scenario),
            },
            status=_run_status(row),
            model=model,
            registered=self._registered(trial.scenario) if wanted and model is not None else "",
            datasets=self._sets.of_trial(trial),
            began=began,
            ended=ended,
        )

    def _audited(self, trial: Trial | None, scenario: Scenario) -> dict[str, float]:
        """Return what audits found in a trial's repaired model, or in a scenario's victim.

        Of a victim that was audited by several draws of clean samples, the last counts.
        """
        audits, metrics = self._scheduler.audits, dict[str, float]()
        if audits is None:
            return metrics
        for name, found in audits.found.items():
            target = audits.targets[name]
            if target.trial.scenario is not scenario or target.repaired != (trial is not None):
                continue
            if trial is not None and target.trial.number != trial.number:
                continue
            stem = f"audit/{slug(target.audit.label).replace('=', '-')}"  # MLflow takes no =
            numbers = {
                "statistic": found.result.statistic,
                "target_rank": target_rank(target, found),
            }
            metrics |= {f"{stem}/{n}": value for n, value in numbers.items() if value is not None}
        return metrics

    def _pruned(self, trial: Trial, status: str) -> dict[str, str]:
        """Return when a pruned trial was given up: ``epoch 3``, or ``scenario 7`` of a setting."""
        prunings = self._scheduler.decisions.prunings
        for pruning in prunings[self._pruned_before :]:
            whole = pruning.level == "setting"
            number = pruning.trial.setting.number if whole else pruning.trial.number
            self._prunings[pruning.level, number] = pruning
        self._pruned_before = len(prunings)
        places = ("curve", trial.number, "epoch"), ("setting", trial.setting.number, "scenario")
        for level, number, unit in places if status == Status.PRUNED.value else ():
            if (level, number) in self._prunings:
                step = self._prunings[level, number].evidence.step
                return {"pruned_by": level, "pruned_at": f"{unit} {step}"}
        return {}

    def _registered(self, scenario: Scenario) -> str:
        # Names of scenarios may be cut, so two may have the same slug: the key tells them apart.
        text = slug(self._plan.name_of(scenario))[:60]
        return f"{self._plan.study.name}.{text}.{digest_of(scenario_key(scenario))[:8]}"

    def _phase_one(self, scored: ScoreResult) -> Curves:
        """Return how a trial's phase 1 went until it stopped; others may have gone on."""
        stop = scored.scores.stop_epoch
        key = scored.runs[0].key, stop
        known, curves = self._ascent
        if known != key or not curves["unlearn/train_accuracy"]:  # trials of a group share them
            values = self._findings.ascent(scored)
            curves = {
                f"unlearn/train_{name}": tuple(enumerate(values.get(name, ())[:stop], start=1))
                for name in ("loss", "accuracy")
            }
            curves |= _curves("unlearn", METRICS, values.get("curve", ())[:stop])
            self._ascent = key, curves
        return curves


def _run_status(row: Mapping[str, Any]) -> str:
    if row["status"] != Status.FAILED.value:
        return "FINISHED"
    return "KILLED" if row["error"] == STOPPED else "FAILED"


def _said(found: Outcome | None) -> dict[str, str]:
    """Return the tags that say what was found."""
    if found is None:
        return {}
    rivals = {} if found.rivals is None else {"no_clear_difference_to": found.rivals}
    return {DESCRIPTION: found.text, "best_setting": found.best_setting, **rivals}


def scenario_key(scenario: Scenario) -> str:
    """Return what names a scenario in MLflow, whatever its number in a changed grid."""
    return json.dumps(scenario.columns, sort_keys=True)


def parameters(trial: Trial) -> dict[str, str]:
    """Return every value that a trial's repair method has use for, defaults included."""
    method, found = trial.setting.values.get("repair"), {}
    if method is not None:
        found = {"repair": method.name, "repair_options": options_text(method)}
    if trial.method is None:
        return found | _hyperparameters(trial.hyperparameters, tuple(PARTS))
    options: Any = trial.method  # a dataclass, as every registered one
    values = {f.name: getattr(options, f.name) for f in dataclasses.fields(options)}
    found |= _texts({f"{options.name}.{name}": value for name, value in values.items()})
    return found | _hyperparameters(trial.hyperparameters, ("clean",))


@lru_cache(maxsize=1024)  # trials of a setting share them
def _hyperparameters(values: Hyperparameters, names: tuple[str, ...]) -> dict[str, str]:
    parts = [getattr(values, name) for name in names]
    return _texts(
        {f.name: getattr(part, f.name) for part in parts for f in dataclasses.fields(part)}
    )


def _made(study: Study, scenario: Scenario) -> dict[str, Any]:
    """Return every option of what makes a victim, defaults included, but where files lie."""
    choice = scenario.choice
    options: dict[str, Any] = {}
    for axis in ("attack", "dataset", "architecture"):
        entry: Any = choice.attack if axis == "attack" else getattr(scenario, axis)
        for field in dataclasses.fields(entry):
            if not field.metadata.get("runtime"):
                options[f"{axis}.{field.name}"] = getattr(entry, field.name)
    options["victim_imported"] = scenario.source is not None
    if not scenario.benign:
        options |= {"attack.labels": choice.labels, "attack.stamp": choice.stamp}
        options["attack.source"] = choice.source
    if scenario.source is not None:
        return options
    config = study.victim.config(scenario.dataset.name, scenario.poison.attack.name)
    return {**dataclasses.asdict(config), **options}


def _settled(study: Study) -> dict[str, Any]:
    """Return the study file with every default, a dotted name for each value."""
    flat: dict[str, Any] = {}
    rest: list[tuple[str, Any]] = [("", yaml.safe_load(resolved_yaml(study)))]
    while rest:
        name, value = rest.pop()
        if isinstance(value, dict) and value:
            rest += [(f"{name}.{key}" if name else str(key), one) for key, one in value.items()]
        elif name not in ADDRESSES:
            flat[name] = json.dumps(value) if isinstance(value, list | dict) else value
    return dict(sorted(flat.items()))


def _given(scenario: Scenario) -> dict[str, Any]:
    """Return a scenario's columns without those that are empty where there is no attack."""
    return {name: value for name, value in scenario.columns.items() if value is not None}


def _tags(scenario: Scenario) -> dict[str, str]:
    columns = scenario.columns
    return {name: str(columns[name]) for name in ("attack", "dataset", "architecture", "seed")}


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {k: str(v.value if isinstance(v, Enum) else v) for k, v in values.items()}


def _seconds(runs: Iterable[StageRun]) -> dict[str, float]:
    """Return what each stage took, when it was first computed."""
    return {f"seconds/{run.stage}": run.seconds for run in runs}


def _curves(stage: str, names: tuple[str, ...], points: Any) -> Curves:
    """Return columns of a stage's per-epoch points as curves with epochs from 1."""
    return {
        f"{stage}/{name}": tuple((epoch, float(p[i])) for epoch, p in enumerate(points, start=1))
        for i, name in enumerate(names)
        if all(point[i] is not None for point in points)  # ASR and RA without an attack
    }
