"""Studies of methods whose parts are combined by name, and what equal parts share."""

import json
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

import orchestrator as o
from orchestrator.plan.cost_model import Workload
from orchestrator.plan.plan import make_plan
from orchestrator.plan.resources import Compute
from orchestrator.store.keys import CacheKeys, result_key
from tests.orchestrator_tests.spec_files import SMALL, load
from ulrl.methods import METHODS
from ulrl.plugins import unload

pytestmark = pytest.mark.usefixtures("empty_folder")

STUDY = """\
name: parts
grid:
  attack: badnets
  dataset: {name: digits, size: 12}
  architecture: {name: preact_resnet18, width: 2}
  clean_ratio: 0.06
  repair:
"""
REST = """\
victim: {epochs: 1, batch_size: 64, min_acc: 0, min_asr: 0}
prune: none
store: store
"""
GOOD_VICTIM = ("grid.architecture.width=4", "victim.epochs=6", "victim.batch_size=32")


def run(entries: str, *overrides: str) -> tuple[pd.DataFrame, Counter[str]]:
    """Return the results of a study, and how often each stage was computed."""
    study = load(f"{STUDY}{entries}{REST}", *overrides)
    frame = o.run_study(study, out="runs/parts", inline=True).frame
    assert set(frame.status) == {"done"}
    stages = pd.read_csv("runs/parts/stages.csv")
    return frame, Counter(stages[stages.computed].stage)


def test_equal_cuts_with_equal_tuners_are_trained_once() -> None:
    frame, stages = run("""\
    - {name: fine_tuning, epochs: 2}
    - {name: clp, u: 100, tune: {name: fine_tuning, epochs: 2}}
    - {name: bnp, u: 100, tune: {name: fine_tuning, epochs: 2}}
    - {name: tsbd, filters: 0.0, unlearn_epochs: 1, tune: {name: fine_tuning, epochs: [2, 3]}}
    - {name: rnp, share: 1.0, mask_epochs: 1, tune: {name: ft_sam, epochs: 2}}
    - {name: anp, share: 1.0, steps: 1, tune: {name: ft_sam, epochs: 2}}
    - {name: clp, u: 1, tune: [none, {name: fine_tuning, epochs: 2}]}
""")
    # Nothing is cut in the first five, of which one is tuned for longer; ANP and RNP cut all.
    assert len(frame) == 9
    assert stages["relearn"] == 2 + 1 + 2
    same = frame[:4]
    results = [name for name in map(str, same) if name.endswith(("_report", "_selection"))]
    assert len(results) > 6
    assert len(same[results].drop_duplicates()) == 1


def test_methods_with_equal_ascents_climb_once() -> None:
    """RNP, TSBD and ULRL's finder, each with the fixed values of RNP's ascent."""
    ascent = "unlearn_lr: 0.02, unlearn_epochs: 3, unlearn_threshold: 0.3, batch_size: 64"
    _, stages = run(f"""\
    - {{name: rnp, {ascent}, mask_epochs: 1, mask_threshold: [0.5, 0.9]}}
    - {{name: tsbd, ascent: rnp, {ascent}, tune: none}}
    - {{name: head_neurons, ascent: rnp, {ascent}, share: [0.1, 0.2], tune: none}}
    - {{name: head_neurons, ascent: rnp, {ascent}, tune: {{name: gradient_norm, epochs: 1}}}}
""")
    assert stages["repair.unlearned"] == 1
    assert {stages[f"repair.{name}"] for name in ("mask_recovery", "weight_changes")} == {1}
    assert stages["repair.head_changes"] == 1


def test_the_oracle_takes_the_best_row_on_the_selection_half() -> None:
    """The same levels as 21 rows of one study, each cut by the method's own rule."""
    levels = [step / 2 for step in range(21)]
    frame, stages = run(
        f"""\
    - {{name: bnp, u: {levels}}}
    - {{name: bnp, rule: oracle}}
""",
        *GOOD_VICTIM,
    )
    assert stages["repair.oracle_sweep"] == stages["repair.statistics"] == 1
    rows, chosen = frame[:21], frame.iloc[21]
    assert json.loads(chosen.repair_options) == {"rule": "oracle"}
    kept = rows[rows.acc_after_selection > 0.9 * rows.acc_before_selection]
    least = min(kept.asr_after_selection.min(), chosen.asr_before_selection)
    assert least < chosen.asr_before_selection, "there is nothing to choose"
    assert chosen.asr_after_selection == least
    best = kept[kept.asr_after_selection == least].iloc[-1]  # of the highest u
    assert chosen.acc_after_report == best.acc_after_report
    assert stages["relearn"] <= 21, "it is one of the rows, and shares its model"


def test_the_key_of_an_oracles_choice_depends_on_the_trigger() -> None:
    def key(attack: str) -> str:
        entry = "  repair: {name: clp, rule: oracle}\n"
        plan = make_plan(load(SMALL.replace("attack: badnets", f"attack: {attack}") + entry))
        (trial,) = plan.trials
        assert trial.method is not None
        sweep = trial.method.stages[1]
        return CacheKeys(plan.study.victim, Compute()).repair(
            trial, sweep.name, sweep, "before", None
        )

    keys = [key("{name: badnets, size: 2}"), key("{name: badnets, size: 3}"), key("blended")]
    assert len(set(keys)) == 3
    assert key("{name: badnets, size: 2}") == keys[0]


