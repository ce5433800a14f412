"""Repair methods as an axis: entries with options, beside ULRL's own axes."""

import contextlib
import dataclasses
import json
import re
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from orchestrator.errors import SpecError
from orchestrator.plan.labels import setting_text, with_defaults
from orchestrator.plan.plan import Plan, make_plan
from orchestrator.scheduler.decisions import Decisions, Status, TrialOutcome
from orchestrator.spec.dump import resolved_yaml
from tests import methods_page
from tests.orchestrator_tests.spec_files import SMALL, load
from ulrl.audits import AUDITS
from ulrl.methods import METHODS, TuningMethod
from ulrl.methods._cuts import Rule
from ulrl.methods._tuning import NoTuning
from ulrl.methods.clp import CLP
from ulrl.methods.fine_tuning import FineTuning
from ulrl.methods.ft_sam import FTSAM
from ulrl.methods.head_neurons import HeadNeurons

pytestmark = pytest.mark.usefixtures("empty_folder")

MIXED = """\
  unlearn_threshold: [0.1, 0.2]
  reinit_ratio: [0.3, 0.7]
  clean_ratio: [0.05, 0.1]
  repair:
    - {name: clp, u: [2, 3]}
    - ulrl
    - {name: clp, rule: budget}
    - fine_tuning
"""


def plan(addition: str, rest: str = "") -> Plan:
    return make_plan(load(f"{SMALL}{addition}{rest}"))


def test_axes_of_ulrl_multiply_its_own_entries_alone() -> None:
    found = plan(MIXED)
    methods = [setting.values["repair"].label for setting in found.settings]
    once = ["clp(u=2.0)", "clp(u=3.0)", "ulrl", "clp(rule=budget)", "fine_tuning"]
    counts = {name: methods.count(name) for name in once}
    assert counts == {name: 8 if name == "ulrl" else 2 for name in once}
    assert list(dict.fromkeys(methods)) == once  # in the order of the file
    assert found.methods == ("clp", "ulrl", "fine_tuning")
    for setting in found.settings:
        own = {setting.values["unlearn_threshold"], setting.values["reinit_ratio"]}
        assert (own == {None}) == (setting.values["repair"].name != "ulrl")
    texts = [setting.text for setting in found.settings]
    assert texts[0] == "clean_ratio=0.05, repair=clp(u=2.0)"
    assert "clean_ratio=0.1, unlearn_threshold=0.2, reinit_ratio=0.3, repair=ulrl" in texts
    assert len(set(texts)) == len(texts)


def test_a_row_has_the_method_its_options_and_what_it_uses() -> None:
    found = plan(MIXED)
    points = [found.point(trial) for trial in found.trials]
    tuned = next(point for point in points if point["repair"] == "fine_tuning")
    assert (tuned["unlearn_threshold"], tuned["reinit_ratio"]) == (None, None)
    assert tuned["repair_options"] == "{}"
    assert tuned["clean_ratio"] == 0.05
    options = {json.loads(p["repair_options"]).get("u") for p in points if p["repair"] == "clp"}
    assert options == {2.0, 3.0, None}
    assert found.varied() == (
        *("clean_ratio", "unlearn_threshold", "reinit_ratio", "repair", "repair_options"),
    )


def test_a_trial_has_the_defaults_of_its_dataset() -> None:
    assert CLP().resolved("tiny_imagenet") == CLP(u=5.0)
    found = plan("  repair: [clp, {name: fine_tuning, epochs: 7}, ulrl]\n")
    assert [trial.method for trial in found.trials] == [CLP(), FineTuning(epochs=7), None]


def test_exclusions_name_methods_and_entries() -> None:
    found = plan(MIXED, "exclude: [{repair: clp, clean_ratio: 0.1}, {repair: fine_tuning}]\n")
    left = [
        (t.setting.values["repair"].label, t.setting.values["clean_ratio"]) for t in found.trials
    ]
    assert {pair for pair in left if pair[0] != "ulrl"} == {
        ("clp(u=2.0)", 0.05),
        ("clp(u=3.0)", 0.05),
        ("clp(rule=budget)", 0.05),
    }
    one = plan(MIXED, "exclude: [{repair: {name: clp, u: 2}}]\n")
    assert CLP(u=2.0) not in {trial.method for trial in one.trials}
    assert CLP(rule=Rule.BUDGET).resolved("digits") in {trial.method for trial in one.trials}


def test_the_resolved_study_reads_as_the_same() -> None:
    study = load(f"{SMALL}{MIXED}exclude: [{{repair: clp, clean_ratio: 0.1}}]\n")
    text = resolved_yaml(study)
    Path("again.yaml").write_text(text)
    again = load(text)
    assert (again.grid, again.exclude) == (study.grid, study.exclude)


