"""Numbers and findings in words: percent with one decimal, DER as a fraction with three."""

from collections.abc import Sequence

from orchestrator.reporting.naming import Names, distinct, setting_text
from orchestrator.reporting.summary import (
    HIGHEST_ASR,
    LARGEST_ACC_DROP,
    Outcome,
    Spread,
    Summary,
    column_of,
    sound,
    spread,
    spread_of,
)

NOTHING = "–"
PLUS_MINUS = "\u00a0±\u00a0"  # no line breaks here


def percent(found: Spread | None) -> str:
    """Return a fraction's mean and spread in percent, without the sign."""
    if found is None:
        return NOTHING
    text = f"{100 * found.mean:.1f}"
    return text if found.sd is None else f"{text}{PLUS_MINUS}{100 * found.sd:.1f}"


def fraction(found: Spread | None) -> str:
    """Return a mean and its spread as they are."""
    if found is None:
        return NOTHING
    text = f"{found.mean:.3f}"
    return text if found.sd is None else f"{text}{PLUS_MINUS}{found.sd:.3f}"


def duration(seconds: float) -> str:
    """Return a time in the largest unit that leaves a whole number of them."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def answer(summary: Summary, names: Names) -> list[str]:
    """Return what the study found, in sentences that the data bear out."""
    return [_best(summary), _progress(summary), _failures(summary, names)]


def count(number: int, word: str) -> str:
    """Return a number with its noun, as ``1 trial`` or ``2 trials``."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _best(summary: Summary) -> str:
    if summary.common is None:
        return "No trial is done, so there is no answer yet."
    outcomes = [outcome for outcome in sound(summary.outcomes) if outcome.common]
    trials = [outcome.common for outcome in outcomes]
    acc, asr, der = (spread_of(trials, column_of(name, "report")) for name in ("acc", "asr", "der"))
    acc_before, asr_before = (
        spread([outcome.victim[f"{name}_before_report"] for outcome in outcomes])
        for name in ("acc", "asr")
    )
    sought = (
        "lowest mean ASR"
        if summary.objective == "asr"
        else (f"best mean {summary.objective.upper()}")
    )
    over = count(summary.judged, "scenario")
    if summary.judged < summary.eligible:
        over = f"{summary.judged} of {count(summary.eligible, 'scenario')}"
    spoken = "" if len(trials) == 1 else " (mean ± standard deviation over scenarios)"
    return (
        f"{setting_text(summary.common)} has the {sought} on the selection half, over {over}; "
        f"on the report half, which nothing was chosen by, it takes ACC from "
        f"{percent(acc_before)}\u00a0% to {percent(acc)}\u00a0% and ASR from {percent(asr_before)}\u00a0% to "
        f"{percent(asr)}\u00a0%, a DER of {fraction(der)}{spoken}."
    )


def _progress(summary: Summary) -> str:
    counts = summary.counts
    told = ", ".join(
        f"{counts[status]} {status}" for status in ("pruned", "failed", "pending") if counts[status]
    )
    total = count(sum(counts.values()), "trial")
    trials = f"Of {total} {counts['done']} {'is' if counts['done'] == 1 else 'are'} done"
    trials += f", {told}" if told else " and none was pruned or failed"
    weak = sum(outcome.took is False for outcome in summary.outcomes)
    none = sum(outcome.took is None for outcome in summary.outcomes)
    victims = [f"{weak} did not take"] if weak else []
    victims += [f"{none} {'is' if none == 1 else 'are'} not there"] if none else []
    total = count(len(summary.outcomes), "victim")
    if not victims:
        return f"{trials}; {'the' if total == '1 victim' else 'all'} {total} took."
    left = ", and the means leave it out" if weak == 1 else ", and the means leave them out"
    took = any(outcome.took for outcome in summary.outcomes)
    return f"{trials}; of {total} {' and '.join(victims)}{left if weak and took else ''}."


def _failures(summary: Summary, names: Names) -> str:
    judged = [outcome for outcome in summary.outcomes if outcome.took and outcome.best]
    if not judged:
        return "No victim that took has been repaired, so where ULRL fails is not known."
    attacks = distinct(names.attack(outcome.scenario.family) for outcome in judged)
    stays, falls = [], []
    for attack in attacks:
        group = [o for o in judged if names.attack(o.scenario.family) == attack]
        stays += _share(attack, group, [o for o in group if o.asr_stays], "asr")
        falls += _share(attack, group, [o for o in group if o.acc_falls], "acc")
    marks = (
        f"ASR stays above {100 * HIGHEST_ASR:.0f}\u00a0%",
        f"ACC falls by more than {100 * LARGEST_ACC_DROP:.0f} points",
    )
    found = [
        f"{mark} for {_listed(where)}"
        for mark, where in zip(marks, (stays, falls), strict=True)
        if where
    ]
    if not found:
        return (
            f"With each scenario's own best setting, nowhere does it happen that "
            f"{marks[0]} or {marks[1]}."
        )
    return f"Even with each scenario's own best setting, ULRL fails in places: {'; '.join(found)}."


def _share(attack: str, group: Sequence[Outcome], bad: Sequence[Outcome], metric: str) -> list[str]:
    if not bad:
        return []
    if metric == "asr":
        worst = max(o.best.numbers["asr_after_report"] for o in bad if o.best)
        extent = f"up to {100 * worst:.1f}\u00a0%"
    else:
        extent = f"by up to {100 * max(o.acc_drop for o in bad):.1f} points"
    return [f"{attack} ({len(bad)} of {count(len(group), 'scenario')}, {extent})"]


def _listed(parts: Sequence[str]) -> str:
    *head, last = parts
    return f"{', '.join(head)} and {last}" if head else last
