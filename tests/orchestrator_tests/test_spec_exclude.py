"""What `exclude` leaves out, and which of its entries are mistakes."""

import itertools
import re

import pytest

from orchestrator.errors import SpecError
from orchestrator.plan.plan import make_plan
from orchestrator.spec.model import Study, holds
from tests.orchestrator_tests.spec_files import SMALL, load, mistakes

pytestmark = pytest.mark.usefixtures("empty_folder")

BASE = """\
name: s
grid:
  attack: [badnets, {name: badnets, size: 4}, {name: sig, poison_ratio: 0.05}]
  dataset: [digits, {name: digits, size: 32}]
  architecture: [preact_resnet18, {name: preact_resnet18, width: 16}]
  poison_ratio: [0.1, 0.2]
  seed: [0, 1]
  reinit_ratio: [0.5, 1.0]
  zero_mad: [infinite, mean_deviation]
  unlearn_milestones: [[5], [5, 10]]
"""


def with_exclude(exclude: str, text: str = BASE) -> str:
    """Return a study file with these exclusions."""
    return f"{text}exclude: {exclude}\n"


def points(study: Study) -> dict[str, bool]:
    """Return whether each point of the grid is excluded, by a text made here."""
    grid = study.grid
    names = list(grid.settings)
    axes = [axis for axis in grid.settings.values() if isinstance(axis, tuple)]
    found: dict[str, bool] = {}
    for attack, dataset, architecture in itertools.product(
        grid.attacks, grid.datasets, grid.architectures
    ):
        ratios = grid.poison_ratios if attack.poison_ratio is None else (attack.poison_ratio,)
        for ratio, seed, *settings in itertools.product(ratios, grid.seeds, *axes):
            values = {"attack": attack, "dataset": dataset, "architecture": architecture}
            values |= {"poison_ratio": ratio, "target_label": 0, "seed": seed}
            values |= dict(zip(names, settings, strict=True))
            size = getattr(attack.attack, "size", "")
            place = f"{attack.attack.name}{size} {dataset.label} {architecture.label}"
            text = " ".join([place, *(f"{name}={value}" for name, value in values.items())])
            found[text] = any(holds(one.conditions, values) for one in study.exclude)
    return found


@pytest.mark.parametrize(
    ("exclude", "words"),
    [
        ("[]", None),
        ("{attack: sig}", [["sig "]]),
        ("[{attack: {name: badnets}}]", [["badnetsNone"]]),
        ("[{attack: {name: badnets, size: 4}, seed: 1}]", [["badnets4", "seed=1"]]),
        ("[{dataset: digits, attack: sig}]", [["sig "]]),
        ("[{architecture: {name: preact_resnet18}}]", [["resnet18 "]]),
        ("[{attack: [sig, {name: badnets, size: 4}]}]", [["sig "], ["badnets4"]]),
        ("[{poison_ratio: [0.05, 0.2]}]", [["poison_ratio=0.2"], ["sig "]]),
        ("[{seed: 0, reinit_ratio: 1}]", [["seed=0", "reinit_ratio=1.0"]]),
        ("[{seed: 0}, {zero_mad: infinite}]", [["seed=0"], ["zero_mad=infinite"]]),
        ("[{unlearn_milestones: [5, 10]}]", [["milestones=(5, 10)"]]),
    ],
)
def test_what_is_left_out(exclude: str, words: list[list[str]] | None) -> None:
    """Each list of words is an exclusion: it holds where the point's text has all of them."""
    found = points(load(with_exclude(exclude)))
    assert len(found) == 5 * 2 * 2 * 2 * 2 * 2 * 2
    for text, excluded in found.items():
        assert excluded == any(all(word in text for word in entry) for entry in words or [])


def test_only_what_is_left_must_be_possible() -> None:
    text = BASE.replace("0.05", "0.2").replace("[0.1, 0.2]", "[0.1, 1e-4]")
    impossible = mistakes(with_exclude("[]", text))
    assert [line.split(",")[0] for line in impossible] == [
        "3: grid.attack.2.poison_ratio: on digits",
        "3: grid.attack.2.poison_ratio: on digits(size=32)",
        "6: grid.poison_ratio.1: on digits",
        "6: grid.poison_ratio.1: on digits(size=32)",
    ]
    left = mistakes(
        with_exclude("[{attack: sig}, {dataset: {name: digits}, poison_ratio: 1e-4}]", text)
    )
    assert [line.split(",")[0] for line in left] == ["6: grid.poison_ratio.1: on digits(size=32)"]
    load(with_exclude("[{attack: sig}, {poison_ratio: 1e-4}]", text))


def test_a_broken_axis_makes_no_exclusion_wrong() -> None:
    text = BASE.replace("seed: [0, 1]", "seed: [0, x]").replace("size: 4", "size: 0")
    assert mistakes(with_exclude("[{seed: 1}, {attack: {name: badnets, size: 4}}]", text)) == [
        "3: grid.attack.1.size: size is in pixels, at least 1; got 0",
        "7: grid.seed.1: seed is a whole number; got 'x'",
    ]


