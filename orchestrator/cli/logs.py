"""Logs of the trials and of starts.

Only starts that had work to do are recorded, so that a report made again says the same. None
of this enters the table of results.
"""

import hashlib
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from orchestrator.address import redacted
from orchestrator.files import whole_lines, write_text
from orchestrator.plan.jobs import Job, JobResult, StageRun
from orchestrator.plan.plan import Scenario, Trial
from orchestrator.reporting.read_logs import FILE
from orchestrator.scheduler.callbacks import StudyCallback
from orchestrator.scheduler.decisions import Status, Verdict, sentence
from orchestrator.scheduler.results_table import classes_of
from orchestrator.scheduler.scheduler import StudyScheduler
from orchestrator.store.lookup import ScoreResult, VictimResult
from orchestrator.store.study_folder import StudyFolder
from ulrl.metrics import Metrics, is_wreck
from ulrl.scoring import NeuronScores

KINDS = ("trial-*.log", "ascent-*.log", "victim-*.log", "helper-*.log")


class TrialLogs(StudyCallback):
    """The observer that writes ``logs/trial-00012.log`` and its like.

    A log is begun when its job is handed to a worker and grows when that ends and when the
    trial is decided: two or three short writes, none of which anything waits for. What a
    former start logged stays, unless the grid has changed: then numbers mean other trials.
    """

    def __init__(self, folder: StudyFolder, scheduler: StudyScheduler) -> None:
        self._folder = folder
        self._plan = scheduler.plan
        self._scheduler = scheduler
        self._there = self._former()
        self._begun: set[str] = set()  # in this start

    def path(self, name: str) -> Path:
        """Return where a job's log lies."""
        return self._folder.logs / f"{name}.log"

    def started(self, job: Job) -> None:
        self._there.add(job.name)
        self._begun.add(job.name)
        text = f"{job.name}\nscenario  {job.scenario.text}\n"
        if not job.name.startswith("victim"):
            text += f"setting   {job.text}\n"
        self.path(job.name).write_text(text, encoding="utf-8")

    def ended(self, job: Job, result: JobResult) -> None:
        text = f"worker    {result.place}\n{_stages(result.runs, 'computed')}"
        if result.error:
            text += f"failed    {result.reason}\n\n{result.trace}\n"
        self._add(job.name, text)

    def victim(self, scenario: Scenario, finding: VictimResult) -> None:
        name = f"victim-{scenario.number:04d}"
        if name not in self._begun:
            return  # from the store
        ok = self._plan.study.victim_rule.admits(finding.evaluation.selection)
        epochs = "".join(
            f"{number:6} {loss:10.4f} {accuracy:9.1%}\n"
            for number, (loss, accuracy) in enumerate(finding.training, start=1)
        )
        halves = _halves(finding.evaluation.selection, finding.evaluation.report)
        table = f" epoch       loss  accuracy\n{epochs}" if epochs else ""
        weak = "" if ok else "weak      it did not take\n"
        self._add(name, f"{table}{halves}{weak}")

    def decided(self, verdict: Verdict) -> None:
        trial = verdict.trial
        if trial.name in self._there and not self._fresh(trial):
            return
        if trial.name not in self._there:
            if verdict.status is not Status.DONE:
                return  # pruned before it began, or failed for what its scenario's log says
            head = (
                f"{trial.name}\nscenario  {trial.scenario.text}\nsetting   {trial.setting.text}\n"
            )
            self._there.add(trial.name)
            self.path(trial.name).write_text(head + "from the store\n", encoding="utf-8")
        self._add(trial.name, self._outcome(verdict))

    def _outcome(self, verdict: Verdict) -> str:
        trial = verdict.trial
        text = ""
        scored = self._scheduler.scores.get(trial.number)
        repaired = self._scheduler.repairs.get(trial.number)
        if isinstance(scored, ScoreResult):
            text += _phase_one(scored.scores)
        if repaired is not None and scored is not None:
            text += _stages((*scored.runs, *repaired.runs), "result")
            text += " epoch     ACC     ASR      RA  (monitor subset)\n" + "".join(
                f"{number:6} {acc:7.1%} {asr:7.1%} {ra:7.1%}\n"
                for number, (acc, asr, ra) in enumerate(repaired.curve, start=1)
            )
            selection, report = repaired.evaluation.selection, repaired.evaluation.report
            text += _halves(selection, report)
            if is_wreck(selection.acc, classes=classes_of(trial, scored)):
                text += "wreck     ACC is at or below chance\n"
        if verdict.pruning is not None:
            text += f"decision  {sentence(self._plan, verdict.pruning)}\n"
        return f"{text}outcome   {verdict.status}\n"

    def _fresh(self, trial: Trial) -> bool:
        """Whether a log says nothing of its trial's outcome yet."""
        try:
            return "\noutcome   " not in self.path(trial.name).read_text(encoding="utf-8")
        except OSError:
            return True

    def _add(self, name: str, text: str) -> None:
        with self.path(name).open("a", encoding="utf-8") as file:
            file.write(text)

    def _former(self) -> set[str]:
        """Return the logs that a former start of this very grid left."""
        mark = self._folder.logs / "grid"
        digest = hashlib.sha256("\n".join(self._texts()).encode()).hexdigest()
        found = [path for kind in KINDS for path in self._folder.logs.glob(kind)]
        if mark.exists() and mark.read_text(encoding="utf-8") == digest:
            return {path.stem for path in found}
        for path in found:
            path.unlink(missing_ok=True)
        write_text(mark, digest)
        return set()

    def _texts(self) -> Iterable[str]:
        study = self._plan.study
        if study.search is not None:  # what is drawn keeps its number in a space
            yield from (scenario.text for scenario in self._plan.scenarios)
            yield repr((study.grid.settings, study.exclude))
            return
        for trial in self._plan.trials:
            yield f"{trial.name} {trial.scenario.text}; {dict(trial.setting.values)}"


