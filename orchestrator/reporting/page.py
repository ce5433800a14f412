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

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from orchestrator.errors import SpecError
from orchestrator.files import csv_text
from orchestrator.plan.columns import (
    AFTER,
    BEFORE,
    DER,
    METHOD,
    SCENARIO,
    TRIGGER_INDEX,
    Family,
    count,
    pictured,
    slug,
)
from orchestrator.plan.labels import applies, cell_text, method_text
from orchestrator.reporting import audits, classes, figures, league
from orchestrator.reporting.read_folder import Setting, StudyResults, TrialRow, distinct, in_order
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
    label_of,
    labelled,
    oracle_note,
    setting_text,
    value_text,
    weak_text,
)


def trigger_views(folder: Path, results: StudyResults, names: Names) -> list[dict[str, Any]]:
    """Return a picture of each family in the results that has one, in their order.

    Raises:
        SpecError: The list of pictures, or a picture on it, cannot be read.
    """
    rows = {tuple(row[axis] for axis in SCENARIO): row for row in pictured(folder / TRIGGER_INDEX)}
    shown: dict[Family, dict[str, Any]] = {}
    for family, seed in distinct(trial.scenario for trial in results.trials):
        row = rows.get((*family, seed))
        if row is not None and family not in shown:
            texts = {"psnr": f"PSNR {row['psnr']} dB", "ssim": f"SSIM {row['ssim']}"}
            shown[family] = {
                "title": label_of(names.attack(family)),
                "details": names.details(family),
                "alike": ", ".join(text for name, text in texts.items() if row[name]),
                "source": _source(folder / row["file"]),
            }
    return list(shown.values())


def _source(path: Path) -> str:
    """Return an image as a data URI."""
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


def view(name: str, drawing: SvgFigure, note: str = "") -> FigureView:
    """Return a drawing for the page."""
    panels = tuple(Markup(panel) for panel in drawing.panels)  # noqa: S704 - canvas escaped it
    width = round(drawing.width)
    return FigureView(name=name, panels=panels, columns=drawing.columns, width=width, note=note)


