"""A study's folder as a page and the files of its figures and tables."""

from dataclasses import dataclass
from pathlib import Path

from orchestrator.abandonment import forecast
from orchestrator.errors import Mistakes
from orchestrator.files import write_text
from orchestrator.reporting.confusion import FILE as CONFUSION
from orchestrator.reporting.curves import FILE as CURVES
from orchestrator.reporting.curves import read_curves, shown_curves
from orchestrator.reporting.drafts import Drafts
from orchestrator.reporting.evidence import StudyFile, read_costs, read_pruning, read_study
from orchestrator.reporting.holes import refuse_holes
from orchestrator.reporting.naming import distinct, names_of
from orchestrator.reporting.neurons import count_flags
from orchestrator.reporting.page import Page, render
from orchestrator.reporting.provenance import FILE as STARTS
from orchestrator.reporting.provenance import read_starts
from orchestrator.reporting.results import Results, read_results
from orchestrator.reporting.rows import repair_rows
from orchestrator.reporting.schema import RELEARN, UNLEARN
from orchestrator.reporting.sensitivity import sensitivity
from orchestrator.reporting.summary import summarise
from orchestrator.reporting.triggers import trigger_views
from orchestrator.reporting.typeset import latex_table, markdown_table

RESULTS = "results.csv"

FIGURES = "figures"

FIGURE_NAMES = (  # how they begin
    *("before-after.", "flagged.", "selection-report.", "surfaces-", "front.", "marginals."),
    *("importance.", "variance.", "unlearning.", "relearning.", "classes-"),
)


@dataclass(frozen=True, kw_only=True)
class Assembly:
    """A page, and the text of the files beside it by their names.

    Attributes:
        figures: In the folder of figures.
        tables: In the study's folder.
    """

    page: Page
    figures: dict[str, str]
    tables: dict[str, str]


def assemble(folder: Path) -> Assembly:
    """Return the report of the study in `folder`.

    Raises:
        Mistakes: A file is not what it should be.
    """
    results = read_results(folder / "results.csv")
    study = read_study(folder / "study.yaml")
    if study.whole:
        refuse_holes(folder / "results.csv", results)
    costs = read_costs(folder / "stages.csv")
    pruning = read_pruning(folder / "logs" / "pruning.csv")
    starts = read_starts(folder / "logs" / STARTS)
    name = study.name or folder.resolve().name
    summary = summarise(results, study.objective or "der", study.sampler)
    names = names_of(results)
    curves = shown_curves(read_curves(folder / CURVES, results), summary.is_common)
    flags = count_flags(results, names)
    rows = repair_rows(summary, names)
    drafts = Drafts(results, summary, names)
    page = Page(
        name=name,
        objective_known=study.objective is not None,
        baseline=_has_baseline(results, study.preset),
        results=results,
        summary=summary,
        names=names,
        rows=rows,
        before_after=drafts.before_after(),
        sensitivity=sensitivity(drafts),
        surfaces=drafts.families(),
        front=drafts.front(),
        flags=flags,
        flagged=drafts.flagged(flags),
        classes=drafts.classes(folder / CONFUSION),
        unlearning=drafts.curves("unlearning", UNLEARN, curves),
        relearning=drafts.curves("relearning", RELEARN, curves),
        triggers=trigger_views(folder / "figures", results, names),
        pruning=pruning,
        pruner=_pruner(results, study),
        costs=costs,
        starts=starts,
        halves=drafts.halves(),
    )
    tables = {
        "table.tex": latex_table(name, rows, results, summary),
        "table.md": markdown_table(name, rows, results, summary),
    }
    return Assembly(page=page, figures=drafts.files, tables=tables)


def _pruner(results: Results, study: StudyFile) -> str:
    if study.pruner is None:
        return ""
    settings = len(distinct(trial.setting for trial in results.trials))
    scenarios = distinct(trial.scenario for trial in results.trials)
    return forecast(settings, (scenario.family for scenario in scenarios), study.pruner)


def _has_baseline(results: Results, preset: str | None) -> bool:
    """Whether some setting is plain fine-tuning."""
    return any(
        trial.cells.get("preset", preset) == "fine_tuning" or trial.cells.get("max_suspects") == "0"
        for trial in results.trials
    )


def write_report(folder: Path) -> Path:
    """Return the path of report.html, written anew together with its figures.

    Raises:
        Mistakes: `folder` is no study folder, or a file in it is not what it should be.
        OSError: The report cannot be written.
    """
    if not folder.is_dir():
        reason = "it is no folder" if folder.exists() else "it is not there"
        raise Mistakes([f"{folder}: no study folder; {reason}"])
    if not (folder / RESULTS).exists():
        raise Mistakes([f"{folder}: no study folder; it has no {RESULTS}"])
    assembled = assemble(folder)
    (folder / FIGURES).mkdir(exist_ok=True)
    for stale in (folder / FIGURES).iterdir():
        if stale.name.startswith(FIGURE_NAMES) and stale.name not in assembled.figures:
            stale.unlink()  # of a scenario that the study no longer has
    for name, text in assembled.figures.items():
        write_text(folder / FIGURES / name, text)
    for name, text in assembled.tables.items():
        write_text(folder / name, text)
    return write_text(folder / "report.html", render(assembled.page))
