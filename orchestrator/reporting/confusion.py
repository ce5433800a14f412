"""confusion.parquet as values: confusion matrices of models on the report half."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import Mistakes
from orchestrator.reporting.results import Results
from orchestrator.reporting.schema import METRICS, MODELS

FILE = "confusion.parquet"  # in the study's folder
WHEN = dict(zip(MODELS, ("before", "after"), strict=True))  # in the columns of results.csv
_WHOLE = ("trial", "true_class", "wanted_class", "predicted_class", "count")
_COLUMNS = (*_WHOLE, "model", "half", "images")
_LARGEST = 100_000  # classes; more would be no file of this program's

Counts: TypeAlias = NDArray[np.int64]
Shares: TypeAlias = NDArray[np.float64]
Key: TypeAlias = tuple[int, str]  # row of results.csv from 0, one of `MODELS`


@dataclass(frozen=True, kw_only=True, eq=False)
class Matrices:
    """Predictions of one model, or of several together.

    Attributes:
        clean: Of clean images by class, ``[classes, classes]``: true in rows, predicted in columns.
        triggered: Of triggered images, by the class that they are of without the trigger.
        wanted: The class that the attacker wants for images of each; -1 where none is triggered.
    """

    clean: Counts
    triggered: Counts
    wanted: Counts

    @property
    def classes(self) -> int:
        return len(self.wanted)

    @cached_property
    def by_class(self) -> Mapping[str, Shares]:
        """ACC, ASR and RA by the class of the image; NaN where a class has none."""
        return {
            "acc": _divided(self.clean.diagonal(), self.clean),
            "asr": _divided(self._as_wanted, self.triggered),
            "ra": _divided(self.triggered.diagonal(), self.triggered),
        }

    @property
    def metrics(self) -> Mapping[str, float]:
        """ACC, ASR and RA of all classes together; NaN without images."""
        clean, triggered = (max(int(m.sum()), 0) or np.nan for m in (self.clean, self.triggered))
        return {
            "acc": float(self.clean.trace() / clean),
            "asr": float(self._as_wanted.sum() / triggered),
            "ra": float(self.triggered.trace() / triggered),
        }

    @property
    def _as_wanted(self) -> Counts:
        hits: Counts = self.triggered[np.arange(self.classes), self.wanted]  # 0 where it is -1
        return hits

    def shares(self, images: str) -> Shares:
        """Return a matrix with rows that sum to 1, those without images to 0."""
        matrix: Counts = getattr(self, images)
        shares: Shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        return shares


def added(several: Sequence[Matrices]) -> Matrices:
    """Return the predictions of several models on the same images together."""
    return Matrices(
        clean=np.sum([one.clean for one in several], axis=0),
        triggered=np.sum([one.triggered for one in several], axis=0),
        wanted=several[0].wanted,
    )


def read_confusions(
    path: Path, results: Results, groups: Collection[Collection[Key]]
) -> list[list[Matrices] | None]:
    """Return the matrices of groups of models, each group of one number of classes.

    Args:
        path: Of the file; there need be none.
        results: Whose rows the file's trials are.
        groups: Which models; a group that the file lacks one of is None.

    Raises:
        Mistakes: The file is there, but is no such table, or is not of these results.
    """
    if not path.exists() or not groups:
        return [None for _ in groups]
    cells = _read(path, {key for group in groups for key in group})
    found: list[list[Matrices] | None] = []
    for group in groups:
        own = [cells.get(key) for key in group]
        parts = [one for one in own if one is not None]
        if len(parts) < len(own):
            found.append(None)
            continue
        classes = 1 + max(int(part[name].max()) for part in parts for name in _WHOLE[1:4])
        matrices = [_matrices(part, classes) for part in parts]
        for key, one in zip(group, matrices, strict=True):
            _check(path, results, key, one)
        found.append(matrices)
    return found


def _read(path: Path, keys: Collection[Key]) -> dict[Key, Mapping[str, Any]]:
    """Return the columns of the cells on the report half of each model."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    trials = sorted({trial for trial, _ in keys})
    try:
        schema = pq.read_schema(path)
        if missing := [name for name in _COLUMNS if name not in schema.names]:
            raise Mistakes([f"{path}: lacks the column {missing[0]}"])
        filters = [("trial", "in", trials), ("half", "=", "report")]
        table = pq.read_table(path, columns=list(_COLUMNS), filters=filters)
        words = {name: np.array(table[name].to_pylist(), object) for name in ("model", "images")}
        whole = {n: table[n].cast(pa.int64()).fill_null(-1).to_numpy() for n in _WHOLE}
    except (OSError, pa.ArrowException, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise Mistakes([f"{path}: cannot be read as a table of counts; {reason}"]) from None
    for name in _WHOLE[1:]:
        low = -1 if name == "wanted_class" else 0  # which clean images have none of
        high = np.iinfo(np.int64).max if name == "count" else _LARGEST
        if not low <= whole[name].min(initial=low) <= whole[name].max(initial=low) <= high:
            raise Mistakes([f"{path}: {name}: is missing or out of range somewhere"])
    found: dict[Key, Mapping[str, Any]] = {}
    for trial, model in keys:
        own = (whole["trial"] == trial) & (words["model"] == model)
        if own.any():
            columns = {name: values[own] for name, values in whole.items()}
            found[trial, model] = {**columns, "images": words["images"][own]}
    return found


def _matrices(cells: Mapping[str, Any], classes: int) -> Matrices:
    made = {}
    wanted = np.full(classes, -1)
    for images in ("clean", "triggered"):
        own = cells["images"] == images
        true, predicted = cells["true_class"][own], cells["predicted_class"][own]
        made[images] = np.zeros((classes, classes), np.int64)
        np.add.at(made[images], (true, predicted), cells["count"][own])
        if images == "triggered":
            wanted[true] = cells["wanted_class"][own]
    return Matrices(**made, wanted=wanted)


def _check(path: Path, results: Results, key: Key, found: Matrices) -> None:
    """Refuse counts of other models than those of the results: rows may have moved."""
    number, model = key
    for metric in METRICS:
        column = f"{metric}_{WHEN[model]}_report"
        said = results.trials[number].numbers.get(column, np.nan)
        counted = found.metrics[metric]
        if not abs(said - counted) < 1e-9:
            text = (
                f"{path}: trial {number}, {model}: its counts make {column} {counted:.6g}, and "
                f"results.csv has {said:.6g}; run the study's command again"
            )
            raise Mistakes([text])


def _divided(hits: Counts, matrix: Counts) -> Shares:
    total = matrix.sum(axis=1)
    return np.where(total > 0, hits / np.maximum(total, 1), np.nan)