WAYS_OUT = [
    (
        "attack: [badnets, none]",
        "repair: [{name: rnp, rule: [budget, oracle], alpha: 1, tune: {name: ft_sam, rho: 1}}]",
    ),
    ("attack: [badnets, none]", "repair: [clp, {name: rnp, rule: oracle}]"),
    ("attack: [badnets, none]", "repair: [{name: rnp, rule: oracle}]"),
    ("attack: [badnets, none]", "suspects: [null, target]"),
    ("attack: [badnets, {name: badnets, labels: all_to_all, size: 4}]", "suspects: [null, target]"),
    ("attack: {name: badnets, labels: [all_to_one, all_to_all]}", "suspects: [target]"),
    ("architecture: [preact_resnet18, {name: vit_b_16, size: 64}]", "repair: [clp, bnp, nc]"),
    ("architecture: [vgg19_bn, preact_resnet18]", "repair: [{name: npd, layer: features.49}, nc]"),
]


@pytest.mark.parametrize(("scenario", "setting"), WAYS_OUT)
def test_the_way_out_that_a_message_states_is_taken(scenario: str, setting: str) -> None:
    """Written as it stands, it ends its message, and the first attack keeps trials."""
    key = scenario.partition(":")[0]
    text = re.sub(f"  {key}: .*", f"  {scenario}", SMALL) + f"  {setting}\n"
    told: list[str] = []
    study = None
    while study is None:
        entries = "".join(f"  - {one}\n" for one in told)
        new: list[str] = []
        try:
            study = load(f"{text}exclude:\n{entries}" if told else text)
        except SpecError as error:
            new = [line.partition("; exclude ")[2] for line in error.lines]
        assert all(new)
        assert not set(new) & set(told)
        told += dict.fromkeys(new)
    assert 0 < len(told) <= 3
    assert len(study.exclude) == len(told)
    assert study.grid.attacks[0] in {trial.scenario.choice for trial in make_plan(study).trials}


def test_where_nothing_would_be_left_the_grid_is_to_change() -> None:
    text = SMALL.replace("badnets", "none") + "  repair: [{name: rnp, rule: oracle}]\n"
    (line,) = mistakes(text)
    assert line.endswith("there is none without an attack; change repair or attack")


def test_an_entry_that_the_grid_lacks_is_told_those_that_it_has() -> None:
    text = SMALL + "  repair: [clp, {name: rnp, rule: [budget, oracle], mask_epochs: 3}]\n"
    (line,) = mistakes(f"{text}exclude: [{{repair: {{name: rnp, rule: oracle}}}}]\n")
    way_out = line.partition("; write ")[2].partition("} or ")[0] + "}"
    assert way_out == "{name: rnp, rule: oracle, mask_epochs: 3}"
    load(f"{text}exclude: [{{repair: {way_out}}}]\n")


METHODS_BESIDE = """\
  repair: [ulrl, fine_tuning]
  unlearn_threshold: [0.1, 0.2]
  max_suspects: [null, 2]
"""


@pytest.mark.parametrize(
    "entry",
    [
        "{repair: fine_tuning, unlearn_threshold: 0.2}",
        "{repair: [fine_tuning], max_suspects: null}",
        "{repair: fine_tuning, seed: 0, unlearn_threshold: [0.1, 0.2]}",
    ],
)
def test_axes_of_ulrl_exclude_nothing_of_another_method(entry: str) -> None:
    (line,) = mistakes(with_exclude(f"[{entry}]", SMALL + METHODS_BESIDE))
    own = "max_suspects" if "max_suspects" in entry else "unlearn_threshold"
    text = f"{own} is an axis of ulrl, and the entry matches other methods alone; leave {own} out"
    assert line == f"9: exclude.0: {text}"


def test_a_range_of_ulrl_excludes_nothing_of_another_method() -> None:
    text = f"{SMALL}  repair: [ulrl, {{name: ft_sam, rho: {{low: 1, high: 2}}}}]\n"
    text += "  alpha: {low: 0, high: 1}\nsearch: {sampler: random, settings: 3}\n"
    load(with_exclude("[{alpha: {low: 0, high: 0.5}}]", text))
    (line,) = mistakes(with_exclude("[{repair: ft_sam, alpha: {low: 0, high: 0.5}}]", text))
    assert line.endswith("leave alpha out")


def test_null_on_an_axis_of_ulrl_is_no_other_method() -> None:
    study = load(with_exclude("[{max_suspects: null}]", SMALL + METHODS_BESIDE))
    kept = [setting.values for setting in make_plan(study).settings]
    assert [values["repair"].name for values in kept].count("fine_tuning") == 1
    trials = [trial.setting.values for trial in make_plan(study).trials]
    assert [(values["repair"].name, values["max_suspects"]) for values in trials] == [
        ("ulrl", 2),
        ("ulrl", 2),
        ("fine_tuning", None),
    ]


def test_an_option_that_is_excluded_as_an_axis_belongs_to_the_entry_of_the_grid() -> None:
    text = f"{SMALL}  repair: [clp, {{name: rnp, mask_threshold: [0.2, 0.4]}}]\n"
    (line,) = mistakes(with_exclude("[{mask_threshold: 0.2}]", text))
    assert "an option of the repair method rnp; this is an entry of exclude; write " in line
    load(with_exclude(f"[{{{line.partition('write ')[2]}}}]", text))