def study_values(results: StudyResults, summary: Summary, names: Names) -> dict[str, Any]:
    """Return the texts and tables of the report's page that no other file is needed for."""
    failed = [trial for trial in results.all if trial.status == "failed"]
    skipped = [trial for trial in results.all if trial.status == "skipped"]
    pruned = [trial.setting for trial in results.all if trial.status == "pruned"]
    wrecks = [summary.named(trial.setting) for trial in results.all if trial.wrecked]
    unflagged = classes.missed(results, names)
    weak = {o.scenario: o.victim for o in summary.outcomes if o.took is False}
    weak |= {trial.scenario: trial.numbers for trial in results.benign if trial.victim_ok is False}
    return {
        "asked": asked(results, summary),
        "oracle_note": oracle_note(results.trials),
        "answer": answer(summary, names),
        "facts": _facts(results, names),
        "failed": [
            (names.scenario(t.scenario), t.setting, _COLOUR_CODES.sub("", t.cells["error"]))
            for t in failed[:MOST_FAILURES]
        ],
        "failures_left_out": max(0, len(failed) - MOST_FAILURES),
        "skipped": Counter((setting_text(t.setting), t.cells["error"]) for t in skipped).items(),
        "pruned": Counter(map(setting_text, pruned)).items(),
        "weak": [
            (names.scenario(one), *(victim.get(f"{m}_before_report") for m in ("acc", "asr")))
            for one, victim in weak.items()
        ],
        "wrecks": Counter(map(setting_text, wrecks)).items(),
        "missed": unflagged[:MOST_MISSED],
        "missed_left_out": max(0, len(unflagged) - MOST_MISSED),
        "half_rows": half_rows(summary),
    }


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
    environment.filters |= {"value_text": value_text, "label": label_of}
    environment.filters["percent"] = lambda v: NOTHING if v is None else f"{100 * v:.1f}"
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
    trials = results.all
    attacks = ", ".join(distinct(label_of(names.attack(trial.scenario.family)) for trial in trials))
    facts = [("Attacks", attacks)]
    own = [(label_of(axis), axis) for axis in results.varied if axis not in METHOD]
    for title, axis in (*_AXES, *own):
        given = (t.cells[axis] for t in trials if applies(axis, t.cells))
        # Without an attack there is neither a poison ratio nor a target label.
        of_attacks = axis in ("poison_ratio", "target_label")
        found = (one or cell_text(None) for one in given if one or not of_attacks)
        values = [value_text(value) for value in in_order(found)]
        if not values:
            continue
        if len(values) > _MOST_VALUES:
            values = [f"{len(values)} values from {values[0]} to {values[-1]}"]
        facts.append((title, ", ".join(values)))
    if "repair" in results.setting_axes:
        methods = distinct(label_of(method_text(trial.cells)) for trial in trials)
        facts.append((label_of("repair"), ", ".join(methods)))
    return facts


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
        beside: "FigureFiles | None" = None,
    ) -> None:
        """Begin.

        Args:
            results: To draw.
            summary: What they come to.
            names: Of attacks and scenarios.
            log_axes: Axes to draw by their logarithm.
            beside: Files of other figures of the same page, to which these are added.
        """
        self.files: dict[str, str] = {} if beside is None else beside.files
        self.widths: set[int] = set() if beside is None else beside.widths
        self.stem = ""  # at the end of each figure's name
        self.log_axes = log_axes
        self.results, self.summary, self.names = results, summary, names
        self.grid = is_grid(results)
        self._axes = figures.surface_axes(results.trials)
        self.styles = attack_styles(names.attack(family) for family in summary.families())
        self._repaired = [outcome for outcome in summary.outcomes if outcome.best]

    def repairs(self) -> dict[str, FigureView | None]:
        """Return ``before_after``, ``halves`` and ``front``; None where nothing is repaired."""
        if not self._repaired:
            return dict.fromkeys(("before_after", "halves", "front"))
        bests = [outcome.best for outcome in self._repaired if outcome.best]
        judged = [trial for best in bests for trial in best.judged]
        both = {id(t): t for best in bests for t in (*best.chosen, *best.judged)}
        done = (trial for trial in self.results.trials if trial.done)
        columns = ["victim_ok", *(n for n in (*BEFORE, *AFTER, *DER) if n.endswith("_report"))]
        before_after = figures.draw_before_after(self._repaired, self.names, self.styles)
        halves = figures.draw_halves(self._repaired, self.names, self.styles)
        front = figures.draw_front(self.summary, self.names, self.styles)
        return {
            "before_after": self.keep(
                "before-after", before_after, self.trials_csv(judged, columns)
            ),
            "halves": self.keep("selection-report", halves, self.trials_csv(both.values())),
            "front": self.keep("front", front, self.trials_csv(done)),
        }

    def flagged(self, flags: Sequence[classes.FlagCount]) -> FigureView | None:
        if not flags:
            return None
        text = csv_text(classes.FlagCount._fields, (count._asdict() for count in flags))
        return self.keep("flagged", classes.draw_flagged(flags), text)

    def edits(self, found: pd.DataFrame) -> list[tuple[str, FigureView]]:
        """Return what methods changed, a figure for each architecture with its name."""
        if found.empty:
            return []
        groups = [*found.groupby("architecture", sort=False)]
        return [
            (
                label_of(str(architecture)) if len(groups) > 1 else "",
                self.keep("edits", league.draw_edits(own), league.edits_csv(own)),
            )
            for architecture, own in groups
        ]

    def maps(self, rows: Sequence[audits.AuditRow]) -> FigureView | None:
        """Return the maps of certificates' bounds; nothing where there are none."""
        shown = audits.mapped(rows)
        if not shown:
            return None
        left = len(shown) - audits.MOST_MAPS
        note = f"FILE has {count(left, 'map')} more." if left > 0 else ""
        return self.keep(
            "audit-maps", audits.draw_maps(shown, self.names), audits.maps_csv(shown), note
        )

    def curves(self, name: str, phase: str, curves: Sequence[figures.Curve]) -> FigureView | None:
        own = [curve for curve in curves if curve.phase == phase]
        if not own:
            return None
        drawing = figures.draw_curves(phase, own, self.results, self.names, self.styles)
        return self.keep(name, drawing, figures.curves_csv(phase, own))

    def classes(self, shown: classes.Repaired) -> dict[str, Any]:
        """Return what the one setting for all does to each class of a scenario."""
        title = self.names.scenario(shown.repair.scenario)
        with labelled({}):  # so that a label leaves the names of files as they are
            name = self._free(f"classes-{slug(self.names.scenario(shown.repair.scenario))}")
        drawing = classes.draw_classes(shown)  # None where there are many classes
        self.files[f"{name}.csv"] = text = classes.classes_csv(shown, self.results.setting_axes)
        return {
            "title": title,
            "extremes": classes.extremes(shown),
            "figure": drawing and self._keep(name, drawing, text),
            "tables": classes.class_tables(shown),
            "file": f"figures/{name}.csv",
            "models": len(shown.repair.judged),
        }

    def everything(self) -> FigureView | None:
        """Return the surfaces over all scenarios, if there are several."""
        if len(self.summary.outcomes) == 1:
            return None
        trials = [t for outcome in sound(self.summary.outcomes) for t in outcome.trials]
        return self._pooled("surfaces-all", trials, {})

    def families(self) -> list[dict[str, Any]]:
        """Return the surfaces of every family: one figure, and one per seed of several."""
        return [self._family(*pair) for pair in self.summary.families().items()]

    def keep(self, name: str, drawing: SvgFigure, text: str, note: str = "") -> FigureView:
        """Make a drawing and its data files of one name, which no other figure has."""
        return self._keep(self._free(f"{name}{self.stem}"), drawing, text, note)

    def _keep(self, name: str, drawing: SvgFigure, text: str, note: str = "") -> FigureView:
        self.files |= {f"{name}.svg": drawing.svg, f"{name}.csv": text}
        self.widths.add(round(drawing.width))
        return view(name, drawing, note.replace("FILE", f"figures/{name}.csv"))

    def _free(self, name: str) -> str:
        """Return a name that no other figure has."""
        names = (name if number == 1 else f"{name}-{number}" for number in itertools.count(1))
        return next(free for free in names if f"{free}.csv" not in self.files)

    def _family(self, family: Family, outcomes: Sequence[ScenarioOutcome]) -> dict[str, Any]:
        with labelled({}):
            stem = f"surfaces-{slug(self.names.family(family))}"
        seeds = []
        for outcome in outcomes:
            name = f"{stem}-seed-{slug(outcome.scenario.seed)}"
            text = figures.scenario_csv(outcome.trials, self.results)
            best = outcome.best.setting if outcome.best else None
            shown = self._surfaces(name, outcome.trials, best, text)
            seeds.append((f"Seed {outcome.scenario.seed}", weak_text([outcome]), shown))
        several, trials = len(outcomes) > 1, [t for o in sound(outcomes) for t in o.trials]
        return {
            "title": label_of(self.names.attack(family)),
            "details": self.names.details(family),
            "weak": weak_text(outcomes),
            "figure": self._pooled(stem, trials, family._asdict()) if several else seeds[0][-1],
            "seeds": seeds if several else [],
        }

    def _pooled(
        self, name: str, trials: Sequence[TrialRow], shared: Mapping[str, str]
    ) -> FigureView:
        text = figures.pooled_csv(trials, shared, self.results)
        return self._surfaces(name, trials, self.summary.common, text)

    def _surfaces(
        self, name: str, trials: Sequence[TrialRow], best: Setting | None, text: str
    ) -> FigureView:
        marked = {t.setting for t in trials if self.summary.named(t.setting) == best}
        if not self.grid:
            axes = figures.surface_axes(trials, self.log_axes)
            return self.keep(name, figures.draw_scattered(trials, axes, marked), text)
        most, note = figures.MOST_ROWS, ""
        if (more := len({figures.rest(t.setting) for t in trials}) - most) > 0:
            note = f"Shown are the first {most} combinations of the other axes; FILE has the other "
            note += f"{more} too."
        return self.keep(name, figures.draw_surfaces(trials, self._axes, marked), text, note)

    def trials_csv(
        self, trials: Iterable[TrialRow], columns: Sequence[str] = ("victim_ok", *AFTER, *DER)
    ) -> str:
        """Return trials with every cell as in results.csv."""
        columns = (*SCENARIO, *self.results.setting_axes, *columns)
        return csv_text(columns, ({name: t.cells[name] for name in columns} for t in trials))
