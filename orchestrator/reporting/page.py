"""The report's page, its figures as files, and the pictures of triggers."""

import base64
import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from orchestrator.errors import SpecError
from orchestrator.files import csv_text
from orchestrator.plan.columns import (
    AFTER,
    BEFORE,
    DER,
    SCENARIO,
    TRIGGER_INDEX,
    Family,
    count,
    pictured,
    slug,
)
from orchestrator.plan.labels import setting_text, value_text
from orchestrator.reporting.classes import (
    ClassTable,
    Repaired,
    class_tables,
    classes_csv,
    draw_classes,
    extremes,
)
from orchestrator.reporting.figures import (
    MOST_ROWS,
    Curve,
    curves_csv,
    draw_before_after,
    draw_curves,
    draw_flagged,
    draw_front,
    draw_halves,
    draw_scattered,
    draw_surfaces,
    pooled_csv,
    rest,
    scenario_csv,
    surface_axes,
)
from orchestrator.reporting.read_logs import repeated
from orchestrator.reporting.read_results import Setting, StudyResults, TrialRow, distinct, in_order
from orchestrator.reporting.statistics import FlagCount, missed
from orchestrator.reporting.summary import ScenarioOutcome, Summary, sound
from orchestrator.reporting.svg import SvgFigure, attack_styles, is_grid
from orchestrator.reporting.text import (
    NOTHING,
    PLUS_MINUS,
    Names,
    answer,
    asked,
    duration,
    half_rows,
    weak_text,
)


@dataclass(frozen=True, kw_only=True)
class TriggerView:
    """A trigger as the page shows it."""

    title: str
    details: tuple[str, ...]
    alike: str  # PSNR and SSIM in words
    source: str  # of the image: its bytes as a data URI


def trigger_views(figures: Path, results: StudyResults, names: Names) -> list[TriggerView]:
    """Return a picture of each family in the results that has one, in their order.

    Raises:
        SpecError: The list of pictures, or a picture on it, cannot be read.
    """
    rows = {tuple(row[axis] for axis in SCENARIO): row for row in pictured(figures / TRIGGER_INDEX)}
    shown = {}
    for trial in results.trials:
        family = trial.scenario.family
        row = rows.get((*family, trial.scenario.seed))
        if row is not None and family not in shown:
            shown[family] = TriggerView(
                title=names.attack(family),
                details=names.details(family),
                alike=_same_trigger(row),
                source=_source(figures / row["file"]),
            )
    return list(shown.values())


def _same_trigger(row: Mapping[str, str]) -> str:
    texts = {"psnr": f"PSNR {row['psnr']} dB", "ssim": f"SSIM {row['ssim']}"}
    return ", ".join(text for name, text in texts.items() if row[name])


