"""What a paper takes from a study: a table that LaTeX sets as it is."""

import re
import subprocess
import zlib
from pathlib import Path

import pytest
import yaml

from orchestrator.plan.labels import DAGGER_NOTE
from orchestrator.report import main
from orchestrator.reporting.build import write_report
from tests.installed import program
from tests.orchestrator_tests.report_folders import (
    Row,
    make_rows,
    mixed_rows,
    settle,
    weaken,
    write_study,
)
from tests.orchestrator_tests.test_league import with_oracle

ARTICLE = r"""\documentclass{article}
\usepackage{booktabs,graphicx}
\begin{document}
Table~\ref{tab:sensitivity-made-up}
\input{table.tex}
\end{document}
"""


def typeset(folder: Path, table: str = "table") -> str:
    """Return what LaTeX logs of an article that has a table of the study."""
    latex = program("pdflatex", "texlive-latex-recommended")
    text = ARTICLE.replace("table.tex", f"{table}.tex")
    if table == "league":
        text = text.replace("sensitivity-made-up", "sensitivity-made-up-methods")
    (folder / "paper.tex").write_text(text, encoding="utf-8")
    for _ in range(2):  # the second time references are known
        command = [latex, "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
        done = subprocess.run(command, cwd=folder, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]
    return (folder / "paper.log").read_text(encoding="utf-8", errors="replace")


def odd_rows() -> list[Row]:
    names = (r"a_b&c%d$e#f{g}~^\h|i", "[x]*<>\u2264\u6570", "* \U0001f984", "é" * 60)
    rows = make_rows(attacks=[(name, {}) for name in names], thresholds=(0.1, 0.2), ratios=(1.0,))
    weaken(rows, lambda row: row["attack"] != names[0])
    return rows


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(mixed_rows(), id="mixed"),
        pytest.param(odd_rows(), id="odd names"),
        pytest.param(
            make_rows(
                datasets=("cifar10(root=data,flip=True)", "digits"),
                architectures=("preact_resnet18(width=16)", "timm:resnet18(pretrained)"),
                seeds=(0, 1),
                further={"alpha": [0.1, 1.0], "suspect_order": ["score", "index"]},
            ),
            id="wide",
        ),
    ],
)
def test_the_table_is_set_as_it_is(tmp_path: Path, rows: list[Row]) -> None:
    write_report(write_study(tmp_path, rows))
    log = typeset(tmp_path)
    for fault in ("Overfull", "undefined", "multiply defined", "Missing character"):
        assert fault not in log


def test_the_table_of_methods_is_set_as_it_is(tmp_path: Path) -> None:
    rows = with_oracle()
    odd = r"a_b&c%d$e#f{g}~^\h|i[x]*<>"
    study = write_study(tmp_path, rows) / "study.yaml"
    labels = {"clp": odd, "u": "$\\tau$", "ulrl": "[*] U&RL"}
    study.write_text(f"{study.read_text()}\n{yaml.safe_dump({'labels': labels})}")
    write_report(tmp_path)
    text = (tmp_path / "league.tex").read_text(encoding="utf-8")
    assert (
        r"a\_\allowbreak{}b\&c\%d\$e\#f\{g\}\textasciitilde{}\textasciicircum{}\textbackslash{}h$|$i"
        r"{[}x]{*}$<$$>$ & $\tau$=2.0"
    ) in text
    assert r"{[}{*}] U\&RL & " in text
    assert r"$<$$>$ \dag{} & " in text
    caption = text.partition(r"\caption{")[2].partition("\n")[0]
    assert "Everywhere: settings of each method: 2; n = 6." in caption
    assert "confidence interval over the attacks' means" in caption
    assert _escaped(DAGGER_NOTE) in text
    markdown = (tmp_path / "league.md").read_text(encoding="utf-8").splitlines()
    assert r"| a\_b&c%d$e#f{g}~^\\h\|i[x]\*\<> | τ=2.0 | 2 | 6 |" in markdown[2]
    assert {len(re.split(r"(?<!\\)\|", line)) for line in markdown[:5]} == {14}
    assert f"- {DAGGER_NOTE}" in markdown
    log = typeset(tmp_path, "league")
    for fault in ("Overfull", "undefined", "multiply defined", "Missing character"):
        assert fault not in log


def _escaped(note: str) -> str:
    return note.replace("†", r"\dag{}")


