"""Every number of a study file, written as a number that no machine or library can take."""

import dataclasses
import time
from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_type_hints

import optuna
import pytest
import yaml

from orchestrator.errors import SpecError
from orchestrator.search.pruners import make_pruner
from orchestrator.search.samplers import Sampler
from orchestrator.spec.entries import AXES
from orchestrator.spec.model import Study
from orchestrator.spec.sections import PRUNERS, SAMPLERS
from tests.orchestrator_tests.spec_files import load
from ulrl.attacks import ATTACKS
from ulrl.datasets import DATASETS
from ulrl.models import ARCHITECTURES
from ulrl.supervised import VictimConfig

pytestmark = pytest.mark.usefixtures("empty_folder")

VALUES = (
    *("-1", "0", "-0.0", "1e-300", "0.5", "3", "1000", "1e9", "1e18", "18446744073709551616"),
    *("1e300", "1e400", "9" * 400, ".nan", ".inf", "-.inf", "true", "'1'", "[]", "{}", "null"),
    *("x", "0x10", "1_0", "0.30000000000000004", "[0.3, 0.30000000000000004]"),
)
PARTS = {
    "attack": "badnets",
    "dataset": "digits",
    "architecture": "{name: preact_resnet18, width: 4}",
}
RANGES = "unlearn_threshold: {low: 0.1, high: 0.4}, relearn_lr: {low: 0.001, high: 0.1}"
NEEDED = {"percentile": "percentile: 50", "threshold": "lower: 0.1", "patient": "wrapped: median"}


def study_file(rest: str = "", axes: str = "", **parts: str) -> str:
    grid = ", ".join(f"{key}: {value}" for key, value in {**PARTS, **parts}.items())
    return f"name: s\ngrid: {{{grid}{', ' if axes else ''}{axes}}}\n{rest}\n"


def options() -> Iterator[tuple[str, str]]:
    """Yield the numeric options of attacks, datasets and architectures."""
    registries: dict[str, Mapping[str, type[Any]]] = {
        "attack": ATTACKS,
        "dataset": DATASETS,
        "architecture": ARCHITECTURES,
    }
    start = {"arrays": "arrays: a.npz", "timm": "name: timm, model: resnet10t"}
    for kind, registry in registries.items():
        for name, owner in registry.items():
            hints = get_type_hints(owner)
            for option in (field.name for field in dataclasses.fields(owner)):
                if {int, float} & {hints[option], *get_args(hints[option])}:
                    named = start.get(name, f"name: {name}")
                    entry = f"{{{named}, {option}: @}}"
                    yield f"{kind} {name} {option}", study_file(**{kind: entry})


def places() -> Iterator[tuple[str, str]]:
    """Yield every place of a number with a study file in which it is ``@``."""
    for name in AXES:
        if name not in PARTS:
            yield f"axis {name}", study_file(axes=f"{name}: @")
    yield from options()
    victim = (field.name for field in dataclasses.fields(VictimConfig))
    sections = {
        "victim": (*victim, "min_acc", "min_asr"),
        "resources": ("workers", "cpu", "gpu"),
        "limits": ("minutes", "attempts"),
        "budget": ("hours", "trials"),
    }
    for name, keys in sections.items():
        for key in keys:
            yield f"{name} {key}", study_file(f"{name}: {{{key}: @}}")
    of_stage = "resources: {cpu: 2, stages: {relearn: {cpu: @}}}"
    yield "resources of a stage", study_file(of_stage)
    for sampler, table in SAMPLERS.items():
        for key in (*table, "seed", "settings"):
            usual = "" if key == "settings" else "settings: 2, "
            search = f"search: {{sampler: {sampler}, {usual}{key}: @}}"
            yield f"search {sampler} {key}", study_file(search, axes=RANGES)
    whole = "unlearn_threshold: {low: 0.1, high: 0.4, step: 0.1}"
    for key in ("low: 0.1", "high: 0.4", "step: 0.1"):
        name = key.partition(":")[0]
        axis = whole.replace(key, f"{name}: @")
        yield f"range {name}", study_file("search: {sampler: tpe, settings: 2}", axes=axis)
    for pruner, arguments in PRUNERS.items():
        level = "setting" if pruner == "wilcoxon" else "curve"
        for key in arguments:
            needed = NEEDED.get(pruner, "")
            needed = "" if needed.startswith(f"{key}:") or not needed else f"{needed}, "
            prune = f"prune: {{{level}: {{pruner: {pruner}, {needed}{key}: @}}}}"
            yield f"prune {pruner} {key}", study_file(prune)


