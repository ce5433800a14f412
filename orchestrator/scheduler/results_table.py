"""Files of results: results.csv, results.parquet, curves.csv and confusion.parquet."""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias, get_args, get_origin, get_type_hints

import numpy as np

from orchestrator.files import aside_of, csv_text, write_bytes, write_text
from orchestrator.plan.columns import MODELS, RELEARN, SCENARIO, SERIES, UNLEARN
from orchestrator.plan.plan import Plan, Trial
from orchestrator.scheduler.decisions import Status, Verdict
from orchestrator.scheduler.scheduler import StudyScheduler
from orchestrator.store.lookup import (
    Counts,
    Findings,
    RepairResult,
    ScoreResult,
    StageResults,
    VictimResult,
)
from orchestrator.store.serialization import COUNTS
from ulrl.attacks import LabelRule
from ulrl.hyperparameters import PARTS, names
from ulrl.layers import Layers
from ulrl.metrics import der, is_wreck, rir
from ulrl.scoring import NeuronScores

_Basis: TypeAlias = tuple[Verdict | None, VictimResult | None, Findings | None, RepairResult | None]

METRICS = ("acc", "asr", "ra")
_WHOLE = (*("target_label", "seed", "defence_seed", "stop_epoch", "target_rank", "collapse_class"),)
_FRACTIONS = ("poison_ratio", "target_z", "accuracy_at_stop", "collapse_share", "seconds")
_METRIC = re.compile(r"(acc|asr|ra)_(before|after)_|der_|rir_")


def columns_of(plan: Plan) -> tuple[str, ...]:
    """Return the columns of a study's results, in order."""
    metrics = tuple(
        f"{metric}_{when}_{half}"
        for metric in METRICS
        for when in ("before", "after")
        for half in ("selection", "report")
    )
    return (
        *("attack", "attack_options", "dataset", "architecture", "poison_ratio"),
        *("target_label", "seed", "defence_seed", "clean_ratio", "unlearn_threshold"),
        *("reinit_ratio", *plan.further_axes, "status", "error", "victim_ok", *metrics),
        *("der_selection", "der_report", "flagged", "target_z", "stop_epoch"),
        *("threshold_reached", "seconds", "mlflow_run_id"),
        *("target_rank", "accuracy_at_stop", "plain_fine_tuning"),
        *("collapse_class", "collapse_share", "wrecked", "rir_selection", "rir_report"),
    )


class ResultRows:
    """Rows of a study as they stand."""

    def __init__(self, scheduler: StudyScheduler, findings: StageResults) -> None:
        self._scheduler = scheduler
        self._findings = findings
        self._plan = scheduler.plan
        self.columns = columns_of(scheduler.plan)
        self._rows: dict[int, tuple[_Basis, dict[str, Any]]] = {}  # by the trial's number

    def row(self, trial: Trial, run_id: str = "") -> dict[str, Any]:
        """Return a trial's row; columns that do not apply are None."""
        basis = (
            self._scheduler.decisions.verdict(trial),
            self._findings.victim(trial.scenario),
            self._scheduler.scores.get(trial.number),
            self._scheduler.repairs.get(trial.number),
        )
        known = self._rows.get(trial.number)
        if known is None or any(a is not b for a, b in zip(known[0], basis, strict=True)):
            known = self._rows[trial.number] = (basis, self._made(trial, *basis))
        return {**known[1], "mlflow_run_id": run_id or None}

    def _made(
        self,
        trial: Trial,
        verdict: Verdict | None,
        victim: VictimResult | None,
        scores: Findings | None,
        repaired: RepairResult | None,
    ) -> dict[str, Any]:
        status = Status.PENDING if verdict is None else verdict.status
        row: dict[str, Any] = dict.fromkeys(self.columns)
        row |= self._plan.point(trial)
        row["status"] = status.value
        row["error"] = verdict.error or None if verdict is not None else None
        if victim is None:
            return row
        row |= _before(victim)
        row["victim_ok"] = self.victim_ok(victim)
        if status is Status.DONE and scores is not None and repaired is not None:
            row |= _after(trial, victim, scores, repaired)
        return row

    def victim_ok(self, victim: VictimResult) -> bool:
        """Whether a victim is one, by the study's rule, on the selection half."""
        return self._plan.study.victim_rule.admits(victim.evaluation.selection)

    def write(self, folder: Path, run_ids: Mapping[str, str]) -> None:
        """Write ``results.csv`` and ``results.parquet``, each whole or not at all."""
        rows = [self.row(trial, run_ids.get(trial.key, "")) for trial in self._plan.rows]
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(folder / "results.csv", text.getvalue())
        _write_parquet(folder, rows, self.columns)


