"""One job from start to end, as every executor runs it."""

import traceback
from collections.abc import Generator
from typing import TypeAlias

import torch

from orchestrator.address import redacted
from orchestrator.errors import ResourceError, TimeLimitExceeded
from orchestrator.pipeline.stages import StageRunner
from orchestrator.pipeline.time_limit import TimeLimit
from orchestrator.plan.jobs import OUT_OF_MEMORY, Job, JobResult, Progress, Site
from ulrl.attacks import AttackFileError
from ulrl.datasets import DatasetError
from ulrl.errors import DivergedError, NotApplicable
from ulrl.interchange import ImportRefused
from ulrl.models import WeightsError
from ulrl.replay import RecordingError

# Errors whose text names places, of which results hold none, and what they are about: the
# first that fits.
PLACED: dict[type[Exception], str] = {
    AttackFileError: "the attack's file",
    DatasetError: "the dataset",
    ImportRefused: "the imported victim",
    WeightsError: "the weights to start from",
}

Steps: TypeAlias = Generator[Progress, None, JobResult]


def steps_of(runner: StageRunner, job: Job) -> Steps:
    """Work on a job, yielding progress; an exception becomes its result.

    What a user's data or model raises belongs to the one trial; only a store that cannot
    be used, or a GPU, concerns all of them. What ran out of time or memory leaves nothing loaded.
    """
    site = runner.site
    limit = TimeLimit(site.limits.seconds(job.stage), expendable=site.expendable)
    work = runner.work(job)
    exhausted = False
    try:
        while True:
            with limit.running():
                progress = next(work)
            yield progress
    except StopIteration as end:
        return JobResult(runs=end.value)
    except (ResourceError, RecordingError) as error:
        return JobResult(error=str(error), fatal=True)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is this job's result
        if isinstance(error, NotApplicable) and (job.trials or job.audit is not None):
            return JobResult(
                runs=runner.executed,
                error=" ".join(redacted(str(error)).split())[:500],
                skipped=True,
            )
        lack = _lack(error, site, job)
        exhausted = bool(lack)
        if isinstance(error, DivergedError):
            lack = str(error)  # a result of this setting, no failure of the program
        kind, text = type(error).__name__, " ".join(redacted(str(error)).split()) or "no message"
        about = [what for placed, what in PLACED.items() if isinstance(error, placed)]
        line = f"{about[0]} cannot be used; the log says why" if about else text
        return JobResult(
            runs=runner.executed,
            error=lack or f"{kind}: {line}"[:500],
            message=lack or f"{kind}: {text}"[:1000],
            trace=redacted(traceback.format_exc()),
        )
    finally:
        work.close()
        if exhausted:
            runner.forget()


def _lack(error: Exception, site: Site, job: Job) -> str:
    """Return what a job ran out of, in words that do not depend on the moment; or nothing."""
    if isinstance(error, TimeLimitExceeded):
        return site.limits.overdue(job.stage)
    if isinstance(error, torch.OutOfMemoryError):
        return (
            f"out of GPU memory; smaller batches, or a larger share of a GPU for its worker "
            f"(resources.stages.{job.stage}.gpu), may help"
        )
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return f"{OUT_OF_MEMORY}; smaller batches, a smaller network or fewer workers may help"
    return ""