TUNED = """\
  repair:
    - {name: clp, u: [2, 3], tune: [none, {name: fine_tuning, lr: [0.01, 0.05]}]}
    - {name: ft_sam, adaptive: false}
"""


def test_the_options_of_a_tuner_are_axes_of_its_entry() -> None:
    found = plan(TUNED)
    tuners = (NoTuning(), FineTuning(), FineTuning(lr=0.05))
    assert [trial.method for trial in found.trials] == [
        *(CLP(u=u, tune=tuner) for u in (2.0, 3.0) for tuner in tuners),
        FTSAM(adaptive=False),
    ]
    options = [json.loads(found.point(trial)["repair_options"]) for trial in found.trials]
    assert options[0] == {"u": 2.0, "tune": "none"}
    assert options[2] == {"u": 2.0, "tune": "fine_tuning(lr=0.05)"}
    study = load(f"{SMALL}{TUNED}")
    assert load(resolved_yaml(study)).grid == study.grid


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        ("{name: clp, tune: ft_sm}", "no tuner is called 'ft_sm'; did you mean 'ft_sam'?"),
        ("{name: clp, tune: {name: ft_sam, rh: 1}}", "unknown key; did you mean 'rho'?"),
        ("{name: clp, tune: {name: ft_sam, rho: -1}}", "rho is a distance, in [0, 1000]; got -1.0"),
        ("{name: clp, tune: {rho: 1}}", "the tuner has no name; write {name: ..., OPTION: ...}"),
        ("{name: clp, tune: []}", "tune has no values; list at least one"),
        ("{name: ft_sam, tune: none}", "unknown key"),
        ("{name: tsbd, radius: 1, tune: none}", "radius is of tsbd's own tuner, and tune names"),
    ],
)
def test_a_tuner_that_is_wrong_has_one_line(entry: str, line: str) -> None:
    with pytest.raises(SpecError) as error:
        plan(f"  repair: [{entry}]\n")
    text = str(error.value)
    assert line in text
    assert text.count("grid.repair") == 1


REGISTRIES: dict[str, dict[str, Any]] = {"repair": {**METHODS}, "audit": {**AUDITS}}


def nullable() -> list[tuple[str, str, str]]:
    """Return key, name and option of all numbers, texts and tuners for which Python takes None."""
    found = []
    for key, registry in REGISTRIES.items():
        for name, kind in registry.items():
            hints = get_type_hints(kind)
            for option in (part.name for part in dataclasses.fields(kind)):
                if {float, int, str, TuningMethod} & {hints[option], *get_args(hints[option])}:
                    with contextlib.suppress(AttributeError, TypeError, ValueError):
                        kind(**{option: None})
                        found.append((key, name, option))
    assert ("repair", "head_neurons", "max_suspects") in found
    return found


@pytest.mark.parametrize(("key", "name", "option"), nullable())
def test_null_may_be_written_where_none_may_be_given(key: str, name: str, option: str) -> None:
    meant = REGISTRIES[key][name](**{option: None})
    for value in ("null", "[null]"):
        entry = f"{key}: {{name: {name}, {option}: {value}}}\n"
        study = load(f"{SMALL}  {entry}" if key == "repair" else f"{SMALL}{entry}")
        assert (study.grid.settings["repair"] if key == "repair" else study.audits) == (meant,)
        assert load(resolved_yaml(study)).grid == study.grid


def test_null_is_one_value_among_others() -> None:
    study = load(f"{SMALL}  repair: {{name: head_neurons, max_suspects: [2, null]}}\n")
    assert study.grid.settings["repair"] == (HeadNeurons(), HeadNeurons(max_suspects=None))
    study = load(f"{SMALL}  repair: {{name: clp, tune: [null, ft_sam]}}\n")
    assert study.grid.settings["repair"] == (CLP(), CLP(tune=FTSAM()))


