"""A study's figures; whatever is drawn also becomes a file, with its data as another."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from orchestrator.files import csv_text
from orchestrator.plural import slug
from orchestrator.reporting.axes import is_grid
from orchestrator.reporting.canvas import Drawing
from orchestrator.reporting.classes import (
    Repaired,
    chosen_repairs,
    class_tables,
    classes_csv,
    draw_classes,
    extremes,
    keys_of,
    repaired_of,
)
from orchestrator.reporting.confusion import read_confusions
from orchestrator.reporting.curves import Curve, curves_csv, draw_curves
from orchestrator.reporting.figures import (
    draw_before_after,
    draw_flagged,
    draw_halves,
)
from orchestrator.reporting.front import draw_front
from orchestrator.reporting.naming import Names, distinct
from orchestrator.reporting.neurons import FlagCount
from orchestrator.reporting.page import ClassView, FamilySurfaces, FigureView, view
from orchestrator.reporting.results import Results, Setting, Trial
from orchestrator.reporting.rows import weak_text
from orchestrator.reporting.scattered import draw_scattered
from orchestrator.reporting.schema import AFTER, BEFORE, DER, SCENARIO
from orchestrator.reporting.styles import attack_styles
from orchestrator.reporting.summary import Outcome, Summary, sound
from orchestrator.reporting.surfaces import (
    MOST_ROWS,
    SurfaceAxes,
    axes_of,
    draw_surfaces,
    pooled_csv,
    rest,
    scenario_csv,
)


class Drafts:
    """Draws, and keeps what was drawn.

    Attributes:
        files: The text of each file in the folder of figures, by its name.
    """

    def __init__(self, results: Results, summary: Summary, names: Names) -> None:
        self.files: dict[str, str] = {}
        self.results, self.summary, self.names = results, summary, names
        self.grid = is_grid(results)
        self._axes: SurfaceAxes = axes_of(results)
        self.styles = attack_styles(
            names.attack(outcome.scenario.family) for outcome in summary.outcomes
        )
        self._repaired = [outcome for outcome in summary.outcomes if outcome.best]

    def before_after(self) -> FigureView | None:
        if not self._repaired:
            return None
        drawing = draw_before_after(self._repaired, self.names, self.styles)
        columns = [name for name in (*BEFORE, *AFTER, *DER) if name.endswith("_report")]
        return self.keep("before-after", drawing, self._repairs_csv(columns))

    def halves(self) -> FigureView | None:
        if not self._repaired:
            return None
        drawing = draw_halves(self._repaired, self.names, self.styles)
        text = self._repairs_csv([*AFTER, *DER], choosing=True)
        return self.keep("selection-report", drawing, text)

    def front(self) -> FigureView | None:
        if not self._repaired:
            return None
        drawing = draw_front(self.summary.outcomes, self.names, self.styles)
        columns = (*SCENARIO, *self.results.setting_axes, "victim_ok", *AFTER, *DER)
        done = [trial for trial in self.results.trials if trial.done]
        text = csv_text(columns, ({name: t.cells[name] for name in columns} for t in done))
        return self.keep("front", drawing, text)

    def flagged(self, flags: Sequence[FlagCount]) -> FigureView | None:
        if not flags:
            return None
        columns = list(FlagCount.__dataclass_fields__)
        return self.keep(
            "flagged", draw_flagged(flags), csv_text(columns, (vars(count) for count in flags))
        )

    def curves(self, name: str, phase: str, curves: Sequence[Curve]) -> FigureView | None:
        if not any(curve.phase == phase for curve in curves):
            return None
        drawing = draw_curves(phase, curves, self.results, self.names, self.styles)
        return self.keep(name, drawing, curves_csv(phase, curves))

    def classes(self, path: Path) -> list[ClassView]:
        """Return what the one setting for all does to each class, for some scenarios."""
        repairs = chosen_repairs(self.summary)
        keys = [keys_of(repair, self.results) for repair in repairs]
        found = read_confusions(path, self.results, keys)
        return [
            self._classes(repaired_of(repair, matrices))
            for repair, matrices in zip(repairs, found, strict=True)
            if matrices is not None
        ]

    def _classes(self, shown: Repaired) -> ClassView:
        scenario = shown.repair.scenario
        title = self.names.scenario(scenario)
        name = f"classes-{slug(title)}"
        text = classes_csv(shown, self.results.setting_axes)
        drawing = draw_classes(shown)
        if drawing is None:
            name = self._free(name)
            self.files[f"{name}.csv"] = text
        figure = None if drawing is None else self.keep(name, drawing, text)
        return ClassView(
            title=title,
            extremes=extremes(shown),
            figure=figure,
            tables=class_tables(shown),
            file=f"figures/{name if figure is None else figure.name}.csv",
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
        families = self.summary.families()
        return [
            self._family(f"surfaces-{slug(self.names.family(family))}", outcomes)
            for family, outcomes in families.items()
        ]

    def keep(self, name: str, drawing: Drawing, text: str, note: str = "") -> FigureView:
        """Make a drawing and its data files of one name, which no other figure has."""
        free = self._free(name)
        self.files |= {f"{free}.svg": drawing.svg, f"{free}.csv": text}
        return view(free, drawing, note.replace("FILE", f"figures/{free}.csv"))

    def _free(self, name: str) -> str:
        """Return a name that no other figure has."""
        names = (name if number == 1 else f"{name}-{number}" for number in itertools.count(1))
        return next(free for free in names if f"{free}.csv" not in self.files)

    def _family(self, stem: str, outcomes: Sequence[Outcome]) -> FamilySurfaces:
        family = outcomes[0].scenario.family
        seeds = [self._scenario(stem, outcome) for outcome in outcomes]
        several = len(outcomes) > 1
        trials = [t for outcome in sound(outcomes) for t in outcome.trials]
        return FamilySurfaces(
            title=self.names.attack(family),
            details=self.names.details(family),
            weak=weak_text(outcomes),
            figure=self._pooled(stem, trials, family._asdict()) if several else seeds[0],
            seeds=tuple(
                (f"Seed {outcome.scenario.seed}", weak_text([outcome]), shown)
                for outcome, shown in zip(outcomes, seeds, strict=True)
            )
            if several
            else (),
        )

    def _scenario(self, stem: str, outcome: Outcome) -> FigureView:
        best = outcome.best
        drawing = self._surfaces(
            outcome.trials,
            lambda setting: best is not None and best.setting == self.summary.named(setting),
        )
        name = f"{stem}-seed-{slug(outcome.scenario.seed)}"
        text = scenario_csv(outcome.trials, self.results)
        return self.keep(name, drawing, text, self._left_out(outcome.trials))

    def _pooled(self, name: str, trials: Sequence[Trial], shared: Mapping[str, str]) -> FigureView:
        drawing = self._surfaces(trials, self.summary.is_common)
        text = pooled_csv(trials, shared, self.results)
        return self.keep(name, drawing, text, self._left_out(trials))

    def _surfaces(self, trials: Sequence[Trial], is_marked: Callable[[Setting], bool]) -> Drawing:
        marked = {trial.setting for trial in trials if is_marked(trial.setting)}
        if self.grid:
            return draw_surfaces(trials, self._axes, marked)
        return draw_scattered(trials, marked)

    def _left_out(self, trials: Sequence[Trial]) -> str:
        """Say how many combinations of the other axes have no row in a figure of surfaces."""
        more = len(distinct(rest(trial.setting) for trial in trials)) - MOST_ROWS
        if more <= 0 or not self.grid:
            return ""
        return (
            f"Shown are the first {MOST_ROWS} combinations of the other axes; FILE has the other "
            f"{more} too."
        )

    def _repairs_csv(self, columns: Sequence[str], *, choosing: bool = False) -> str:
        """Return the trials by which each scenario's best is judged; cells as in results.csv.

        With `choosing` those by which it was chosen come first, where they are others.
        """
        columns = (*SCENARIO, *self.results.setting_axes, "victim_ok", *columns)
        bests = [outcome.best for outcome in self._repaired if outcome.best]
        trials = [
            trial
            for best in bests
            for trial in {
                id(t): t for t in (*(best.chosen if choosing else ()), *best.judged)
            }.values()
        ]
        return csv_text(columns, ({name: t.cells[name] for name in columns} for t in trials))
