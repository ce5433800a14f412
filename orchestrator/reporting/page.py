"""report.html: what stands where on the page."""

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from orchestrator.plural import count
from orchestrator.reporting.canvas import Drawing
from orchestrator.reporting.classes import ClassTable
from orchestrator.reporting.evidence import StageCost, repeated
from orchestrator.reporting.naming import Names, distinct, in_order, setting_text, value_text
from orchestrator.reporting.neurons import FlagCount, missed
from orchestrator.reporting.provenance import Start
from orchestrator.reporting.results import Results, Trial
from orchestrator.reporting.rows import FamilyRow, half_rows
from orchestrator.reporting.summary import Summary
from orchestrator.reporting.triggers import TriggerView
from orchestrator.reporting.wording import (
    NOTHING,
    PLUS_MINUS,
    answer,
    asked,
    duration,
)

MOST_FAILURES = 100  # listed on the page; results.csv has them all
MOST_MISSED = 20  # likewise
_MOST_VALUES = 12  # of an axis that are listed
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
    width: int
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class FamilySurfaces:
    """The surfaces of a family: one figure, and one per seed if there are several."""

    title: str
    details: tuple[str, ...]
    weak: str
    figure: FigureView
    seeds: tuple[tuple[str, str, FigureView], ...] = ()  # heading, weak, figure


@dataclass(frozen=True, kw_only=True)
class ClassView:
    """A scenario class by class.

    Attributes:
        extremes: The classes at either end, in words.
        figure: Confusion matrices; None where there are many classes.
        file: All classes as CSV.
        models: How many repaired models are behind it.
    """

    title: str
    extremes: str
    figure: FigureView | None
    tables: Sequence[ClassTable]
    file: str
    models: int


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """What the settings matter, over all scenarios; None where the data do not say.

    Attributes:
        grid: Whether the settings make a grid; else each is a point of its own.
        effects: Per value of an axis, the differences to the axis's first value: what, ACC, ASR,
            DER, and what their intervals are over.
        notes: What each figure rests on and leaves out, by the figure's name.
    """

    grid: bool
    everything: FigureView | None
    marginals: FigureView | None
    effects: Sequence[tuple[str, ...]]
    importance: FigureView | None
    variance: FigureView | None
    notes: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Page:
    """All that the page shows.

    Attributes:
        pruner: How often the pruner of settings errs in a grid of this size; empty without one.
    """

    name: str
    objective_known: bool
    baseline: bool  # whether some setting is plain fine-tuning
    results: Results
    summary: Summary
    names: Names
    rows: Sequence[FamilyRow]
    before_after: FigureView | None
    sensitivity: Sensitivity
    surfaces: Sequence[FamilySurfaces]
    front: FigureView | None
    flags: Sequence[FlagCount]
    flagged: FigureView | None
    classes: Sequence[ClassView]
    unlearning: FigureView | None
    relearning: FigureView | None
    triggers: Sequence[TriggerView]
    pruning: Sequence[Mapping[str, str]]
    pruner: str
    costs: Sequence[StageCost]
    starts: Sequence[Start]
    halves: FigureView | None

    def figures(self) -> list[FigureView]:
        """Return every figure that is on the page."""
        known = (
            *(self.before_after, self.sensitivity.everything, self.sensitivity.marginals),
            *(self.sensitivity.importance, self.sensitivity.variance, self.front, self.flagged),
            *(self.unlearning, self.relearning, self.halves),
        )
        surfaces = [s.figure for s in self.surfaces]
        seeds = [figure for s in self.surfaces for _, _, figure in s.seeds]
        classes = [view.figure for view in self.classes]
        every = (*known, *surfaces, *seeds, *classes)
        return [figure for figure in every if figure is not None]


