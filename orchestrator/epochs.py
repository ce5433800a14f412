"""curves.csv: how every ascent and every relearning went, epoch by epoch, for the report."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.conductor import Conductor
from orchestrator.decisions import Status
from orchestrator.files import csv_text, write_text
from orchestrator.findings import Findings
from orchestrator.reporting.schema import RELEARN, SCENARIO, SERIES, UNLEARN
from orchestrator.results import Results

_DIGITS = 6  # of fractions of a few hundred images


def write_curves(conductor: Conductor, results: Results, findings: Findings, path: Path) -> None:
    """Write the curves of all done trials: a row per ascent, and one per trial's relearning.

    Trials that share an ascent have one row of it, under the first of them. Curves of ACC, ASR
    and RA are those on the monitor subset; ``accuracy`` is what the stop rule reads.
    """
    axes = results.columns[len(SCENARIO) : results.columns.index("status")]
    rows = _rows(conductor, results, findings)
    write_text(path, csv_text(("phase", *SCENARIO, *axes, *SERIES), _only(rows, axes)))


def _only(rows: Iterable[Mapping[str, Any]], axes: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    wanted = ("phase", *SCENARIO, *axes, *SERIES)
    return ({name: row[name] for name in wanted} for row in rows)


def _rows(conductor: Conductor, results: Results, findings: Findings) -> Iterator[dict[str, Any]]:
    told: set[str] = set()
    for trial in conductor.plan.trials:
        verdict = conductor.decisions.verdict(trial)
        scored = conductor.scores.get(trial.number)
        repaired = conductor.repairs.get(trial.number)
        done = verdict is not None and verdict.status is Status.DONE
        if not done or scored is None or repaired is None:
            continue
        row = results.row(trial)
        key = scored.runs[0].key
        if key not in told:
            told.add(key)
            ascent = findings.ascent(scored)
            series = _series(ascent.get("curve", ())) | {"accuracy": _list(ascent["accuracy"])}
            yield {**row, "phase": UNLEARN, **series}
        yield {**row, "phase": RELEARN, **_series(repaired.curve)}


def _series(points: Iterable[Iterable[float]]) -> dict[str, str]:
    """Return the columns of a curve's points: ACC, ASR and RA of each epoch."""
    columns = list(zip(*points, strict=True)) or [(), (), ()]
    return {"accuracy": "[]"} | {
        name: _list(values) for name, values in zip(SERIES[1:], columns, strict=True)
    }


def _list(values: Iterable[float]) -> str:
    return json.dumps([round(float(value), _DIGITS) for value in values])
