"""A study that audits victims, benign models and repaired ones."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import orchestrator as o
from orchestrator.pipeline.inputs import StageInputs
from orchestrator.plan.plan import make_plan, options_text
from orchestrator.plan.resources import Compute
from orchestrator.spec.model import Study
from orchestrator.store.keys import CacheKeys
from orchestrator.store.serialization import VICTIM
from orchestrator.store.store import Store
from orchestrator.study import main
from tests.orchestrator_tests.spec_files import mistakes
from ulrl.audits import AuditResult, audit_context
from ulrl.audits.ulrl_scores import MoveHead, UlrlScores
from ulrl.errors import NotApplicable
from ulrl.models import Weights

pytestmark = pytest.mark.usefixtures("empty_folder")

STUDY = """\
name: audited
grid:
  attack: [badnets, none]
  dataset: {name: digits, size: 12}
  architecture: {name: preact_resnet18, width: 2}
  clean_ratio: 0.06
  unlearn_epochs: 4
  relearn_epochs: 2
  repair: [ulrl, {name: nc, steps: 10, epochs: 1}, {name: fine_tuning, epochs: [1, 2]}]
audit: [{name: nc, steps: 10, threshold: [1.5, 2]}, ulrl_scores, {name: freeeagle, steps: 5}]
victim: {epochs: 1, batch_size: 64, min_acc: 0, min_asr: 0}
prune: none
store: store
"""


@pytest.fixture
def study() -> Study:
    Path("grid.yaml").write_text(STUDY)
    return o.load_study("grid.yaml")


def run(study: Study) -> pd.DataFrame:
    o.run_study(study, out="runs/audited", inline=True)
    return pd.read_csv("runs/audited/audits.csv", keep_default_na=False)


def test_every_model_is_audited_once_and_nothing_again(study: Study) -> None:
    table = run(study)
    assert set(table.status) == {"done"}
    results = pd.read_csv("runs/audited/results.csv", keep_default_na=False)
    # Victim and benign model, and of each method the best repaired one that is no wreck.
    whole = results[results.wrecked.astype(str) == "False"].groupby(["attack", "repair"]).ngroups
    models = 2 + whole
    assert whole >= 3
    assert len(table) == 4 * models
    attacked, benign = table[table.attack == "badnets"], table[table.attack == "none"]
    assert set(benign.target_rank) == {""}
    assert all(1 <= float(rank) <= 10 for rank in attacked.target_rank)
    assert set(table[table.model == "victim"].repair) == {""}
    free = table[table.audit == "freeeagle"]
    assert set(free[free.model == "victim"].clean_ratio) == {""}
    stages = pd.read_csv("runs/audited/stages.csv")
    # Neural Cleanse's search: its repair shares that of a victim, and both thresholds read it.
    assert (stages.stage == "repair.reversed_triggers").sum() == models
    report = Path("runs/audited/report.html").read_text()
    assert 'id="audits-table"' in report
    again = run(study)
    pd.testing.assert_frame_equal(again, table)
    assert not pd.read_csv("runs/audited/stages.csv").computed.eq("now").any()
    audited_as_by_hand(study, table)
    a_model_whose_weights_are_gone_is_made_again(study, table)


def audited_as_by_hand(study: Study, table: pd.DataFrame) -> None:
    plan = make_plan(study)
    trial = plan.trials[0]
    keys = CacheKeys(study.victim, Compute(device="cpu", threads=1))
    inputs = StageInputs()
    list(inputs.fetch(trial.scenario.dataset))
    model_spec = inputs.model_spec(trial.scenario)
    stored = VICTIM.read(Store(study.store), keys.victim(trial.scenario))
    assert stored is not None
    victim = Weights(model_spec=model_spec, state=dict(stored.content.state))
    clean = inputs.clean(trial)
    for audit in study.audits:
        context = audit_context(victim, clean, torch.device("cpu"))
        (stage,) = audit.stages
        steps = stage.checked(context, {})
        while True:
            try:
                next(steps)
            except StopIteration as end:
                found = end.value
                break
        result = audit.result(found, len(clean.index))
        own = table[(table.model == "victim") & (table.attack == "badnets")]
        row = own[(own.audit == audit.name) & (own.audit_options == options_text(audit))].iloc[0]
        assert json.loads(row.scores) == pytest.approx(result.scores.tolist(), abs=1e-5)
        assert float(row.statistic) == pytest.approx(result.statistic)
        assert float(row.target_rank) == result.rank(0)


def a_model_whose_weights_are_gone_is_made_again(study: Study, table: pd.DataFrame) -> None:
    for stage in ("repaired", "repair.moved_head"):
        shutil.rmtree(Path("store") / stage)
    again = run(study)
    same = [column for column in table.columns if column != "seconds"]
    pd.testing.assert_frame_equal(again[same], table[same])


def test_without_benign_models_there_is_no_auroc() -> None:
    text = STUDY.replace("[badnets, none]", "badnets") + "audit_models: victim\n"
    Path("grid.yaml").write_text(text)
    table = run(o.load_study("grid.yaml"))
    assert set(table.model) == {"victim"}
    report = Path("runs/audited/report.html").read_text()
    assert 'id="audits-table"' in report
    assert 'id="audits-repaired"' not in report


def test_a_budget_that_leaves_audits_alone_is_spent(capfd: pytest.CaptureFixture[str]) -> None:
    text = STUDY.replace("[badnets, none]", "badnets")
    only = "  repair: [{name: fine_tuning, epochs: 1}]\naudit: [ulrl_scores]\n"
    start, end = text.index("  unlearn_epochs"), text.index("victim:")
    text = text[:start] + only + "audit_models: victim\nbudget: {trials: 1}\n" + text[end:]
    Path("grid.yaml").write_text(text)
    codes = [main(["grid.yaml", "--inline", "--out", "runs/audited"]) for _ in range(2)]
    assert codes == [4, 0]
    assert "budget.trials = 1 with audits not begun" in capfd.readouterr().err
    assert set(pd.read_csv("runs/audited/audits.csv").status) == {"done"}


def test_an_audit_that_fails_has_failed_for_equal_models(monkeypatch: pytest.MonkeyPatch) -> None:
    text = STUDY.replace("[badnets, none]", "badnets")
    # Neither cuts anything, so both leave the victim's weights.
    only = "  repair: [{name: clp, u: 99}, {name: bnp, u: 99}]\naudit: [ulrl_scores]\n"
    only += "audit_models: all\nmlflow: {log_models: all}\n"
    start, end = text.index("  unlearn_epochs"), text.index("victim:")
    Path("grid.yaml").write_text(text[:start] + only + text[end:])

    def broken(*_: object) -> None:
        raise ArithmeticError("on purpose")

    monkeypatch.setattr(MoveHead, "run", broken)
    table = run(o.load_study("grid.yaml"))
    assert list(table.repair) == ["", "clp", "bnp"]
    assert set(table.status) == {"failed"}
    assert table.error.str.contains("on purpose").all()


def one_audit(audit: str) -> str:
    """Return the text of a study with one repair, and one audit of its victim."""
    only = f"  repair: [{{name: fine_tuning, epochs: 1}}]\naudit: [{audit}]\n"
    only += "audit_models: victim\nmlflow: none\n"
    text = STUDY.replace("[badnets, none]", "badnets")
    start, end = text.index("  unlearn_epochs"), text.index("victim:")
    return text.replace(text[start:end], only)


def test_ranks_follow_from_the_scores_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of scores that no six decimals tell apart: neighbours in float32, and tiny ones."""
    scores = torch.full((10,), 0.5)
    scores[0] = torch.nextafter(scores[1], torch.tensor(1.0))  # the target's
    scores[3], scores[4] = 1e-12, 2e-12
    usual = UlrlScores.result

    def close(self: UlrlScores, *given: Any) -> AuditResult:
        return replace(usual(self, *given), scores=scores)

    monkeypatch.setattr(UlrlScores, "result", close)
    Path("grid.yaml").write_text(one_audit("ulrl_scores"))
    table = run(o.load_study("grid.yaml"))
    assert len(table) == 1
    row = table.iloc[0]
    read = torch.tensor(json.loads(row.scores))
    assert torch.equal(read, scores)
    assert float(row.target_rank) == 1 == 1 + int((read > read[0]).sum())


