"""confusion.parquet: what every victim and every repaired model takes images of each class for."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.conductor import Conductor
from orchestrator.decisions import Status
from orchestrator.entries import COUNTS
from orchestrator.files import aside_of
from orchestrator.findings import Counts, Findings
from orchestrator.plan import Trial
from orchestrator.reporting.schema import MODELS

_GROUP = 1_000_000  # cells that are in memory together
_TABLES = [name.split("_") for name in COUNTS]  # half and images of each


def write_confusions(conductor: Conductor, findings: Findings, path: Path) -> None:
    """Write the cells of all confusion matrices that are not zero, whole or not at all.

    Trials of a scenario share a victim: it has one set of cells, under the first of them.
    """
    import pyarrow.parquet as pq

    aside = aside_of(path)
    try:
        with pq.ParquetWriter(aside, _schema(), compression="zstd") as file:
            for group in _groups(_counts(conductor, findings)):
                file.write_table(_table(group))
        aside.replace(path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise


def _counts(conductor: Conductor, findings: Findings) -> Iterator[tuple[int, int, Counts]]:
    """Yield a trial's number, which of `MODELS` it is about, and the model's counts."""
    seen: set[int] = set()
    for number, trial in enumerate(conductor.plan.rows):
        scenario = trial.scenario
        victim = None if scenario.number in seen else findings.victim(scenario)
        seen.add(scenario.number)
        if victim is not None:
            yield number, MODELS.index("victim"), victim.counts
        repaired = conductor.repairs.get(trial.number)
        if repaired is not None and _is_done(conductor, trial):
            yield number, MODELS.index("repaired"), repaired.counts


def _is_done(conductor: Conductor, trial: Trial) -> bool:
    verdict = conductor.decisions.verdict(trial)
    return verdict is not None and verdict.status is Status.DONE


def _groups(
    found: Iterator[tuple[int, int, Counts]],
) -> Iterator[list[tuple[int, int, Counts]]]:
    group, cells = [], 0
    for one in found:
        group.append(one)
        cells += sum(map(len, one[2].values()))
        if cells >= _GROUP:
            yield group
            group, cells = [], 0
    if group:
        yield group


def _schema() -> Any:
    import pyarrow as pa

    word, number = pa.dictionary(pa.int8(), pa.string()), pa.int32()
    return pa.schema(
        [
            *(("trial", number), ("model", word), ("half", word), ("images", word)),
            *(("true_class", number), ("wanted_class", number), ("predicted_class", number)),
            ("count", number),
        ]
    )


def _table(group: Sequence[tuple[int, int, Counts]]) -> Any:
    """Return the cells of models as rows."""
    import pyarrow as pa

    heads = [
        (number, model, place, len(counts[name]))
        for number, model, counts in group
        for place, name in enumerate(COUNTS)
    ]
    head = np.array(heads, np.int32)
    trial, model, place = np.repeat(head[:, :3], head[:, 3], axis=0).T
    cells = np.full((len(trial), 4), -1, np.int32)
    start = 0
    for _, _, counts in group:
        for name, columns in COUNTS.items():
            table = counts[name].numpy()
            end = start + len(table)
            if columns == 4:
                cells[start:end] = table
            else:
                cells[start:end, ::2] = table[:, :2]
                cells[start:end, 3] = table[:, 2]
            start = end
    true, wanted, predicted, count = cells.T
    return pa.Table.from_arrays(
        [
            pa.array(trial),
            _words(model, MODELS),
            *(_words(place, [table[column] for table in _TABLES]) for column in (0, 1)),
            pa.array(true),
            pa.array(wanted, mask=wanted < 0),
            *(pa.array(predicted), pa.array(count)),
        ],
        schema=_schema(),
    )


def _words(codes: Any, words: Sequence[str]) -> Any:
    """Return words by their place, those that are several times there once."""
    import pyarrow as pa

    distinct = list(dict.fromkeys(words))
    places = np.array([distinct.index(word) for word in words], np.int8)
    return pa.DictionaryArray.from_arrays(places[codes], distinct)
