"""A study from its definition to its report."""

import csv
import os
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from orchestrator.conductor import Conductor
from orchestrator.decisions import Status
from orchestrator.definition import Study
from orchestrator.estimate import estimate
from orchestrator.findings import Findings
from orchestrator.folder import Folder, write_text
from orchestrator.invocation import program, shown
from orchestrator.keys import Compute, KeyRing
from orchestrator.observers import Observers
from orchestrator.plan import Plan, make_plan
from orchestrator.progress import Screen, Tally, span
from orchestrator.results import Results
from orchestrator.signals import Interrupts
from orchestrator.store import Store
from orchestrator.summary import print_summary
from orchestrator.work import Site

DELIVERY_SECONDS = 60.0  # for MLflow's backlog at the end of a study
HURRIED_SECONDS = 5.0  # the same when the study ends early


def show_plan(study: Study, console: Console) -> None:
    """Print what a study would do; nothing is run, written or needed on disk."""
    plan = make_plan(study)
    gpu = _gpu(study)
    workers = _workers(study, gpu)
    keys = KeyRing(study.victim, _compute(study, gpu))
    cost = estimate(plan, Store(study.store), keys, workers, gpu)
    console.print(f"[bold]{study.name}[/]: {_counts(plan)}")
    table = Table("stage", "runs after sharing", "cached", box=None, padding=(0, 2))
    names = {"train_victim": "victims", "unlearn": "ascents", "relearn": "relearns (at most)"}
    for stage, name in names.items():
        table.add_row(name, f"{cost.runs[stage]:,}", f"{cost.cached[stage]:,}")
    console.print(table)
    console.print(
        f"about {span(cost.hours * 3600)} on {workers} workers; {cost.gpu_hours:.2f} GPU-hours; "
        f"{cost.disk / 1e6:,.0f} MB of disk (an estimate from arithmetic and this machine's speed)"
    )


def run_study(
    study: Study,
    out: Path,
    console: Console,
    interrupts: Interrupts,
    *,
    address: str | None,
    inline: bool,
    verbose: bool,
) -> int:
    """Run what is left of a study and return the exit code of the command."""
    plan = make_plan(study)
    folder = Folder(out)
    store = Store(study.store)
    store.check()
    with folder.held():
        return _Run(plan, folder, store, console, interrupts, verbose).go(address, inline=inline)