def test_a_method_is_not_dropped_because_another_is_better() -> None:
    """The worst setting of each method is abandoned by the best of the same method alone."""
    seeds = f"  seed: {list(range(12))}\n"
    found = plan(
        "  repair: [{name: clp, u: [2, 3]}, {name: fine_tuning, epochs: [5, 9]}]\n" + seeds,
        "prune: {setting: {pruner: wilcoxon}}\n",
    )
    value = {"clp(u=2.0)": 0.9, "clp(u=3.0)": 0.8, "fine_tuning(epochs=5)": 0.2}
    value["fine_tuning(epochs=9)"] = 0.1
    decisions = Decisions(found)
    for trial in decisions.order:
        label = trial.setting.values["repair"].label
        noise = 0.001 * trial.scenario.number
        decisions.offer(trial, TrialOutcome(value=value[label] + noise, curve=(value[label],)))
    verdicts = [decisions.verdict(trial) for trial in found.trials]
    abandoned = {
        v.trial.setting.values["repair"].label
        for v in verdicts
        if v is not None and v.status is Status.PRUNED
    }
    assert abandoned == {"clp(u=3.0)", "fine_tuning(epochs=9)"}
    assert [judge.name for judge in decisions.judges] == [
        "settings of clp",
        "settings of fine_tuning",
    ]


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_goes_with_benign_models(method: str) -> None:
    text = SMALL.replace("attack: badnets", "attack: [badnets, none]")
    assert text != SMALL
    trials = make_plan(load(f"{text}  repair: {method}\n")).trials
    assert sorted(trial.scenario.poison.attack.name for trial in trials) == ["badnets", "none"]


@pytest.mark.parametrize(
    ("entries", "lines"),
    [
        (
            "[rnp, {name: rnp, rule: budget}, {name: rnp, budget: 0.05}]",
            [
                "grid.repair.1: rnp(rule=budget) runs the same as rnp at grid.repair.0",
                "grid.repair.2: rnp(budget=0.05) runs the same as rnp at grid.repair.0",
            ],
        ),
        (
            "[{name: rnp, rule: threshold}, {name: rnp, mask_threshold: [0.5, 0.7]}]",
            ["grid.repair.1: rnp(mask_threshold=0.7) runs the same as rnp(rule=threshold)"],
        ),
        ("[{name: clp, u: 3}, clp]", ["grid.repair.1: clp runs the same as clp(u=3.0)"]),
        (
            "[bnp, {name: bnp, rule: [deviations, budget]}]",
            ["grid.repair.1: bnp(rule=deviations) runs the same as bnp at grid.repair.0"],
        ),
        (
            "[{name: fine_pruning, tune: fine_tuning}, fine_pruning]",
            ["grid.repair.1: fine_pruning runs the same as fine_pruning(tune=fine_tuning)"],
        ),
        (
            "{name: clp, u: [3, null]}",
            ["grid.repair.u.1: clp runs the same as clp(u=3.0) at grid.repair.u.0"],
        ),
    ],
)
def test_entries_that_run_the_same_are_refused(entries: str, lines: list[str]) -> None:
    with pytest.raises(SpecError) as error:
        plan(f"  repair: {entries}\n")
    found = str(error.value).splitlines()
    for line, text in zip(found, lines, strict=True):
        assert text in line
        assert line.endswith("leave one of them out")


def test_entries_that_differ_on_one_dataset_are_settings_of_their_own() -> None:
    """CLP's default is 5 deviations on Tiny-ImageNet, else 3; strengths of rules differ anyway."""
    both = "dataset: [digits, {name: tiny_imagenet, root: nowhere}]"
    text = SMALL.replace("dataset: digits", both)
    assert text != SMALL
    small = load(f"{text}  repair: [clp, {{name: clp, u: 3}}, {{name: clp, u: 5}}]\n")
    entries = small.grid.settings["repair"]
    assert isinstance(entries, tuple)
    assert len(entries) == 3
    found = plan(
        "  repair: [rnp, {name: rnp, rule: [threshold, largest]}, {name: clp, u: 5}, clp]\n"
    )
    assert len(found.settings) == 5


def test_attacks_that_stamp_the_same_are_refused() -> None:
    """BadNets' square is of 3 pixels on images of up to 32."""
    text = SMALL.replace("attack: badnets", "attack: [badnets, {name: badnets, size: [2, 3]}]")
    assert text != SMALL
    with pytest.raises(SpecError) as error:
        load(text)
    assert "badnets(size=3) runs the same as badnets at grid.attack.0" in str(error.value)