def test_a_study_of_one_method_has_no_table_of_methods(tmp_path: Path) -> None:
    write_report(write_study(tmp_path, with_oracle()))
    assert (tmp_path / "league.tex").exists()
    write_report(write_study(tmp_path, make_rows()))
    assert not (tmp_path / "league.tex").exists()
    assert not (tmp_path / "league.md").exists()


def test_a_table_longer_than_a_page_is_several(tmp_path: Path) -> None:
    attacks = [("badnets", {"size": size}) for size in range(1, 61)]
    rows = make_rows(attacks=attacks, thresholds=(0.1, 0.2), ratios=(1.0,), seeds=(0, 1))
    write_report(write_study(tmp_path, rows))
    text = (tmp_path / "table.tex").read_text(encoding="utf-8")
    parts = text.split(r"\begin{table}")[1:]
    assert len(parts) > 1
    for number, part in enumerate(parts, start=1):
        assert f"(Part {number} of {len(parts)}.)" in part
        assert part.count(r"\toprule") == part.count(r"\bottomrule") == 1
    assert text.count(r"\label{") == 1
    assert "All scenarios" in parts[-1]
    assert not any("All scenarios" in part for part in parts[:-1])
    log = typeset(tmp_path)
    for fault in ("Float too large", "Overfull", "undefined", "multiply defined"):
        assert fault not in log


def embedded(pdf: bytes) -> bool:
    """Return whether every font of a PDF is in it."""
    fonts = re.findall(rb"/BaseFont /(?:[A-Z]{6}\+)?(\S+)", pdf)
    return bool(fonts) and set(fonts) == {b"DejaVuSansBook"} and b"/FontFile2" in pdf


def unpacked(stream: bytes) -> bytes:
    """Return what a stream of a PDF holds, nothing of a font's."""
    try:
        content = zlib.decompress(stream)
    except zlib.error:
        return b""
    return b"" if content[:4] == b"\0\1\0\0" else content


def test_figures_as_pdf_have_their_letters_and_stay_while_they_are_true(tmp_path: Path) -> None:
    rows = make_rows(attacks=(("badnets", {}), ("sig", {})))
    write_study(tmp_path, rows)
    assert main([str(tmp_path)]) == 0
    figures = tmp_path / "figures"
    assert not list(figures.glob("*.pdf"))
    assert main([str(tmp_path), "--pdf"]) == 0
    pdfs = {path.stem: path.read_bytes() for path in figures.glob("*.pdf")}
    assert set(pdfs) == {path.stem for path in figures.glob("*.svg")}
    for name, pdf in pdfs.items():
        assert embedded(pdf), name
        width, height = re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", pdf)[0]
        svg = (figures / f"{name}.svg").read_text(encoding="utf-8")
        assert f'viewBox="0 0 {float(width):g} {float(height):g}"' in svg
        streams = re.findall(rb"stream\n(.*?)\nendstream", pdf, re.DOTALL)
        drawn = b"".join(map(unpacked, streams))
        assert len(re.findall(rb"\bBT\b", drawn)) == svg.count("<text "), name
    rows[0]["asr_after_report"] += 0.1
    settle(rows[0])
    write_report(write_study(tmp_path, rows))
    unchanged = {path.stem for path in figures.glob("*.pdf")}
    assert {"flagged", "surfaces-sig-digits-preact_resnet18-width=16-seed-0"} <= unchanged
    assert "front" not in unchanged, "it is drawn otherwise now"
    assert main([str(tmp_path), "--pdf"]) == 0
    again = {path.stem: path.read_bytes() for path in figures.glob("*.pdf")}
    assert {name for name in pdfs if pdfs[name] == again[name]} == unchanged


def test_what_all_scenarios_share_stands_in_the_caption(tmp_path: Path) -> None:
    write_report(write_study(tmp_path, make_rows(datasets=("digits", "cifar10"), seeds=(0, 1))))
    head, *lines = (tmp_path / "table.tex").read_text(encoding="utf-8").splitlines()
    assert head == r"% \usepackage{booktabs,graphicx}"
    (caption,) = (line for line in lines if line.startswith(r"\caption{"))
    assert caption.endswith(
        r"Everywhere: preact\_\allowbreak{}resnet18(width=16); n = 2 in each row, 12 in the last.}"
    )
    assert r"\label{tab:sensitivity-made-up}" in lines
    body = "\n".join(lines).partition(r"\midrule")[2].partition(r"\bottomrule")[0]
    assert "preact" not in body
    assert body.count("cifar10") == body.count("digits") == 3
