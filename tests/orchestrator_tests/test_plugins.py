"""A study with the user's own dataset and architecture."""

import pickle
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.executor.inline import run_inline
from orchestrator.plan.jobs import Site
from orchestrator.plan.plan import make_plan
from orchestrator.plan.resources import Compute
from orchestrator.spec.dump import resolved_yaml
from orchestrator.spec.load import load_study
from orchestrator.store.keys import CacheKeys
from orchestrator.terminal import Interrupts
from tests.orchestrator_tests.simulation import Desk
from tests.orchestrator_tests.spec_files import load, mistakes
from tests.system_tests.commands import ROOT
from ulrl.plugins import Plugin, load_plugin, unload

STUDY = """\
name: s
plugins: [stripes.py]
grid:
  attack: {name: badnets, size: 2}
  dataset: [stripes, {name: digits, size: 12}]
  architecture: [two_layers, {name: preact_resnet18, width: 1}]
  relearn_epochs: 3
  unlearn_epochs: 4
victim: {epochs: 3, batch_size: 16, min_acc: 0.3, min_asr: 0}
prune: none
store: store
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "tests/plugins/stripes.py", tmp_path)
    yield tmp_path
    unload("ulrl_plugin_stripes")


def victims() -> dict[tuple[str, str], str]:
    """Return the victims' keys by dataset and architecture."""
    study = load(STUDY)
    keys = CacheKeys(study.victim, Compute())
    return {
        (one.dataset.name, one.architecture.name): keys.victim(one)
        for one in make_plan(study).scenarios
    }


def test_a_study_of_an_own_dataset_and_architecture(folder: Path) -> None:
    study = load(STUDY, "grid.clean_ratio=0.1")
    desk = Desk(study, folder)
    site = Site(store=study.store, study=desk.folder.identity())
    desk.scheduler.open()
    run_inline(desk.scheduler, site, Interrupts())
    assert desk.statuses() == ["done"] * 4
    own = next(row for row in desk.rows() if row["dataset"] == "stripes")
    assert own["architecture"] == "two_layers"
    assert own["acc_before_report"] > 0.9, "the bright row tells the class"


def test_an_edit_changes_the_keys_of_what_rests_on_the_file(folder: Path) -> None:
    before = victims()
    assert victims() == before
    file = folder / "stripes.py"
    file.write_text(file.read_text() + "\n# a note\n")
    after = victims()
    same = {pair for pair in before if before[pair] == after[pair]}
    assert same == {("digits", "preact_resnet18")}


def test_a_study_is_the_same_once_it_was_written_or_sent() -> None:
    study = load(STUDY)
    assert pickle.loads(pickle.dumps(study)) == study
    Path("again.yaml").write_text(resolved_yaml(study))
    assert load_study("again.yaml").grid == study.grid


def test_the_examples_of_the_page_load() -> None:
    page = (ROOT / "docs/own-code.md").read_text(encoding="utf-8")
    examples = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(examples) >= 3
    for example in examples:
        plugin = Plugin(path="example.py", source=example)
        load_plugin(plugin)
        unload(plugin.module)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("from_torch(", "len("), "stripes.py raises TypeError"),
        (('"stripes"', '"digits"'), "dataset 'digits' is already registered by Digits"),
        (('"two_layers"', '"timm"'), "architecture 'timm' is already registered by"),
        (
            ("16, classes", "16, 10"),
            "on stripes, two_layers gives [2, 4] for two images of 4 classes; got [2, 10]",
        ),
        (("12, 12", "12, 13"), "stripes: image 0 of train has 1 channels and 12 × 13 pixels"),
        ((r"^@.*\n", ""), "stripes.py registers no attack, dataset, architecture or repair method"),
    ],
)
def test_what_is_wrong_with_own_code(change: tuple[str, str], message: str, folder: Path) -> None:
    file = folder / "stripes.py"
    pattern = change[0] if change[0].startswith("^") else re.escape(change[0])
    file.write_text(re.sub(pattern, change[1], file.read_text(), flags=re.MULTILINE))
    assert any(message in line for line in mistakes(STUDY)), mistakes(STUDY)
