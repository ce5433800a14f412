"""The report of a study folder: page, tables for LaTeX and Markdown, conclusion."""

import re
from collections.abc import Collection, Mapping, Sequence
from itertools import accumulate, compress, pairwise, zip_longest
from pathlib import Path
from textwrap import wrap
from typing import Any

from orchestrator.errors import SpecError
from orchestrator.files import write_bytes, write_text
from orchestrator.plan.columns import (
    AFTER,
    AUDITS,
    CONFUSION,
    CURVES,
    DER,
    EDITS,
    METRICS,
    RELEARN,
    ULRL,
    UNLEARN,
    Outcome,
    column_of,
    slug,
    spoken,
)
from orchestrator.plan.labels import DAGGER, DAGGER_NOTE, ORACLE
from orchestrator.reporting.audits import audit_tables, read_audits
from orchestrator.reporting.classes import FlagCount, count_flags, read_classes
from orchestrator.reporting.figures import Curve, read_curves
from orchestrator.reporting.league import (
    benign_table,
    league,
    league_csv,
    league_table,
    read_edits,
)
from orchestrator.reporting.page import FigureFiles, fill, study_values, trigger_views
from orchestrator.reporting.read_folder import (
    STARTS,
    StudyFile,
    StudyResults,
    distinct,
    read_costs,
    read_pruning,
    read_results,
    read_starts,
    read_study,
    repeated,
)
from orchestrator.reporting.sensitivity import sensitivity
from orchestrator.reporting.summary import (
    ScenarioOutcome,
    Summary,
    sound,
    spread_of,
    summarise,
)
from orchestrator.reporting.svg import as_pdf
from orchestrator.reporting.text import (
    FamilyRow,
    Names,
    answer,
    labelled,
    names_of,
    peers_sentence,
    printable,
    repair_rows,
    seeds_sentence,
    setting_head,
    setting_text,
    unclear,
    weak_sentence,
)
from orchestrator.search.abandonment import forecast
from orchestrator.spec.rules import GREEK

_METRICS = ("acc", "asr", "ra", "der")


def read_summary(folder: Path) -> tuple[StudyResults, StudyFile, Summary]:
    """Return a study folder's results and file, and what they come to.

    Raises:
        SpecError: A file of the folder is not what it should be.
    """
    results = read_results(folder / "results.csv")
    study = read_study(folder / "study.yaml")
    return results, study, _summarised(results, study)


def best_means(summary: Summary) -> dict[str, float]:
    """Return what the best setting for all reaches, by column: means over scenarios."""
    repairs = [outcome.common for outcome in sound(summary.outcomes)]
    columns = [column_of(metric, "report") for metric in _METRICS]
    spreads = {column: spread_of(repairs, column) for column in columns}
    return {column: found.mean for column, found in spreads.items() if found}


