"""The report of a study, from what lies in its folder: ``python -m orchestrator.report DIR``.

Several folders are compared instead: ``python -m orchestrator.report A B ...``.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import shtab

from orchestrator.errors import SpecError, StudyError, unwritable
from orchestrator.files import given_path, write_text
from orchestrator.reporting.build import write_report
from orchestrator.terminal import Parser, as_process

COMPARISON = "comparison.html"


def write_comparison(folders: Sequence[Path], path: Path) -> Path:
    """Return the path of a page that compares studies; the same as CSV is written beside it.

    Raises:
        SpecError: A folder is named twice or is no study's, or the page cannot be written.
    """
    from orchestrator.compare import comparison_csv, comparison_page, read_sides

    twice = [f for n, f in enumerate(folders) if f.resolve() in {o.resolve() for o in folders[:n]}]
    if twice:
        raise SpecError([f"{folder}: is named twice" for folder in twice])
    comparison = read_sides(folders)
    try:
        write_text(path.with_suffix(".csv"), comparison_csv(comparison))
        return write_text(path, comparison_page(comparison))
    except OSError as error:
        raise unwritable(path, error) from None


def main(argv: Sequence[str] | None = None) -> int:
    """Rebuild the report of a study, or compare several; return the exit code."""
    parser = Parser(
        "orchestrator.report",
        "ulrl-report",
        "Rebuild a study's report.html, tables and figures from what is on disk; or, of several "
        "studies, write a page that compares them.",
    )
    parser.add_argument(
        "folders", metavar="DIR", nargs="+", type=given_path, help="a study's folder"
    ).complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=given_path,
        help=f"the page that compares (default: {COMPARISON}); a CSV file is put beside it",
    )
    parser.add_argument(
        "--pdf", action="store_true", help="write each figure of a study as PDF too, with its font"
    )
    arguments = parser.parse_args(argv)
    try:
        if len(arguments.folders) > 1 and arguments.pdf:
            raise SpecError(["command line: --pdf is for the figures of one study"])
        if len(arguments.folders) > 1:
            path = write_comparison(arguments.folders, arguments.out or Path(COMPARISON))
        elif arguments.out is not None:
            raise SpecError(["command line: --out is for a comparison of several folders"])
        else:
            path = write_report(arguments.folders[0], pdf=arguments.pdf)
    except (OSError, StudyError) as error:
        folder = arguments.folders[0]
        stop = unwritable(folder, error) if isinstance(error, OSError) else error
        print(stop, file=sys.stderr)  # noqa: T201 - nothing else reaches a person
        return stop.exit_code
    print(path)  # noqa: T201 - the command's answer
    return 0


def command() -> int:
    """Be the command `ulrl-report`."""
    return as_process(main)


if __name__ == "__main__":
    sys.exit(command())
