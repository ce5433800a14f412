"""The audits of a study, which begin when no decision about a trial is open."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from orchestrator.files import csv_text, write_text
from orchestrator.pipeline.audits import FoundAudit, find_audit
from orchestrator.pipeline.chain import repaired_key
from orchestrator.plan.audits import audits_of_repaired, audits_of_victims
from orchestrator.plan.columns import AUDIT_COLUMNS, MODELS, SCENARIO, count
from orchestrator.plan.jobs import AuditTarget, Job, JobResult, audit_job
from orchestrator.plan.plan import Plan, Trial, options_text
from orchestrator.spec.model import AuditedModels
from orchestrator.store.lookup import StageResults
from ulrl.attacks import LabelRule
from ulrl.audits import AuditResult

MOST_DETAILS = 4096  # numbers of one detail in a row: a map of 64 × 64 positions


class StudyAudits:
    """What is to be audited, and what was found.

    Args:
        plan: The study's.
        results: What the store has.
        repaired: Returns the trials whose repaired models are audited, once all are decided.

    Attributes:
        found: By the name of the audit's job.
        errors: In one line, of audits that failed, by the same.
        skipped: Why audits do not apply to a model, as only the run could tell, by the same.
        targets: All of them; empty until `begin`.
    """

    def __init__(
        self, plan: Plan, results: StageResults, repaired: Callable[[], Iterable[Trial]]
    ) -> None:
        self._plan, self._results, self._repaired = plan, results, repaired
        self.targets: dict[str, AuditTarget] = {}
        self.found: dict[str, FoundAudit] = {}
        self.errors: dict[str, str] = {}
        self.skipped: dict[str, str] = {}
        self.begun = False
        self._equal: dict[str, list[str]] = {}  # those that wait for a job's result, itself too

    def begin(self) -> list[Job]:
        """Return the jobs of audits that the store lacks: of equal models one."""
        self.begun = True
        plan = self._plan
        wanted = [t for t in audits_of_victims(plan) if self._victim_is_there(t)]
        if plan.study.audited is not AuditedModels.VICTIM:
            wanted += audits_of_repaired(plan, self._repaired())
        jobs: dict[object, Job] = {}
        for target in wanted:
            job = audit_job(target)
            self.targets[job.name] = target
            if not self.take(job.name):
                samples = (target.trial.hyperparameters.clean, target.trial.defence_seed)
                first = jobs.setdefault((target.place, self._model(target), samples), job)
                self._equal.setdefault(first.name, []).append(job.name)
        return list(jobs.values())

    def take(self, name: str) -> bool:
        """Take what the store has of an audit, and return whether it has it."""
        found = find_audit(self._results, self.targets[name])
        if found is not None:
            self.found[name] = found
        return found is not None

    def failed(self, name: str, result: JobResult) -> None:
        """Note that an audit has no result, and why: of equal models too."""
        ended = self.skipped if result.skipped else self.errors
        ended |= dict.fromkeys(self._equal[name], result.error)

    def finish(self) -> None:
        """Take what others found in equal models."""
        for name in self.targets.keys() - self.found.keys():
            self.take(name)

    @property
    def missing(self) -> int:
        """How many audits there are without a result, failed ones included."""
        return len(self.targets.keys() - self.found.keys())

    @property
    def left(self) -> str:
        """What is still to be audited, in words; nothing where all have a result or failed."""
        if not self.begun:
            return "audits not begun"
        ended = self.found.keys() | self.errors.keys() | self.skipped.keys()
        pending = len(self.targets.keys() - ended)
        return f"{count(pending, 'audit')} pending" if pending else ""

    @property
    def over(self) -> int:
        """How many audits have a result, or will have none."""
        return len(self.found.keys() | self.errors.keys() | self.skipped.keys())

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows of audits.csv: victims first, by scenario, by setting, by audit."""
        order = {trial.number: row for row, trial in enumerate(self._plan.rows)}
        names = sorted(
            self.targets,
            key=lambda name: (
                self.targets[name].trial.scenario.number,
                self.targets[name].repaired,
                order[self.targets[name].trial.number],
                self.targets[name].place,
            ),
        )
        for name in names:
            yield self._row(name)

    def write(self, path: Path) -> None:
        """Write audits.csv, whole or not at all."""
        axes = [name for name in self._axes if name not in AUDIT_COLUMNS]
        write_text(path, csv_text((*SCENARIO, *axes, *AUDIT_COLUMNS), list(self.rows())))

    @property
    def _axes(self) -> tuple[str, ...]:
        first = self._plan.rows[0]
        return tuple(name for name in self._plan.point(first) if name not in SCENARIO)

    def _victim_is_there(self, target: AuditTarget) -> bool:
        return self._results.victim(target.trial.scenario) is not None

    def _model(self, target: AuditTarget) -> str:
        if target.repaired:
            return repaired_key(self._results, target.trial)
        return self._results.keys.victim(target.trial.scenario)

    def _row(self, name: str) -> dict[str, Any]:
        target = self.targets[name]
        trial, audit = target.trial, target.audit
        row = self._plan.point(trial)
        if not target.repaired:  # a victim has no setting but the samples that it is audited by
            samples = ("clean_ratio", "clean_draw", "defence_seed") if audit.needs_samples else ()
            row = {key: row[key] if key in (*SCENARIO, *samples) else None for key in row}
        row |= dict.fromkeys(AUDIT_COLUMNS)
        lacks = [("failed", self.errors), ("skipped", self.skipped)]
        reasons = [(word, texts[name]) for word, texts in lacks if name in texts]
        status, error = reasons[0] if reasons else ("pending", None)
        if name in self.found:
            status, error = "done", None
        row |= {
            "model": MODELS[target.repaired],
            "audit": audit.name,
            "audit_options": options_text(audit),
            "status": status,
            "error": error,
        }
        if (found := self.found.get(name)) is not None:
            row |= _numbers(target, found)
        return row


def _numbers(target: AuditTarget, found: FoundAudit) -> dict[str, Any]:
    result = found.result
    return {
        "statistic": result.statistic,
        "threshold": result.threshold,
        "suspects": None if result.suspects is None else json.dumps(list(result.suspects)),
        "target_rank": target_rank(target, found),
        # Nine digits tell any two numbers of float32 apart, so that ranks follow from them.
        "scores": json.dumps([float(f"{float(score):.9g}") for score in result.scores]),
        "rule": result.rule,
        "passes": round(result.passes, 1),
        "queries": result.queries,
        "seconds": round(found.seconds, 4),
        "details": json.dumps(_details(result)),
    }


def _details(result: AuditResult) -> dict[str, Any]:
    """Return what else an audit found; of a map per class, that of the most suspect class."""
    details = {}
    for name, found in result.details.items():
        values = found[int(result.scores.argmax())] if found.ndim > 2 else found
        if values.numel() <= MOST_DETAILS:
            details[name] = values.double().mul(1e4).round().div(1e4).tolist()
    return details


def target_rank(target: AuditTarget, found: FoundAudit) -> float | None:
    """Return the place of the true target among the classes; None without one target."""
    poison = target.trial.scenario.poison
    if poison.benign or poison.labels is LabelRule.ALL_TO_ALL:
        return None
    return found.result.rank(poison.target_label)
