"""The report of a study folder: page, tables for LaTeX and Markdown, conclusion."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from orchestrator.errors import SpecError
from orchestrator.files import write_text
from orchestrator.plan.columns import (
    AFTER,
    CONFUSION,
    CURVES,
    DER,
    METRICS,
    RELEARN,
    UNLEARN,
    Outcome,
    column_of,
)
from orchestrator.plan.labels import setting_text
from orchestrator.reporting.classes import read_classes
from orchestrator.reporting.figures import read_curves
from orchestrator.reporting.page import FigureFiles, fill, study_values, trigger_views
from orchestrator.reporting.read_logs import FILE as STARTS
from orchestrator.reporting.read_logs import (
    StudyFile,
    read_costs,
    read_pruning,
    read_starts,
    read_study,
    repeated,
)
from orchestrator.reporting.read_results import (
    StudyResults,
    distinct,
    read_results,
)
from orchestrator.reporting.sensitivity import sensitivity
from orchestrator.reporting.statistics import count_flags
from orchestrator.reporting.summary import (
    ScenarioOutcome,
    Summary,
    sound,
    spread_of,
    summarise,
)
from orchestrator.reporting.text import (
    PLUS_MINUS,
    FamilyRow,
    answer,
    names_of,
    peers_sentence,
    printable,
    repair_rows,
    seeds_sentence,
    unclear,
    weak_sentence,
)
from orchestrator.search.abandonment import forecast

_METRICS = ("acc", "asr", "ra", "der")


def conclusion(folder: Path) -> tuple[Outcome, Mapping[tuple[str, ...], Outcome]]:
    """Return what the study in `folder` found, and what it found of each scenario.

    The study's metrics are those of the best setting for all, means over scenarios on the report
    half; a scenario's are the columns of results.csv of its own best setting. Scenarios are named
    by their columns as text.

    Raises:
        SpecError: A file of the folder is not what it should be.
    """
    results = read_results(folder / "results.csv")
    study = read_study(folder / "study.yaml")
    summary = summarise(results, study.objective or "der", study.sampler)
    scenarios = {
        tuple(outcome.scenario.cells().values()): _outcome(outcome) for outcome in summary.outcomes
    }
    text = "\n\n".join(answer(summary, names_of(results)))
    if summary.common is None:
        why = "no victim took" if summary.all_weak else "no trial is done"
        return Outcome(text=text, best_setting=f"none: {why}", metrics={}), scenarios
    repairs = [outcome.common for outcome in sound(summary.outcomes)]
    columns = [column_of(metric, "report") for metric in _METRICS]
    spreads = {column: spread_of(repairs, column) for column in columns}
    whole = Outcome(
        text=text,
        best_setting=setting_text(summary.common),
        metrics={f"best_{name}": found.mean for name, found in spreads.items() if found},
        rivals="; ".join(map(setting_text, unclear(summary))),
    )
    return whole, scenarios


def _outcome(outcome: ScenarioOutcome) -> Outcome:
    """Return what a scenario's own best setting makes of its victim."""
    if outcome.best is None:
        return Outcome(text="No trial is done.", best_setting="none", metrics={})
    numbers, setting = outcome.best.numbers, setting_text(outcome.best.setting)
    changes = [
        f"{metric.upper()} {numbers[f'{metric}_before_report']:.1%} → "
        f"{numbers[f'{metric}_after_report']:.1%}"
        for metric in METRICS
    ]
    weak = " The victim did not take." if outcome.took is False else ""
    return Outcome(
        text=f"Best setting: {setting}. On the report half {', '.join(changes)}, "
        f"DER {numbers['der_report']:.3f}.{weak}",
        best_setting=setting,
        metrics={name: numbers[name] for name in (*AFTER, *DER)},
    )