def conclusion(folder: Path) -> tuple[Outcome, Mapping[tuple[str, ...], Outcome]]:
    """Return what the study in `folder` found, and what it found of each scenario.

    The study's metrics are those of the best setting for all, means over scenarios on the report
    half; a scenario's are the columns of results.csv of its own best setting. Scenarios are named
    by their columns as text.

    Raises:
        SpecError: A file of the folder is not what it should be.
    """
    results, _, summary = read_summary(folder)
    scenarios = {
        tuple(outcome.scenario.cells().values()): _outcome(outcome) for outcome in summary.outcomes
    }
    text = "\n\n".join(answer(summary, names_of(results)))
    if summary.common is None:
        why = "no victim took" if summary.all_weak else "no trial is done"
        why = why if summary.outcomes else "no scenario has an attack"
        return Outcome(text=text, best_setting=f"none: {why}", metrics={}), scenarios
    whole = Outcome(
        text=text,
        best_setting=setting_text(summary.common),
        metrics={f"best_{column}": mean for column, mean in best_means(summary).items()},
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
LINES_OF_A_PAGE = 30  # of the table's rows
_LONGEST_LINE = 24  # characters of a scenario's name or of the axes in table.tex
SPREAD = "mean ± standard deviation over n trained victims, not over attacks"
_SPECIAL = str.maketrans(
    {
        **{char: f"\\{char}" for char in "&%$#{}"},
        "_": r"\_\allowbreak{}",
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "|": "$|$",
        "<": "$<$",
        ">": "$>$",
        "[": "{[}",  # after the end of a row it would be read as a length
        "*": "{*}",  # likewise
        "±": r"$\pm$",
        "×": r"$\times$",
        "–": "--",
        "·": r"$\cdot$",
        "…": r"\dots{}",
        "†": r"\dag{}",
        "≈": r"$\approx$",
        "\N{MINUS SIGN}": "$-$",
        "\u2264": r"$\leq$",
        "\u00a0": "~",
        **{letter: command for command, letter in GREEK.items()},
    }
)


def latex_table(name: str, rows: Sequence[FamilyRow], summary: Summary) -> str:
    """Return the table as a file that a paper inputs; its first line names what that needs.

    It is no wider than the text. What all scenarios share stands in the caption.
    """
    *families, whole = rows
    alike = [t for t in families[0].details if all(t in row.details for row in families)]
    caption, *notes = _notes(name, rows, summary)
    facts, one = [*alike], families[0]
    if same_n := _one([row.n for row in families]):
        facts.append(f"n = {one.n} in each row, {whole.n} in the last")
    if (same_settings := _one([row.settings for row in families])) and one.settings:
        facts.append(f"own best setting {_axes(summary)} = {one.settings[0]}")
    if facts:
        caption += f" Everywhere: {'; '.join(facts)}."
    present = (True, not same_n, *[True] * 6, not same_settings, *[True] * 3)
    axes = [[*map(_latex, wrap(_axes(summary), _LONGEST_LINE, break_long_words=False))]]
    heads = [[text] for text in ("Scenario", "n", "ACC", "ASR", *_OWN)] + axes
    heads += [[text] for text in _COMMON]
    highest = max(map(len, compress(heads, present)))
    sizes = {"Victim": 2, "Own best setting": 5 - same_settings, "One for all": 3}
    ends = [*accumulate(sizes.values(), initial=2 - same_n)]
    groups = [rf"\multicolumn{{{size}}}{{c}}{{{title}}}" for title, size in sizes.items()]
    columns = compress(("l", "r", *"rrrrrr", "l", *"rrr"), present)
    *blocks, last = [_latex_row(_latex_cells(row, alike), present) for row in rows]
    head = [
        rf"{' & ' * (2 - same_n)}{' & '.join(groups)} \\",
        "".join(rf"\cmidrule(lr){{{low + 1}-{high}}}" for low, high in pairwise(ends)),
        *_latex_row([[*[""] * (highest - len(head)), *head] for head in heads], present),
    ]
    return _floats(slug(name), caption, "".join(columns), head, blocks, last, notes)


def _floats(
    label: str,
    caption: str,
    columns: str,
    head: Sequence[str],
    blocks: Sequence[list[str]],
    last: Sequence[str],
    notes: Sequence[str],
) -> str:
    """Return rows of some lines each as tables of a page each, the notes below the last one."""
    start = [
        r"\smallskip\footnotesize\setlength{\tabcolsep}{3pt}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{@{{}}{columns}@{{}}}}",
        r"\toprule",
        *head,
        r"\midrule",
    ]
    end = [
        r"\par\smallskip\begin{minipage}{\linewidth}\scriptsize",
        *(rf"{_latex(note)}\par" for note in notes),
        r"\end{minipage}",
    ]
    lines = [r"% \usepackage{booktabs,graphicx}"]
    pages = _pages(blocks)
    for number, page in enumerate(pages, start=1):
        first, whole_table = number == 1, number == len(pages)
        part = "" if len(pages) == 1 else f" (Part {number} of {len(pages)}.)"
        text = f"{caption}{part}" if first else f"Table~\\ref{{tab:{label}}}, continued.{part}"
        lines += [
            r"\begin{table}",
            r"\centering\sloppy",
            rf"\caption{{{_latex(text) if first else text}}}",
            *([rf"\label{{tab:{label}}}"] if first else []),
            *start,
            "\n\\addlinespace\n".join(map("\n".join, page)),
            *([r"\midrule", *last] if whole_table and last else []),
            r"\bottomrule",
            r"\end{tabular}}",
            *(end if whole_table else []),
            r"\end{table}",
        ]
    return "\n".join(lines) + "\n"


def _pages(blocks: Sequence[list[str]]) -> list[list[list[str]]]:
    """Return rows of the table, each of some lines, as many together as a page holds."""
    pages: list[list[list[str]]] = [[]]
    for block in blocks:
        if pages[-1] and sum(map(len, [*pages[-1], block])) > LINES_OF_A_PAGE:
            pages.append([])
        pages[-1].append(block)
    return pages


def _axes(summary: Summary) -> str:
    return ", ".join(setting_head(summary))


def _one(values: Sequence[Any]) -> bool:
    """Return whether all values are equal."""
    return all(value == values[0] for value in values)


def _latex_cells(row: FamilyRow, alike: Collection[str]) -> list[list[str]]:
    """Return each cell's lines."""
    details = [text for text in row.details if text not in alike]
    title = wrap(row.title + "*" * bool(row.weak), _LONGEST_LINE, break_long_words=False)
    own, settings = map(_latex_spread, row.own), [*map(_latex, row.settings)]
    numbers = [*map(_latex_spread, row.victim), *own, settings, *map(_latex_spread, row.common)]
    return [[*map(_latex, (*title, *details))], [str(row.n)], *numbers]


def _latex_spread(text: str) -> list[str]:
    """Return a mean, below it its standard deviation, and of how many if that is said."""
    mean, *others = re.split(r"\u00a0(?=±)| (?=\()", text)
    small = [_latex(other.replace("\u00a0", "")) for other in others]
    return [_latex(mean), *(rf"{{\scriptsize {part}}}" for part in small)]


def _latex_row(cells: Sequence[Sequence[str]], present: Sequence[bool]) -> list[str]:
    lines = zip_longest(*compress(cells, present), fillvalue="")
    return [rf"{' & '.join(line)} \\" for line in lines]


def _latex(text: str) -> str:
    """Return a text that any LaTeX prints; letters that it may lack by their code points."""
    plain = "".join(
        char if ord(char) < 0x180 or ord(char) in _SPECIAL else f"[U+{ord(char):04X}]"
        for char in printable(text)
    )
    return plain.translate(_SPECIAL)


def markdown_table(name: str, rows: Sequence[FamilyRow], summary: Summary) -> str:
    """Return the table as Markdown, with what it says below it."""
    victim = [f"victim {metric}" for metric in ("ACC", "ASR")]
    own = [f"own best {metric}" for metric in _OWN]
    common = [f"for all {metric}" for metric in _COMMON]
    heads = ["scenario", "n", *victim, *own, _axes(summary), *common]
    rule = ["---" if place in (0, 8) else "---:" for place in range(len(heads))]
    lines = [heads, rule, *([_markdown(cell) for cell in _cells(row)] for row in rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    notes = "\n".join(f"- {_markdown(line)}" for line in _notes(name, rows, summary))
    return f"{table}\n\n{notes}\n"


def _cells(row: FamilyRow) -> list[str]:
    title = " · ".join((row.title, *row.details)) + ("*" if row.weak else "")
    return [title, str(row.n), *row.victim, *row.own, "; ".join(row.settings), *row.common]


def _notes(name: str, rows: Sequence[FamilyRow], summary: Summary) -> list[str]:
    common = setting_text(summary.common) if summary.common else "none"
    weak = [f"* {' · '.join((row.title, *row.details))}: {row.weak}" for row in rows if row.weak]
    sought = spoken(summary.objective)
    lines = [
        f"{name}: report half; ACC, ASR, RA in percent, DER a fraction; {SPREAD}.",
        weak_sentence(summary),
        "none: benign models, in which there is nothing to remove." if summary.benign else "",
        f"Settings chosen by {sought} on the selection half; the one for all: {common}.",
        "Own best settings are chosen for each scenario alone: an upper bound.",
        peers_sentence(summary),
        seeds_sentence(summary),
        *weak,
    ]
    if any(DAGGER in line for line in lines):
        lines.append(DAGGER_NOTE)
    return [printable(line) for line in lines if line]


_LEAGUE = (
    "Method",
    "Setting",
    "Settings",
    "n",
    *_OWN,
    "Difference",
    "Wrecked",
    "Seconds",
    "Passes",
)


def league_latex(name: str, table: Mapping[str, Any]) -> str:
    """Return the table of repair methods as a file that a paper inputs.

    Args:
        name: Of the study.
        table: As `orchestrator.reporting.league.league_table` returns it.
    """
    caption, *notes = _league_notes(name, table)
    rows = table["rows"]
    same = {place: _one([row[place] for row in rows]) for place in (2, 3)}
    present = [not same.get(place, False) for place in range(len(_LEAGUE))]
    columns = "".join(compress("ll" + "r" * 10, present))
    blocks = []
    for method, setting, *cells in rows:
        lines = wrap(setting, _LONGEST_LINE, break_long_words=False)
        texts = [*map(_starred, cells)]
        blocks.append(
            _latex_row(
                [[_latex(method)], [*map(_latex, lines)], *map(_latex_spread, texts)], present
            )
        )
    head = _latex_row([[text] for text in _LEAGUE], present)
    return _floats(f"{slug(name)}-methods", caption, columns, head, blocks, (), notes)


def league_markdown(name: str, table: Mapping[str, Any]) -> str:
    """Return the table of repair methods as Markdown, with what it says below it."""
    rule = ["---" if place < 2 else "---:" for place in range(len(_LEAGUE))]
    rows = [[_markdown(cell) for cell in row] for row in table["rows"]]
    lines = "\n".join(f"| {' | '.join(line)} |" for line in (_LEAGUE, rule, *rows))
    notes = "\n".join(f"- {_markdown(line)}" for line in _league_notes(name, table))
    return f"{lines}\n\n{notes}\n"


def _starred(text: str) -> str:
    """Return a difference with its star at the mean, not behind the interval."""
    mean, bracket, interval = text.partition(" (")
    return f"{mean}*{bracket}{interval.rstrip('*')}" if interval.endswith("*") else text


def _league_notes(name: str, table: Mapping[str, Any]) -> list[str]:
    rows, sought = table["rows"], table["objective"]
    facts = [
        f"{word} {rows[0][place]}"
        for word, place in (("settings of each method:", 2), ("n =", 3))
        if _one([row[place] for row in rows])
    ]
    caption = (
        f"{name}: repair methods, each at the one setting that is best over all scenarios by "
        f"{sought} on the selection half, of as many settings as it was given. "
        f"Report half; ACC, ASR, RA in percent, DER "
        f"a fraction: means over n scenarios, in which each attack counts the same, "
        f"{table['intervals']}."
    )
    if facts:
        caption += f" Everywhere: {'; '.join(facts)}."
    lines = [
        caption,
        table["note"],
        (
            f"Difference: {sought} less the first method's, paired by scenario; * differs clearly "
            f"after Holm's adjustment over the methods (p \u2264 0.05)."
        ),
        (
            "Wrecked: scenarios after whose repair ACC is at or below chance (the share of the "
            "largest class)."
        ),
        (
            "Seconds of one repair, without the victim's training and the evaluation; passes over "
            "the clean samples, ≈ as planned, else counted. Both charge a setting every stage that "
            "it needs, shared or not."
        ),
    ]
    if any(DAGGER in row[0] for row in rows):
        lines.append(DAGGER_NOTE)
    return [printable(line) for line in lines]


def _markdown(text: str) -> str:
    return re.sub(r"([\\|*_<`])", r"\\\1", printable(text))


RESULTS, FIGURES = "results.csv", "figures"
LEAGUE_FILES = ("league.tex", "league.md")
FIGURE_NAMES = (  # how they begin
    *("before-after.", "flagged.", "selection-report.", "surfaces-", "front.", "marginals."),
    *("importance.", "variance.", "unlearning.", "relearning.", "classes-", "methods.", "edits"),
    *("benign.", "audit-maps."),
    *("marginals-", "importance-", "variance-"),  # of one repair method of several
)


def assemble(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Return the files of the report of the study in `folder`: by name, those of its figures too.

    Raises:
        SpecError: A file is not what it should be.
    """
    results, study, summary = read_summary(folder)
    with labelled(study.labels):
        return _assembled(folder, results, study, summary)


def _assembled(
    folder: Path, results: StudyResults, study: StudyFile, summary: Summary
) -> tuple[dict[str, str], dict[str, str]]:
    name = study.name or folder.resolve().name
    names = names_of(results)
    methods = {
        method: (
            part,
            summary
            if part is results
            else _summarised(part, study, oracles=method.endswith(DAGGER)),
        )
        for method, part in results.by_method.items()
    }
    benign = benign_table({method: own for method, (_, own) in methods.items()}, names)
    parts = {method: part for method, part in methods.items() if part[0].trials}
    summaries = {method: own for method, (_, own) in parts.items()}
    ranked = league(summaries) if len(summaries) > 1 else []
    curves, flags = _phases(folder, parts.get(ULRL), names)
    *rows, whole = repair_rows(summary, names)
    classes = read_classes(folder / CONFUSION, results, summary)
    drafts = FigureFiles(results, summary, names, study.log_axes)
    if ranked:
        drafts.files["methods.csv"] = league_csv(ranked)
    if results.benign:
        drafts.files["benign.csv"] = benign["csv"]
    # Of several methods, one with a single setting has its row in their table and no more.
    sections = [
        _section(method, *part, drafts)
        for method, part in parts.items()
        if not ranked or len({trial.setting for trial in part[0].trials}) > 1
    ]
    values = study_values(results, summary, names)
    values["answer"] += filter(None, [classes.warning(names)])
    audited = read_audits(folder / AUDITS)
    pruning = read_pruning(folder / "logs" / "pruning.csv")
    values |= {
        "name": name,
        "summary": summary,
        "sought": spoken(summary.objective),
        "objective_known": study.objective is not None,
        "baseline": _has_baseline(results, study.preset),
        "rows": rows,
        "whole": whole,
        "costs": read_costs(folder / "stages.csv"),
        "pruning": pruning,
        "repeated": repeated(pruning),
        "pruner": _pruner(results, study),
        "starts": read_starts(folder / "logs" / STARTS),
        "untracked": study.untracked,
        "triggers": trigger_views(folder / "figures", results, names),
        **drafts.repairs(),
        "methods": sections,
        "benign": benign if results.benign else None,
        "league": league_table(ranked, names) if ranked else None,
        "edits": drafts.edits(read_edits(folder / EDITS, ranked)) if ranked else [],
        "audits": audit_tables(audited),
        "audit_maps": drafts.maps(audited),
        "setting_head": setting_head(summary),
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
    if ranked:
        texts = (league_latex(name, values["league"]), league_markdown(name, values["league"]))
        pages |= dict(zip(LEAGUE_FILES, texts, strict=True))
    return pages, drafts.files


def _summarised(results: StudyResults, study: StudyFile, *, oracles: bool = False) -> Summary:
    objective = study.objective or "der"
    return summarise(results, objective, study.sampler, lowest=study.lowest, oracles=oracles)


def _section(
    method: str, results: StudyResults, summary: Summary, drafts: FigureFiles
) -> dict[str, Any]:
    """Return the figures of a method's own axes."""
    own = drafts
    if results is not drafts.results:
        own = FigureFiles(results, summary, drafts.names, drafts.log_axes, beside=drafts)
        own.stem = f"-{_word(method)}"
    has_surfaces = method == ULRL
    return {
        "name": "" if own is drafts else method,
        "word": _word(method),
        "sensitivity": sensitivity(own, surfaces=has_surfaces),
        "surfaces": own.families() if has_surfaces else [],
        "has_surfaces": has_surfaces,
    }


def _word(method: str) -> str:
    """Return a method's name in names of files and parts of the page."""
    return slug(method.replace(DAGGER, f"-{ORACLE}"))


def _phases(
    folder: Path, ulrl: tuple[StudyResults, Summary] | None, names: Names
) -> tuple[list[Curve], list[FlagCount]]:
    """Return ULRL's ascents and the relearnings of its one setting for all, and what it flags."""
    if ulrl is None:
        return [], []
    results, summary = ulrl
    curves = [
        curve
        for curve in read_curves(folder / CURVES, results)
        if curve.phase == UNLEARN or summary.named(curve.setting) == summary.common
    ]
    return curves, count_flags(results, names)


def _pruner(results: StudyResults, study: StudyFile) -> str:
    if study.pruner is None:
        return ""
    families = [scenario.family for scenario in distinct(t.scenario for t in results.trials)]
    return forecast(len({t.setting for t in results.trials}), families, study.pruner)


def _has_baseline(results: StudyResults, preset: str | None) -> bool:
    """Whether some trial is plain fine-tuning, by its setting or because nothing is flagged."""
    return any(
        trial.cells.get("repair") == "fine_tuning"
        or trial.cells.get("preset", preset) == "fine_tuning"
        or trial.cells.get("max_suspects") == "0"
        or trial.cells.get("plain_fine_tuning") == "True"
        for trial in results.all
    )


def write_report(folder: Path, *, pdf: bool = False) -> Path:
    """Return the path of report.html, written again with its figures, with `pdf` as PDF too.

    Without it there remain the PDFs of figures that are as they were.

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
    drawn = {name: text for name, text in figures.items() if name.endswith(".svg")}
    same = {
        f"{name.removesuffix('.svg')}.pdf"
        for name, text in drawn.items()
        if (path := folder / FIGURES / name).exists() and path.read_bytes() == text.encode()
    }
    for stale in (folder / FIGURES).iterdir():
        if stale.name.startswith(FIGURE_NAMES) and stale.name not in {*figures, *same}:
            stale.unlink()  # of a scenario that the study no longer has, or not as it was
    for name, text in figures.items():
        write_text(folder / FIGURES / name, text)
    for name, text in drawn.items() if pdf else ():
        path = folder / FIGURES / f"{name.removesuffix('.svg')}.pdf"
        if not path.exists():
            write_bytes(path, as_pdf(text))
    for name in LEAGUE_FILES:
        if name not in pages:  # of a study that compared methods before
            (folder / name).unlink(missing_ok=True)
    for name, text in pages.items():
        write_text(folder / name, text)
    return folder / "report.html"