def _before(victim: VictimResult) -> dict[str, Any]:
    return {
        f"{metric}_before_{half}": getattr(getattr(victim.evaluation, half), metric)
        for metric in METRICS
        for half in ("selection", "report")
    }


def _after(
    trial: Trial, victim: VictimResult, scored: Findings, repaired: RepairResult
) -> dict[str, Any]:
    before, after = victim.evaluation, repaired.evaluation
    metrics = {
        f"{metric}_after_{half}": getattr(getattr(after, half), metric)
        for metric in METRICS
        for half in ("selection", "report")
    }
    return {
        **metrics,
        "der_selection": der(before.selection, after.selection),
        "der_report": der(before.report, after.report),
        "rir_selection": rir(before.selection, after.selection),
        "rir_report": rir(before.report, after.report),
        "wrecked": is_wreck(after.selection.acc, classes=classes_of(trial, scored)),
        "seconds": round(victim.seconds + scored.seconds + repaired.seconds, 4),
        **(_phase_one(trial, scored) if isinstance(scored, ScoreResult) else {}),
    }


def classes_of(trial: Trial, scored: Findings) -> int:
    """Return how many classes a trial's models tell apart."""
    if isinstance(scored, ScoreResult):
        return len(scored.scores.predicted)
    facts = trial.scenario.dataset.info()
    return 1 if facts is None else facts.classes


def _phase_one(trial: Trial, scored: ScoreResult) -> dict[str, Any]:
    """Return the columns of what ULRL's phase 1 found."""
    scores = scored.scores
    return {
        "flagged": json.dumps(flagged(trial, scored)),
        "target_z": target_z(trial, scored),
        "target_rank": target_rank(trial, scored),
        "stop_epoch": scores.stop_epoch,
        "accuracy_at_stop": scores.stop_accuracy,
        "plain_fine_tuning": not scores.suspects,
        "threshold_reached": scores.threshold_reached,
        "collapse_class": scores.collapse_class,
        "collapse_share": scores.collapse_share,
    }


def target_z(trial: Trial, scored: ScoreResult) -> float | None:
    """Return the modified z-score of the target's row; None for all-to-all, or NaN."""
    if trial.scenario.poison.labels is LabelRule.ALL_TO_ALL:
        return None
    z, _ = _place(scored.scores, trial.scenario.poison.target_label)
    return z if z == z else None  # noqa: PLR0124 - NaN is the one number that is not itself


def target_rank(trial: Trial, scored: ScoreResult) -> int | None:
    """Return the place of the target's row among the head's, 1 being the one that moved most."""
    if trial.scenario.poison.labels is LabelRule.ALL_TO_ALL:
        return None
    return _place(scored.scores, trial.scenario.poison.target_label)[1]


@lru_cache(maxsize=64)  # the trials of a scenario share them
def _place(scores: NeuronScores, row: int) -> tuple[float, int | None]:
    """Return the z-score of a row of the head, and its place among the rows."""
    return float(scores.head_z[row]), scores.rank(row)


def flagged(trial: Trial, scored: ScoreResult) -> list[int] | list[str]:
    """Return the flagged rows of the head; with ``layers: all``, each as ``layer:row``."""
    if trial.hyperparameters.unlearn.layers is Layers.HEAD:
        return list(scored.scores.suspects)
    return [f"{layer}:{row}" for layer, row in scored.scores.places]