def test_the_plan_counts_what_an_oracle_tests() -> None:
    plan = make_plan(load(f"{SMALL}  repair: [clp, {{name: clp, rule: oracle}}]\n"))
    usual, oracle = plan.trials
    workload = Workload(plan)
    last = workload.stage(usual, 1).tested  # clean and triggered images of both halves
    assert workload.stage(oracle, 1).tested == 22 * last / 2
    assert workload.stage(oracle, 2) == workload.stage(usual, 1)


def test_passes_charge_a_sweep_only_to_the_rule_that_chooses_by_it() -> None:
    """By hand: a level tests a fifth of the samples, forward, which is a third of a pass."""
    plan = make_plan(
        load(f"""{SMALL}  repair:
    - {{name: clp, u: 2}}
    - {{name: clp, rule: [budget, oracle]}}
    - {{name: clp, u: 4, tune: {{name: fine_tuning, epochs: 5}}}}
    - {{name: bnp, u: 2}}
    - {{name: bnp, rule: budget}}
    - {{name: rnp, mask_epochs: 10, unlearn_epochs: 3, rule: [budget, threshold, largest, oracle]}}
    - {{name: fine_pruning, epochs: 7, rule: [budget, largest]}}
""")
    )
    workload = Workload(plan)
    passes = [workload.planned_passes(trial) for trial in plan.trials]
    clp, masks, shares = 41 * 0.2 / 3, 100 * 0.2 / 3, 100 * 0.2 / 3
    look, rnp = 0.8 / 3, 3 + 0.8 * 10
    wanted = [0, clp, 0, 5, look, look + clp, rnp + masks, rnp, rnp, rnp]
    assert passes == pytest.approx([*wanted, look + shares + 7, look + 7])
    # What a worker computes is the same by any rule, and so is the time that is planned.
    assert workload.stage(plan.trials[0], 0) == workload.stage(plan.trials[1], 0)


def test_the_plan_counts_every_cut_of_a_method() -> None:
    """Scores and masks are counted once, each training of a cut network for itself."""
    entries = """\
    - {name: clp, u: [1, 2, 3], tune: [none, ft_sam]}
    - {name: rnp, mask_lr: [0.1, 0.2], mask_threshold: [0.4, 0.6]}
"""
    planned = o.plan_study(load(f"{STUDY}{entries}{REST}"))
    lines = str(planned).splitlines()
    assert lines[1] == (
        "10 trials → 1 victim, 1 lipschitz stage, 2 mask_recovery stages, at most 10 tune stages, "
        "1 unlearned stage"
    )


PINNED = {
    "anp": ["711bd7ec1870", "ce85b9a6b090"],
    "bnp": ["5031358f5604", "ce85b9a6b090"],
    "clp": ["329ff32555df", "ce85b9a6b090"],
    "fine_pruning": ["d3852ef67b89", "0d4de0408067"],
    "fine_tuning": ["e270635309aa"],
    "ft_sam": ["ab127f8bd84c"],
    "rnp": ["cabcc7445836", "b75ea9a29b44", "ce85b9a6b090"],
    "super_fine_tuning": ["f1cece6d8188"],
    "tsbd": ["8d613383caed", "2317f73cdd1f", "a2357ff0442b"],
}


@pytest.mark.parametrize("name", PINNED)
def test_stages_of_a_method_by_itself_have_the_keys_that_they_had(name: str) -> None:
    """As of the first version of each: results that were stored then are found."""
    stages = METHODS[name]().resolved("cifar10").stages
    keys = [result_key(stage.name, stage.version, {"stage": stage}, {}) for stage in stages]
    assert [key[:12] for key in keys] == PINNED[name]


TUNER = """\
from dataclasses import dataclass

from ulrl.methods import TuningMethod, register_tuner
from ulrl.methods._tuning import SGDTuner


@dataclass(frozen=True, kw_only=True)
class Slow(SGDTuner):
    lr: float = 1e-6


@register_tuner("slow")
@dataclass(frozen=True, kw_only=True)
class SlowTuning(TuningMethod):
    @property
    def tuner(self):
        return Slow()
"""


def test_the_text_of_a_tuner_of_ones_own_is_in_the_key() -> None:
    def keys() -> list[str]:
        entry = "  repair: [{name: clp, tune: [slow, fine_tuning]}]\n"
        plan = make_plan(load(f"plugins: [slow.py]\n{SMALL}{entry}"))
        ring = CacheKeys(plan.study.victim, Compute())
        return [
            ring.repair(trial, "tune", trial.method.stages[1], "", None)
            for trial in plan.trials
            if trial.method is not None
        ]

    try:
        Path("slow.py").write_text(TUNER)
        before = keys()
        assert keys() == before
        Path("slow.py").write_text(f"{TUNER}# a note\n")
        after = keys()
    finally:
        unload("ulrl_plugin_slow")
    assert before[0] != after[0]
    assert before[1] == after[1]


def test_what_no_cut_goes_before_is_counted_for_sure() -> None:
    planned = o.plan_study(load(f"{STUDY}    - {{name: fine_tuning, lr: [0.1, 0.2]}}\n{REST}"))
    assert "2 tune stages" in str(planned)
    assert "at most" not in str(planned)
