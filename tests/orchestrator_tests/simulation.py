"""A study without training: workers that put made-up results into the store."""

import csv
from collections import Counter
from collections.abc import Collection, Generator, Iterable
from pathlib import Path
from random import Random
from typing import Any

import torch

from orchestrator.pipeline.ulrl_chain import ascent_entry, rules_of
from orchestrator.plan.jobs import (
    Job,
    JobKind,
    JobResult,
    Progress,
    StageRun,
)
from orchestrator.plan.plan import Scenario, make_plan
from orchestrator.plan.resources import Compute
from orchestrator.scheduler.callbacks import CallbackList, StudyCallback
from orchestrator.scheduler.decisions import Verdict
from orchestrator.scheduler.results_table import ResultRows
from orchestrator.scheduler.sampling import recorded
from orchestrator.scheduler.scheduler import StudyScheduler
from orchestrator.spec.model import Study
from orchestrator.store.keys import CacheKeys
from orchestrator.store.lookup import StageResults, VictimResult
from orchestrator.store.serialization import COUNTS
from orchestrator.store.store import Entry, Store
from orchestrator.store.study_folder import StudyFolder
from tests.orchestrator_tests.made_up import chance, metrics, quality_of, suspects_of

SECONDS = {
    "train_helper": 16.0,
    "train_victim": 8.0,
    "unlearn": 4.0,
    "score_neurons": 2.0,
    "relearn": 1.0,
    "evaluate": 0.5,
}
SCORED = {"layers": ["linear"], "sizes": [10], "movement": ["linear.weight"]}
CLIMBED: dict[str, Any] = {
    **{name: [] for name in ("curve", "before", "after")},
    "accuracy": [0.5, 0.125],
    "loss": [1.0, 2.0],
    "kept": [1, 2],
    "diverged": False,
}
STOPPED = {"stop_epoch": 2, "stop_accuracy": 0.125, "threshold_reached": True, "diverged": False}


class Recorder(StudyCallback):
    """An observer that keeps what it hears."""

    def __init__(self) -> None:
        self.started_items: list[str] = []
        self.ended_items: list[tuple[str, JobResult]] = []
        self.verdicts: list[Verdict] = []
        self.victims: list[tuple[int, VictimResult]] = []

    def started(self, job: Job) -> None:
        self.started_items.append(job.name)

    def ended(self, job: Job, result: JobResult) -> None:
        self.ended_items.append((job.name, result))

    def victim(self, scenario: Scenario, finding: VictimResult) -> None:
        self.victims.append((scenario.number, finding))

    def decided(self, verdict: Verdict) -> None:
        self.verdicts.append(verdict)


