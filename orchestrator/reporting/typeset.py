"""The table of repairs for a paper: LaTeX with booktabs, and Markdown."""

from collections.abc import Sequence

from orchestrator.reporting.naming import printable, setting_text
from orchestrator.reporting.results import Results
from orchestrator.reporting.rows import FamilyRow
from orchestrator.reporting.summary import Summary
from orchestrator.reporting.wording import (
    PLUS_MINUS,
    peers_sentence,
    seeds_sentence,
    weak_sentence,
)

_OWN = ("ACC", "ASR", "RA", "DER")
_COMMON = ("ACC", "ASR", "DER")
_COLUMNS = 12
SPREAD = "mean ± standard deviation over n trained victims, not over attacks"
_SPECIAL = {
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


def latex_table(name: str, rows: Sequence[FamilyRow], results: Results, summary: Summary) -> str:
    """Return the table as a file that a paper inputs; it needs the package booktabs."""
    body = [" & ".join(map(_latex, _cells(row))) + r" \\" for row in rows]
    axes = _latex(", ".join(results.varied))
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


def markdown_table(name: str, rows: Sequence[FamilyRow], results: Results, summary: Summary) -> str:
    """Return the table as Markdown, with what it says below it."""
    victim = [f"victim {metric}" for metric in ("ACC", "ASR")]
    own = [f"own best {metric}" for metric in _OWN]
    common = [f"for all {metric}" for metric in _COMMON]
    heads = ["scenario", "n", *victim, *own, ", ".join(results.varied), *common]
    rule = ["---" if place in (0, 8) else "---:" for place in range(len(heads))]
    lines = [heads, rule, *([_markdown(cell) for cell in _cells(row)] for row in rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    notes = "\n".join(f"- {_markdown(line)}" for line in _notes(name, rows, summary))
    return f"{table}\n\n{notes}\n"


def _cells(row: FamilyRow) -> list[str]:
    told = " · ".join((row.title, *row.details))
    mark = "*" if row.weak else ""
    settings = "; ".join(row.settings)
    return [f"{told}{mark}", str(row.n), *row.victim, *row.own, settings, *row.common]


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
    return "".join(_SPECIAL.get(char, char) for char in plain)


def _markdown(text: str) -> str:
    escaped = printable(text).replace("\\", "\\\\")
    for char in "|*_<`":
        escaped = escaped.replace(char, f"\\{char}")
    return escaped