_OWN = ("ACC", "ASR", "RA", "DER")
_COMMON = ("ACC", "ASR", "DER")
_COLUMNS = 12
SPREAD = "mean ± standard deviation over n trained victims, not over attacks"
_SPECIAL = str.maketrans(
    {
        **{char: f"\\{char}" for char in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "±": r"$\pm$",
        "–": "--",
        "·": r"$\cdot$",
        "\u2264": r"$\leq$",
    }
)


def latex_table(name: str, rows: Sequence[FamilyRow], summary: Summary) -> str:
    """Return the table as a file that a paper inputs; it needs the package booktabs."""
    body = [" & ".join(map(_latex, _cells(row))) + r" \\" for row in rows]
    axes = _latex(", ".join(summary.axes))
    group = r"\multicolumn{2}{c}{Victim} & \multicolumn{5}{c}{Repaired, own best setting}"
    shared = r"\multicolumn{3}{c}{Repaired, one setting for all}"
    heads = ["", "n", "ACC", "ASR", *_OWN, axes, *_COMMON]
    lines = [
        r"\begin{tabular}{lr rr rrrrl rrr}",
        r"\toprule",
        rf" & & {group} & {shared} \\",
        r"\cmidrule(lr){3-4} \cmidrule(lr){5-9} \cmidrule(lr){10-12}",
        " & ".join(heads) + r" \\",
        r"\midrule",
        *body[:-1],
        r"\midrule",
        body[-1],
        r"\bottomrule",
        *(_footnote(line) for line in _notes(name, rows, summary)),
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def markdown_table(name: str, rows: Sequence[FamilyRow], summary: Summary) -> str:
    """Return the table as Markdown, with what it says below it."""
    victim = [f"victim {metric}" for metric in ("ACC", "ASR")]
    own = [f"own best {metric}" for metric in _OWN]
    common = [f"for all {metric}" for metric in _COMMON]
    heads = ["scenario", "n", *victim, *own, ", ".join(summary.axes), *common]
    rule = ["---" if place in (0, 8) else "---:" for place in range(len(heads))]
    lines = [heads, rule, *([_markdown(cell) for cell in _cells(row)] for row in rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    notes = "\n".join(f"- {_markdown(line)}" for line in _notes(name, rows, summary))
    return f"{table}\n\n{notes}\n"


def _cells(row: FamilyRow) -> list[str]:
    title = " · ".join((row.title, *row.details)) + ("*" if row.weak else "")
    return [title, str(row.n), *row.victim, *row.own, "; ".join(row.settings), *row.common]


def _footnote(line: str) -> str:
    """Return a note below the table, as wide as the text around it."""
    cell = rf"\footnotesize {_latex(line)}"
    return rf"\multicolumn{{{_COLUMNS}}}{{@{{}}p{{\linewidth}}@{{}}}}{{{cell}}} \\"


def _notes(name: str, rows: Sequence[FamilyRow], summary: Summary) -> list[str]:
    common = setting_text(summary.common) if summary.common else "none"
    weak = [f"* {' · '.join((row.title, *row.details))}: {row.weak}" for row in rows if row.weak]
    sought = summary.objective.upper()
    lines = [
        weak_sentence(summary),
        f"{name}: report half; ACC, ASR, RA in percent, DER a fraction; {SPREAD}.",
        f"Settings chosen by {sought} on the selection half; the one for all: {common}.",
        "Own best settings are chosen for each scenario alone: an upper bound.",
        peers_sentence(summary),
        seeds_sentence(summary),
        *weak,
    ]
    return [printable(line) for line in lines if line]


def _latex(text: str) -> str:
    plain = printable(text).replace(PLUS_MINUS, "±")
    return plain.translate(_SPECIAL)


def _markdown(text: str) -> str:
    return re.sub(r"([\\|*_<`])", r"\\\1", printable(text))


RESULTS, FIGURES = "results.csv", "figures"
FIGURE_NAMES = (  # how they begin
    *("before-after.", "flagged.", "selection-report.", "surfaces-", "front.", "marginals."),
    *("importance.", "variance.", "unlearning.", "relearning.", "classes-"),
)


def assemble(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Return the files of the report of the study in `folder`: by name, those of its figures too.

    Raises:
        SpecError: A file is not what it should be.
    """
    results = read_results(folder / "results.csv")
    study = read_study(folder / "study.yaml")
    name = study.name or folder.resolve().name
    summary = summarise(results, study.objective or "der", study.sampler)
    names = names_of(results)
    curves = [  # every ascent, and the relearnings of the one setting for all
        curve
        for curve in read_curves(folder / CURVES, results)
        if curve.phase == UNLEARN or summary.named(curve.setting) == summary.common
    ]
    flags = count_flags(results, names)
    *rows, whole = repair_rows(summary, names)
    classes = read_classes(folder / CONFUSION, results, summary)
    drafts = FigureFiles(results, summary, names, study.log_axes)
    values = study_values(results, summary, names)
    values["answer"] += filter(None, [classes.warning(names)])
    pruning = read_pruning(folder / "logs" / "pruning.csv")
    values |= {
        "name": name,
        "summary": summary,
        "objective_known": study.objective is not None,
        "baseline": _has_baseline(results, study.preset),
        "rows": rows,
        "whole": whole,
        "costs": read_costs(folder / "stages.csv"),
        "pruning": pruning,
        "repeated": repeated(pruning),
        "pruner": _pruner(results, study),
        "starts": read_starts(folder / "logs" / STARTS),
        "triggers": trigger_views(folder / "figures", results, names),
        **drafts.repairs(),
        "sensitivity": sensitivity(drafts),
        "surfaces": drafts.families(),
        "flags": flags,
        "flagged": drafts.flagged(flags),
        "classes": [drafts.classes(shown) for shown in classes.shown],
        "unlearning": drafts.curves("unlearning", UNLEARN, curves),
        "relearning": drafts.curves("relearning", RELEARN, curves),
    }
    table = [*rows, whole]
    pages = {
        "report.html": fill("report.html.jinja", drafts.widths, **values),
        "table.tex": latex_table(name, table, summary),
        "table.md": markdown_table(name, table, summary),
    }
    return pages, drafts.files


def _pruner(results: StudyResults, study: StudyFile) -> str:
    if study.pruner is None:
        return ""
    families = [scenario.family for scenario in distinct(t.scenario for t in results.trials)]
    return forecast(len({t.setting for t in results.trials}), families, study.pruner)


def _has_baseline(results: StudyResults, preset: str | None) -> bool:
    """Whether some setting is plain fine-tuning."""
    return any(
        trial.cells.get("preset", preset) == "fine_tuning" or trial.cells.get("max_suspects") == "0"
        for trial in results.trials
    )


def write_report(folder: Path) -> Path:
    """Return the path of report.html, written again with its figures.

    Raises:
        SpecError: `folder` is no study folder, or a file in it is not what it should be.
        OSError: The report cannot be written.
    """
    if not (folder / RESULTS).exists():
        reason = f"it has no {RESULTS}" if folder.is_dir() else "it is no folder"
        raise SpecError(
            [f"{folder}: no study folder; {reason if folder.exists() else 'it is not there'}"]
        )
    pages, figures = assemble(folder)
    (folder / FIGURES).mkdir(exist_ok=True)
    for stale in (folder / FIGURES).iterdir():
        if stale.name.startswith(FIGURE_NAMES) and stale.name not in figures:
            stale.unlink()  # of a scenario that the study no longer has
    for name, text in figures.items():
        write_text(folder / FIGURES / name, text)
    for name, text in pages.items():
        write_text(folder / name, text)
    return folder / "report.html"
