"""The rows of the page's tables, in words: repairs by family, and half against half."""

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.reporting.naming import Names, distinct, value_text
from orchestrator.reporting.schema import column_of
from orchestrator.reporting.summary import (
    Outcome,
    Repair,
    Spread,
    Summary,
    sound,
    spread,
    spread_of,
)
from orchestrator.reporting.wording import NOTHING, fraction, percent, signed


@dataclass(frozen=True, kw_only=True)
class FamilyRow:
    """A row of the table of repairs, in words."""

    title: str
    details: tuple[str, ...]
    n: int
    weak: str
    victim: tuple[str, ...]  # ACC, ASR
    own: tuple[str, ...]  # ACC, ASR, RA, DER
    settings: tuple[str, ...]
    common: tuple[str, ...]  # ACC, ASR, DER


def repair_rows(summary: Summary, names: Names) -> list[FamilyRow]:
    """Return a row per family, and the last one for all scenarios."""
    return [*(_row(group, names) for group in summary.families().values()), _total(summary)]


def weak_text(outcomes: Sequence[Outcome]) -> str:
    """Return a warning about victims that did not take, or nothing."""
    weak = [outcome for outcome in outcomes if outcome.took is False]
    if not weak:
        return ""
    if len(outcomes) == len(weak) > 1:
        return "no victim took"
    if len(outcomes) > 1:
        seeds = ", ".join(outcome.scenario.seed for outcome in weak)
        return f"victim of seed {seeds} did not take: left out of the means"
    acc, asr = (100 * weak[0].victim[f"{name}_before_report"] for name in ("acc", "asr"))
    return f"victim did not take: ACC {acc:.1f} %, ASR {asr:.1f} %"


def _row(group: Sequence[Outcome], names: Names) -> FamilyRow:
    family = group[0].scenario.family
    counted = [outcome for outcome in sound(group) if outcome.best]
    # What a defence does to victims that did not take makes no setting the best one.
    settings = distinct(
        outcome.best.setting for outcome in counted if outcome.best and outcome.took
    )
    return _family_row(
        names.attack(family),
        names.details(family),
        counted or sound(group),
        weak=weak_text(group),
        settings=tuple(
            ", ".join(value_text(value) for _, value in setting) for setting in settings
        ),
    )


def _total(summary: Summary) -> FamilyRow:
    counted = [outcome for outcome in summary.outcomes if outcome.took and outcome.best]
    settings = ("each its own",) if counted else ()
    return _family_row("All scenarios", (), counted, weak="", settings=settings)


def _family_row(
    title: str,
    details: tuple[str, ...],
    counted: Sequence[Outcome],
    *,
    weak: str,
    settings: tuple[str, ...],
) -> FamilyRow:
    bests = [outcome.best for outcome in counted]
    commons = [outcome.common for outcome in counted if outcome.common]
    victims = [outcome.victim for outcome in counted if outcome.victim]
    fewer = f" (n = {len(commons)})" if 0 < len(commons) < len(counted) else ""
    return FamilyRow(
        title=title,
        details=details,
        n=sum(best is not None for best in bests),
        weak=weak,
        victim=tuple(
            percent(spread([victim[f"{metric}_before_report"] for victim in victims]))
            for metric in ("acc", "asr")
        ),
        own=_metrics(bests, ("acc", "asr", "ra", "der")),
        settings=settings,
        common=tuple(text + fewer for text in _metrics(commons, ("acc", "asr", "der"))),
    )


def _metrics(trials: Sequence[Repair | None], metrics: Sequence[str]) -> tuple[str, ...]:
    spreads = ((metric, spread_of(trials, column_of(metric, "report"))) for metric in metrics)
    return tuple(
        fraction(found) if metric == "der" else percent(found) for metric, found in spreads
    )


def half_rows(summary: Summary) -> list[tuple[str, str, str, str]]:
    """Return metric, selection half, report half and their mean difference."""
    trials = [outcome.best for outcome in sound(summary.outcomes) if outcome.best]
    told = []
    for metric in ("acc", "asr", "ra", "der"):
        columns = [column_of(metric, half) for half in ("selection", "report")]
        say = fraction if metric == "der" else percent
        gaps = spread([t.numbers[columns[1]] - t.numbers[columns[0]] for t in trials])
        selection, report = (say(spread_of(trials, column)) for column in columns)
        told.append((metric.upper(), selection, report, _signed(gaps, metric)))
    return told


def _signed(gaps: Spread | None, metric: str) -> str:
    if gaps is None:
        return NOTHING
    return signed(f"{gaps.mean:+.3f}" if metric == "der" else f"{100 * gaps.mean:+.1f}")
