"""Attack after attack of a study in one process, until the time is over.

``python -m benchmarks.full_size --minutes 9`` runs ``studies/full-size.yaml`` on a GPU, and needs
neither Ray nor MLflow. A study trains all its victims first; this takes the attacks in the order
of the file, each with all its settings, and leaves report and tables after each. When the time is
over it stops within an epoch, writes what there is, and ends with exit code 4; the same command
goes on. Exit code 0 is that every attack had its turn.
"""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic

import pandas as pd

from benchmarks._common import ROOT
from orchestrator.api import run_study
from orchestrator.errors import BudgetExhausted, Interrupted, StudyError
from orchestrator.spec.load import load_study
from orchestrator.spec.model import Study
from orchestrator.store.study_folder import study_path
from orchestrator.terminal import Interrupts

STUDY = ROOT / "studies" / "full-size.yaml"


def main(argv: Sequence[str] | None = None) -> int:
    """Run what fits, and return the exit code."""
    given = _arguments(argv)
    end = monotonic() + 60 * given.minutes
    try:
        study = load_study(given.study, given.set)
        out = study_path(study.name, given.out)
        with Interrupts().watched() as between, _ends_at(end):
            for part in parts(study, out):
                between.check()
                run_study(part, out, inline=True)
                if monotonic() >= end and part.grid != study.grid:
                    raise Interrupted(signal.SIGTERM)  # the signal came while the report was made
    except StudyError as stop:
        if isinstance(stop, Interrupted) and monotonic() >= end:
            print(f"{given.minutes:g} minutes are over; the same command goes on", file=sys.stderr)
            return BudgetExhausted.exit_code
        print(stop, file=sys.stderr)
        return stop.exit_code
    return 0


def parts(study: Study, out: Path) -> Iterator[Study]:
    """Yield the study with ever more of its attacks, from those that its table has on."""
    attacks = study.grid.attacks
    for number in range(max(1, min(_attacks_in(out), len(attacks))), len(attacks) + 1):
        yield replace(study, grid=replace(study.grid, attacks=attacks[:number]))


def _attacks_in(out: Path) -> int:
    table = out / "results.csv"
    if not table.exists():
        return 0
    return len(pd.read_csv(table)[["attack", "attack_options"]].drop_duplicates())


@contextmanager
def _ends_at(end: float) -> Iterator[None]:
    """Ask this process to end at a time of the monotonic clock, as a batch system does."""
    timer = threading.Timer(end - monotonic(), os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("study", nargs="?", default=str(STUDY), help="default: full-size.yaml")
    parser.add_argument("--minutes", type=float, default=12.0, help="of work; default: 12")
    parser.add_argument("--out", type=Path, help="the study folder (default: runs/NAME)")
    text = "override a value of the file by its dotted path; may be repeated"
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help=text)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
