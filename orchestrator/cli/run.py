"""A study from its definition to its report."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.style import Style
from rich.text import Text

from orchestrator.address import Address
from orchestrator.cli.logs import StartLog, TrialLogs
from orchestrator.cli.plan import check_start, counts
from orchestrator.cli.progress import ProgressState, ProgressView
from orchestrator.cli.redo import Redo
from orchestrator.cli.remaining_time import RemainingTime
from orchestrator.cli.summary import print_summary, shared
from orchestrator.errors import BudgetExhausted, ResourceError, SpecError
from orchestrator.executor.base import Executor, executor
from orchestrator.files import read_table, write_text
from orchestrator.pipeline.victims import check_imports
from orchestrator.plan.columns import AUDITS, CONFUSION, CURVES, EDITS, STOPPED, count
from orchestrator.plan.cost_model import lengths
from orchestrator.plan.jobs import Site
from orchestrator.plan.plan import Plan, Trial, make_plan
from orchestrator.plan.resources import Shares
from orchestrator.processes import installed
from orchestrator.scheduler.auditing import StudyAudits
from orchestrator.scheduler.callbacks import CallbackList
from orchestrator.scheduler.decisions import Status, write_prunings
from orchestrator.scheduler.estimate import gather, keep, recall
from orchestrator.scheduler.results_table import ResultRows
from orchestrator.scheduler.retention import ModelRetention
from orchestrator.scheduler.sampling import recorded
from orchestrator.scheduler.scheduler import StudyScheduler
from orchestrator.scheduler.storage_mirror import StorageMirror
from orchestrator.search.storage import StoredStudy
from orchestrator.spec.load import missing_data
from orchestrator.spec.model import Study
from orchestrator.store.keys import CacheKeys
from orchestrator.store.lookup import StageResults, reached
from orchestrator.store.store import Store
from orchestrator.store.study_folder import StudyFolder
from orchestrator.terminal import Interrupts, failure_of, program, shown
from orchestrator.tracking.model_export import ExportState, ModelExporter
from orchestrator.tracking.sync import EndProgress
from orchestrator.tracking.views import SCENARIOS, page

STORAGE_SECONDS = 60.0  # for Optuna's storage at the end of a study
HURRIED_SECONDS = 5.0  # for MLflow and Optuna's storage when the study ends early


def run_study(  # noqa: PLR0913 - what the command says, by name
    study: Study,
    out: Path,
    console: Console,
    interrupts: Interrupts,
    *,
    address: Address | None,
    inline: bool,
    verbose: bool,
    redo: Redo | None = None,
) -> int:
    """Run what is left of a study and return the exit code of the command.

    What `redo` chooses is forgotten first, so that it is computed again.

    Raises:
        SpecError: Data that the study names or a package is missing, or `redo` chooses nothing.
        ResourceError: It cannot be run, here or now.
    """
    if missing := [*_missing_packages(study, inline=inline), *missing_data(study)]:
        raise SpecError(missing)
    plan = make_plan(study)
    folder = StudyFolder(out)
    store = Store(study.store)
    check_start(folder, store)
    if redo:
        redo.chosen(make_plan(study, recorded(study, folder)), folder)  # refused before it starts
    check_imports(plan)
    store.check()
    log = folder.logs / "ray.log"
    how = executor(study, console, log, address=address, inline=inline, verbose=verbose)
    with folder.held(), how as chosen:
        plan = make_plan(study, recorded(study, folder))
        if redo:
            keys = CacheKeys(study.victim, Shares(study, chosen.nodes).compute)
            line = redo.forget(plan, folder, StageResults(store, keys))
            console.print(line, soft_wrap=True, markup=False)
        return _Run(plan, folder, store, console, interrupts, chosen).go()


def _missing_packages(study: Study, *, inline: bool) -> list[str]:
    """Return a line for each package that is not installed, and that a study can do without."""
    lines = []
    if not inline and not installed("ray"):
        lines.append(
            "command line: Ray is not installed; install it (pip install 'ray[tune]'), or give "
            "--inline to run in one process"
        )
    if study.mlflow.uri is not None and not installed("mlflow"):
        lines.append(
            f"{study.source}: mlflow: MLflow is not installed; install it (pip install mlflow), or "
            f"write mlflow: none (--set mlflow=none) for a study without it"
        )
    return lines


class _Run:
    """One start of a study's driver."""

    def __init__(
        self,
        plan: Plan,
        folder: StudyFolder,
        store: Store,
        console: Console,
        interrupts: Interrupts,
        chosen: Executor,
    ) -> None:
        from orchestrator.scheduler.trigger_pictures import TriggerPictures
        from orchestrator.spec.dump import resolved_yaml
        from orchestrator.tracking.callback import MlflowCallback
        from orchestrator.tracking.run_records import RunRecords
        from orchestrator.tracking.sync import open_sync

        self.plan, self.folder, self.console, self.interrupts = plan, folder, console, interrupts
        study = plan.study
        self.shares = Shares(study, chosen.nodes)
        if not (folder.path / "results.csv").exists():  # a first start has something to compute
            chosen.begin(plan, self.shares)
        self.store = store
        compute = self.shares.compute
        self.site = Site(
            store=study.store,
            study=folder.identity(),
            device=compute.device,
            threads=compute.threads,
            keep_repaired=study.mlflow.log_models != "none",
            limits=study.limits,
        )
        folder.open_record()
        resolved = replace(study, resources=replace(study.resources, device=self.shares.device))
        write_text(folder.path / "study.yaml", resolved_yaml(resolved))
        self.findings = findings = StageResults(store, CacheKeys(study.victim, compute))
        callbacks = CallbackList()
        self.scheduler = scheduler = StudyScheduler(plan, folder, findings, callbacks)
        self.results = results = ResultRows(scheduler, findings)
        table = folder.logs / "mlflow.sqlite"
        self.mlflow = open_sync(study.mlflow.uri, study.name, table, self.site.study)
        self.pictures = TriggerPictures(plan, folder.path)
        self.retention = ModelRetention(scheduler, results, store)
        if study.audits:
            scheduler.audits = StudyAudits(plan, findings, self.retention.audited)
        runs = RunRecords(scheduler, results, findings, store, self.pictures)
        self.mlflow_callback = MlflowCallback(self.mlflow, scheduler, runs, self.retention)
        remaining = RemainingTime(plan, scheduler.scores, recall(store, compute, plan))
        self.state = ProgressState(plan, self._value_of, remaining)
        self.state.audits = scheduler.audits
        logs = TrialLogs(folder, scheduler)
        self.view = ProgressView(console, self.state, logs.path)
        self.starts = StartLog(folder.logs, compute.device)
        exports = self.site.keep_repaired and study.mlflow.uri is not None
        last = self.shares.likely(chosen.nodes, plan.scenarios) if exports else 0
        self.exporter = ModelExporter(plan.most_trials, last)
        callbacks.add(
            *(self.view, self.pictures, self.retention, self.mlflow_callback, logs, self.starts),
            self.exporter,
        )
        self.storage_mirror: StorageMirror | None = None
        if study.optuna_storage is not None:
            prefix = f"{study.name} {self.site.study[:8]}: "
            self.storage_mirror = StorageMirror(study.optuna_storage, prefix, self._records)
            callbacks.add(self.storage_mirror)
        self._chosen = chosen
        self._lacking = 0  # records and models that MLflow lacks in the end
        self._models = ExportState()

    def go(self) -> int:
        """Do what is left, write everything, and return the exit code."""
        self.console.print(f"[bold]{self.plan.study.name}[/]: {counts(self.plan)}", soft_wrap=True)
        if self.plan.study.search is None:
            self._say_what_leaves()
        whole = False
        try:
            several = self.shares.likely(self._chosen.nodes, self.plan.scenarios) > 1
            several = several and not self._chosen.inline
            self.scheduler.open(lengths(self.plan) if several else None)
            stored = self.state.decided_count
            if stored:
                self.console.print(f"{count(stored, 'trial')} decided already")
            with self.view:
                if not self.scheduler.complete:
                    self.starts.executor = self._chosen.text
                    self._chosen.run(self.scheduler, self.site, self.shares, self.interrupts)
            drawable = self.scheduler.allowance.spent and self.scheduler.drawing.possible
            trials = self.plan.most_trials if drawable else len(self.plan.trials)
            pending = trials - self.state.decided_count
            whole = not pending
        finally:
            self._chosen.leave()
            self._conclude(whole=whole)
        failures = self.state.statuses[Status.FAILED]
        audits = self.scheduler.audits
        if audits is not None:
            failures += len(audits.errors)
        self._say_where()
        if pending:
            raise BudgetExhausted(
                f"{self.scheduler.allowance.spent} with {count(pending, 'trial')} pending"
            )
        if audits is not None and audits.left and (spent := self.scheduler.allowance.spent):
            raise BudgetExhausted(f"{spent} with {audits.left}")
        if self._lacking:
            self.interrupts.check()
        return 1 if failures else 0

    def _say_what_leaves(self) -> None:
        """Say so if the table of results has more trials than this grid."""
        former = 0
        with suppress(SpecError):  # there is none, or it is damaged: it is written again
            former = len(read_table(self.folder.path / "results.csv", ()).rows)
        left = former - len(self.plan.trials)
        if left > 0:
            self._say(
                f"the table here had {count(former, 'trial')}; {left:,} more than this grid has "
                f"leave it, and their results stay in the store"
            )

    def _conclude(self, *, whole: bool) -> None:
        """Write all that the study folder holds, and deliver what MLflow lacks."""
        study, problem = self.plan.study, ""
        try:
            self._write(whole=whole)
        except OSError as error:
            raise ResourceError(
                f"the study folder {self.folder.path} cannot be written to ({error}); the store "
                f"has all results: run the same command again"
            ) from error
        finally:
            if self.storage_mirror is not None:
                problem = self.storage_mirror.close(STORAGE_SECONDS if whole else HURRIED_SECONDS)
            delivery = self.mlflow.close(HURRIED_SECONDS)
            self.exporter.close()
            self._lacking = delivery.left + self._models.left
        if problem:
            self._warn(
                f"Optuna's storage at {study.optuna_storage} is behind ({problem}); it is brought "
                f"up to date when this command runs again"
            )
        if delivery.left:
            self._warn(
                f"MLflow at {study.mlflow.uri} lacks {count(delivery.left, 'record')} "
                f"({delivery.error}); run the same command again to deliver them"
            )
        models = self._models
        if models.left:
            self._warn(
                f"MLflow lacks {count(models.left, 'model')} ({models.error}); run the same "
                f"command again to export them"
            )
        if models.impossible:
            runs = count(len(models.impossible), "run")
            self._warn(f"MLflow has no model of {runs}: {models.impossible[0]}")
        if models.gone:
            self._warn(
                f"the store no longer has {count(models.gone, 'repaired model')} for MLflow: "
                f"log_models was set to store fewer when the trials ran"
            )

    def _write(self, *, whole: bool) -> None:
        from orchestrator.reporting.build import conclusion, write_report
        from orchestrator.scheduler.results_table import (
            write_confusions,
            write_curves,
            write_edits,
        )
        from orchestrator.search.storage import save_studies
        from orchestrator.tracking.callback import artifacts_of

        study, path, findings = self.plan.study, self.folder.path, self.findings
        known = self.mlflow.run_ids()
        self.results.write(path, known)
        self.retention.finish()
        if self.scheduler.audits is not None:
            self.scheduler.audits.finish()
        self.mlflow_callback.finish()
        prunings = self.scheduler.decisions.prunings
        write_prunings(self.plan, prunings, self.folder.logs / "pruning.csv")
        write_curves(self.scheduler, self.results, findings, path / CURVES)
        write_confusions(self.scheduler, findings, path / CONFUSION)
        write_edits(self.scheduler, path / EDITS)
        if self.scheduler.audits is None:
            (path / AUDITS).unlink(missing_ok=True)
        else:
            self.scheduler.audits.write(path / AUDITS)
        # Later studies estimate their time by what stages took here.
        found = {s.number: findings.victim(s) for s in self.plan.scenarios}
        victims = {number: victim for number, victim in found.items() if victim is not None}
        timings = gather(self.plan, victims, self.scheduler.scores, self.scheduler.repairs)
        keep(self.store, self.shares.compute, timings)
        self.pictures.write()
        save_studies(path / "optuna.journal", self._records())
        write_report(path)
        self._deliver(whole=whole)
        if self.mlflow.run_ids() != known:
            self.results.write(path, self.mlflow.run_ids())  # now with all of them
        reached, scenarios = conclusion(path)
        metrics = {f"trials_{s}": float(self.state.statuses[s]) for s in Status}
        self.mlflow_callback.outcomes(scenarios)
        self.mlflow_callback.study_record(
            status="FINISHED" if whole else "KILLED",
            metrics={**metrics, **reached.metrics} if whole else {},
            found=reached if whole else None,
            artifacts=artifacts_of(path, self.plan) if whole else (),
        )
        if whole:
            self._deliver(whole=True)
            with EndProgress(self.console, self.interrupts) as progress:
                self._models = self.exporter.export(
                    self.mlflow, study.mlflow.uri, study.name, study.store, progress
                )

    def _deliver(self, *, whole: bool) -> None:
        """Wait for MLflow: at the end of a study until it has everything, else for a moment."""
        if not whole:
            self.mlflow.flush(HURRIED_SECONDS)
            return
        with EndProgress(self.console, self.interrupts) as progress:
            progress.flush(self.mlflow)

    def _records(self) -> list[StoredStudy]:
        """Return all that Optuna knows of this study."""
        return [*self.scheduler.drawing.samplers, *self.scheduler.decisions.judges]

    def _say_where(self) -> None:
        study, path = self.plan.study, self.folder.path
        sampler = None if study.search is None else study.search.sampler
        objective, lowest = study.objective.value, not study.objective.maximise
        place = path / "results.csv"
        print_summary(self._reader(), place, objective, sampler, lowest=lowest)
        for name, result in self.scheduler.errors.items():
            log = self.folder.logs / f"{name}.log"
            self._say(f"failed: {name}: {result.reason}; see {shown(log)}", link=log)
        self._say_undone()
        if (audits := self.scheduler.audits) is not None:
            self._say_audits(audits)
        if prunings := len(self.scheduler.decisions.prunings):
            file = self.folder.logs / "pruning.csv"
            self._say(f"pruned   by {count(prunings, 'decision')}, in {shown(file)}", link=file)
        for word, name in (("report", "report.html"), ("results", "results.csv"), ("logs", "logs")):
            self._say(f"{word:<8} {shown(path / name)}", link=path / name)
        self._say(f"shared   {shared(self.scheduler, self.folder, self.findings.keys)}")
        if study.mlflow.uri is None:
            self._say("MLflow   none, as mlflow: none asks; mlflow_run_id in the results is empty")
            return
        uri, experiment = study.mlflow.uri.reveal(), self.mlflow.experiment_id
        server, word = str(study.mlflow.uri).rstrip("/"), "MLflow"
        if uri.startswith("sqlite:"):
            file = shown(Path(uri.removeprefix("sqlite:///")))
            self._say(f"MLflow   {program('mlflow')} ui --backend-store-uri sqlite:///{file}")
            server = "http://127.0.0.1:5000"
            word = "then"
        elif not experiment:
            self._say(f"MLflow   {server}")
        if experiment:
            self._say(f"{word:<8} {server}/{page(experiment, SCENARIOS)}")

    def _say_undone(self) -> None:
        """Say how many trials have no result, and what to do."""
        stopped = self.scheduler.stopped_count
        if failures := self.state.statuses[Status.FAILED] - stopped:
            self._say(f"{count(failures, 'trial')} failed; the same command tries again")
        if skipped := self.state.statuses[Status.SKIPPED]:
            self._say(
                f"{count(skipped, 'trial')} skipped: the repair method does not apply there; "
                f"results.csv says why, and --redo tries again"
            )
        if stopped:
            self._say(f"{count(stopped, 'trial')} {STOPPED}; the same command runs them again")

    def _say_audits(self, audits: StudyAudits) -> None:
        """Say how many audits there are, and how many of them have no result."""
        file = self.folder.path / AUDITS
        left = f", {audits.missing:,} without a result" if audits.missing else ""
        what = count(len(audits.targets), "audit") if audits.begun else "not begun"
        self._say(f"audits   {what}{left}, in {shown(file)}", link=file)

    def _warn(self, text: str) -> None:
        self._say(text, style="yellow")

    def _say(self, text: str, style: str = "", link: Path | None = None) -> None:
        looks = Style.parse(style) + Style(link=None if link is None else link.as_uri())
        self._reader().print(Text(text, style=looks), soft_wrap=True)

    def _reader(self) -> Console:
        """Return standard output, or standard error if the last write to it failed."""
        return self._chosen.errors if failure_of(self.console.file) else self.console

    def _value_of(self, trial: Trial) -> float | None:
        """Return the objective of a done trial on the selection half; nothing for a wreck."""
        repaired = self.scheduler.repairs.get(trial.number)
        victim = self.findings.victim(trial.scenario)
        if repaired is None or victim is None or self.results.row(trial)["wrecked"]:
            return None
        return reached(self.plan.study.objective, victim, repaired)
