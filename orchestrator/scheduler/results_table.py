"""Files of results: results.csv, results.parquet, curves.csv and confusion.parquet."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias, get_args, get_origin, get_type_hints

import numpy as np

from orchestrator.files import aside_of, csv_text, write_bytes, write_text
from orchestrator.plan.columns import (
    COST,
    EDITED,
    HALVES,
    METRICS,
    MODELS,
    RELEARN,
    SCENARIO,
    SERIES,
    UNLEARN,
    VARIED_DEFAULTS,
)
from orchestrator.plan.cost_model import Workload
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
    own_value,
)
from orchestrator.store.serialization import COUNTS
from ulrl.attacks import LabelRule
from ulrl.edits import EDITS as EDIT_COLUMNS
from ulrl.hyperparameters import PARTS, names
from ulrl.layers import Layers
from ulrl.metrics import Metrics, der, is_wreck, rir
from ulrl.scoring import NeuronScores

_Basis: TypeAlias = tuple[Verdict | None, VictimResult | None, Findings | None, RepairResult | None]

_BOOLEAN = ("victim_ok", "threshold_reached", "plain_fine_tuning", "wrecked", "passes_planned")
_WHOLE = (
    *("target_label", "seed", "defence_seed", "stop_epoch", "target_rank", "collapse_class"),
    "zeroed_parts",
)
_FRACTIONS = (
    *("poison_ratio", "target_z", "accuracy_at_stop", "collapse_share", "seconds"),
    *("repair_seconds", "passes", "zeroed_share", "weight_change"),
)
_METRIC = re.compile(r"\w+_(before|after)_(selection|report)|der_|rir_")


def columns_of(plan: Plan) -> tuple[str, ...]:
    """Return the columns of a study's results, in order."""
    metrics, own = metric_columns(METRICS), metric_columns(plan.study.metrics)
    return (
        *("attack", "attack_options", "dataset", "architecture", "poison_ratio"),
        *("target_label", "seed", "defence_seed", "clean_ratio", "unlearn_threshold"),
        *("reinit_ratio", *plan.further_columns, "status", "error", "victim_ok", *metrics),
        *("der_selection", "der_report", "flagged", "target_z", "stop_epoch"),
        *("threshold_reached", "seconds", "mlflow_run_id"),
        *("target_rank", "accuracy_at_stop", "plain_fine_tuning"),
        *("collapse_class", "collapse_share", "wrecked", "rir_selection", "rir_report"),
        *own,
        *((*COST, *EDITED, VARIED_DEFAULTS) if compares_methods(plan) else ()),
    )


def compares_methods(plan: Plan) -> bool:
    """Whether a study names its repair methods, so that their cost and edits are compared."""
    return "repair" in plan.study.grid.settings


def metric_columns(metrics: Iterable[str]) -> tuple[str, ...]:
    """Return the columns of metrics of victims and of repaired models."""
    return tuple(
        f"{metric}_{when}_{half}"
        for metric in metrics
        for when in ("before", "after")
        for half in HALVES
    )


class ResultRows:
    """Rows of a study as they stand."""

    def __init__(self, scheduler: StudyScheduler, findings: StageResults) -> None:
        self._scheduler = scheduler
        self._findings = findings
        self._plan = scheduler.plan
        self.columns = columns_of(scheduler.plan)
        self._workload = Workload(scheduler.plan)
        self._compares = compares_methods(scheduler.plan)
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
            known = self._rows[trial.number] = (basis, self._row(trial, *basis))
        return {**known[1], "mlflow_run_id": run_id or None}

    def _row(
        self,
        trial: Trial,
        verdict: Verdict | None,
        victim: VictimResult | None,
        scores: Findings | None,
        repaired: RepairResult | None,
    ) -> dict[str, Any]:
        row: dict[str, Any] = dict.fromkeys(self.columns)
        row |= self._plan.point(trial)
        if self._compares:
            row[VARIED_DEFAULTS] = self._plan.defaults(trial.setting)
        row["status"] = (Status.PENDING if verdict is None else verdict.status).value
        row["error"] = verdict.error or None if verdict is not None else None
        if victim is None:
            return row
        own = self._plan.study.metrics
        row |= _metrics(victim, "before") | own_numbers(own, victim, "before")
        row["victim_ok"] = self.victim_ok(victim)
        if _is_done(verdict) and scores is not None and repaired is not None:
            row |= _after(trial, victim, scores, repaired)
            row |= own_numbers(own, repaired, "after")
            if self._compares:
                row |= self._cost(trial, scores, repaired) | _edited(repaired)
        return row

    def _cost(self, trial: Trial, scored: Findings, repaired: RepairResult) -> dict[str, Any]:
        """Return what a repair took: all stages that it needs, shared with others or not.

        Neither the victim's training nor the evaluation is part of it. Epochs of ULRL are those
        that there were, but for those of a finder's first ascent, which are not stored; of these,
        and of other methods, only the plan is known.
        """
        relearned, _ = repaired.runs
        seconds = round(scored.seconds + relearned.seconds, 4)
        if isinstance(scored, ScoreResult):
            first = self._workload.planned_first_ascent(trial)
            passes = float(first + scored.scores.stop_epoch + len(repaired.training))
            planned = first > 0
        else:
            passes = self._workload.planned_passes(trial)
            planned = True
        return dict(zip(COST, (seconds, round(passes, 4), planned), strict=True))

    def victim_ok(self, victim: VictimResult) -> bool:
        """Whether a victim is one, by the study's rule, on the selection half."""
        return self._plan.study.victim_rule.admits(victim.evaluation.selection)

    def write(self, folder: Path, run_ids: Mapping[str, str]) -> None:
        """Write ``results.csv`` and ``results.parquet``, each whole or not at all."""
        rows = [self.row(trial, run_ids.get(trial.key, "")) for trial in self._plan.rows]
        write_text(folder / "results.csv", csv_text(self.columns, rows))
        import pandas as pd  # half a second of import, needed here only

        frame = pd.DataFrame(rows, columns=list(self.columns), dtype="object")
        typed = frame.astype({name: _type_of(name) for name in self.columns})
        write_bytes(folder / "results.parquet", typed.to_parquet(index=False))


