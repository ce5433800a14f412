"""The `prune` section, and its table of pruners against Optuna's own signatures."""

import inspect
from typing import Any

import optuna
import pytest

from orchestrator.spec.dump import resolved_yaml
from orchestrator.spec.model import Prune, PrunerChoice
from orchestrator.spec.sections import PRUNERS
from tests.orchestrator_tests.spec_files import SMALL, load

pytestmark = pytest.mark.usefixtures("empty_folder")

MEDIAN = {"n_startup_trials": 5, "n_warmup_steps": 0, "interval_steps": 1, "n_min_trials": 1}
WILCOXON = PrunerChoice(pruner="wilcoxon", arguments={"p_threshold": 0.01, "n_startup_steps": 7})


def read(prune: str) -> Prune:
    """Return the section as read, and make sure that it reads back from its resolved form."""
    study = load(f"{SMALL}prune: {prune}\n")
    assert load(resolved_yaml(study)) == study
    return study.prune


def optuna_class(pruner: str) -> type[Any]:
    """Return Optuna's class of a pruner's name."""
    name = "".join(part.capitalize() for part in pruner.split("_"))
    found: type[Any] = getattr(optuna.pruners, f"{name}Pruner")
    return found


@pytest.mark.parametrize("pruner", PRUNERS)
def test_the_table_is_optunas(pruner: str) -> None:
    parameters = dict(inspect.signature(optuna_class(pruner)).parameters)
    table = {
        {"wrapped": "wrapped_pruner"}.get(key, key): one for key, one in PRUNERS[pruner].items()
    }
    assert list(table) == list(parameters)
    ours = {key: default for key, (_, default) in table.items()}
    theirs = {
        key: ... if one.default is inspect.Parameter.empty else one.default
        for key, one in parameters.items()
    }
    if pruner == "wilcoxon":  # the two defaults that differ, on purpose
        assert theirs == {"p_threshold": 0.1, "n_startup_steps": 2}
        theirs = {"p_threshold": 0.01, "n_startup_steps": 7}
    assert ours == theirs


def test_every_pruner_of_optuna_is_known() -> None:
    names = {name for name in optuna.pruners.__all__ if name not in ("BasePruner", "NopPruner")}
    assert {optuna_class(pruner).__name__ for pruner in PRUNERS} == names


def choice(pruner: str, **arguments: Any) -> PrunerChoice:
    return PrunerChoice(pruner=pruner, arguments=arguments)


HYPERBAND = {"min_resource": 1, "reduction_factor": 3, "bootstrap_count": 0}
MEANT: dict[str, tuple[PrunerChoice | None, PrunerChoice | None]] = {
    "none": (None, None),
    "{}": (WILCOXON, None),
    "{setting: none}": (None, None),
    "{setting: wilcoxon, curve: none}": (WILCOXON, None),
    "{setting: {p_threshold: 5e-2}}": (
        choice("wilcoxon", p_threshold=0.05, n_startup_steps=7),
        None,
    ),
    "{curve: median}": (WILCOXON, choice("median", **MEDIAN)),
    "{setting: none, curve: {pruner: percentile, percentile: 25, n_warmup_steps: 5}}": (
        None,
        choice("percentile", percentile=25.0, **{**MEDIAN, "n_warmup_steps": 5}),
    ),
    "{curve: {pruner: threshold, lower: 0.2}}": (
        WILCOXON,
        choice("threshold", lower=0.2, n_warmup_steps=0, interval_steps=1),
    ),
    "{curve: {pruner: patient, patience: 3, wrapped: none}}": (
        WILCOXON,
        choice("patient", patience=3, wrapped=None, min_delta=0.0),
    ),
    "{curve: {pruner: hyperband, max_resource: auto}}": (
        WILCOXON,
        choice("hyperband", max_resource="auto", **HYPERBAND),
    ),
}


@pytest.mark.parametrize(("prune", "expected"), MEANT.items())
def test_what_is_meant(
    prune: str, expected: tuple[PrunerChoice | None, PrunerChoice | None]
) -> None:
    found = read(prune)
    assert (found.setting, found.curve) == expected