def _write_parquet(folder: Path, rows: list[dict[str, Any]], columns: tuple[str, ...]) -> None:
    import pandas as pd  # half a second of import, needed here only

    frame = pd.DataFrame(rows, columns=list(columns), dtype="object")
    typed = frame.astype({name: _type_of(name) for name in columns})
    write_bytes(folder / "results.parquet", typed.to_parquet(index=False))


def _type_of(column: str) -> str:
    """Return pandas' name of a column's type, which its values cannot change."""
    if column in _WHOLE:
        return "Int64"
    if column in ("victim_ok", "threshold_reached", "plain_fine_tuning", "wrecked"):
        return "boolean"
    if column in _FRACTIONS or _METRIC.match(column):
        return "Float64"
    known = names()
    if column not in known:
        return "string"
    hint = get_type_hints(PARTS[known[column][0]])[column]
    parts = (hint,) if isinstance(hint, type) else get_args(hint)
    kinds = {bool: "boolean", int: "Int64", float: "Float64"}
    return kinds.get(parts[0], "string") if get_origin(hint) is not tuple else "string"


_DIGITS = 6  # of fractions of a few hundred images


def write_curves(
    scheduler: StudyScheduler, results: ResultRows, findings: StageResults, path: Path
) -> None:
    """Write the curves of all done trials: a row per ascent, and one per trial's relearning.

    Trials that share an ascent have one row of it, under the first of them. Curves of ACC, ASR
    and RA are those on the monitor subset; ``accuracy`` is what the stop rule reads.
    """
    axes = results.columns[len(SCENARIO) : results.columns.index("status")]
    rows = _rows(scheduler, results, findings)
    write_text(path, csv_text(("phase", *SCENARIO, *axes, *SERIES), _only(rows, axes)))


def _only(rows: Iterable[Mapping[str, Any]], axes: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    wanted = ("phase", *SCENARIO, *axes, *SERIES)
    return ({name: row[name] for name in wanted} for row in rows)


def _rows(
    scheduler: StudyScheduler, results: ResultRows, findings: StageResults
) -> Iterator[dict[str, Any]]:
    written: set[str] = set()
    for trial in scheduler.plan.trials:
        verdict = scheduler.decisions.verdict(trial)
        scored = scheduler.scores.get(trial.number)
        repaired = scheduler.repairs.get(trial.number)
        done = verdict is not None and verdict.status is Status.DONE
        if not done or scored is None or repaired is None:
            continue
        row = results.row(trial)
        key = scored.runs[0].key if isinstance(scored, ScoreResult) else ""
        if key and key not in written:
            written.add(key)
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


_GROUP = 1_000_000  # cells that are in memory together
_TABLES = [name.split("_") for name in COUNTS]  # half and images of each


def write_confusions(scheduler: StudyScheduler, findings: StageResults, path: Path) -> None:
    """Write the cells of all confusion matrices that are not zero, whole or not at all.

    Trials of a scenario share a victim: it has one set of cells, under the first of them.
    """
    import pyarrow.parquet as pq

    aside = aside_of(path)
    try:
        with pq.ParquetWriter(aside, _schema(), compression="zstd") as file:
            for group in _groups(_counts(scheduler, findings)):
                file.write_table(_table(group))
        aside.replace(path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise


def _counts(scheduler: StudyScheduler, findings: StageResults) -> Iterator[tuple[int, int, Counts]]:
    """Yield a trial's number, which of `MODELS` it is about, and the model's counts."""
    seen: set[int] = set()
    for number, trial in enumerate(scheduler.plan.rows):
        scenario = trial.scenario
        victim = None if scenario.number in seen else findings.victim(scenario)
        seen.add(scenario.number)
        if victim is not None:
            yield number, MODELS.index("victim"), victim.counts
        repaired = scheduler.repairs.get(trial.number)
        if repaired is not None and _is_done(scheduler, trial):
            yield number, MODELS.index("repaired"), repaired.counts


def _is_done(scheduler: StudyScheduler, trial: Trial) -> bool:
    verdict = scheduler.decisions.verdict(trial)
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