def _source(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SpecError([f"{path}: cannot be read; {error.strerror}"]) from None
    return f"data:image/png;base64,{base64.b64encode(content).decode('ascii')}"


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
    seeds: Sequence[tuple[str, str, FigureView]] = ()  # heading, weak, figure


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


def view(name: str, drawing: SvgFigure, note: str = "") -> FigureView:
    """Return a drawing for the page."""
    panels = tuple(Markup(panel) for panel in drawing.panels)  # noqa: S704 - canvas escaped it
    width = round(drawing.width)
    return FigureView(name=name, panels=panels, columns=drawing.columns, width=width, note=note)


def render(drafts: "FigureFiles", **page: Any) -> str:
    """Return the report as one HTML file that asks for nothing else.

    Args:
        drafts: What was drawn for it.
        page: What else the template shows, by the names that it uses.
    """
    results, summary, names = drafts.results, drafts.summary, drafts.names
    failed = [trial for trial in results.trials if trial.status == "failed"]
    pruned = [trial for trial in results.trials if trial.status == "pruned"]
    wrecks = [summary.named(trial.setting) for trial in results.trials if trial.wrecked]
    unflagged = missed(results, names)
    return fill(
        "report.html.jinja",
        drafts.widths,
        page=page,
        summary=summary,
        asked=asked(results, summary),
        answer=[*answer(summary, names), *filter(None, [page["warning"]])],
        facts=_facts(results, names),
        failed=[_failure(trial, names) for trial in failed[:MOST_FAILURES]],
        failures_left_out=max(0, len(failed) - MOST_FAILURES),
        pruned=Counter(setting_text(trial.setting) for trial in pruned).items(),
        repeated=repeated(page["pruning"]),
        weak=_weak_victims(summary, names),
        wrecks=Counter(map(setting_text, wrecks)).items(),
        missed=unflagged[:MOST_MISSED],
        missed_left_out=max(0, len(unflagged) - MOST_MISSED),
        halves=half_rows(summary),
    )


def fill(template: str, widths: Iterable[int], **values: Any) -> str:
    """Return a page whose policy admits its own style sheet and script, and nothing else.

    Args:
        template: Its name.
        widths: Of the panels that are on the page.
        values: What the template shows.
    """
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
    style = environment.get_template("style.css").render(widths=sorted(set(widths)))
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


def _facts(results: StudyResults, names: Names) -> list[tuple[str, str]]:
    """Return what the study varies and what it holds fixed."""
    trials = results.trials
    attacks = ", ".join(distinct(names.attack(trial.scenario.family) for trial in trials))
    facts = [("Attacks", attacks)]
    for title, axis in (*_AXES, *((axis, axis) for axis in results.varied)):
        values = [value_text(value) for value in in_order(trial.cells[axis] for trial in trials)]
        if len(values) > _MOST_VALUES:
            values = [f"{len(values)} values from {values[0]} to {values[-1]}"]
        facts.append((title, ", ".join(values)))
    return facts


def _weak_victims(summary: Summary, names: Names) -> list[tuple[str, str, str]]:
    """Return name, ACC and ASR of each victim that did not take."""
    return [
        (
            names.scenario(outcome.scenario),
            f"{100 * outcome.victim['acc_before_report']:.1f}",
            f"{100 * outcome.victim['asr_before_report']:.1f}",
        )
        for outcome in summary.outcomes
        if outcome.took is False
    ]


def _failure(trial: TrialRow, names: Names) -> tuple[str, str, str]:
    error = _COLOUR_CODES.sub("", trial.cells["error"])
    return names.scenario(trial.scenario), setting_text(trial.setting), error


def _number(text: str) -> str:
    """Return a number of the pruning log with three digits, other text as it is."""
    try:
        return f"{float(text):.3g}"
    except ValueError:
        return text or NOTHING


class FigureFiles:
    """Draws, and keeps what was drawn.

    Attributes:
        files: The text of each file in the folder of figures, by its name.
        widths: Of the figures' panels, in points.
    """

    def __init__(
        self,
        results: StudyResults,
        summary: Summary,
        names: Names,
        log_axes: Collection[str] = frozenset(),
    ) -> None:
        self.files: dict[str, str] = {}
        self.widths: set[int] = set()
        self.log_axes = log_axes
        self.results, self.summary, self.names = results, summary, names
        self.grid = is_grid(results)
        self._axes = surface_axes(results.trials)
        self.styles = attack_styles(names.attack(family) for family in summary.families())
        self._repaired = [outcome for outcome in summary.outcomes if outcome.best]

    def before_after(self) -> FigureView | None:
        if not self._repaired:
            return None
        drawing = draw_before_after(self._repaired, self.names, self.styles)
        columns = [name for name in (*BEFORE, *AFTER, *DER) if name.endswith("_report")]
        judged = [t for outcome in self._repaired if outcome.best for t in outcome.best.judged]
        return self.keep("before-after", drawing, self._trials_csv(judged, columns))

    def halves(self) -> FigureView | None:
        if not self._repaired:
            return None
        drawing = draw_halves(self._repaired, self.names, self.styles)
        bests = [outcome.best for outcome in self._repaired if outcome.best]
        both = {id(t): t for best in bests for t in (*best.chosen, *best.judged)}
        return self.keep("selection-report", drawing, self._trials_csv(both.values()))

    def front(self) -> FigureView | None:
        if not self._repaired:
            return None
        drawing = draw_front(self.summary, self.names, self.styles)
        done = (trial for trial in self.results.trials if trial.done)
        return self.keep("front", drawing, self._trials_csv(done))

    def flagged(self, flags: Sequence[FlagCount]) -> FigureView | None:
        if not flags:
            return None
        text = csv_text(FlagCount._fields, (count._asdict() for count in flags))
        return self.keep("flagged", draw_flagged(flags), text)

    def curves(self, name: str, phase: str, curves: Sequence[Curve]) -> FigureView | None:
        if not any(curve.phase == phase for curve in curves):
            return None
        drawing = draw_curves(phase, curves, self.results, self.names, self.styles)
        return self.keep(name, drawing, curves_csv(phase, curves))

    def classes(self, shown: Repaired) -> ClassView:
        """Return what the one setting for all does to each class of a scenario."""
        title = self.names.scenario(shown.repair.scenario)
        name = self._free(f"classes-{slug(title)}")
        drawing = draw_classes(shown)
        self.files[f"{name}.csv"] = text = classes_csv(shown, self.results.setting_axes)
        return ClassView(
            title=title,
            extremes=extremes(shown),
            figure=None if drawing is None else self._keep(name, drawing, text),
            tables=class_tables(shown),
            file=f"figures/{name}.csv",
            models=len(shown.repair.judged),
        )

    def everything(self) -> FigureView | None:
        """Return the surfaces over all scenarios, if there are several."""
        if len(self.summary.outcomes) == 1:
            return None
        trials = [t for outcome in sound(self.summary.outcomes) for t in outcome.trials]
        return self._pooled("surfaces-all", trials, {})

    def families(self) -> list[FamilySurfaces]:
        """Return the surfaces of every family and of every scenario."""
        return [self._family(*pair) for pair in self.summary.families().items()]

    def keep(self, name: str, drawing: SvgFigure, text: str, note: str = "") -> FigureView:
        """Make a drawing and its data files of one name, which no other figure has."""
        return self._keep(self._free(name), drawing, text, note)

    def _keep(self, name: str, drawing: SvgFigure, text: str, note: str = "") -> FigureView:
        self.files |= {f"{name}.svg": drawing.svg, f"{name}.csv": text}
        self.widths.add(round(drawing.width))
        return view(name, drawing, note.replace("FILE", f"figures/{name}.csv"))

    def _free(self, name: str) -> str:
        """Return a name that no other figure has."""
        names = (name if number == 1 else f"{name}-{number}" for number in itertools.count(1))
        return next(free for free in names if f"{free}.csv" not in self.files)

    def _family(self, family: Family, outcomes: Sequence[ScenarioOutcome]) -> FamilySurfaces:
        stem = f"surfaces-{slug(self.names.family(family))}"
        seeds = [self._scenario(stem, outcome) for outcome in outcomes]
        figure, by_seed = seeds[0], []
        if len(outcomes) > 1:
            trials = [t for outcome in sound(outcomes) for t in outcome.trials]
            figure = self._pooled(stem, trials, family._asdict())
            by_seed = [
                (f"Seed {outcome.scenario.seed}", weak_text([outcome]), shown)
                for outcome, shown in zip(outcomes, seeds, strict=True)
            ]
        return FamilySurfaces(
            title=self.names.attack(family),
            details=self.names.details(family),
            weak=weak_text(outcomes),
            figure=figure,
            seeds=by_seed,
        )

    def _scenario(self, stem: str, outcome: ScenarioOutcome) -> FigureView:
        name = f"{stem}-seed-{slug(outcome.scenario.seed)}"
        best = outcome.best.setting if outcome.best else None
        return self._surfaces(
            name, outcome.trials, best, scenario_csv(outcome.trials, self.results)
        )

    def _pooled(
        self, name: str, trials: Sequence[TrialRow], shared: Mapping[str, str]
    ) -> FigureView:
        text = pooled_csv(trials, shared, self.results)
        return self._surfaces(name, trials, self.summary.common, text)

    def _surfaces(
        self, name: str, trials: Sequence[TrialRow], best: Setting | None, text: str
    ) -> FigureView:
        marked = {t.setting for t in trials if self.summary.named(t.setting) == best}
        if not self.grid:
            axes = surface_axes(trials, self.log_axes)
            return self.keep(name, draw_scattered(trials, axes, marked), text)
        more = len({rest(trial.setting) for trial in trials}) - MOST_ROWS
        note = (
            f"Shown are the first {MOST_ROWS} combinations of the other axes; FILE has the other "
            f"{more} too."
            if more > 0
            else ""
        )
        return self.keep(name, draw_surfaces(trials, self._axes, marked), text, note)

    def _trials_csv(
        self, trials: Iterable[TrialRow], columns: Sequence[str] = (*AFTER, *DER)
    ) -> str:
        """Return trials with every cell as in results.csv."""
        columns = (*SCENARIO, *self.results.setting_axes, "victim_ok", *columns)
        return csv_text(columns, ({name: t.cells[name] for name in columns} for t in trials))