class Desk:
    """One start of a study's driver: its scheduler and all around it."""

    def __init__(self, study: Study, path: Path) -> None:
        self.folder = StudyFolder(path)
        self.plan = make_plan(study, recorded(study, self.folder))
        self.folder.logs.mkdir(parents=True, exist_ok=True)
        self.folder.open_record()
        self.store = Store(study.store)
        self.keys = CacheKeys(study.victim, Compute())
        self.findings = StageResults(self.store, self.keys)
        self.recorder = Recorder()
        self.callbacks = CallbackList([self.recorder])
        self.scheduler = StudyScheduler(self.plan, self.folder, self.findings, self.callbacks)
        self.results = ResultRows(self.scheduler, self.findings)

    def watch(self, *observers: StudyCallback) -> None:
        """Add observers; their order is the order in which they hear."""
        self.callbacks.add(*observers)

    def statuses(self) -> list[str]:
        """Return the status of every trial, in the order of the plan."""
        return [row["status"] for row in self.rows()]

    def rows(self) -> list[dict[str, Any]]:
        return [self.results.row(trial) for trial in self.plan.rows]

    def listed(self) -> Counter[tuple[str, str, str]]:
        """Return how often the record lists each stage and key, and whether as computed."""
        with (self.folder.path / "stages.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        return Counter((row["stage"], row["key"], row["computed"]) for row in rows)


class Workers:
    """As many workers as wanted, which finish in any order, fail, and die.

    Attributes:
        executed: How often each stage and key was made.
        failing: Names of jobs that cannot be done, whoever tries to make their result.
        stumbling: Names of jobs that fail by an accident, once for each time they stand here.
        dying: Names of jobs that take their worker with them, likewise.
    """

    def __init__(
        self,
        source: Random | None = None,
        count: int = 1,
        *,
        failing: Collection[str] = (),
        stumbling: Iterable[str] = (),
        dying: Iterable[str] = (),
    ) -> None:
        self.executed: Counter[tuple[str, str]] = Counter()
        self.failing = failing
        self.stumbling = list(stumbling)
        self.dying = list(dying)
        self._source = source or Random(0)
        self._count = count
        self._busy: list[tuple[Job, Generator[Progress, None, JobResult]]] = []

    def run(self, desk: Desk, steps: int = 10**9) -> None:
        """Work until the study is complete, or for so many steps; then everything is gone."""
        scheduler = desk.scheduler
        scheduler.open()
        while steps and not scheduler.complete:
            while len(self._busy) < self._count and (job := scheduler.next_job()) is not None:
                self._check_alone(desk, job)
                self._busy.append((job, self.steps(desk, job)))
            if not self._busy:
                assert scheduler.complete, "nothing runs, and nothing is handed out"
                break
            self._advance(desk, self._source.randrange(len(self._busy)))
            steps -= 1
        self._busy.clear()

    def _advance(self, desk: Desk, place: int) -> None:
        job, steps = self._busy[place]
        try:
            progress = next(steps)
        except StopIteration as end:
            del self._busy[place]
            desk.scheduler.finished(job, end.value)
            return
        if job.name in self.dying:
            self.dying.remove(job.name)
            del self._busy[place]
            desk.scheduler.lost(job, "the machine is gone")
        elif desk.scheduler.progress(job, progress):
            del self._busy[place]
            desk.scheduler.stopped(job, progress)

    def _check_alone(self, desk: Desk, job: Job) -> None:
        """Check that no two workers make the same result."""
        wanted = made_by(desk, job)
        for other, _ in self._busy:
            assert not wanted & made_by(desk, other), f"{job.name} makes what {other.name} makes"

    def steps(self, desk: Desk, job: Job) -> Generator[Progress, None, JobResult]:
        """Work on a job, as `orchestrator.pipeline.run_job.steps_of` does."""
        runs: list[StageRun] = []
        yield Progress(stage="train_victim", epoch=1, epochs=2)
        try:
            yield from self._work(desk, job, runs)
        except RuntimeError as error:
            return JobResult(runs=tuple(runs), error=f"RuntimeError: {error}", trace="where")
        return JobResult(runs=tuple(runs))

    def _work(self, desk: Desk, job: Job, runs: list[StageRun]) -> Generator[Progress, None, None]:
        if job.helper is not None:
            self._try(job.name, job.name in self.failing)
            key = desk.keys.helper(job.scenario, job.helper)
            values = {"helper": type(job.helper).__name__}
            tensors = {"learned": torch.ones(2)}
            self._make(desk, job, runs, "train_helper", key, values, tensors)
        elif job.kind is JobKind.VICTIM:
            self._try(job.name, job.name in self.failing)
            key = desk.keys.victim(job.scenario)
            self._make(desk, job, runs, "train_victim", key, {"training": [[0.5, 0.9]]})
            yield Progress(stage="train_victim", epoch=2, epochs=2)
            evaluation = {"selection": metrics(0.9, 0.95), "report": metrics(0.88, 0.94)}
            self._evaluate(desk, job, runs, key, evaluation)
        elif job.kind is JobKind.STAGE:
            self._try(job.name, job.name in self.failing)
            yield from self._phase_one(desk, job, runs)
        else:
            yield from self._phase_two(desk, job, runs)

    def _phase_one(
        self, desk: Desk, job: Job, runs: list[StageRun]
    ) -> Generator[Progress, None, None]:
        ascent = ascent_entry(
            desk.keys.ascent(job.trial), min(r.stop_at(10) for r in rules_of(job))
        )
        nothing = {"predicted": torch.zeros(2, 10, dtype=torch.int64)}
        self._make(desk, job, runs, "unlearn", ascent, CLIMBED, nothing)
        yield Progress(stage="unlearn", epoch=1, epochs=1)
        for config in rules_of(job):
            rows = suspects_of(job.scenario.seed, config.unlearn_threshold)
            values = {
                "suspects": rows,
                **SCORED,
                **STOPPED,
                "ascent_key": ascent,
                "ascent_seconds": SECONDS["unlearn"],
                "ascent_study": desk.folder.identity(),
            }
            tensors = {
                "shift": torch.ones(10),
                "predicted": torch.tensor([90, 10] + [0] * 8),
                "z": torch.arange(10.0),
                "movement/linear.weight": torch.arange(8.0).repeat(len(rows), 1),
            }
            key = desk.keys.scores(job.trial, config)
            self._make(desk, job, runs, "score_neurons", key, values, tensors)

    def _phase_two(
        self, desk: Desk, job: Any, runs: list[StageRun]
    ) -> Generator[Progress, None, None]:
        scores = desk.scheduler.scores
        key = scores[job.trial.number].relearn_key
        impossible = {
            scores[trial.number].relearn_key
            for trial in desk.plan.trials
            if trial.name in self.failing and trial.number in scores
        }
        epochs = job.trial.hyperparameters.relearn.relearn_epochs
        quality = quality_of(job.trial, key)
        curve = []
        stored = desk.store.peek("relearn", key) is not None
        for epoch in range(1, epochs + 1):
            asr = 1 - (quality * epoch + chance(f"{key}{epoch}")) / (epochs + 1)
            curve.append((0.9 - 0.05 * chance(key), asr, 1 - asr))
            if not stored:
                stage = "relearn"
                yield Progress(stage=stage, epoch=epoch, epochs=epochs, curve=tuple(curve))
                self._try(job.name, key in impossible)
        if not stored:
            weights = {"weight": torch.full((3,), quality)}
            desk.store.write("repaired", key, Entry(values={}, tensors=weights))
        self._make(desk, job, runs, "relearn", key, {"curve": curve})
        evaluation = {
            "selection": metrics(0.88, 1 - quality),
            "report": metrics(0.87, 1 - 0.99 * quality),
        }
        self._evaluate(desk, job, runs, key, evaluation)

    def _evaluate(
        self, desk: Desk, job: Job, runs: list[StageRun], model: str, values: dict[str, Any]
    ) -> None:
        counts = {f"counts/{name}": torch.zeros(0, width) for name, width in COUNTS.items()}
        tensors = {name: table.to(torch.int16) for name, table in counts.items()}
        values = {**values, "counts": list(COUNTS)}
        self._make(desk, job, runs, "evaluate", desk.keys.evaluation(model), values, tensors)

    def _try(self, name: str, impossible: bool) -> None:  # noqa: FBT001
        if name in self.stumbling:
            self.stumbling.remove(name)
            raise RuntimeError("an accident")
        if impossible:
            raise RuntimeError("it cannot be done")

    def _make(
        self,
        desk: Desk,
        job: Job,
        runs: list[StageRun],
        stage: str,
        key: str,
        values: dict[str, Any],
        tensors: dict[str, torch.Tensor] | None = None,
    ) -> None:
        """Put a result into the store unless it is there."""
        if desk.store.peek(stage, key) is not None:
            return
        seconds, study = SECONDS[stage], desk.folder.identity()
        entry = Entry(values=values, tensors=tensors or {}, seconds=seconds, study=study)
        desk.store.write(stage, key, entry)
        self.executed[stage, key] += 1
        text = job.scenario.text
        runs.append(StageRun(stage=stage, key=key, scenario=text, seconds=seconds, study=study))


def made_by(desk: Desk, job: Job) -> set[str]:
    """Return the keys of what a job makes and the store lacks."""
    if job.helper is not None:
        keys = {("train_helper", desk.keys.helper(job.scenario, job.helper))}
    elif job.kind is JobKind.VICTIM:
        keys = {("train_victim", desk.keys.victim(job.scenario))}
    elif job.kind is JobKind.STAGE:
        keys = {("score_neurons", desk.keys.scores(job.trial, c)) for c in rules_of(job)}
    else:
        keys = {("relearn", desk.scheduler.scores[job.trial.number].relearn_key)}
    return {key for stage, key in keys if desk.store.peek(stage, key) is None}
