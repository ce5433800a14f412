"""Every repair method on three kinds of networks and two attacks: it repairs, or says why not.

The images are scikit-learn's digits, or those of the ``.npz`` that ULRL_TEST_IMAGES names; for
those it prints a table.
"""

import os
from collections import Counter
from itertools import product

import pandas as pd
import pytest
import torch

import orchestrator as o
from orchestrator.pipeline.chain import reached
from orchestrator.pipeline.tools import StageTools
from orchestrator.pipeline.victims import model_spec_from_info
from orchestrator.plan.columns import METRICS
from orchestrator.plan.plan import Scenario, make_plan
from orchestrator.plan.resources import compute_here
from orchestrator.store.keys import CacheKeys
from orchestrator.store.lookup import StageResults
from orchestrator.store.serialization import VICTIM, StoredRelearning
from orchestrator.store.store import Store
from tests.orchestrator_tests.spec_files import load, mistakes
from ulrl.methods import METHODS
from ulrl.models import Weights

pytestmark = pytest.mark.usefixtures("empty_folder")

IMAGES = os.environ.get("ULRL_TEST_IMAGES")
DATASET = f"{{arrays: {IMAGES}, flip: true, padding: 4}}" if IMAGES else "{name: digits, size: 8}"
EPOCHS = 20 if IMAGES else 16
NETWORKS = {
    "preact_resnet18": "{name: preact_resnet18, width: 4}",
    "vgg19_bn": "{name: vgg19_bn, width: 8, dropout: 0}",
    "vit_b_16": "{name: vit_b_16, size: 16, patch: 4, width: 24, heads: 2, depth: 2, mlp: 48}",
}
# So short, and so strong where it cuts, that each changes the network within a second.
ENTRIES = {
    "ulrl": "ulrl",
    "anp": "{name: anp, steps: 4, share: 0.1}",
    "bnp": "{name: bnp, u: 0.5}",
    "clp": "{name: clp, u: 0.5}",
    "fine_pruning": "{name: fine_pruning, epochs: 1}",
    "fine_tuning": "{name: fine_tuning, epochs: 1}",
    "ft_sam": "{name: ft_sam, epochs: 1}",
    "head_neurons": "{name: head_neurons, tune: none, share: 0.1}",
    "i_bau": "{name: i_bau, rounds: 1}",
    "nad": "{name: nad, teacher_epochs: 1, epochs: 1}",
    "nc": "{name: nc, steps: 10, success: 0, threshold: 0, epochs: 1}",
    "npd": "{name: npd, epochs: 1}",
    "rnp": "{name: rnp, mask_epochs: 1, share: 0.1}",
    "sau": "{name: sau, rounds: 1}",
    "shortcuts": "{name: shortcuts, block: layer4.0, epochs: 1}",
    "super_fine_tuning": "{name: super_fine_tuning, epochs: 2, cycle: 2}",
    "tsbd": "{name: tsbd, unlearn_lr: 0.001, unlearn_threshold: 0.4, filters: 0.02, epochs: 1}",
}
NO_BATCHNORM = "needs BatchNorm layers, and the network has none"
NO_PAIR = (
    "needs a convolution with a BatchNorm after it, and the network has none: elsewhere there are "
    "no weights that could hold the polariser"
)
NO_SHORTCUT = (
    "needs residual blocks with a projection in the shortcut, and the network has none: elsewhere "
    "there are no weights that could hold the factor"
)
REFUSED = {
    ("anp", "vit_b_16"): NO_BATCHNORM,
    ("bnp", "vit_b_16"): NO_BATCHNORM,
    ("clp", "vit_b_16"): NO_BATCHNORM,
    ("npd", "vit_b_16"): NO_PAIR,
    ("rnp", "vit_b_16"): NO_BATCHNORM,
    ("shortcuts", "vgg19_bn"): NO_SHORTCUT,
    ("shortcuts", "vit_b_16"): NO_SHORTCUT,
}


def text(rest: str = "") -> str:
    return f"""\
name: matrix
grid:
  attack: [badnets, blended]
  dataset: {DATASET}
  architecture: [{", ".join(NETWORKS.values())}]
  poison_ratio: 0.2
  clean_ratio: 0.06
  unlearn_epochs: 2
  relearn_epochs: 1
  repair: [{", ".join(ENTRIES.values())}]
victim: {{epochs: {EPOCHS}, batch_size: 32, lr: 0.05, min_acc: 0, min_asr: 0}}
prune: none
mlflow: {{log_models: none}}
store: store
{rest}"""