@pytest.mark.parametrize(
    ("entries", "texts"),
    [
        ("[{name: fine_tuning, epochs: 1}]", ["fine_tuning(epochs=1)"]),
        ("clp", ["clp"]),
        ("{name: rnp, tune: ft_sam}", ["rnp(tune=ft_sam)"]),
        (
            "{name: fine_tuning, epochs: 2, lr: [0.01, 0.05]}",
            ["fine_tuning(epochs=2, lr=0.01)", "fine_tuning(epochs=2, lr=0.05)"],
        ),
        ("[{name: ft_sam, rho: [1, 2]}, clp]", ["ft_sam(rho=1.0)", "ft_sam(rho=2.0)", "clp"]),
        ("[clp, {name: clp, u: 2}]", ["clp(u=3.0)", "clp(u=2.0)"]),
        (
            "[rnp, {name: rnp, mask_threshold: 0.2}]",
            ["rnp(rule=budget)", "rnp(mask_threshold=0.2)"],
        ),
        (
            "[{name: rnp, rule: threshold}, {name: rnp, mask_threshold: 0.2}]",
            ["rnp(mask_threshold=0.7, rule=threshold)", "rnp(mask_threshold=0.2, rule=threshold)"],
        ),
        (
            "[{name: clp, u: 2}, {name: clp, rule: budget}]",
            ["clp(rule=deviations, u=2.0)", "clp(rule=budget)"],
        ),
        ("{name: npd, bound: [1.5, null]}", ["npd(bound=1.5)", "npd(bound=3.0)"]),
        ("ulrl", ["unlearn_threshold=0.2, reinit_ratio=1.0"]),
        ("clp\n  clean_ratio: [0.05, 0.1]", ["clp, clean_ratio=0.05", "clp, clean_ratio=0.1"]),
    ],
)
def test_a_setting_is_named_by_its_method_and_the_options_that_vary(
    entries: str, texts: list[str]
) -> None:
    """However many settings there are, and where the value is the default."""
    found = plan(f"  repair: {entries}\n")
    told = []
    for trial in found.trials:
        point = found.point(trial)
        options = with_defaults(point["repair_options"], found.defaults(trial.setting))
        point |= {"repair_options": options}
        told.append(setting_text((axis, str(point[axis])) for axis in found.varied()))
    assert [set(re.split("[(), ]+", text)) for text in told] == [
        set(re.split("[(), ]+", text)) for text in texts
    ]


def test_a_default_of_one_dataset_is_not_told_of_all() -> None:
    """CLP's `u` is 5 on Tiny-ImageNet: no one number names the setting."""
    both = SMALL.replace(
        "dataset: digits", "dataset: [digits, {name: tiny_imagenet, root: nowhere}]"
    )
    found = make_plan(load(f"{both}  repair: [clp, {{name: clp, u: 2}}]\n"))
    assert [found.defaults(setting) for setting in found.settings] == ["{}", "{}"]


@pytest.mark.parametrize(
    "method", sorted(name for name in METHODS if hasattr(METHODS[name], "rule"))
)
def test_the_page_and_the_message_list_the_rules_that_are_taken(method: str) -> None:
    taken = set()
    for rule in Rule:
        with contextlib.suppress(SpecError):
            load(f"{SMALL}  repair: {{name: {method}, rule: {rule}}}\n")
            taken.add(str(rule))
    section = methods_page.section(method, METHODS[method])
    cells = re.search(r"^\| `rule` \|([^|]*)\|([^|]*)\|", section, re.MULTILINE)
    assert cells is not None
    assert set(cells[2].strip().split(", ")) == taken
    with pytest.raises(SpecError) as error:
        load(f"{SMALL}  repair: {{name: {method}, rule: zzz}}\n")
    told = str(error.value).partition("rule is ")[2].partition(f" for {method}; got 'zzz'")[0]
    assert set(re.split(", | or ", told)) == taken


@pytest.mark.parametrize(
    ("entry", "labels"),
    [
        (
            "{name: rnp, rule: [budget, threshold], mask_threshold: [0.2, 0.4]}",
            {"rnp(rule=budget)", "rnp(rule=threshold,mask_threshold=0.2)"}
            | {"rnp(rule=threshold,mask_threshold=0.4)"},
        ),
        (
            "{name: rnp, rule: [budget, threshold], budget: 0.1, mask_threshold: 0.2}",
            {"rnp(rule=budget,budget=0.1)", "rnp(rule=threshold,mask_threshold=0.2)"},
        ),
        (
            "{name: tsbd, tune: [none, null], radius: 1}",
            {"tsbd(tune=none)", "tsbd(radius=1.0)"},
        ),
    ],
)
def test_what_one_entry_cannot_hold_is_told_as_several(entry: str, labels: set[str]) -> None:
    with pytest.raises(SpecError) as error:
        load(f"{SMALL}  repair: {entry}\n")
    told = str(error.value).partition("; write 2 entries, ")[2]
    assert "\n" not in told
    study = load(f"{SMALL}  repair: [{told.replace('} and {', '}, {')}]\n")
    entries = study.grid.settings["repair"]
    assert isinstance(entries, tuple)
    assert {one.label for one in entries} == labels