def _phase_one(scores: NeuronScores) -> str:
    """Return what ULRL's phase 1 found, in words."""
    reached = "reached" if scores.threshold_reached else "not reached"
    text = (
        f"phase 1   stopped after epoch {scores.stop_epoch} at accuracy "
        f"{scores.stop_accuracy:.3f} (threshold {reached}); "
        f"suspects {list(scores.suspects) or 'none: plain fine-tuning'}\n"
    )
    if scores.collapse_class is not None:
        most, total = int(scores.predicted.max()), int(scores.predicted.sum())
        text += (
            f"          it ended in class {scores.collapse_class}, predicted for {most} "
            f"of {total} clean samples\n"
        )
    return text


def _stages(runs: Iterable[StageRun], word: str) -> str:
    return "".join(
        f"{word:<9} {run.stage:<14} {run.seconds:9.3f} s  {run.key[:12]}\n" for run in runs
    )


def _halves(selection: Metrics, report: Metrics) -> str:
    return "".join(
        f"{name:<9} ACC {half.acc:.1%}, ASR {half.asr:.1%}, RA {half.ra:.1%}\n"
        for name, half in (("selection", selection), ("report", report))
    )


_PACKAGES = (
    *("ulrl-orchestrator", "torch", "torchvision", "timm", "numpy", "ray", "optuna", "mlflow"),
)


class StartLog(StudyCallback):
    """The observer that notes a start of the driver once it has something computed.

    Attributes:
        executor: ``inline``, Ray on this machine, or the address of a cluster.
    """

    def __init__(self, logs: Path, device: str) -> None:
        self.executor = ""
        self._logs, self._device, self._noted = logs, device, False

    def started(self, job: Any) -> None:
        del job
        if not self._noted:
            self._noted = True
            whole_lines(self._logs / FILE)  # a line torn by a kill is cut off
            start = describe_start(self.executor, self._device)
            with (self._logs / FILE).open("a", encoding="utf-8") as file:
                file.write(json.dumps(start) + "\n")


def describe_start(executor: str, device: str) -> dict[str, Any]:
    """Return how this process was called, where it runs and with what."""
    return {
        "command": _command(),
        "executor": executor,
        "device": device,
        "hardware": _hardware(device),
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "versions": {"python": platform.python_version(), **_versions()},
        "commit": _commit(),
    }


def _command() -> str:
    """Return the command as a shell takes it, without secrets."""
    words = [redacted(word) for word in sys.argv[1:]]
    return shlex.join(["python", "-m", "orchestrator.study", *words])


def _hardware(device: str) -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    told = f"{os.cpu_count()} × {_processor()}, {memory:.0f} GiB"
    if device != "cuda":
        return told
    import torch

    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return "; ".join([told, *(f"{names.count(n)} × {n}" for n in dict.fromkeys(names))])


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _versions() -> dict[str, Any]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _commit() -> str:
    """Return the checkout's commit, with a plus if files differ from it; "" outside of one."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return ""
    git = ["git", "-C", str(here)]
    try:
        head = subprocess.run(  # noqa: S603 - our own words
            [*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(  # noqa: S603 - our own words
            [*git, "status", "--porcelain"], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f"{head}+" if changed else head