class _Run:
    """One start of a study's driver."""

    def __init__(
        self,
        plan: Plan,
        folder: Folder,
        store: Store,
        console: Console,
        interrupts: Interrupts,
        verbose: bool,  # noqa: FBT001 - private
    ) -> None:
        from orchestrator.mirror import Mirror, materialise
        from orchestrator.spec import resolved_yaml
        from orchestrator.tracking import Tracker

        self.plan, self.folder, self.console, self.interrupts = plan, folder, console, interrupts
        study = plan.study
        gpu = _gpu(study)
        compute = _compute(study, gpu)
        self.site = Site(
            store=study.store,
            study=folder.identity(),
            device=compute.device,
            threads=compute.threads,
            gpu=gpu,
            keep_repaired=study.mlflow.log_models != "none",
        )
        folder.open_record()
        write_text(folder.path / "study.yaml", resolved_yaml(study))
        findings = Findings(store, KeyRing(study.victim, compute))
        self.tracker = Tracker(
            uri=study.mlflow.uri,
            experiment=study.name,
            outbox=folder.logs / "mlflow.jsonl",
            materialise=lambda description: materialise(store, description),
        )
        self.mirror = Mirror(self.tracker, findings, store)
        self.tally = Tally(plan, self._value_of)
        self.screen = Screen(console, self.tally)
        observers = Observers([self.screen, self.mirror, _FailureLog(folder)])
        self.conductor = Conductor(plan, folder, findings, observers)
        self.results = Results(self.conductor, findings)
        self.mirror.attach(self.conductor, self.results)
        self._verbose = verbose

    def go(self, address: str | None, *, inline: bool) -> int:
        """Do what is left, write everything, and return the exit code."""
        self.console.print(f"[bold]{self.plan.study.name}[/]: {_counts(self.plan)}")
        whole = False
        try:
            self.conductor.open()
            stored = self.tally.decided_count
            if stored:
                self.console.print(f"{stored} trials are decided already")
            with self.screen:
                self._execute(address, inline=inline)
            whole = True
        finally:
            self._conclude(whole=whole)
        failures = self.tally.statuses[Status.FAILED]
        self._say_where(failures)
        return 1 if failures else 0

    def _execute(self, address: str | None, *, inline: bool) -> None:
        if self.conductor.complete:
            return
        if inline:
            from orchestrator.inline import run_inline

            run_inline(self.conductor, self.site, self.interrupts)
        else:
            from orchestrator.cluster import run_on_ray

            run_on_ray(self.conductor, self.site, address, self.interrupts, verbose=self._verbose)

    def _conclude(self, *, whole: bool) -> None:
        """Write all that the study folder holds, and deliver what MLflow lacks."""
        from orchestrator.mirror import artifacts_of
        from orchestrator.report import write_report
        from orchestrator.search import save_studies

        self.results.write(self.folder.path, self.tracker.run_ids())
        self.mirror.finish()
        timeout = DELIVERY_SECONDS if whole else HURRIED_SECONDS
        self.tracker.flush(timeout)
        self.results.write(self.folder.path, self.tracker.run_ids())  # now with all of them
        _write_prunings(self.conductor, self.folder.logs / "pruning.csv")
        save_studies(self.folder.path / "optuna.journal", self.conductor.decisions.judges)
        write_report(self.folder.path)
        metrics = {f"trials_{s}": float(self.tally.statuses[s]) for s in Status}
        self.mirror.study_record(
            status="FINISHED" if whole else "KILLED",
            metrics=metrics if whole else {},
            artifacts=artifacts_of(self.folder.path) if whole else (),
        )
        delivery = self.tracker.close(timeout)
        if delivery.left:
            self.console.print(
                f"MLflow at {self.plan.study.mlflow.uri} lacks {delivery.left} runs "
                f"({delivery.error}); they are delivered when this command runs again",
                style="yellow",
                markup=False,
            )

    def _say_where(self, failures: int) -> None:
        objective = self.plan.study.objective.value
        print_summary(self.console, self.folder.path / "results.csv", objective)
        for name, result in self.conductor.errors.items():
            log = shown(self.folder.logs / f"{name}.log")
            self.console.print(f"failed: {name}: {result.error}; see {log}", markup=False)
        if failures:
            self.console.print(f"{failures} trials failed; the same command tries them again")
        self.console.print(f"report   {shown(self.folder.path / 'report.html')}")
        self.console.print(f"results  {shown(self.folder.path / 'results.csv')}")
        self.console.print(f"MLflow   {_ui_command(self.plan.study.mlflow.uri)}", soft_wrap=True)

    def _value_of(self, trial: Any) -> float | None:
        row = self.results.row(trial)
        objective = self.plan.study.objective
        name = "der_selection" if objective == "der" else f"{objective}_after_selection"
        value: float | None = row[name]
        return value


class _FailureLog:
    """The observer that keeps the traceback of every failure."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def started(self, item: Any) -> None:
        (self._folder.logs / f"{item.name}.log").unlink(missing_ok=True)

    def progressed(self, item: Any, progress: Any) -> None:
        """No failure."""

    def ended(self, item: Any, result: Any) -> None:
        if result.error:
            text = f"{item.name}: {item.scenario.text}; {item.text}\n\n{result.trace}"
            write_text(self._folder.logs / f"{item.name}.log", text)

    def victim(self, scenario: Any, finding: Any) -> None:
        """No failure."""

    def decided(self, verdict: Any) -> None:
        """The item's end said it."""


def _write_prunings(conductor: Conductor, path: Path) -> None:
    columns = ("level", "setting", "scenario", "step", "value", "reference", "p_value", "pairs")
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for pruning in conductor.decisions.prunings:
            e = pruning.evidence
            trial = pruning.trial
            writer.writerow(
                (
                    *(pruning.level, trial.setting.text, trial.scenario.text),
                    *(e.step, e.value, e.reference, e.p_value, e.pairs),
                )
            )


def _counts(plan: Plan) -> str:
    return (
        f"{len(plan.scenarios):,} scenarios × {len(plan.settings):,} settings = "
        f"{len(plan.trials):,} trials"
    )


def _gpu(study: Study) -> float:
    if study.resources.gpu is not None:
        return study.resources.gpu
    import torch

    return 1.0 if torch.cuda.is_available() else 0.0


def _compute(study: Study, gpu: float) -> Compute:
    return Compute(device="cuda" if gpu else "cpu", threads=study.resources.cpu)


def _workers(study: Study, gpu: float) -> int:
    if study.resources.workers is not None:
        return study.resources.workers
    import torch

    by_cpu = (os.cpu_count() or 1) // study.resources.cpu
    return max(1, min(by_cpu, int(torch.cuda.device_count() / gpu)) if gpu else by_cpu)


def _ui_command(uri: str) -> str:
    if not uri.startswith("sqlite:"):
        return uri
    file = shown(Path(uri.removeprefix("sqlite:///")))
    return f"{program('mlflow')} ui --backend-store-uri sqlite:///{file}"
