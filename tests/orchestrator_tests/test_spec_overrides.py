"""Overrides from the command line."""

import pytest

from orchestrator.spec.model import AttackChoice, PrunerChoice
from tests.orchestrator_tests.spec_files import SMALL, load, mistakes
from ulrl.attacks import LabelRule
from ulrl.attacks.blended import Blended
from ulrl.attacks.sig import SIG
from ulrl.hyperparameters import Preset

pytestmark = pytest.mark.usefixtures("empty_folder")


def test_overrides() -> None:
    study = load(
        SMALL.replace("attack: badnets", "attack: [badnets, {name: blended, alpha: 0.3}]"),
        "grid.attack.0={name: sig, delta: 1e-1}",
        "grid.attack.1.alpha=0.4",
        "grid.seed=[3, 4]",
        "grid.poison_ratio=0.05",
        "victim.epochs=7",
        "prune.setting.p_threshold=0.05",
        "mlflow.uri=postgresql+psycopg2://u:p=q@host/db?sslmode=require",
        "name=first",
        " name =second",
        "preset=official",
    )
    clean = LabelRule.CLEAN_LABEL
    assert study.grid.attacks == (
        AttackChoice(attack=SIG(delta=0.1), labels=clean),
        AttackChoice(attack=Blended(alpha=0.4), labels=LabelRule.ALL_TO_ONE),
    )
    assert (study.grid.seeds, study.grid.poison_ratios) == ((3, 4), (0.05,))
    assert study.victim.config("digits", "badnets").epochs == 7
    assert study.prune.setting == PrunerChoice(
        pruner="wilcoxon", arguments={"p_threshold": 0.05, "n_startup_steps": 7}
    )
    assert study.mlflow.uri.reveal() == "postgresql+psycopg2://u:p=q@host/db?sslmode=require"
    assert (study.name, study.preset) == ("second", Preset.OFFICIAL)
    assert study.source == "grid.yaml"


def test_an_override_may_mend_the_file() -> None:
    text = SMALL.replace("badnets", "sgi")
    assert load(text, "grid.attack=sig", "grid.poison_ratio=0.01").grid.attacks[0].attack == SIG()


WRONG = {
    "seed": "an override is KEY=VALUE, its key a dotted path such as grid.seed",
    "grid..seed=3": "an override is KEY=VALUE, its key a dotted path such as grid.seed",
    "grid.seed=[1": (
        "grid.seed: this is not YAML: while parsing a flow sequence, expected ',' or ']', "
        "but got '<stream end>'"
    ),
    "grid.seed=!!int 3": "grid.seed: YAML tags are not read here; got !!int",
    "grid.seed=[1, 1]": "grid.seed.1: 1 stands twice; first at grid.seed.0",
    "grid.seed=": "grid.seed: seed has no values; list at least one",
    "gird.seed=1": "gird: unknown key; did you mean 'grid'?",
    "grid.dataset.0.size=3": (
        "grid.dataset.0.size: grid.dataset has no keys, so there is no grid.dataset.0 to set"
    ),
    "exclude.1.seed=3": "exclude.1.seed: exclude has 1 items, so there is no exclude.1 to set",
}


@pytest.mark.parametrize(("override", "expected"), WRONG.items())
def test_overrides_that_are_wrong(override: str, expected: str) -> None:
    text = f"{SMALL}  target_label: [0, 1]\nexclude: [{{target_label: 1}}]\n"
    assert mistakes(text, override) == [f"--set {override}: {expected}"]