def test_an_audit_that_does_not_apply_to_a_model_is_skipped(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As only the run can tell; no other result comes of trying again, so the study is done."""
    Path("grid.yaml").write_text(one_audit("ulrl_scores"))

    def unfit(*_: object) -> None:
        raise NotApplicable("nothing counts")

    monkeypatch.setattr(MoveHead, "run", unfit)
    assert main(["grid.yaml", "--inline", "--out", "runs/audited"]) == 0
    said = capfd.readouterr()
    assert "1 audit, 1 without a result" in said.out + said.err
    (row,) = pd.read_csv("runs/audited/audits.csv").itertuples()
    assert (row.status, row.error) == ("skipped", "nothing counts")


def test_a_plan_counts_no_audit_of_an_oracle_and_says_once_what_is_so_of_all_methods() -> None:
    text = """\
name: planned
grid:
  attack: [badnets, none]
  dataset: {name: digits, size: 12}
  architecture: {name: preact_resnet18, width: 2}
  repair: [ulrl, fine_tuning, {name: rnp, rule: oracle}]
exclude: [{repair: rnp, attack: none}]
audit: ulrl_scores
store: store
"""
    Path("grid.yaml").write_text(text)
    plan = o.plan_study(o.load_study("grid.yaml"))
    assert plan.runs["audit"] == 2 + 2 * 2
    assert "GPU-hours" not in str(plan)  # it computes on CPUs
    assert str(plan).count("the pruner of settings has no effect") == 1
    assert "there is 1" in str(plan) or "there are 1" in str(plan)  # with an attack


def test_a_patch_larger_than_a_dataset_s_images_is_refused_with_the_study_file() -> None:
    text = STUDY[: STUDY.index("  clean_ratio")] + "audit: {name: certify, patch: [12, 14, 17]}\n"
    text = text.replace("preact_resnet18, width: 2", "small_cnn")
    text = text.replace("{name: digits, size: 12}", "{name: digits, size: [12, 16]}")
    rule = "patch is at most the side of the images"
    assert mistakes(text) == [
        f"6: audit.patch.1: on digits(size=12), {rule}, 12 pixels; got 14",
        f"6: audit.patch.2: on digits(size=12), {rule}, 12 pixels; got 17",
        f"6: audit.patch.2: on digits, {rule}, 16 pixels; got 17",
    ]
