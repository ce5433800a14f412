"""Repaired models of a study for others: ``python -m orchestrator.export DIR OUT``."""

import csv
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import shtab

from orchestrator.errors import SpecError, StudyError, unwritable
from orchestrator.files import given_path
from orchestrator.pipeline.chain import repaired_key
from orchestrator.pipeline.victims import model_spec_from_info
from orchestrator.plan.columns import METRICS
from orchestrator.plan.plan import Plan, Trial, make_plan
from orchestrator.plan.resources import compute_here
from orchestrator.scheduler.results_table import columns_of
from orchestrator.scheduler.sampling import recorded
from orchestrator.spec.load import load_study
from orchestrator.spec.model import SCENARIO_AXES
from orchestrator.store.keys import CacheKeys
from orchestrator.store.lookup import StageResults
from orchestrator.store.serialization import REPAIRED
from orchestrator.store.store import Store
from orchestrator.store.study_folder import StudyFolder
from orchestrator.terminal import Parser, as_process
from ulrl.interchange import export_model

MOST_SHOWN = 10  # trials without a model that a line names
RECORD, RESULTS = "study.yaml", "results.csv"
SCENARIO = ("attack", "attack_options", *SCENARIO_AXES[1:])


ABSENT = (
    "not in the store, which keeps the weights that mlflow.log_models names; with another value "
    "there, run the study from an empty store"
)


def export_study(
    folder: Path, out: Path, numbers: Sequence[int] = ()
) -> Iterator[tuple[int, Path | str]]:
    """Write the repaired model of each trial to its own folder under `out`.

    Yields the number of a trial and the folder of its model, or why there is none.

    Args:
        folder: The study's folder.
        out: Where folders ``trial-NNNNN`` appear, each complete or not at all.
        numbers: Trials by their row of ``results.csv``, from 0; by default all.

    Raises:
        SpecError: `folder` is no study folder, or has no such trial.
    """
    for name in (RECORD, RESULTS):
        if not (folder / name).is_file():
            raise SpecError([f"{folder}: no study folder; it has no {name}"])
    study = load_study(str(folder / RECORD))
    if study.store.is_redacted:
        text = "a study folder holds no secrets; for this command write the store's address there"
        raise SpecError([f"{folder / RECORD}: store: {text} in full, in place of {study.store}"])
    plan = make_plan(study, recorded(study, StudyFolder(folder)))
    trials = plan.rows
    with (folder / RESULTS).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if len(rows) != len(trials):
        raise SpecError([f"{folder}: {RESULTS} and {RECORD} are not of one study; run it again"])
    for number in numbers:
        if not 0 <= number < len(rows):
            raise SpecError([f"{folder}: trials are 0 to {len(rows) - 1}; got {number}"])
    findings = StageResults(Store(study.store), CacheKeys(study.victim, compute_here(study)))
    for number in numbers or range(len(rows)):
        place = out / f"trial-{number:05d}"
        yield number, _export(plan, trials[number], rows[number], findings, place)


def _export(
    plan: Plan, trial: Trial, row: dict[str, str], findings: StageResults, place: Path
) -> Path | str:
    if row["status"] != "done":
        return f"it is {row['status']}"
    store, key = Store(plan.study.store), repaired_key(findings, trial)
    model_spec = model_spec_from_info(trial.scenario)
    repaired = None
    if key and model_spec is not None:
        repaired = REPAIRED.read(store, key, model_spec)
    if repaired is None or model_spec is None:
        return ABSENT
    columns = columns_of(plan)
    settings = columns[columns.index("defence_seed") : columns.index("status")]
    metrics = (f"{metric}_{when}_report" for metric in METRICS for when in ("before", "after"))
    card: dict[str, dict[str, Any]] = {
        "scenario": {name: row[name] for name in SCENARIO},
        "setting": {name: row[name] for name in settings},
        "metrics": {name: float(row[name]) for name in (*metrics, "der_report") if row[name]},
    }
    try:
        export_model(repaired.content.of(model_spec), place, card)
    except OSError as error:
        raise unwritable(place, error) from None
    return place


def main(argv: Sequence[str] | None = None) -> int:
    """Export what is asked for; return the exit code."""
    description = "Write a study's repaired models as safetensors with model cards."
    parser = Parser("orchestrator.export", "ulrl-export", description)
    parser.add_argument(
        "folder", metavar="DIR", type=given_path, help="the study's folder"
    ).complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    parser.add_argument(
        "out", metavar="OUT", type=given_path, help="where a folder per trial appears"
    )
    text = "a row of results.csv, from 0; may be repeated (default: all)"
    parser.add_argument("--trial", metavar="N", type=int, action="append", default=[], help=text)
    arguments = parser.parse_args(argv)
    lacking: dict[str, list[int]] = {}  # trials without a model, by the reason
    try:
        for number, found in export_study(arguments.folder, arguments.out, arguments.trial):
            if isinstance(found, Path):
                print(f"trial {number}: {found}")  # noqa: T201 - the command's answer
            else:
                lacking.setdefault(found, []).append(number)
        lines = [_lacking(numbers, reason) for reason, numbers in lacking.items()]
        if arguments.trial and lines:
            raise SpecError(lines)
        print(*lines, sep="\n", end="\n" if lines else "")  # noqa: T201 - likewise
    except StudyError as stop:
        print(stop, file=sys.stderr)  # noqa: T201 - nothing else reaches a person
        return stop.exit_code
    return 0


def _lacking(numbers: Sequence[int], reason: str) -> str:
    """Return in one line which trials have no model, and why."""
    shown = ", ".join(map(str, numbers[:MOST_SHOWN]))
    more = f" and {len(numbers) - MOST_SHOWN} more" if len(numbers) > MOST_SHOWN else ""
    word = "model of trial" if len(numbers) == 1 else f"{len(numbers)} models, of trials"
    return f"no {word} {shown}{more}: {reason}"


def command() -> int:
    """Be the command `ulrl-export`."""
    return as_process(main)


if __name__ == "__main__":
    sys.exit(command())
