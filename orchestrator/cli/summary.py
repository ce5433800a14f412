"""The end of a study on the terminal: what worked, in one table."""

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from orchestrator.plan.columns import Family, count, spoken
from orchestrator.plan.cost_model import kinds_of
from orchestrator.plan.labels import setting_text
from orchestrator.reporting.read_folder import read_results
from orchestrator.reporting.summary import (
    ScenarioOutcome,
    Spread,
    Summary,
    sound,
    spread,
    spread_of,
    summarise,
)
from orchestrator.reporting.text import (
    Names,
    benign_sentence,
    counted,
    folded,
    names_of,
    oracle_note,
    peers_sentence,
    sampler_sentence,
    seeds_sentence,
    short_sentence,
    unflagged_sentence,
    weak_sentence,
)
from orchestrator.scheduler.decisions import Status
from orchestrator.scheduler.scheduler import StudyScheduler
from orchestrator.store.keys import CacheKeys
from orchestrator.store.study_folder import StudyFolder

_NUMBERS = ("n", "ACC", "ASR", "RA", "DER")
_PADDING = 1  # on both sides of each column


def print_summary(
    console: Console,
    results_file: Path,
    objective: str,
    sampler: str | None = None,
    *,
    lowest: bool = False,
) -> None:
    """Print the counts, the best setting, and what it does to each kind of scenario.

    The numbers are the report's: read from the same file, by the same rules.
    """
    results = read_results(results_file)
    summary = summarise(results, objective, sampler, lowest=lowest)
    console.print()
    warnings = (weak_sentence, sampler_sentence, unflagged_sentence, short_sentence)
    for warning in filter(None, (sentence(summary) for sentence in warnings)):
        console.print(f"[yellow]{escape(warning)}[/]", soft_wrap=True)
    words = counted(summary)
    counts = ", ".join(f"{number} {status}" for status, number in words.items() if number)
    console.print(f"{count(len(results.all), 'trial')}: {counts}", soft_wrap=True)
    if wrecks := sum(trial.wrecked for trial in results.all):
        console.print(
            f"[yellow]{wrecks} wrecked[/]: after the repair ACC is at or below chance, the "
            "share of the largest class",
            soft_wrap=True,
        )
    if note := oracle_note(results.trials):
        console.print(f"{note} Such a setting is in no choice of a best one.", soft_wrap=True)
    if summary.common is None:
        _say_benign(console, summary)
        return
    # No line breaks: where the output goes to a file, a search finds the whole sentence.
    console.print(
        f"best setting by mean {spoken(objective)} on the selection half: "
        f"[bold]{escape(setting_text(summary.common))}[/]",
        soft_wrap=True,
    )
    for sentence in (peers_sentence(summary), seeds_sentence(summary)):
        if sentence:
            console.print(escape(sentence), soft_wrap=True)
    console.print(
        "victim → repaired by it, on the report half in percent, mean ±sd over n trained victims:",
        soft_wrap=True,
    )
    families = summary.families()
    names = _names(names_of(results), list(families))
    rows = []
    for family, outcomes in families.items():
        weak = sum(outcome.took is False for outcome in outcomes)
        measured = [outcome for outcome in sound(outcomes) if outcome.common is not None]
        rows.append((names[family] + (f" ({weak} weak)" if weak else ""), _cells(measured)))
    # No number is cut: names are folded into what the numbers leave.
    columns = zip(_NUMBERS, *(cells for _, cells in rows), strict=True)
    taken = sum(max(map(len, column)) for column in columns)
    room = max(1, console.width - taken - 2 * _PADDING * (len(_NUMBERS) + 1))
    table = Table(box=None, padding=(0, _PADDING), header_style="bold")
    table.add_column("scenario"[:room], no_wrap=True)
    for name in _NUMBERS:
        table.add_column(name, justify="right", no_wrap=True)
    for name, cells in rows:
        table.add_row("\n".join(map(escape, folded(name, room))), *cells)
    console.print(table)
    _say_benign(console, summary)


def _say_benign(console: Console, summary: Summary) -> None:
    if benign := benign_sentence(summary):
        console.print(escape(benign), soft_wrap=True)


def _names(names: Names, families: list[Family]) -> dict[Family, str]:
    """Return each family's attack, and those of its details in which families differ."""
    details = [names.details(family) for family in families]
    differ = [len(set(column)) > 1 for column in zip(*details, strict=True)]
    return {
        family: " ".join([names.attack(family), *itertools.compress(detail, differ)])
        for family, detail in zip(families, details, strict=True)
    }


def _cells(outcomes: Sequence[ScenarioOutcome]) -> tuple[str, ...]:
    if not outcomes:
        return ("0", "", "", "", "")
    repaired = [outcome.common for outcome in outcomes]
    ra = spread_of(repaired, "ra_after_report")
    return (
        str(len(outcomes)),
        *(
            f"{_percent(_victims(outcomes, metric), sd=False)} → "
            f"{_percent(spread_of(repaired, f'{metric}_after_report'))}"
            for metric in ("acc", "asr")
        ),
        _percent(ra, sd=False),
        _text(spread_of(repaired, "der_report"), "{:.3f}"),
    )


def _victims(outcomes: Sequence[ScenarioOutcome], metric: str) -> Spread | None:
    return spread([outcome.victim[f"{metric}_before_report"] for outcome in outcomes])


def _percent(values: Spread | None, *, sd: bool = True) -> str:
    if values is None:
        return ""
    scaled = None if values.sd is None else 100 * values.sd
    shown = Spread(mean=100 * values.mean, sd=scaled if sd else None, n=values.n)
    return _text(shown, "{:.1f}")


def _text(values: Spread | None, form: str) -> str:
    if values is None:
        return ""
    mean = form.format(values.mean)
    return mean if values.sd is None else f"{mean} ±{form.format(values.sd)}"


NAMES = {
    "train_helper": "helper",
    "train_victim": "victim",
    "unlearn": "ascent",
    "relearn": "relearn",
}


def stage_names(stages: Iterable[str]) -> dict[str, str]:
    """Return the names of stages, with those of other repair methods than ULRL among `stages`."""
    others = (stage for stage in sorted(set(stages)) if stage.startswith("repair."))
    methods = {stage: f"{stage.removeprefix('repair.')} stage" for stage in others}
    return NAMES | methods | {"audit": "audit"}


def shared(scheduler: StudyScheduler, folder: StudyFolder, cache: CacheKeys) -> str:
    """Return what the trials of a study came to rest on, and what of it was run this time."""
    trials = scheduler.plan.trials
    names = stage_names(kind for trial in trials for kind in kinds_of(trial)[:-1])
    if any(trial.method is not None for trial in trials):
        names["relearn"] = "repaired model"  # the last stage of any method
    keys = {stage: folder.used(stage) for stage in names}
    done = [
        trial
        for trial in trials
        if (verdict := scheduler.decisions.verdict(trial)) and verdict.status is Status.DONE
    ]
    keys["relearn"] = {scheduler.scores[trial.number].relearn_key for trial in done}
    # Nothing reads a helper again once its victim is there.
    scenarios = {trial.scenario.number: trial.scenario for trial in done}.values()
    keys["train_helper"] |= {cache.helper(one, h) for one in scenarios for h in one.helpers}
    rest = [count(len(keys[stage]), name) for stage, name in names.items() if keys[stage]]
    run = [count(made, name) for stage, name in names.items() if (made := folder.executed[stage])]
    return f"{count(len(trials), 'trial')} → {', '.join(rest)}; run now: {', '.join(run) or '–'}"