def _is_done(verdict: Verdict | None) -> bool:
    return verdict is not None and verdict.status is Status.DONE


def _metrics(result: VictimResult | RepairResult, when: str) -> dict[str, Any]:
    return {
        f"{metric}_{when}_{half}": getattr(getattr(result.evaluation, half), metric, None)
        for metric in METRICS
        for half in HALVES
    }


@lru_cache(maxsize=256)  # the trials of a scenario share its victim
def own_numbers(
    metrics: tuple[str, ...], result: VictimResult | RepairResult, when: str
) -> dict[str, float | None]:
    """Return the user's own metrics of a model on both halves, by column.

    Raises:
        StudyError: One cannot be computed.
    """
    return {
        f"{metric}_{when}_{half}": own_value(metric, result, half)
        for half in HALVES
        for metric in metrics
    }


def _after(
    trial: Trial, victim: VictimResult, scored: Findings, repaired: RepairResult
) -> dict[str, Any]:
    return {
        **_metrics(repaired, "after"),
        **_ratings(victim, repaired),
        "wrecked": wrecks(trial, scored, repaired),
        "seconds": round(victim.seconds + scored.seconds + repaired.seconds, 4),
        **(_phase_one(trial, scored) if isinstance(scored, ScoreResult) else {}),
    }


def _edited(repaired: RepairResult) -> dict[str, Any]:
    """Return what the repair changed in the network; nothing where that was not recorded."""
    found = repaired.edits
    if found is None:
        return {}
    return dict(zip(EDITED, (found.zeroed_parts, found.zeroed_share, found.change), strict=True))


def _ratings(victim: VictimResult, repaired: RepairResult) -> dict[str, float]:
    """Return DER and RIR of a repair by column; nothing where there is no attack."""
    found: dict[str, float] = {}
    for half in HALVES:
        before, after = (getattr(one.evaluation, half) for one in (victim, repaired))
        if isinstance(before, Metrics) and isinstance(after, Metrics):
            found |= {f"der_{half}": der(before, after), f"rir_{half}": rir(before, after)}
    return found


def wrecks(trial: Trial, scored: Findings, repaired: RepairResult) -> bool:
    """Whether a repair leaves a model at or below chance, on the selection half."""
    true, _, count = repaired.counts["selection_clean"].numpy().astype(np.int64).T
    chance = 1 / _classes_of(trial, scored)  # of classes of equal size, where there are no counts
    if len(count):
        sizes = np.zeros(true.max() + 1, np.int64)
        np.add.at(sizes, true, count)
        chance = int(sizes.max()) / int(sizes.sum())  # divided as ACC is: equal counts are equal
    return is_wreck(repaired.evaluation.selection.acc, chance)


def _classes_of(trial: Trial, scored: Findings) -> int:
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
    """Return the modified z-score of the target's row; None without one target, or NaN."""
    if not _has_target(trial):
        return None
    z, _ = _place(scored.scores, trial.scenario.poison.target_label)
    return z if z == z else None  # noqa: PLR0124 - NaN is the one number that is not itself


def _has_target(trial: Trial) -> bool:
    poison = trial.scenario.poison
    return not poison.benign and poison.labels is not LabelRule.ALL_TO_ALL


def target_rank(trial: Trial, scored: ScoreResult) -> int | None:
    """Return the place of the target's row among the head's, 1 being the one that moved most.

    None without one target: for all-to-all, and where there is no attack.
    """
    if not _has_target(trial):
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


