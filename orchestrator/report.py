"""The report of a study, from what lies in its folder: ``python -m orchestrator.report DIR``."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from orchestrator.errors import Mistakes, Stop
from orchestrator.reporting.assembly import FIGURE_NAMES, assemble
from orchestrator.reporting.page import render

RESULTS = "results.csv"
FIGURES = "figures"


def write_report(folder: Path) -> Path:
    """Return the path of report.html, written anew together with its figures.

    Raises:
        Mistakes: `folder` is no study folder, or a file in it is not what it should be.
    """
    if not folder.is_dir():
        reason = "it is no folder" if folder.exists() else "it is not there"
        raise Mistakes([f"{folder}: no study folder; {reason}"])
    if not (folder / RESULTS).exists():
        raise Mistakes([f"{folder}: no study folder; it has no {RESULTS}"])
    assembled = assemble(folder)
    try:
        (folder / FIGURES).mkdir(exist_ok=True)
        for stale in (folder / FIGURES).iterdir():
            if stale.name.startswith(FIGURE_NAMES) and stale.name not in assembled.files:
                stale.unlink()  # of a scenario that the study no longer has
        for name, text in assembled.files.items():
            _replace(folder / FIGURES / name, text)
        return _replace(folder / "report.html", render(assembled.page))
    except OSError as error:
        raise Mistakes([f"{folder}: the report cannot be written; {error.strerror}"]) from None


def main(argv: Sequence[str] | None = None) -> int:
    """Rebuild the reports of the named studies; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m orchestrator.report",
        description="Rebuild a study's report.html and figures from what is on disk.",
    )
    parser.add_argument("folders", metavar="DIR", nargs="+", type=Path, help="a study's folder")
    worst = 0
    for folder in parser.parse_args(argv).folders:
        try:
            print(write_report(folder))  # noqa: T201 - the command's answer
        except Stop as stop:
            print(stop, file=sys.stderr)  # noqa: T201 - nothing else reaches a person
            worst = max(worst, stop.exit_code)
    return worst


def _replace(path: Path, text: str) -> Path:
    """Write a file so that it is never seen half written."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text, encoding="utf-8", newline="\n")
    aside.replace(path)
    return path


if __name__ == "__main__":
    sys.exit(main())
