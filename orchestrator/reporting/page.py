"""report.html: what stands where on the page."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from orchestrator.reporting.canvas import Drawing
from orchestrator.reporting.evidence import StageCost
from orchestrator.reporting.naming import Names, distinct, in_order, setting_text, value_text
from orchestrator.reporting.neurons import FlagCount
from orchestrator.reporting.results import Results, Trial
from orchestrator.reporting.summary import (
    Outcome,
    Spread,
    Summary,
    column_of,
    sound,
    spread,
    spread_of,
)
from orchestrator.reporting.triggers import TriggerView
from orchestrator.reporting.wording import (
    NOTHING,
    PLUS_MINUS,
    answer,
    count,
    duration,
    fraction,
    percent,
)

MOST_FAILURES = 100  # listed on the page; results.csv has them all
_COLOUR_CODES = re.compile(r"\x1b\[[0-9;]*m")  # a terminal's, which Ray's messages carry
_AXES = (
    ("Datasets", "dataset"),
    ("Architectures", "architecture"),
    ("Poison ratio", "poison_ratio"),
    ("Target label", "target_label"),
    ("Seeds", "seed"),
)


@dataclass(frozen=True, kw_only=True)
class FigureView:
    """A figure on the page: so many panels side by side, fewer on a small screen."""

    name: str
    panels: tuple[Markup, ...]
    columns: int
    width: float
    note: str = ""


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


@dataclass(frozen=True, kw_only=True)
class FamilySurfaces:
    """The surfaces of a family: one figure, and one per seed if there are several."""

    title: str
    details: tuple[str, ...]
    weak: str
    figure: FigureView
    seeds: tuple[tuple[str, str, FigureView], ...] = ()  # heading, weak, figure


@dataclass(frozen=True, kw_only=True)
class Page:
    """All that the page shows."""

    name: str
    objective: str
    objective_known: bool
    results: Results
    summary: Summary
    names: Names
    before_after: FigureView | None
    everything: FigureView | None
    surfaces: Sequence[FamilySurfaces]
    flags: Sequence[FlagCount]
    flagged: FigureView | None
    pruning: Sequence[Mapping[str, str]]
    costs: Sequence[StageCost]
    halves: FigureView | None
    triggers: Sequence[TriggerView]


def view(name: str, drawing: Drawing, note: str = "") -> FigureView:
    """Return a drawing for the page."""
    panels = tuple(Markup(panel) for panel in drawing.panels)  # noqa: S704 - ElementTree escaped it
    return FigureView(
        name=name, panels=panels, columns=drawing.columns, width=drawing.width, note=note
    )


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


def render(page: Page) -> str:
    """Return the page as one HTML file that asks for nothing else."""
    environment = Environment(
        loader=PackageLoader("orchestrator.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"duration": duration, "number": _number, "setting_text": setting_text}
    environment.filters["value_text"] = value_text
    environment.globals["count"] = count
    failed = [trial for trial in page.results.trials if trial.status == "failed"]
    pruned = [trial for trial in page.results.trials if trial.status == "pruned"]
    return environment.get_template("report.html.jinja").render(
        page=page,
        summary=page.summary,
        answer=answer(page.summary, page.names),
        facts=_facts(page),
        rows=[_row(group, page) for group in page.summary.families().values()],
        whole=_total(page),
        failed=[_failure(trial, page.names) for trial in failed[:MOST_FAILURES]],
        failures_left_out=max(0, len(failed) - MOST_FAILURES),
        pruned=_pruned_settings(pruned),
        halves=_halves(page),
        nothing=NOTHING,
        plus_minus=PLUS_MINUS,
    )


def _facts(page: Page) -> list[tuple[str, str]]:
    """Return what the study varies and what it holds fixed."""
    trials = page.results.trials
    attacks = distinct(page.names.attack(trial.scenario.family) for trial in trials)
    axes = (*_AXES, *((axis, axis) for axis in page.results.varied))
    values = (
        (title, map(value_text, in_order(trial.cells[axis] for trial in trials)))
        for title, axis in axes
    )
    return [("Attacks", ", ".join(attacks)), *((title, ", ".join(told)) for title, told in values)]


def _row(group: Sequence[Outcome], page: Page) -> FamilyRow:
    family = group[0].scenario.family
    counted = [outcome for outcome in sound(group) if outcome.best]
    bests = [outcome.best for outcome in counted if outcome.best]
    settings = distinct(trial.setting for trial in bests)
    return _family_row(
        page.names.attack(family),
        page.names.details(family),
        counted or sound(group),
        weak=weak_text(group),
        settings=tuple(
            ", ".join(value_text(value) for _, value in setting) for setting in settings
        ),
    )


def _total(page: Page) -> FamilyRow:
    counted = [outcome for outcome in sound(page.summary.outcomes) if outcome.best]
    return _family_row("All scenarios", (), counted, weak="", settings=("each its own",))


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


def _metrics(trials: Sequence[Trial | None], metrics: Sequence[str]) -> tuple[str, ...]:
    spreads = ((metric, spread_of(trials, column_of(metric, "report"))) for metric in metrics)
    return tuple(
        fraction(found) if metric == "der" else percent(found) for metric, found in spreads
    )


def _halves(page: Page) -> list[tuple[str, str, str, str]]:
    """Return metric, selection half, report half and their mean difference."""
    trials = [outcome.best for outcome in sound(page.summary.outcomes) if outcome.best]
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
    text = f"{gaps.mean:+.3f}" if metric == "der" else f"{100 * gaps.mean:+.1f}"
    return text.replace("-", "\N{MINUS SIGN}")


def _failure(trial: Trial, names: Names) -> tuple[str, str, str]:
    error = _COLOUR_CODES.sub("", trial.cells["error"])
    return names.scenario(trial.scenario), setting_text(trial.setting), error


def _pruned_settings(pruned: Sequence[Trial]) -> list[tuple[str, int]]:
    return list(Counter(setting_text(trial.setting) for trial in pruned).items())


def _number(text: str) -> str:
    """Return a number of the pruning log with three digits, other text as it is."""
    try:
        return f"{float(text):.3g}"
    except ValueError:
        return text or NOTHING
