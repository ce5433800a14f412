"""A study's folder as a page and the files of its figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from orchestrator.reporting.canvas import Drawing, drawing_settings
from orchestrator.reporting.evidence import read_costs, read_pruning, read_study
from orchestrator.reporting.figures import (
    attack_styles,
    draw_before_after,
    draw_flagged,
    draw_halves,
)
from orchestrator.reporting.naming import Names, distinct, names_of, slug
from orchestrator.reporting.neurons import FlagCount, count_flags
from orchestrator.reporting.page import FamilySurfaces, FigureView, Page, view, weak_text
from orchestrator.reporting.results import (
    AFTER,
    BEFORE,
    DER,
    SCENARIO,
    Results,
    Trial,
    read_results,
)
from orchestrator.reporting.summary import Outcome, Summary, sound, summarise
from orchestrator.reporting.surfaces import (
    MOST_ROWS,
    SurfaceAxes,
    axes_of,
    draw_surfaces,
    pooled_csv,
    rest,
    scenario_csv,
)
from orchestrator.reporting.tables import csv_text
from orchestrator.reporting.triggers import trigger_views

FIGURE_NAMES = ("before-after.", "flagged.", "selection-report.", "surfaces-")  # how they begin


@dataclass(frozen=True, kw_only=True)
class Assembly:
    """A page, and the text of each file in the folder of figures by its name."""

    page: Page
    files: dict[str, str] = field(default_factory=dict)


def assemble(folder: Path) -> Assembly:
    """Return the report of the study in `folder`.

    Raises:
        Mistakes: A file is not what it should be.
    """
    results = read_results(folder / "results.csv")
    name, objective = read_study(folder / "study.yaml")
    costs = read_costs(folder / "stages.csv")
    pruning = read_pruning(folder / "logs" / "pruning.csv")
    summary = summarise(results, objective or "der")
    names = names_of(results)
    drafts = _Drafts(results, summary, names)
    with drawing_settings():
        flags = count_flags(results, names)
        page = Page(
            name=name or folder.resolve().name,
            objective=summary.objective,
            objective_known=objective is not None,
            results=results,
            summary=summary,
            names=names,
            before_after=drafts.before_after(),
            everything=drafts.everything(),
            surfaces=drafts.families(),
            flags=flags,
            flagged=drafts.flagged(flags),
            pruning=pruning,
            costs=costs,
            halves=drafts.halves(),
            triggers=trigger_views(folder / "figures", results, names),
        )
    return Assembly(page=page, files=drafts.files)


class _Drafts:
    """The study's figures; whatever is drawn also becomes files."""

    def __init__(self, results: Results, summary: Summary, names: Names) -> None:
        self.files: dict[str, str] = {}
        self._results, self._summary, self._names = results, summary, names
        self._axes: SurfaceAxes = axes_of(results)
        self._styles = attack_styles(
            names.attack(outcome.scenario.family) for outcome in summary.outcomes
        )
        self._repaired = [outcome for outcome in summary.outcomes if outcome.best]

    def before_after(self) -> FigureView | None:
        if not self._repaired:
            return None
        drawing = draw_before_after(self._repaired, self._names, self._styles)
        columns = [name for name in (*BEFORE, *AFTER, *DER) if name.endswith("_report")]
        return self._keep("before-after", drawing, self._repairs_csv(columns))

    def halves(self) -> FigureView | None:
        if not self._repaired:
            return None
        drawing = draw_halves(self._repaired, self._names, self._styles)
        return self._keep("selection-report", drawing, self._repairs_csv([*AFTER, *DER]))

    def flagged(self, flags: Sequence[FlagCount]) -> FigureView | None:
        if not flags:
            return None
        columns = list(FlagCount.__dataclass_fields__)
        return self._keep(
            "flagged", draw_flagged(flags), csv_text(columns, (vars(count) for count in flags))
        )

    def everything(self) -> FigureView | None:
        """Return the surfaces over all scenarios, if there are several."""
        if len(self._summary.outcomes) == 1:
            return None
        trials = [t for outcome in sound(self._summary.outcomes) for t in outcome.trials]
        return self._pooled("surfaces-all", trials, {})

    def families(self) -> list[FamilySurfaces]:
        """Return the surfaces of every family and of every scenario."""
        families = self._summary.families()
        return [
            self._family(f"surfaces-{slug(self._names.family(family))}", outcomes)
            for family, outcomes in families.items()
        ]

    def _family(self, stem: str, outcomes: Sequence[Outcome]) -> FamilySurfaces:
        family = outcomes[0].scenario.family
        seeds = [self._scenario(stem, outcome) for outcome in outcomes]
        several = len(outcomes) > 1
        trials = [t for outcome in sound(outcomes) for t in outcome.trials]
        return FamilySurfaces(
            title=self._names.attack(family),
            details=self._names.details(family),
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
        marked = outcome.best.setting if outcome.best else None
        drawing = draw_surfaces(outcome.trials, self._axes, marked)
        name = f"{stem}-seed-{slug(outcome.scenario.seed)}"
        text = scenario_csv(outcome.trials, self._results)
        return self._keep(name, drawing, text, left_out=_left_out(outcome.trials))

    def _pooled(self, name: str, trials: Sequence[Trial], shared: Mapping[str, str]) -> FigureView:
        drawing = draw_surfaces(trials, self._axes, self._summary.common)
        text = pooled_csv(trials, shared, self._results)
        return self._keep(name, drawing, text, left_out=_left_out(trials))

    def _repairs_csv(self, columns: Sequence[str]) -> str:
        """Return each scenario's best trial; every cell as in results.csv."""
        columns = (*SCENARIO, *self._results.setting_axes, "victim_ok", *columns)
        bests = [outcome.best for outcome in self._repaired if outcome.best]
        return csv_text(columns, ({name: best.cells[name] for name in columns} for best in bests))

    def _keep(self, name: str, drawing: Drawing, text: str, *, left_out: int = 0) -> FigureView:
        """Make a drawing and its data files of one name, which no other figure has."""
        free = name
        for number in count(2):
            if f"{free}.svg" not in self.files:
                break
            free = f"{name}-{number}"
        self.files |= {f"{free}.svg": drawing.svg, f"{free}.csv": text}
        note = ""
        if left_out:
            note = (
                f"Shown are the first {MOST_ROWS} combinations of the other axes; "
                f"figures/{free}.csv has the other {left_out} too."
            )
        return view(free, drawing, note)


def _left_out(trials: Sequence[Trial]) -> int:
    """Return how many combinations of the other axes have no row in the figure."""
    return max(0, len(distinct(rest(trial.setting) for trial in trials)) - MOST_ROWS)
