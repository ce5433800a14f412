"""A plan's time beside what came of it: ``python -m benchmarks.plan_accuracy STUDY.yaml``.

The plan is asked, the study run with an empty store, by the command itself, and both are told by
stage. Stages keep wall seconds, which other work on the machine lengthens; beside them stands
the share of them that was computing, if the study ran in one process (``--inline``).
"""

import argparse
import csv
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks._common import clock
from orchestrator.plan.plan import make_plan
from orchestrator.plan.resources import Shares, this_machine
from orchestrator.scheduler.estimate import PlanEstimate, estimate
from orchestrator.scheduler.sampling import foresee
from orchestrator.spec.load import load_study
from orchestrator.store.keys import CacheKeys
from orchestrator.store.store import Store

STAGES = ("train_helper", "train_victim", "unlearn", "relearn")  # evaluations with the models


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What stages took."""

    seconds: Mapping[str, float]
    runs: Mapping[str, int]


def main() -> None:
    """Ask, run, and print a table."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        changes = [f"store={place / 'store'}", f"mlflow.uri=sqlite:///{place / 'mlflow.db'}"]
        changes += arguments.set
        said = asked(arguments.study, changes, inline=arguments.inline)
        command = [sys.executable, "-m", "orchestrator.study", arguments.study]
        command += ["--out", str(place / "run"), *["--inline"] * arguments.inline]
        for change in changes:
            command += ["--set", change]
        with clock() as spent:
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        taken = read(place / "run" / "stages.csv")
    share = spent.cpu / spent.wall if arguments.inline else None
    print("\n".join(table(said, taken, spent.wall, share)))


def asked(file: str, changes: Sequence[str], *, inline: bool) -> PlanEstimate:
    """Return what a plan says of a study before anything of it is there."""
    study = load_study(file, changes)
    plan = make_plan(study)
    foresee(plan)
    here = this_machine()
    shares = Shares(study, [here])
    workers = 1 if inline else shares.likely([here], plan.scenarios)
    keys = CacheKeys(study.victim, shares.compute)
    return estimate(plan, Store(study.store), keys, workers, 0.0)


def read(file: Path) -> Taken:
    """Return the seconds by stage, each model's evaluation with the stage that made it."""
    seconds: dict[str, float] = defaultdict(float)
    runs: dict[str, int] = defaultdict(int)
    with file.open(newline="") as lines:
        for row in csv.DictReader(lines):
            seconds[row["stage"]] += float(row["seconds"])
            runs[row["stage"]] += 1
    each = seconds["evaluate"] / max(1, runs["evaluate"])
    for stage in ("train_victim", "relearn"):
        seconds[stage] += each * runs[stage]
    return Taken(seconds=seconds, runs=runs)


def table(said: PlanEstimate, taken: Taken, wall: float, share: float | None) -> list[str]:
    """Return the lines of a table: runs and seconds, said and taken, and said by taken."""
    expected = {**said.runs, "relearn": said.relearns}
    lines = ["| | runs said | run | s said | s taken | of it computing | said / that |"]
    lines.append("|---" * 7 + "|")
    for stage in STAGES:
        if stage in expected:
            runs = f"{expected[stage]} | {taken.runs[stage]}"
            lines.append(
                _line(stage, runs, said.stages.get(stage, 0.0), taken.seconds[stage], share)
            )
    total = sum(taken.seconds[stage] for stage in STAGES)
    lines.append(_line("all stages", "|", said.seconds, total, share))
    lines.append(_line("from command to end", "|", 3600 * said.hours, wall, share))
    return lines


def _line(name: str, runs: str, said: float, taken: float, share: float | None) -> str:
    computing = taken if share is None else share * taken
    shown = "–" if share is None else f"{computing:.1f}"
    return f"| {name} | {runs} | {said:.1f} | {taken:.1f} | {shown} | {said / computing:.2f} |"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study")
    parser.add_argument("--inline", action="store_true")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    return parser.parse_args()


if __name__ == "__main__":
    main()