def test_all_methods_are_here() -> None:
    ours = {name for name, kind in METHODS.items() if kind.__module__.startswith("ulrl.methods.")}
    assert ENTRIES.keys() == ours


def test_what_does_not_apply_is_refused_before_anything_runs() -> None:
    lines = mistakes(text())
    assert len(lines) == len(REFUSED)
    for (method, network), reason in REFUSED.items():
        place = f"grid.repair.{list(ENTRIES).index(method)}: "
        entry = f"{{repair: {method}, architecture: {network}}}"
        (line,) = (line for line in lines if place in line and entry in line)
        assert f", {method} {reason}; exclude {entry}" in line


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> dict[str, Weights]:
    """Return the repaired networks of a study that runs in this process, by their keys."""
    kept: dict[str, Weights] = {}
    keep = StageTools.keep_repaired

    def also_here(
        tools: StageTools,
        scenario: Scenario,
        key: str,
        seconds: float,
        weights: Weights,
        content: StoredRelearning,
    ) -> None:
        kept[key] = weights
        keep(tools, scenario, key, seconds, weights, content)

    monkeypatch.setattr(StageTools, "keep_repaired", also_here)
    return kept


def test_the_others_repair(kept: dict[str, Weights]) -> None:
    exclude = ", ".join(f"{{repair: {m}, architecture: {n}}}" for m, n in REFUSED)
    study = load(text(f"exclude: [{exclude}]\n"))
    frame = o.run_study(study, out="runs/matrix", inline=True).frame
    if IMAGES:
        print(rates(frame))  # noqa: T201 - what one looks for with images of one's own
    networks = frame.architecture.str.partition("(")[0]
    done = Counter(zip(frame.repair, networks, strict=True))
    wanted = {pair for pair in product(ENTRIES, NETWORKS) if pair not in REFUSED}
    assert done == dict.fromkeys(wanted, 2)  # attacks
    failed = frame[frame.status != "done"]
    assert failed.empty, failed[["repair", "architecture", "attack", "error"]].to_string()
    for half, when, metric in product(("selection", "report"), ("before", "after"), METRICS):
        assert frame[f"{metric}_{when}_{half}"].between(0, 1).all()
    # By three kinds of arithmetic an ASR of 0.99 and an ACC of 0.4 at least.
    assert (frame.asr_before_report > 0.8).all()
    assert (frame.acc_before_report > 0.2).all()  # a tenth is chance
    stages = Counter(pd.read_csv("runs/matrix/stages.csv").stage)
    assert stages["train_victim"] == 2 * len(NETWORKS)
    assert stages["evaluate"] == len(frame) + stages["train_victim"]

    results = StageResults(Store(study.store), CacheKeys(study.victim, compute_here(study)))
    for trial in make_plan(study).trials:
        spec = model_spec_from_info(trial.scenario)
        victim = VICTIM.read(results.store, results.keys.victim(trial.scenario), spec)
        assert spec is not None
        assert victim is not None
        before = victim.content.of(spec).state
        after = kept[reached(results, trial)[-1].relearn_key].state
        assert after.keys() == before.keys()
        assert all(bool(value.isfinite().all()) for value in after.values())
        changed = [name for name in before if not torch.equal(before[name], after[name])]
        assert any(
            not name.endswith(("running_mean", "running_var", "num_batches_tracked"))
            for name in changed
        ), trial.name


def rates(frame: pd.DataFrame) -> str:
    """Return ACC and ASR on the report half in percent: of victims, then after each method."""
    cells: dict[str, dict[str, str]] = {}
    for row in frame.to_dict("records"):
        place = f"{row['architecture'].partition('(')[0]}, {row['attack']}"
        for name, when in (("victim", "before"), (row["repair"], "after")):
            acc, asr = (100 * row[f"{metric}_{when}_report"] for metric in ("acc", "asr"))
            cells.setdefault(name, {})[place] = f"{acc:.1f} {asr:.1f}"
    heads = list(cells["victim"])
    lines = [["", *heads], ["---"] * (1 + len(heads))]
    lines += [[name, *(row.get(head, "refused") for head in heads)] for name, row in cells.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
