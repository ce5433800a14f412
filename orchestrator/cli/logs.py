"""Logs of the trials and of starts.

Only starts that had work to do are recorded, so that a report made again says the same. None
of this enters the table of results.
"""

import hashlib
import json
import os
import platform
import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from orchestrator.address import redacted
from orchestrator.files import whole_lines, write_text
from orchestrator.plan.columns import STOPPED
from orchestrator.plan.jobs import Job, JobKind, JobResult, StageRun, victim_job
from orchestrator.plan.plan import Scenario
from orchestrator.processes import commit
from orchestrator.reporting.read_folder import STARTS
from orchestrator.scheduler.callbacks import StudyCallback
from orchestrator.scheduler.decisions import Status, Verdict, sentence
from orchestrator.scheduler.results_table import wrecks
from orchestrator.scheduler.scheduler import StudyScheduler
from orchestrator.store.lookup import ScoreResult, VictimResult
from orchestrator.store.study_folder import StudyFolder
from ulrl.evaluation import Evaluation
from ulrl.metrics import CleanMetrics, Metrics
from ulrl.scoring import NeuronScores

KINDS = ("trial-*.log", "ascent-*.log", "victim-*.log", "helper-*.log", "audit.*.log")


class TrialLogs(StudyCallback):
    """The callback that writes ``logs/trial-00012.log`` and its like.

    A log is begun when its job is handed to a worker and grows when that ends and when the
    trial is decided. What a former start logged stays, unless the grid has changed: then numbers
    mean other trials.
    """

    def __init__(self, folder: StudyFolder, scheduler: StudyScheduler) -> None:
        self._folder, self._plan, self._scheduler = folder, scheduler.plan, scheduler
        mark = folder.logs / "grid"
        digest = hashlib.sha256("\n".join(self._trials()).encode()).hexdigest()
        if not mark.exists() or mark.read_text(encoding="utf-8") != digest:
            for kind in KINDS:
                for path in folder.logs.glob(kind):
                    path.unlink(missing_ok=True)
            write_text(mark, digest)

    def path(self, name: str) -> Path:
        """Return where a job's log lies."""
        return self._folder.logs / f"{name}.log"

    def started(self, job: Job) -> None:
        text = _head(job.name, job.scenario, "" if job.kind is JobKind.VICTIM else job.text)
        self.path(job.name).write_text(text, encoding="utf-8")

    def ended(self, job: Job, result: JobResult) -> None:
        text = f"worker    {result.place}\n{_stages(result.runs, 'computed')}"
        if result.error:
            text += f"failed    {result.reason}\n\n{result.trace}\n"
        self._add(job.name, text)

    def victim(self, scenario: Scenario, finding: VictimResult) -> None:
        name = victim_job(scenario).name
        former = self._read(name)
        if not former or "\nselection " in former:
            return  # from the store
        ok = self._plan.study.victim_rule.admits(finding.evaluation.selection)
        epochs = "".join(
            f"{number:6} {loss:10.4f} {accuracy:9.1%}\n"
            for number, (loss, accuracy) in enumerate(finding.training, start=1)
        )
        table = f" epoch       loss  accuracy\n{epochs}" if epochs else ""
        weak = "" if ok else "weak      it did not take\n"
        self._add(name, f"{table}{_halves(finding.evaluation)}{weak}")

    def decided(self, verdict: Verdict) -> None:
        trial = verdict.trial
        former = self._read(trial.name)
        if "\noutcome   " in former:
            return
        head = ""
        if not former:
            if verdict.status is not Status.DONE:
                return  # pruned before it began, or failed for what its scenario's log says
            head = _head(trial.name, trial.scenario, trial.setting.text) + "from the store\n"
        self._add(trial.name, head + self._outcome(verdict))

    def _outcome(self, verdict: Verdict) -> str:
        trial, text = verdict.trial, ""
        scored = self._scheduler.scores.get(trial.number)
        repaired = self._scheduler.repairs.get(trial.number)
        if isinstance(scored, ScoreResult):
            text += _phase_one(scored.scores)
        if repaired is not None and scored is not None:
            text += _stages((*scored.runs, *repaired.runs), "result")
            text += " epoch     ACC     ASR      RA  (monitor subset)\n" + "".join(
                f"{number:6}{''.join(f' {_percent(value):>7}' for value in point)}\n"
                for number, point in enumerate(repaired.curve, start=1)
            )
            text += _halves(repaired.evaluation)
            if wrecks(trial, scored, repaired):
                text += "wreck     ACC is at or below chance: the share of the largest class\n"
        if verdict.pruning is not None:
            text += f"decision  {sentence(self._plan, verdict.pruning)}\n"
        said = verdict.error == STOPPED or verdict.status is Status.SKIPPED
        return f"{text}outcome   {verdict.status}{f', {verdict.error}' if said else ''}\n"

    def _read(self, name: str) -> str:
        path = self.path(name)
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def _add(self, name: str, text: str) -> None:
        with self.path(name).open("a", encoding="utf-8") as file:
            file.write(text)

    def _trials(self) -> Iterator[str]:
        """Yield what the numbers of logs stand for."""
        study = self._plan.study
        if study.search is not None:  # a drawn setting keeps its number in a space
            yield from (scenario.text for scenario in self._plan.scenarios)
            yield repr((study.grid.settings, study.exclude))
            return
        for trial in self._plan.trials:
            yield f"{trial.name} {trial.scenario.text}; {dict(trial.setting.values)}"


def _head(name: str, scenario: Scenario, setting: str) -> str:
    text = f"{name}\nscenario  {scenario.text}\n"
    return f"{text}setting   {setting}\n" if setting else text


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


def _halves(evaluation: Evaluation) -> str:
    halves = {"selection": evaluation.selection, "report": evaluation.report}
    return "".join(
        f"{name:<9} ACC {half.acc:.1%}{_of_triggered(half)}\n" for name, half in halves.items()
    )


def _of_triggered(half: CleanMetrics) -> str:
    return f", ASR {half.asr:.1%}, RA {half.ra:.1%}" if isinstance(half, Metrics) else ""


def _percent(value: float | None) -> str:
    """Return a metric in percent; ASR and RA are none where there is no attack."""
    return "none" if value is None else f"{value:.1%}"


_PACKAGES = (
    *("ulrl-orchestrator", "torch", "torchvision", "timm", "numpy", "ray", "optuna", "mlflow"),
)


class StartLog(StudyCallback):
    """The callback that notes a start of the driver once it has something computed.

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
            whole_lines(self._logs / STARTS)  # a line torn by a kill is cut off
            start = describe_start(self.executor, self._device)
            with (self._logs / STARTS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(start) + "\n")


def describe_start(executor: str, device: str) -> dict[str, Any]:
    """Return how this process was called, where it runs and with what."""
    words = [redacted(word) for word in sys.argv[1:]]
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return {
        "command": shlex.join(["python", "-m", "orchestrator.study", *words]),
        "executor": executor,
        "device": device,
        "hardware": _hardware(device),
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "versions": versions,
        "commit": commit(),
    }


def _hardware(device: str) -> str:
    lines: list[str] = []
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    processor = models[0] if models else platform.processor() or platform.machine()
    memory = psutil.virtual_memory().total / 2**30
    parts = [f"{os.cpu_count()} × {processor}, {memory:.0f} GiB"]
    if device == "cuda":
        import torch

        cards = range(torch.cuda.device_count())
        names = Counter(torch.cuda.get_device_name(card) for card in cards)
        parts += [f"{number} × {name}" for name, number in names.items()]
    return "; ".join(parts)
