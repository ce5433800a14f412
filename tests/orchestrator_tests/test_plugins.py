"""A study with the user's own dataset and architecture."""

import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from orchestrator.cli.summary import print_summary
from orchestrator.errors import StudyError
from orchestrator.executor.inline import run_inline
from orchestrator.plan.cost_model import UNKNOWN, shape_of, size_of
from orchestrator.plan.jobs import Site
from orchestrator.plan.plan import make_plan
from orchestrator.plan.resources import Compute
from orchestrator.reporting.build import write_report
from orchestrator.scheduler.trigger_pictures import TriggerPictures
from orchestrator.spec.dump import resolved_yaml
from orchestrator.spec.load import load_study
from orchestrator.spec.model import Study
from orchestrator.store.keys import CacheKeys
from orchestrator.store.lookup import reached
from orchestrator.terminal import Interrupts
from orchestrator.tracking.run_records import RunRecords
from tests.orchestrator_tests.simulation import Desk
from tests.orchestrator_tests.spec_files import SMALL, load, mistakes
from tests.system_tests.commands import ROOT
from ulrl.plugins import Plugin, load_plugin, loaded, unload

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


MEASURED = """\
name: s
plugins: [shares.py]
metrics: [own_acc, own_asr, target_acc, worst_class, own_ra]
grid:
  attack: badnets
  dataset: {name: digits, size: 8}
  architecture: {name: preact_resnet18, width: 1}
  clean_ratio: 0.05
  relearn_epochs: 2
  unlearn_epochs: 3
victim: {epochs: 2, batch_size: 64, min_acc: 0, min_asr: 0}
prune: none
store: store
"""


def finished(study: Study, folder: Path) -> Desk:
    """Run a study inline."""
    desk = Desk(study, folder)
    site = Site(store=study.store, study=desk.folder.identity())
    desk.scheduler.open()
    run_inline(desk.scheduler, site, Interrupts())
    return desk


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "tests/plugins/stripes.py", tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for plugin in loaded():
        unload(plugin.module)
    for name in ("lab", "lab.sizes"):
        sys.modules.pop(name, None)


def make_package(folder: Path) -> None:
    """Make a package of the example, whose module imports another one of it."""
    package = folder / "lab"
    package.mkdir()
    text = (folder / "stripes.py").read_text().replace("CLASSES = 4", "from .sizes import CLASSES")
    (package / "stripes.py").write_text(text)
    (package / "sizes.py").write_text("CLASSES = 4\n")
    (package / "__init__.py").write_text("from . import stripes\n")


def announce(folder: Path) -> None:
    """Let the package be one that is installed."""
    info = folder / "lab-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lab\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ulrl.plugins]\nlab-stripes = lab.stripes\n")


def victims() -> dict[tuple[str, str], str]:
    """Return the victims' keys by dataset and architecture."""
    study = load(STUDY)
    keys = CacheKeys(study.victim, Compute())
    return {
        (one.dataset.name, one.architecture.name): keys.victim(one)
        for one in make_plan(study).scenarios
    }


def test_a_study_of_an_own_dataset_and_architecture(folder: Path) -> None:
    desk = finished(load(STUDY, "grid.clean_ratio=0.1"), folder)
    assert desk.statuses() == ["done"] * 4
    own = next(row for row in desk.rows() if row["dataset"] == "stripes")
    assert own["architecture"] == "two_layers"
    assert own["acc_before_report"] > 0.9, "the bright row tells the class"


def test_a_network_for_one_size_waits_for_a_file_that_is_missing(folder: Path) -> None:
    """Its images are guessed where a plan is made, and the network does not work for the guess."""
    file = folder / "stripes.py"
    file.write_text(file.read_text().replace("4 * side**2, 16", "576, 16"))
    study = load(STUDY, "grid.dataset={arrays: none.npz}", "grid.architecture=two_layers")
    (scenario,) = make_plan(study).scenarios
    assert size_of(scenario.architecture, *shape_of(scenario.dataset)) == UNKNOWN
    assert size_of(scenario.architecture, 4, 1, 12).forward > 1


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


def test_metrics_of_the_users_own(folder: Path) -> None:
    """Those of the example are ACC, ASR and RA again, and one that there was not."""
    shutil.copy(ROOT / "tests/plugins/shares.py", folder)
    usual = Desk(load(MEASURED.replace("metrics:", "#")), folder / "usual").results.columns
    study = load(MEASURED)
    assert load(resolved_yaml(study)).metrics == study.metrics
    desk = finished(study, folder)
    assert desk.results.columns[: len(usual)] == usual
    own = desk.results.columns[len(usual) :]
    assert own[:4] == tuple(
        f"own_acc_{when}_{half}" for when in ("before", "after") for half in ("selection", "report")
    )
    assert len(own) == 20
    records = RunRecords(
        *(desk.scheduler, desk.results, desk.findings, desk.store),
        TriggerPictures(desk.plan, folder),
    )
    for trial, row in zip(desk.plan.rows, desk.rows(), strict=True):
        for name in (name for name in own if name.startswith("own_")):
            assert row[name] == row[name.removeprefix("own_")], name
        assert row["worst_class_before_report"] <= row["acc_before_report"]
        counts = desk.scheduler.repairs[trial.number].counts["report_clean"].tolist()
        known = {row[1]: row[2] for row in counts if row[:1] == [0]}  # class 0 as which, how often
        assert row["target_acc_after_report"] == known.get(0, 0) / sum(known.values())
        metrics = records.trial(trial, best=False).metrics
        assert {name: metrics[name] for name in own} == {name: row[name] for name in own}
        victim = records.scenario(trial.scenario, desk.findings.victim(trial.scenario)).metrics
        before = [name for name in own if "_before_" in name]
        assert {name: victim[name] for name in before} == {name: row[name] for name in before}
    desk.results.write(folder, {})
    types = pd.read_parquet(folder / "results.parquet").dtypes
    assert str(types["worst_class_after_report"]) == "Float64"


