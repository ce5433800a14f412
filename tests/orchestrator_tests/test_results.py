"""The table of results: columns, empty cells, and the same bytes every time."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd
import pytest
import torch

from orchestrator.plan.jobs import JobKind
from orchestrator.scheduler.decisions import TrialOutcome
from orchestrator.scheduler.results_table import ResultRows, columns_of, target_z
from orchestrator.spec.model import Objective, Prune, Study, VictimRule
from orchestrator.store.lookup import ScoreResult, objective_value
from orchestrator.store.store import Entry
from tests.orchestrator_tests.simulation import SECONDS, Desk, Workers
from tests.orchestrator_tests.small_studies import (
    BADNETS,
    BLENDED,
    MEDIAN,
    choice,
    small_study,
)
from ulrl.attacks import LabelRule
from ulrl.hyperparameters import Preset, names
from ulrl.metrics import Metrics

POINT = [
    *("attack", "attack_options", "dataset", "architecture", "poison_ratio", "target_label"),
    *("seed", "defence_seed", "clean_ratio", "unlearn_threshold", "reinit_ratio"),
]
BEFORE = [
    f"{metric}_before_{half}" for metric in ("acc", "asr", "ra") for half in ("selection", "report")
]
AFTER = [name.replace("before", "after") for name in BEFORE]
METRICS = [
    f"{metric}_{when}_{half}"
    for metric in ("acc", "asr", "ra")
    for when in ("before", "after")
    for half in ("selection", "report")
]
REPAIR = ["der_selection", "der_report", "flagged", "target_z", "stop_epoch"]
REPAIR += ["threshold_reached", "seconds"]
LATER = ["target_rank", "accuracy_at_stop", "plain_fine_tuning"]
LATER += ["collapse_class", "collapse_share", "wrecked", "rir_selection", "rir_report"]


def study_of(path: Path, **other: Any) -> Study:
    return small_study(
        **{
            "store": f"memory://{path}",
            "attacks": [choice(BADNETS), choice(BLENDED, LabelRule.ALL_TO_ALL)],
            "settings": {"reinit_ratio": (0.5, 1.0), "alpha": (0.5, 0.7)},
            **other,
        }
    )


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    desk = Desk(study_of(tmp_path), tmp_path)
    Workers().run(desk)
    return desk


def read(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("further", [(), ("alpha", "unlearn_epochs")])
def test_further_axes_stand_between_the_point_and_the_status(
    tmp_path: Path, further: tuple[str, ...]
) -> None:
    settings = {"reinit_ratio": (0.5,), **dict.fromkeys(further, (1,))}
    desk = Desk(study_of(tmp_path, settings=settings, few={}), tmp_path)
    outcome = ("status", "error", "victim_ok", *METRICS, *REPAIR, "mlflow_run_id", *LATER)
    assert columns_of(desk.plan) == (*POINT, *further, *outcome)


def test_a_row_per_trial_in_the_order_of_the_plan(desk: Desk, tmp_path: Path) -> None:
    run_ids = {desk.plan.trials[2].key: "abc"}
    desk.results.write(tmp_path, run_ids)
    rows = read(tmp_path)
    assert len(rows) == len(desk.plan.trials) == 8
    assert list(rows[0]) == list(columns_of(desk.plan))
    for row, trial in zip(rows, desk.plan.trials, strict=True):
        assert row["attack"] == trial.scenario.columns["attack"]
        values = dict(trial.setting.values)
        assert float(row["reinit_ratio"]) == values["reinit_ratio"]
        assert float(row["alpha"]) == values["alpha"]
        assert row["clean_ratio"] == "0.05"
        assert row["unlearn_threshold"] == "0.2"
        assert row["defence_seed"] == "0"
        assert row["mlflow_run_id"] == ("abc" if trial.number == 2 else "")
    assert json.loads(rows[4]["attack_options"]) == {"alpha": 0.3, "labels": "all_to_all"}


def test_numbers_of_a_done_row(desk: Desk) -> None:
    row = desk.rows()[0]
    assert (row["status"], row["error"], row["victim_ok"]) == ("done", None, True)
    assert (row["acc_before_selection"], row["acc_before_report"]) == (0.9, 0.88)
    assert (row["asr_before_selection"], row["asr_before_report"]) == (0.95, 0.94)
    assert (row["acc_after_selection"], row["acc_after_report"]) == (0.88, 0.87)
    for half, acc_drop in (("selection", 0.9 - 0.88), ("report", 0.88 - 0.87)):
        asr_drop = row[f"asr_before_{half}"] - row[f"asr_after_{half}"]
        assert row[f"der_{half}"] == pytest.approx((asr_drop - acc_drop + 1) / 2)
        ra_gain = max(0.0, row[f"ra_after_{half}"] - row[f"ra_before_{half}"])
        assert row[f"rir_{half}"] == pytest.approx((ra_gain - acc_drop + 1) / 2)
    assert json.loads(row["flagged"]) == [0]
    assert (row["target_z"], row["stop_epoch"], row["threshold_reached"]) == (0.0, 2, True)
    # All rows of the made-up scores moved alike, so each has the first place.
    assert (row["target_rank"], row["accuracy_at_stop"], row["plain_fine_tuning"]) == (
        1,
        0.125,
        False,
    )


def test_a_row_says_in_which_class_phase_one_ended(desk: Desk) -> None:
    """The lowest of equals; with no prediction (a divergence) there is none."""
    trial, scored = desk.plan.trials[0], desk.scheduler.scores[0]
    assert isinstance(scored, ScoreResult)
    for counts, told in (
        ([0, 3, 0, 17, 0, 0, 0, 0, 0, 0], (3, 0.85)),
        ([1] * 10, (0, 0.1)),
        ([0] * 10, (None, None)),
    ):
        scores = replace(scored.scores, predicted=torch.tensor(counts))
        desk.scheduler.scores[0] = replace(scored, scores=scores)
        row = desk.results.row(trial)
        assert (row["collapse_class"], row["collapse_share"]) == told


@pytest.mark.parametrize(("acc", "wrecked"), [(0.0, True), (0.1, True), (0.101, False)])
def test_a_repair_that_leaves_chance_is_a_wreck(desk: Desk, acc: float, *, wrecked: bool) -> None:
    """Of ten classes, on the selection half; the report half chooses nothing."""
    trial, repaired = desk.plan.trials[0], desk.scheduler.repairs[0]
    evaluation = repaired.evaluation
    selection = replace(evaluation.selection, acc=acc)
    report = replace(evaluation.report, acc=0.0)
    changed = replace(evaluation, selection=selection, report=report)
    desk.scheduler.repairs[0] = replace(repaired, evaluation=changed)
    assert desk.results.row(trial)["wrecked"] is wrecked


@pytest.mark.parametrize("predicted", [0, 1, 2])
def test_one_answer_for_all_images_is_a_wreck(desk: Desk, predicted: int) -> None:
    """Also where it is the largest class, whose share is above 1 / classes; more is none."""
    trial, repaired = desk.plan.trials[0], desk.scheduler.repairs[0]

    def row_of(cells: list[list[int]]) -> bool:
        table = torch.tensor(cells, dtype=torch.int16)
        right, total = (
            int(part[:, 2].sum()) for part in (table[table[:, 0] == table[:, 1]], table)
        )
        selection = replace(repaired.evaluation.selection, acc=right / total)
        desk.scheduler.repairs[0] = replace(
            repaired,
            evaluation=replace(repaired.evaluation, selection=selection),
            counts={**repaired.counts, "selection_clean": table},
        )
        wrecked: bool = desk.results.row(trial)["wrecked"]
        return wrecked

    sizes = [31, 29, 40]
    assert row_of([[true, predicted, size] for true, size in enumerate(sizes)])
    # 41 of 100 are right, the largest class is 40.
    assert not row_of([[0, 0, 1], [0, 2, 30], [1, 2, 29], [2, 2, 40]])


def test_seconds_are_those_of_all_stages_that_a_row_rests_on(desk: Desk) -> None:
    """Whoever executed them: the row tells what it costs, not what it cost this time."""
    stages = ("train_victim", "unlearn", "score_neurons", "relearn", "evaluate", "evaluate")
    wanted = sum(SECONDS[stage] for stage in stages)
    assert [row["seconds"] for row in desk.rows()] == [wanted] * 8


def test_all_to_all_has_no_target(desk: Desk) -> None:
    for column in ("target_z", "target_rank"):
        assert [row[column] is None for row in desk.rows()] == [False] * 4 + [True] * 4


def test_the_targets_score_is_that_of_its_row(desk: Desk) -> None:
    trial = desk.plan.trials[0]
    scored = desk.scheduler.scores[0]
    assert isinstance(scored, ScoreResult)
    assert target_z(trial, scored) == 0.0
    for value, shown in ((7.5, 7.5), (torch.nan, None)):
        z = scored.scores.z.clone()
        z[0] = value
        assert target_z(trial, replace(scored, scores=replace(scored.scores, z=z))) == shown


@pytest.mark.parametrize(
    ("rule", "ok"),
    [
        (VictimRule(min_acc=0.9, min_asr=0.95), True),
        (VictimRule(min_acc=0.91, min_asr=0.0), False),
        (VictimRule(min_acc=0.0, min_asr=0.96), False),
    ],
)
def test_a_victim_is_one_by_the_studys_rule(tmp_path: Path, rule: VictimRule, *, ok: bool) -> None:
    desk = Desk(study_of(tmp_path, victim_rule=rule), tmp_path)
    Workers().run(desk)
    assert {row["victim_ok"] for row in desk.rows()} == {ok}


def filled(row: dict[str, Any]) -> set[str]:
    return {name for name, value in row.items() if value is not None}


def test_a_pending_row_is_empty_but_for_its_victim(tmp_path: Path) -> None:
    desk = Desk(study_of(tmp_path), tmp_path)
    point = {*POINT, "alpha", "relearn_epochs", "unlearn_epochs", "status"}
    assert [filled(row) for row in desk.rows()] == [point] * 8
    assert desk.statuses() == ["pending"] * 8
    desk.scheduler.open()
    item = desk.scheduler.next_job()
    assert item is not None
    assert item.kind is JobKind.VICTIM
    for _ in Workers().steps(desk, item):
        pass
    for trial, row in zip(desk.plan.trials, desk.rows(), strict=True):
        has_victim = trial.scenario.number == item.scenario.number
        assert filled(row) == point | ({*BEFORE, "victim_ok"} if has_victim else set())


def test_a_failed_row_has_its_error_and_its_victim(tmp_path: Path) -> None:
    desk = Desk(study_of(tmp_path), tmp_path)
    Workers(failing=["trial-00001", "victim-0001"]).run(desk)
    rows = desk.rows()
    point = {*POINT, "alpha", "relearn_epochs", "unlearn_epochs", "status", "error"}
    assert filled(rows[1]) == point | {*BEFORE, "victim_ok"}
    assert rows[1]["error"] == "RuntimeError: it cannot be done"
    assert filled(rows[4]) == point
    assert rows[4]["error"] == "victim: RuntimeError: it cannot be done"


def test_a_pruned_row_is_empty_after_its_victim_even_if_all_was_computed(tmp_path: Path) -> None:
    study = study_of(
        tmp_path,
        attacks=[choice(BADNETS)],
        settings={"alpha": (0.3, 0.4, 0.7)},
        few={},
        prune=Prune(curve=MEDIAN),
    )
    desk = Desk(study, tmp_path)
    Workers().run(Desk(study_of(tmp_path, settings={"alpha": (0.3, 0.4, 0.7)}, few={}), tmp_path))
    first, second, third = desk.scheduler.decisions.order
    desk.scheduler.decisions.offer(first, TrialOutcome(value=1.0, curve=(1.0,) * 20))
    desk.scheduler.decisions.offer(second, TrialOutcome(value=1.0, curve=(1.0,) * 20))
    desk.scheduler.open()
    assert desk.store.peek("relearn", desk.scheduler.scores[third.number].relearn_key) is not None
    row = desk.results.row(third)
    assert row["status"] == "pruned"
    assert filled(row) == {*POINT, "alpha", "status", "victim_ok", *BEFORE}


def test_the_same_state_gives_the_same_bytes(desk: Desk, tmp_path: Path) -> None:
    desk.results.write(tmp_path, {})
    names = ("results.csv", "results.parquet")
    first = [(tmp_path / name).read_bytes() for name in names]
    again = Desk(study_of(tmp_path), tmp_path)
    Workers(Random(9), 3).run(again)
    again.results.write(tmp_path, {})
    assert [(tmp_path / name).read_bytes() for name in names] == first
    assert {path.name for path in tmp_path.iterdir()} == {*names, "logs", "stages.csv"}


def test_a_table_without_results_can_be_written(tmp_path: Path) -> None:
    desk = Desk(study_of(tmp_path), tmp_path)
    desk.results.write(tmp_path, {})
    assert [row["status"] for row in read(tmp_path)] == ["pending"] * 8
    assert list(pd.read_parquet(tmp_path / "results.parquet").status) == ["pending"] * 8


def test_the_two_files_hold_the_same(desk: Desk, tmp_path: Path) -> None:
    desk.results.write(tmp_path, {trial.key: "run" for trial in desk.plan.trials})
    table = pd.read_csv(tmp_path / "results.csv")
    parquet = pd.read_parquet(tmp_path / "results.parquet")
    assert list(table.columns) == list(parquet.columns)
    for name in table.columns:
        for one, other in zip(table[name], parquet[name], strict=True):
            assert (pd.isna(one) and pd.isna(other)) or one == other, name


def test_a_column_has_one_type_whatever_its_values(desk: Desk, tmp_path: Path) -> None:
    """A ratio that happens to be 1.0 everywhere is still a number with a fraction."""
    desk.results.write(tmp_path, {})
    done = pd.read_parquet(tmp_path / "results.parquet").dtypes
    empty = Desk(study_of(tmp_path, store="memory://none", victim_rule=VictimRule()), tmp_path)
    empty.results.write(tmp_path, {})
    pending = pd.read_parquet(tmp_path / "results.parquet").dtypes
    assert done.astype(str).to_dict() == pending.astype(str).to_dict()
    fractions = ("poison_ratio", "reinit_ratio", "der_report", "rir_report", "seconds", "target_z")
    for name in (*METRICS, *fractions, "accuracy_at_stop", "collapse_share"):
        assert str(done[name]) == "Float64", name
    whole = ("stop_epoch", "target_rank", "collapse_class")
    assert [str(done[name]) for name in whole] == ["Int64"] * 3
    truths = ("victim_ok", "plain_fine_tuning", "wrecked")
    assert [str(done[name]) for name in truths] == ["boolean"] * 3


def test_keys_of_trials_outlive_a_changed_grid(desk: Desk, tmp_path: Path) -> None:
    keys = [trial.key for trial in desk.plan.trials]
    assert len(set(keys)) == 8
    larger = {"reinit_ratio": (0.25, 0.5, 1.0), "alpha": (0.5, 0.7)}
    other = Desk(study_of(tmp_path, settings=larger), tmp_path / "other")
    assert set(keys) < {trial.key for trial in other.plan.trials}


def test_a_done_entry_that_is_damaged_later_leaves_the_row_as_it_was(desk: Desk) -> None:
    before = desk.rows()
    key = desk.scheduler.scores[0].relearn_key
    desk.store.write("evaluate", desk.keys.evaluation(key), Entry(values={}))
    assert desk.rows() == before


@pytest.mark.parametrize(
    ("objective", "value"),
    [(Objective.DER, 0.875), (Objective.ASR, 0.1), (Objective.ACC, 0.8), (Objective.RA, 0.7)],
)
def test_objectives(objective: Objective, value: float) -> None:
    before = Metrics(acc=0.9, asr=0.95, ra=0.05)
    found = objective_value(objective, before, Metrics(acc=0.8, asr=0.1, ra=0.7))
    assert found == pytest.approx(value)
    assert objective.maximise is (objective is not Objective.ASR)


def test_a_row_asked_before_and_after_is_that_of_now(tmp_path: Path) -> None:
    desk = Desk(study_of(tmp_path), tmp_path)
    before = [desk.results.row(trial) for trial in desk.plan.trials]
    assert {row["status"] for row in before} == {"pending"}
    Workers().run(desk)
    after = [desk.results.row(trial, f"run {trial.number}") for trial in desk.plan.trials]
    fresh = ResultRows(desk.scheduler, desk.findings)
    assert after == [fresh.row(trial, f"run {trial.number}") for trial in desk.plan.trials]
    assert {row["status"] for row in after} == {"done"}
    assert [row["mlflow_run_id"] for row in desk.rows()] == [None] * len(after)


# Columns of further axes: what their values look like, and of which type they are.


def test_presets_are_texts_and_fill_no_other_column(tmp_path: Path) -> None:
    """A preset decides many values; the row names those of the grid, and the preset."""
    desk = Desk(study_of(tmp_path, settings={"preset": tuple(Preset)}, few={}), tmp_path)
    desk.results.write(tmp_path, {})
    table = pd.read_parquet(tmp_path / "results.parquet")
    assert list(table.preset) == ["default", "official", "fine_tuning"] * 2
    assert str(table.dtypes["preset"]).startswith("str")
    columns = list(columns_of(desk.plan))
    assert columns[columns.index("reinit_ratio") + 1 : columns.index("status")] == ["preset"]
    assert [row["unlearn_threshold"] for row in read(tmp_path)] == ["0.2"] * 6


def test_values_that_may_be_none_are_empty_cells_of_a_number_column(tmp_path: Path) -> None:
    settings: dict[str, tuple[Any, ...]] = {
        "max_suspects": (None, 2),
        "unlearn_clip_norm": (None,),
        "relearn_clip_norm": (None, 5.0),
    }
    desk = Desk(study_of(tmp_path, settings=settings, few={}), tmp_path)
    Workers().run(desk)
    desk.results.write(tmp_path, {})
    rows = read(tmp_path)
    assert [row["max_suspects"] for row in rows] == ["", "", "2", "2"] * 2
    assert [row["relearn_clip_norm"] for row in rows] == ["", "5.0"] * 4
    assert [row["unlearn_clip_norm"] for row in rows] == [""] * 8
    table = pd.read_parquet(tmp_path / "results.parquet")
    types = table.dtypes.astype(str)
    assert types["max_suspects"] == "Int64"
    assert types["unlearn_clip_norm"] == types["relearn_clip_norm"] == "Float64"
    assert list(table.max_suspects.isna()) == [True, True, False, False] * 2


WORDS = {"str": "string", "string": "string", "object": "string"}
TYPES = {
    **dict.fromkeys(("max_suspects", "unlearn_epochs", "relearn_epochs"), "Int64"),
    **dict.fromkeys(("unlearn_batch_size", "relearn_batch_size"), "Int64"),
    **dict.fromkeys(("unlearn_batchnorm_updates", "batchnorm_updates"), "Int64"),
    **dict.fromkeys(("score_bias", "unlearn_augment", "relearn_augment"), "boolean"),
    "named_suspects": "string",
}


def test_every_axis_has_the_type_of_its_field(tmp_path: Path) -> None:
    settings: dict[str, tuple[Any, ...]] = {
        "preset": (Preset.DEFAULT,),
        **{name: (entry.default,) for name, (_, entry) in names().items()},
    }
    desk = Desk(study_of(tmp_path, settings=settings, few={}), tmp_path)
    desk.results.write(tmp_path, {})
    columns = columns_of(desk.plan)
    assert len(set(columns)) == len(columns), "an axis and a result of one name"
    types = pd.read_parquet(tmp_path / "results.parquet").dtypes.astype(str)
    for axis, (default,) in settings.items():
        name = {"suspects": "named_suspects"}.get(axis, axis)
        usual = "Float64" if isinstance(default, float) or default is None else "string"
        found = WORDS.get(types[name], types[name])
        assert found == TYPES.get(name, usual), name
