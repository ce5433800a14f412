"""How many stages trials share, planned and in the end, in words."""

from collections.abc import Iterable, Mapping

from orchestrator.plan.columns import count
from orchestrator.plan.cost_model import kinds_of
from orchestrator.scheduler.decisions import Status
from orchestrator.scheduler.scheduler import StudyScheduler
from orchestrator.store.study_folder import StudyFolder

NAMES = {
    "train_helper": "helper",
    "train_victim": "victim",
    "unlearn": "ascent",
    "relearn": "relearn",
}


def planned(trials: int, counts: Mapping[str, int]) -> str:
    """Return what so many trials need: "81 trials → 9 victims, 9 ascents, at most 81 relearns"."""
    parts = [
        f"{'at most ' if stage == 'relearn' else ''}{count(counts[stage], name)}"
        for stage, name in _named(counts).items()
        if counts.get(stage)
    ]
    return f"{count(trials, 'trial')} → {', '.join(parts)}"


def _named(counts: Iterable[str]) -> dict[str, str]:
    """Return the names of stages, with those of other repair methods than ULRL among `counts`."""
    return NAMES | {stage: stage for stage in sorted(set(counts)) if "." in stage}


def shared(scheduler: StudyScheduler, folder: StudyFolder) -> str:
    """Return what the trials of a study came to rest on, and what of it was run this time."""
    trials = scheduler.plan.trials
    done = [
        trial.number
        for trial in trials
        if (verdict := scheduler.decisions.verdict(trial)) and verdict.status is Status.DONE
    ]
    names = _named(kind for trial in trials for kind in kinds_of(trial)[:-1])
    keys = {stage: folder.used(stage) for stage in names}
    keys["relearn"] = {scheduler.scores[number].relearn_key for number in done}
    rest = [count(len(keys[stage]), name) for stage, name in names.items() if keys[stage]]
    run = [count(made, name) for stage, name in names.items() if (made := folder.executed[stage])]
    return f"{count(len(trials), 'trial')} → {', '.join(rest)}; run now: {', '.join(run) or '–'}"