def _type_of(column: str) -> str:
    """Return pandas' name of a column's type, which its values cannot change."""
    if column in _WHOLE:
        return "Int64"
    if column in _BOOLEAN:
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
    and RA are those on the monitor subset; ``accuracy`` is what the stop rule reads. Without an
    attack, curves of ASR and RA are empty lists.
    """
    axes = results.columns[len(SCENARIO) : results.columns.index("status")]
    names = (*SCENARIO, *axes)
    rows, written = list[dict[str, Any]](), set[str]()
    for trial in scheduler.plan.trials:
        scored, repaired = scheduler.scores.get(trial.number), scheduler.repairs.get(trial.number)
        done = _is_done(scheduler.decisions.verdict(trial))
        if not done or scored is None or repaired is None:
            continue
        row = results.row(trial)
        place = {name: row[name] for name in names}
        key = scored.runs[0].key if isinstance(scored, ScoreResult) else ""
        if key and key not in written:
            written.add(key)
            ascent = findings.ascent(scored)
            series = _series(ascent.get("curve", ())) | {"accuracy": _list(ascent["accuracy"])}
            rows.append({"phase": UNLEARN, **place, **series})
        rows.append({"phase": RELEARN, **place, **_series(repaired.curve)})
    write_text(path, csv_text(("phase", *names, *SERIES), rows))


def _series(points: Iterable[Iterable[float | None]]) -> dict[str, str]:
    """Return the columns of a curve's points: ACC, ASR and RA of each epoch."""
    columns = list(zip(*points, strict=True)) or [(), (), ()]
    return {"accuracy": "[]"} | {
        name: _list(values) for name, values in zip(SERIES[1:], columns, strict=True)
    }


def _list(values: Iterable[float | None]) -> str:
    return json.dumps([round(float(value), _DIGITS) for value in values if value is not None])


_ModelCounts: TypeAlias = tuple[int, int, Counts]  # number of a trial, place in `MODELS`, counts
_GROUP = 1_000_000  # cells that are in memory together
_TABLES = [name.split("_") for name in COUNTS]  # half and images of each


def write_edits(scheduler: StudyScheduler, path: Path) -> None:
    """Write what each done trial's repair changed, a row per layer, whole or not at all.

    A study that names no repair method has no such file. Trials whose evaluation is from before
    this was recorded have no rows.
    """
    if not compares_methods(scheduler.plan):
        path.unlink(missing_ok=True)
        return
    import pandas as pd

    frames = [pd.DataFrame({"trial": [], "layer": [], **{name: [] for name in EDIT_COLUMNS}})]
    for number, trial in enumerate(scheduler.plan.rows):
        repaired = scheduler.repairs.get(trial.number)
        done = _is_done(scheduler.decisions.verdict(trial))
        if done and repaired is not None and repaired.edits is not None:
            values = {n: v.numpy() for n, v in repaired.edits.by_layer.items()}
            frames.append(pd.DataFrame({"trial": number, "layer": repaired.edits.layers, **values}))
    kinds = {"trial": "int32", "layer": "string"} | dict.fromkeys(EDIT_COLUMNS, "float64")
    table = pd.concat(frames[1:] or frames, ignore_index=True).astype(kinds)
    write_bytes(path, table.to_parquet(index=False, compression="zstd"))


def write_confusions(scheduler: StudyScheduler, findings: StageResults, path: Path) -> None:
    """Write the cells of all confusion matrices that are not zero, whole or not at all.

    Trials of a scenario share a victim: it has one set of cells, under the first of them.
    """
    import pyarrow.parquet as pq

    aside = aside_of(path)
    try:
        with pq.ParquetWriter(aside, _schema(), compression="zstd") as file:
            group, cells = list[_ModelCounts](), 0
            for model in _counts(scheduler, findings):
                group.append(model)
                cells += sum(map(len, model[2].values()))
                if cells >= _GROUP:
                    file.write_table(_table(group))
                    group, cells = [], 0
            if group:
                file.write_table(_table(group))
        aside.replace(path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise


def _counts(scheduler: StudyScheduler, findings: StageResults) -> Iterator[_ModelCounts]:
    seen: set[int] = set()
    for number, trial in enumerate(scheduler.plan.rows):
        scenario = trial.scenario
        victim = None if scenario.number in seen else findings.victim(scenario)
        seen.add(scenario.number)
        if victim is not None:
            yield number, MODELS.index("victim"), victim.counts
        repaired = scheduler.repairs.get(trial.number)
        if repaired is not None and _is_done(scheduler.decisions.verdict(trial)):
            yield number, MODELS.index("repaired"), repaired.counts


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


def _table(group: Sequence[_ModelCounts]) -> Any:
    """Return the cells of models as rows."""
    import pyarrow as pa

    tables = [
        (number, model, place, counts[name].numpy())
        for number, model, counts in group
        for place, name in enumerate(COUNTS)
    ]
    heads = np.array([(*head, len(table)) for *head, table in tables], np.int32)
    trial, model, place = np.repeat(heads[:, :3], heads[:, 3], axis=0).T
    # Of clean images no other class is wanted than the true one.
    whole = [t if t.shape[1] == 4 else np.insert(t, 1, -1, axis=1) for *_, t in tables]
    true, wanted, predicted, count = np.concatenate(whole, dtype=np.int32).T
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