def test_an_own_metric_as_the_objective(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The share of mistakes, less of which is better, chooses as ACC does."""
    shutil.copy(ROOT / "tests/plugins/shares.py", folder)
    text = MEASURED.replace("  relearn_epochs: 2", "  relearn_epochs: [1, 3, 8]")
    text = text.replace("[own_acc", "[own_miss, own_acc")
    chosen = {}
    for objective in ("acc", "own_miss", "own_acc"):
        study = load(f"{text}objective: {objective}\n")
        assert load(resolved_yaml(study)).objective == study.objective
        desk = finished(study, folder)
        (folder / "study.yaml").write_text(resolved_yaml(study))
        desk.results.write(folder, {})
        write_report(folder)
        page = (folder / "report.html").read_text()
        shown = {"acc": "ACC"}.get(objective, objective)
        assert f"<dd>{shown} on the selection half" in page
        found = study.objective.value, not study.objective.maximise
        print_summary(Console(), folder / "results.csv", found[0], lowest=found[1])
        out = capsys.readouterr().out
        assert f"best setting by mean {shown} on the selection half" in out
        chosen[objective] = next(line for line in out.splitlines() if "best setting" in line)[-20:]
        for trial, row in zip(desk.plan.trials, desk.rows(), strict=True):
            repaired, victim = (
                desk.scheduler.repairs[trial.number],
                desk.findings.victim(trial.scenario),
            )
            assert victim is not None
            value = reached(study.objective, victim, repaired)
            assert value == row[f"{objective}_after_selection"]
    assert len(set(chosen.values())) == 1, chosen


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("objective: own_miss", "own_miss is not measured; write metrics: [own_miss]"),
        ("objective: {metric: own_acc, direction: minimize}", "own_acc is registered to maximize"),
        ("objective: own_mis", "objective is der, asr, acc or ra"),
        (
            "objective: own_acc\nprune: {curve: median}",
            "own_acc cannot cut trials; write prune: {c",
        ),
    ],
)
def test_wrong_objectives(text: str, message: str, folder: Path) -> None:
    shutil.copy(ROOT / "tests/plugins/shares.py", folder)
    study = MEASURED.replace("prune: none\n", "") + f"{text}\n"
    assert any(message in line for line in mistakes(study)), mistakes(study)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("own_ra]", "own_rb]"), "no further metric is called 'own_rb'; did you mean"),
        (("[own_acc", "[own_ra, own_acc"), "own_ra stands twice"),
        (('r("own_ra"', 'r("der"'), "and is none of acc, asr, ra, der, rir; got 'der'"),
        (("return min(", "return 1 / 0 + min("), "the metric worst_class raises ZeroDivisionError"),
        (("-> float:", "-> float:\n    return 'a'"), "the metric own_acc raises ValueError: could"),
    ],
)
def test_wrong_metrics(change: tuple[str, str], message: str, folder: Path) -> None:
    file = folder / "shares.py"
    file.write_text((ROOT / "tests/plugins/shares.py").read_text().replace(*change))
    assert any(message in line for line in mistakes(MEASURED.replace(*change)))


def test_a_metric_that_fails_later_ends_the_study_in_one_line(folder: Path) -> None:
    text = (ROOT / "tests/plugins/shares.py").read_text()
    body = "    assert len(found.clean) < 200\n    return float('nan')\n"
    file = folder / "shares.py"
    file.write_text(text.replace("    labels = found", f"{body}    labels = found"))
    with pytest.raises(StudyError, match="the metric worst_class raises AssertionError"):
        finished(load(MEASURED), folder).rows()


@pytest.mark.parametrize("name", ["lab.stripes", "lab-stripes"])
def test_a_module_by_its_name(name: str, folder: Path) -> None:
    make_package(folder)
    announce(folder)
    text = STUDY.replace("stripes.py", name)
    study = load(text)
    (plugin,) = study.plugins
    assert plugin.source == (folder / "lab/stripes.py").read_text()
    keys = CacheKeys(study.victim, Compute())
    before = keys.victim(make_plan(study).scenarios[0])
    assert load(resolved_yaml(study)).grid == study.grid
    (folder / "lab/stripes.py").write_text(plugin.source + "\n# a note\n")
    study = load(text)
    assert CacheKeys(study.victim, Compute()).victim(make_plan(study).scenarios[0]) != before


@pytest.mark.parametrize("there", [True, False])
def test_a_worker_has_the_text_of_a_module(there: bool, folder: Path) -> None:  # noqa: FBT001
    """Also where the package around it is not installed, if it does not import that."""
    make_package(folder)
    module = folder / "lab/stripes.py"
    if not there:
        (folder / "lab/__init__.py").unlink()
        module.write_text((folder / "stripes.py").read_text())
    study = load(STUDY.replace("stripes.py", "lab.stripes"))
    (folder / "study.pickle").write_bytes(pickle.dumps(study))
    code = """if True:
        import pickle, sys
        study = pickle.load(open(sys.argv[1], "rb"))
        print(study.grid.datasets[0].info().classes, study.plugins[0].digest)
    """
    path = f"{ROOT}:{folder}" if there else str(ROOT)
    worker = subprocess.run(
        [sys.executable, "-c", code, str(folder / "study.pickle")],
        env={**os.environ, "PYTHONPATH": path},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert worker.stdout.split() == ["4", study.plugins[0].digest], worker.stderr


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lab.mine", "no module and no installed plugin is called 'lab.mine'; the name of a file"),
        ("lab-strips", "'lab-strips'; did you mean 'lab-stripes'?"),
        ("nothing.at.all", "no module and no installed plugin is called 'nothing.at.all'"),
        (
            "lab.sizes",
            "lab.sizes registers no attack, dataset, architecture, repair",
        ),
        ("lab.broken", "lab.broken raises ZeroDivisionError"),
        ("ulrl.datasets.digits", "is part of this package; name a module of your own"),
        ("lab.stripes, lab-stripes", "two plugins have the name lab-stripes; rename one"),
        ("math", "math has no file of Python"),
    ],
)
def test_what_is_wrong_with_a_module(name: str, message: str, folder: Path) -> None:
    make_package(folder)
    announce(folder)
    (folder / "lab/broken.py").write_text("1 / 0\n")
    assert any(message in line for line in mistakes(STUDY.replace("stripes.py", name)))


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
        (
            (r"^@.*\n", ""),
            "stripes.py registers no attack, dataset, architecture, repair",
        ),
    ],
)
def test_what_is_wrong_with_own_code(change: tuple[str, str], message: str, folder: Path) -> None:
    file = folder / "stripes.py"
    pattern = change[0] if change[0].startswith("^") else re.escape(change[0])
    file.write_text(re.sub(pattern, change[1], file.read_text(), flags=re.MULTILINE))
    assert any(message in line for line in mistakes(STUDY)), mistakes(STUDY)


@pytest.mark.parametrize("plugin", ["mark.py", "missing.py"])
def test_what_a_broken_plugin_would_have_registered_is_no_second_mistake(
    plugin: str, folder: Path
) -> None:
    (folder / "mark.py").write_text("1 / 0\n")
    text = STUDY.replace("stripes.py", f"stripes.py, {plugin}").replace("name: badnets", "name: mk")
    text = f"{text}metrics: [mk]\nobjective: mk\n"
    (line,) = mistakes(text)
    assert line.startswith("2: plugins.1: ")
    assert plugin in line


MARK = '''\
"""An attack: a bright corner."""

from dataclasses import dataclass

from torch import Generator

from ulrl.attacks import FixedAttack, Images, register


@register("mark")
@dataclass(frozen=True, kw_only=True)
class Mark(FixedAttack):
    """A bright corner."""

    size: int = 2

    def stamp(self, images: Images, generator: Generator) -> Images:
        triggered = images.clone()
        triggered[..., : self.size, : self.size] = 1
        return triggered
'''


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("= 1\n", "= 1 / 0\n"), "(ZeroDivisionError: division by zero)"),
        (
            ("return triggered", "return triggered[0]"),
            "(ValueError: stamp returns float32 [3, 8, 8])",
        ),
        (
            ("return triggered", "return (triggered * 255).byte()"),
            "stamp returns uint8 [1, 3, 8, 8]",
        ),
        (("return triggered", "return None"), "(TypeError: stamp returns NoneType)"),
        (("= 1\n", "= float('nan')\n"), "(ValueError: stamp returns NaN or infinity)"),
        (("images.clone()", "images.repeat(1, 3, 1, 1)"), "stamp returns float32 [1, 9, 8, 8]"),
    ],
)
def test_an_own_attack_is_tried_on_an_image_before_the_run(
    change: tuple[str, str], message: str, folder: Path
) -> None:
    text = SMALL.replace("badnets", "[badnets, mark]").replace("digits", "{name: digits, size: 8}")
    text = text.replace("grid:", "plugins: [mark.py]\ngrid:")
    (folder / "mark.py").write_text(MARK)
    load(text)
    assert change[0] in MARK
    (folder / "mark.py").write_text(MARK.replace(*change))
    (line,) = mistakes(text)
    assert line.startswith("4: grid.attack.1: on digits(size=8), mark does not stamp an image, ")
    assert "float32 [1, 3, 8, 8] in [0, 1]" in line
    assert message in line