PLACES = dict(places())


def outcome(text: str, *overrides: str) -> Study | list[str]:
    """Return the study of a file, or its mistakes; anything else that is raised is a fault."""
    began = time.process_time()
    try:
        study: Study | list[str] = load(text, *overrides)
    except SpecError as mistakes:
        study = list(mistakes.lines)
        assert study
        assert all(line.startswith(("grid.yaml:", "--set ")) for line in study), study
    assert time.process_time() - began < 10, text  # timm alone takes some seconds to import
    return study


@pytest.mark.parametrize("kind", sorted({name.partition(" ")[0] for name in PLACES}))
def test_every_number_is_refused_in_a_line_or_accepted(kind: str) -> None:
    """Each place gets every third of the values, another third at each place."""
    refused = accepted = 0
    for number, (name, text) in enumerate(PLACES.items()):
        if name.partition(" ")[0] != kind:
            continue
        for value in VALUES[number % 3 :: 3]:
            found = outcome(text.replace("@", value))
            accepted += isinstance(found, Study)
            refused += isinstance(found, list)
    assert refused > 0
    assert accepted > 0


FULL = """\
name: s
plugins: []
preset: official
grid:
  attack: [{name: blended, alpha: [0.1, 0.2], labels: all_to_one}, badnets]
  dataset: [{name: digits, size: 16}, {arrays: a.npz, mean: 0.5, std: [0.2, 0.3, 0.4]}]
  architecture: {name: preact_resnet18, width: 4}
  alpha: {low: 0.1, high: 1.0, log: true}
  unlearn_milestones: [[5], [5, 10]]
exclude: [{attack: badnets, dataset: digits, alpha: {low: 0.2, high: 0.3}}]
search: {sampler: tpe, settings: 8, n_startup_trials: 3}
victim: {import: [{path: 'a/{seed}', mean: 0.1, std: 0.5, attack: blended}, b], min_acc: 0.4}
prune: {setting: {p_threshold: 0.1}, curve: {pruner: patient, patience: 2, wrapped: median}}
objective: asr
resources: {gpu: 1, device: cuda, stages: {relearn: {gpu: 0.5}},
  architectures: {preact_resnet18: {cpu: 2, stages: {unlearn: {gpu: 2}}}}}
limits: {minutes: {relearn: 3}, attempts: 2}
budget: {hours: 3, trials: 9}
optuna: {storage: a.log}
mlflow: {uri: 'sqlite:///a.db', log_models: all, register: true}
store: s3://bucket
"""


def paths(value: Any, path: str = "") -> Iterator[str]:
    """Yield the dotted path of everything in a study file."""
    parts = dict(enumerate(value)) if isinstance(value, list) else value
    for key, part in parts.items() if isinstance(parts, dict) else ():
        yield f"{path}{key}"
        yield from paths(part, f"{path}{key}.")


def test_whatever_stands_anywhere_is_refused_in_a_line_or_accepted() -> None:
    assert isinstance(outcome(FULL), Study)
    accepted = 0
    for number, path in enumerate(paths(yaml.safe_load(FULL))):
        for value in ("~", "{a: {b: 1}}", "[[x]]", "[]", "{}", "x", "-1", "true")[number % 4 :: 4]:
            accepted += isinstance(outcome(FULL, f"{path}={value}"), Study)
    assert accepted > 0


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("name", [name for name in PLACES if name.startswith(("search", "range"))])
def test_what_is_accepted_can_be_drawn_from(name: str) -> None:
    for value in VALUES:
        study = outcome(PLACES[name].replace("@", value))
        if isinstance(study, Study) and study.search is not None:
            sampler = Sampler(study.search, study.grid.settings, study.objective)
            values = next(sampler.proposals(0, 1))
            axis = study.grid.settings["unlearn_threshold"]
            assert values["unlearn_threshold"] in axis


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("name", [name for name in PLACES if name.startswith("prune")])
def test_what_is_accepted_can_prune(name: str) -> None:
    for value in VALUES:
        study = outcome(PLACES[name].replace("@", value))
        if not isinstance(study, Study):
            continue
        choice = study.prune.curve or study.prune.setting
        assert choice is not None
        pruner = make_pruner(choice)
        judged = optuna.create_study(direction="maximize", pruner=pruner)
        for number in range(3):
            trial = judged.ask()
            for step in range(4):
                trial.report(number / 10 + step / 100, step)
                trial.should_prune()
            judged.tell(trial, 0.5)