def view(name: str, drawing: Drawing, note: str = "") -> FigureView:
    """Return a drawing for the page."""
    panels = tuple(Markup(panel) for panel in drawing.panels)  # noqa: S704 - canvas escaped it
    width = round(drawing.width)
    return FigureView(name=name, panels=panels, columns=drawing.columns, width=width, note=note)


def render(page: Page) -> str:
    """Return the page as one HTML file that asks for nothing else."""
    trials = page.results.trials
    failed = [trial for trial in trials if trial.status == "failed"]
    pruned = [trial for trial in trials if trial.status == "pruned"]
    wrecks = Counter(setting_text(trial.setting) for trial in trials if trial.wrecked)
    unflagged = missed(page.results)
    return fill(
        "report.html.jinja",
        page.figures(),
        page=page,
        summary=page.summary,
        asked=asked(page.results, page.summary),
        answer=answer(page.summary, page.names),
        facts=_facts(page),
        rows=page.rows[:-1],
        whole=page.rows[-1],
        failed=[_failure(trial, page.names) for trial in failed[:MOST_FAILURES]],
        failures_left_out=max(0, len(failed) - MOST_FAILURES),
        pruned=list(Counter(setting_text(trial.setting) for trial in pruned).items()),
        repeated=repeated(page.pruning),
        weak=_weak_victims(page),
        wrecks=list(wrecks.items()),
        missed=[one.text(page.names) for one in unflagged[:MOST_MISSED]],
        missed_left_out=max(0, len(unflagged) - MOST_MISSED),
        halves=half_rows(page.summary),
    )


def fill(template: str, figures: Iterable[FigureView], **values: Any) -> str:
    """Return a page whose policy admits its own style sheet and script, and nothing else."""
    environment = Environment(
        loader=PackageLoader("orchestrator.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"duration": duration, "number": _number, "setting_text": setting_text}
    environment.filters["value_text"] = value_text
    environment.globals |= {"count": count, "nothing": NOTHING, "plus_minus": PLUS_MINUS}
    widths = sorted({figure.width for figure in figures})
    style = environment.get_template("style.css").render(widths=widths)
    script = environment.get_template("page.js").render()
    return environment.get_template(template).render(
        **values,
        style=Markup(style),  # noqa: S704 - ours
        script=Markup(script),  # noqa: S704 - ours
        style_hash=_digest(style),
        script_hash=_digest(script),
    )


def _digest(text: str) -> str:
    """Return what a content security policy calls an inline element by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _facts(page: Page) -> list[tuple[str, str]]:
    """Return what the study varies and what it holds fixed."""
    trials = page.results.trials
    attacks = distinct(page.names.attack(trial.scenario.family) for trial in trials)
    axes = (*_AXES, *((axis, axis) for axis in page.results.varied))
    values = (
        (title, list(map(value_text, in_order(trial.cells[axis] for trial in trials))))
        for title, axis in axes
    )
    return [("Attacks", ", ".join(attacks)), *((title, _listed(told)) for title, told in values)]


def _listed(values: Sequence[str]) -> str:
    if len(values) <= _MOST_VALUES:
        return ", ".join(values)
    return f"{len(values)} values from {values[0]} to {values[-1]}"


def _weak_victims(page: Page) -> list[tuple[str, str, str]]:
    """Return name, ACC and ASR of each victim that did not take."""
    return [
        (
            page.names.scenario(outcome.scenario),
            f"{100 * outcome.victim['acc_before_report']:.1f}",
            f"{100 * outcome.victim['asr_before_report']:.1f}",
        )
        for outcome in page.summary.outcomes
        if outcome.took is False
    ]


def _failure(trial: Trial, names: Names) -> tuple[str, str, str]:
    error = _COLOUR_CODES.sub("", trial.cells["error"])
    return names.scenario(trial.scenario), setting_text(trial.setting), error


def _number(text: str) -> str:
    """Return a number of the pruning log with three digits, other text as it is."""
    try:
        return f"{float(text):.3g}"
    except ValueError:
        return text or NOTHING
