"""Keys: everything that changes a number changes the key, and nothing else does."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch

from orchestrator.plan.plan import Scenario, Trial, make_plan
from orchestrator.plan.resources import Compute
from orchestrator.spec.model import Normalisation
from orchestrator.store import keys
from orchestrator.store.keys import plain, result_key
from tests.orchestrator_tests.key_cases import (
    ALL,
    FROM_ASCENT,
    FROM_RELEARN,
    ROW,
    SUSPECTS,
    all_keys,
    cases,
    changed,
    first_trial,
    ring,
    variants,
    with_part,
    with_scenario,
)
from tests.orchestrator_tests.small_studies import BADNETS, small_study
from ulrl import poisoning
from ulrl.attacks import Attack, LabelRule, Stamp
from ulrl.attacks._benign import BenignModel
from ulrl.attacks.badnets import BadNets
from ulrl.attacks.blended import Blended
from ulrl.attacks.input_aware import InputAware
from ulrl.attacks.tact import TaCT
from ulrl.clean import CleanConfig
from ulrl.datasets import Dataset, Preprocessing
from ulrl.datasets.arrays import Arrays
from ulrl.datasets.cifar10 import Cifar10
from ulrl.datasets.digits import Digits
from ulrl.datasets.tiny_imagenet import TinyImageNet
from ulrl.models.preact_resnet import PreActResNet18
from ulrl.poison import Poison
from ulrl.precision import Precision
from ulrl.relearning import RelearnConfig
from ulrl.scoring import NeuronScores, ScoreConfig
from ulrl.supervised import VictimConfig
from ulrl.unlearning import UnlearnConfig
from ulrl.weight_selection import LayerSuspects, ResetConfig, Suspects, select_weights


@pytest.fixture(scope="module")
def trial() -> Trial:
    return first_trial()


@pytest.mark.parametrize("config", cases(VictimConfig()))
def test_every_field_of_the_victim_changes_all_keys(trial: Trial, config: VictimConfig) -> None:
    assert changed(all_keys(ring(), trial), all_keys(ring(config), trial)) == ALL


PARTS: dict[str, tuple[Any, set[str]]] = {
    "clean": (CleanConfig(), FROM_ASCENT | FROM_RELEARN),
    "unlearn": (UnlearnConfig(), FROM_ASCENT),  # which reaches relearning by its suspects alone
    "score": (ScoreConfig(), {"scores"}),
    "relearn": (RelearnConfig(), FROM_RELEARN),
}


@pytest.mark.parametrize(
    ("part", "field"), [(part, name) for part in PARTS for name, _ in variants(PARTS[part][0])]
)
def test_every_field_of_a_setting_changes_what_follows_from_it(
    trial: Trial, part: str, field: str
) -> None:
    base, found = PARTS[part]
    other = dict(variants(base))[field]
    one, two = (all_keys(ring(), with_part(trial, **{part: c})) for c in (base, other))
    assert changed(one, two) == found


@pytest.mark.parametrize("config", cases(ResetConfig(reinit_ratio=1.0)))
def test_the_reset_reaches_the_key_through_the_suspects(trial: Trial, config: ResetConfig) -> None:
    scores = some_scores()
    suspects = [select_weights(c, scores) for c in (ResetConfig(), config)]
    one, other = (
        all_keys(ring(), with_part(trial, reset=c), s)
        for c, s in zip((ResetConfig(), config), suspects, strict=True)
    )
    assert changed(one, other) == FROM_RELEARN


def some_scores(suspects: tuple[int, ...] = (1,), *, reached: bool = True) -> NeuronScores:
    movement = torch.arange(len(suspects) * 8.0).reshape(len(suspects), 8)
    return NeuronScores(
        layers=("linear",),
        sizes=(10,),
        shift=torch.ones(10),
        z=torch.ones(10),
        suspects=suspects,
        movement={"linear.weight": movement} if suspects else {},
        stop_epoch=2,
        stop_accuracy=0.1,
        predicted=torch.full((10,), 5),
        threshold_reached=reached,
        diverged=False,
    )


def suspects_in(*layers: LayerSuspects) -> Suspects:
    return Suspects(layers=layers, reset_bias=True)


@pytest.mark.parametrize(
    "suspects",
    [
        suspects_in(replace(ROW, rows=(2,))),
        suspects_in(replace(ROW, reset=torch.tensor([[True, False, False, True]]))),
        suspects_in(replace(ROW, weight="conv.weight")),
        suspects_in(replace(ROW, rows=(1, 2), reset=ROW.reset.repeat(2, 1))),
        suspects_in(replace(ROW, weight="conv.weight"), ROW),
        suspects_in(),
        replace(SUSPECTS, reset_bias=False),
    ],
)
def test_every_part_of_the_suspects_changes_the_relearning(
    trial: Trial, suspects: Suspects
) -> None:
    assert changed(all_keys(ring(), trial), all_keys(ring(), trial, suspects)) == FROM_RELEARN


def test_without_suspects_the_reinit_ratio_is_nothing(trial: Trial) -> None:
    """Nothing is re-initialised then, so all ratios share the plain fine-tuning."""
    none = some_scores(suspects=())
    found = {
        ring().relearn(trial, select_weights(ResetConfig(reinit_ratio=ratio), none))
        for ratio in (0.0, 0.5, 1.0)
    }
    assert len(found) == 1


NO_SUSPECTS = Suspects(layers=(), reset_bias=False)
UNMARKED = suspects_in(replace(ROW, reset=torch.zeros_like(ROW.reset)))
OF_COSINE = {"alpha", "cosine_form", "cosine_reduction"}
OF_REINIT = {"reinit_distribution", "reinit_scale"}
NOTHING: set[str] = set()


@pytest.mark.parametrize(
    ("suspects", "unused"),
    [(NO_SUSPECTS, OF_COSINE | OF_REINIT), (UNMARKED, OF_REINIT), (SUSPECTS, NOTHING)],
    ids=["no suspects", "no weights marked", "marked suspects"],
)
def test_what_suspects_leave_unused_is_no_part_of_the_relearning(
    trial: Trial, suspects: Suspects, unused: set[str]
) -> None:
    def key(config: RelearnConfig) -> str:
        return ring().relearn(with_part(trial, relearn=config), suspects)

    base = RelearnConfig()
    found = {name for name, config in variants(base) if key(config) == key(base)}
    assert found == unused


@pytest.mark.parametrize("compute", [Compute(device="cuda"), Compute(threads=2)])
def test_what_computes_changes_all_keys(trial: Trial, compute: Compute) -> None:
    assert changed(all_keys(ring(), trial), all_keys(ring(compute=compute), trial)) == ALL


def test_the_defence_seed_changes_what_the_defence_makes(trial: Trial) -> None:
    other = replace(trial, defence_seed=trial.defence_seed + 1)
    assert changed(all_keys(ring(), trial), all_keys(ring(), other)) == FROM_ASCENT | FROM_RELEARN


@pytest.mark.parametrize(
    ("stage", "found"),
    [
        ("victim_stage", ALL),
        ("unlearning", FROM_ASCENT),
        ("scoring", {"scores"}),
        ("relearning", FROM_RELEARN),
        ("evaluation", {"evaluated", "evaluated victim"}),
    ],
)
def test_a_new_version_of_a_stage_changes_what_follows_from_it(
    trial: Trial, monkeypatch: pytest.MonkeyPatch, stage: str, found: set[str]
) -> None:
    before = all_keys(ring(), trial)
    module = getattr(keys, stage)
    monkeypatch.setattr(module, "VERSION", module.VERSION + 1)
    assert changed(before, all_keys(ring(), trial)) == found


def test_the_size_of_the_monitor_changes_the_curve(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = all_keys(ring(), trial)
    monkeypatch.setattr(poisoning, "MONITOR_COUNT", 128)
    assert changed(before, all_keys(ring(), trial)) == FROM_ASCENT | FROM_RELEARN


def test_a_ring_that_has_seen_other_trials_gives_the_same_keys() -> None:
    study = small_study(
        settings={
            "unlearn_threshold": (0.1, 0.2),
            "alpha": (0.1, 0.2),
            "unlearn_lr": (0.1, 0.2),
            "defence_seed": (0, 1),
            "clean_ratio": (0.1, 0.2),
        },
        grid={"seeds": (0, 1)},
        few={},
    )
    trials = make_plan(study).trials
    used = ring()
    for trial in reversed(trials):
        all_keys(used, trial)
    assert [all_keys(used, trial) for trial in trials] == [
        all_keys(ring(), trial) for trial in trials
    ]


def test_the_scheme_is_a_file_format() -> None:
    """A change of this key makes every store in the world recompute: bump VERSION instead."""
    found = all_keys(ring(), first_trial())["evaluated"]
    assert found == "ae9bea5857d592dc0285511adcbc42bf312eeb25a82361e90157e7450eb99dff"


FP32, BF16, FP16, AUTO, AMP = Precision


def keys_in(trial: Trial, stage: str, precision: Precision, device: str) -> dict[str, str]:
    """Return a trial's keys with one stage in that format."""
    compute = Compute(device=device)
    if stage == "victim":
        return all_keys(ring(VictimConfig(precision=precision), compute), trial)
    parts = {
        "unlearn": UnlearnConfig(unlearn_precision=precision),
        "relearn": RelearnConfig(relearn_precision=precision),
    }
    return all_keys(ring(compute=compute), with_part(trial, **{stage: parts[stage]}))


STAGES = {"victim": ALL, "unlearn": FROM_ASCENT, "relearn": FROM_RELEARN}


@pytest.mark.parametrize("stage", STAGES)
def test_on_a_cpu_what_is_fp32_shares_its_keys(trial: Trial, stage: str) -> None:
    keys = {precision: keys_in(trial, stage, precision, "cpu") for precision in Precision}
    assert keys[AUTO] == keys[AMP] == keys[FP32]
    for one, other in pairwise([FP32, BF16, FP16, FP32]):
        assert changed(keys[one], keys[other]) == STAGES[stage]


@pytest.mark.parametrize("stage", STAGES)
def test_on_a_gpu_amp_is_fp16_and_only_the_worker_knows_what_auto_is(
    trial: Trial, stage: str
) -> None:
    keys = {precision: keys_in(trial, stage, precision, "cuda") for precision in Precision}
    assert keys[AMP] == keys[FP16]
    for one, other in pairwise([FP32, BF16, FP16, AUTO, FP32]):
        assert changed(keys[one], keys[other]) == STAGES[stage]
    assert changed(keys[AUTO], keys[BF16]) == STAGES[stage]


@pytest.mark.parametrize(
    "change",
    [
        lambda s: {"seed": s.seed + 1},
        lambda _: {"architecture": PreActResNet18(width=2)},
        lambda _: {"dataset": Digits(size=9)},
        lambda s: {"poison": replace(s.poison, poison_ratio=0.2)},
        lambda s: {"poison": replace(s.poison, target_label=1)},
        lambda s: {"poison": replace(s.poison, labels=LabelRule.ALL_TO_ALL)},
        lambda s: {"poison": replace(s.poison, stamp=Stamp.AFTER_AUGMENTATION)},
        lambda s: {"poison": replace(s.poison, attack=BADNETS)},
    ],
)
def test_every_part_of_a_scenario_changes_all_keys(
    trial: Trial, change: Callable[[Scenario], dict[str, Any]]
) -> None:
    other = with_scenario(trial, **change(trial.scenario))
    assert changed(all_keys(ring(), trial), all_keys(ring(), other)) == ALL


@pytest.mark.parametrize(
    "change",
    [
        lambda _: {"source": "theirs"},
        lambda _: {"architecture": PreActResNet18(width=2)},
        lambda _: {"dataset": Digits(size=9)},
        lambda _: {"normalisation": Normalisation(mean=(0.5,), std=(0.5,))},
        lambda s: {"poison": replace(s.poison, target_label=1)},
        lambda s: {"poison": replace(s.poison, attack=BADNETS)},
    ],
)
def test_every_part_of_an_imported_victim_changes_all_keys_but_its_seed(
    trial: Trial, change: Callable[[Scenario], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.store.keys.fingerprint", lambda source: f"of {source}")
    imported = with_scenario(trial, source="ours")
    before = all_keys(ring(), imported)
    other = with_scenario(imported, **change(imported.scenario))
    assert changed(before, all_keys(ring(), other)) == ALL
    assert changed(before, all_keys(ring(compute=Compute(threads=2)), imported)) == ALL
    seeded = with_scenario(imported, seed=imported.scenario.seed + 1)
    assert all_keys(ring(), seeded)["victim"] == before["victim"]


@pytest.mark.parametrize("attack", cases(Blended(alpha=0.3)))
def test_every_option_of_an_attack_changes_all_keys(trial: Trial, attack: Blended) -> None:
    poison = replace(trial.scenario.poison, attack=attack)
    other = with_scenario(trial, poison=poison)
    assert changed(all_keys(ring(), trial), all_keys(ring(), other)) == ALL


def test_a_new_version_of_an_attack_changes_its_own_keys_only(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = with_scenario(trial, poison=replace(trial.scenario.poison, attack=BADNETS))
    before = [all_keys(ring(), one) for one in (trial, other)]
    monkeypatch.setattr(type(trial.scenario.poison.attack), "version", 2)
    after = [all_keys(ring(), one) for one in (trial, other)]
    assert changed(before[0], after[0]) == ALL
    assert after[1] == before[1]


def test_a_new_version_of_a_helper_changes_its_own_key_only(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = InputAware().helper(trial.scenario.poison)
    benign = BenignModel()
    before = [ring().helper(trial.scenario, one) for one in (mask, benign)]
    monkeypatch.setattr(type(mask), "version", mask.version + 1)
    after = [ring().helper(trial.scenario, one) for one in (mask, benign)]
    assert after[0] != before[0]
    assert after[1] == before[1]


KNOWN = {  # victims that were stored before their attacks had further options
    "badnets": "a1dcd1242f57901f6b55e7f729a685e69a69ac567c35c766beec7f25ec0ced5a",
    "tact": "b0d7a5c12cf183b9092c9eb392d739c76a2b68dcfd6057e749a6c898a9ae1d79",
}


def victim_of(trial: Trial, attack: Attack, dataset: Dataset) -> str:
    labels, source = attack.label_rules[0], attack.default_source
    poison = Poison(attack=attack, labels=labels, source=source)
    return ring().victim(replace(trial.scenario, poison=poison, dataset=dataset))


@pytest.mark.parametrize("attack", [BadNets(), BadNets(size=3), TaCT(size=3)])
def test_stored_victims_of_the_same_trigger_are_found(trial: Trial, attack: Attack) -> None:
    assert victim_of(trial, attack, Cifar10()) == KNOWN[attack.name]


def test_badnets_of_larger_images_is_another_victim_than_the_square_of_three(
    trial: Trial,
) -> None:
    small, large = Digits(), TinyImageNet()
    default, square = BadNets(), BadNets(size=3)
    assert victim_of(trial, default, small) == victim_of(trial, square, small)
    assert victim_of(trial, default, large) != victim_of(trial, square, large)


def test_the_place_of_a_dataset_changes_nothing(trial: Trial) -> None:
    one, other = (
        with_scenario(trial, dataset=dataset)
        for dataset in (Cifar10(), Cifar10(root="elsewhere", download=False))
    )
    assert all_keys(ring(), one) == all_keys(ring(), other)


def write_arrays(path: Path, level: int = 0, **other: Any) -> Arrays:
    images = np.full((20, 8, 8, 3), level, dtype=np.uint8)
    labels = np.arange(20) % 2
    np.savez(path, train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    return Arrays(arrays=str(path), **other)


def test_the_content_of_a_users_file_changes_the_key_and_its_place_does_not(
    tmp_path: Path, trial: Trial
) -> None:
    def key(dataset: Arrays) -> str:
        return ring().victim(replace(trial.scenario, dataset=dataset))

    first = key(write_arrays(tmp_path / "a.npz"))
    assert key(write_arrays(tmp_path / "b.npz")) == first
    assert key(write_arrays(tmp_path / "c.npz", level=1)) != first
    options: dict[str, Any] = {"mean": (0.5,), "std": (0.5,), "flip": True, "padding": 3}
    for name, value in options.items():
        assert key(Arrays(arrays=str(tmp_path / "a.npz"), **{name: value})) != first, name


PREPROCESSING = Preprocessing(mean=(0.1,), std=(0.5,), padding=1, flip=False)


@pytest.mark.parametrize("preprocessing", cases(PREPROCESSING))
def test_how_images_are_treated_changes_all_keys(
    trial: Trial, monkeypatch: pytest.MonkeyPatch, preprocessing: Preprocessing
) -> None:
    monkeypatch.setattr(Digits, "preprocessing", PREPROCESSING)
    one = all_keys(ring(), trial)
    monkeypatch.setattr(Digits, "preprocessing", preprocessing)
    assert changed(one, all_keys(ring(), trial)) == ALL


HEX = set("0123456789abcdef")


@dataclass(frozen=True)
class Left:
    size: int = 1
    place: str = field(default="here", metadata={"runtime": True})


@dataclass(frozen=True)
class Right:
    size: int = 1


class Colour(Enum):
    RED = "red"


def key_of(config: Any) -> str:
    return result_key("stage", 1, config, {})


def test_a_key_is_a_sha256_of_canonical_json() -> None:
    text = (
        '{"config":{"size":[1,0.1,null,true,"a"],"type":"Left"},'
        '"inputs":{"a":"1","b":"2"},"stage":"unlearn","version":3}'
    )
    found = result_key("unlearn", 3, Left(size=[1, 0.1, None, True, "a"]), {"b": "2", "a": "1"})  # type: ignore[arg-type]
    assert found == hashlib.sha256(text.encode()).hexdigest()


def test_stage_version_inputs_and_types_change_the_key() -> None:
    base = result_key("a", 1, Left(), {"x": "1"})
    others = [
        result_key("b", 1, Left(), {"x": "1"}),
        result_key("a", 2, Left(), {"x": "1"}),
        result_key("a", 1, Right(), {"x": "1"}),
        result_key("a", 1, {"size": 1}, {"x": "1"}),
        result_key("a", 1, Left(), {"x": "2"}),
        result_key("a", 1, Left(), {"y": "1"}),
        result_key("a", 1, Left(), {}),
    ]
    assert len({base, *others}) == 8
    assert all(len(key) == 64 and set(key) <= HEX for key in (base, *others))


@pytest.mark.parametrize(
    ("one", "other"),
    [(1, 1.0), (1, True), (1, "1"), (None, "null"), ((1, 2), (2, 1)), ((1,), 1), ((), None)],
)
def test_different_values_have_different_keys(one: Any, other: Any) -> None:
    assert key_of({"a": one}) != key_of({"a": other})


def test_equal_values_have_equal_keys() -> None:
    assert key_of({"a": (1, 2), "b": 1}) == key_of({"b": 1, "a": [1, 2]})
    assert key_of({"a": Colour.RED}) == key_of({"a": "red"})
    assert key_of(MappingProxyType({"a": 1})) == key_of({"a": 1})
    assert key_of({"a": np.float64(0.1)}) == key_of({"a": 0.1})
    assert key_of(Left(place="there")) == key_of(Left())


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        {1, 2},
        frozenset(),
        object(),
        Left,
        b"bytes",
        1j,
        {1: "a"},
        Path("a"),
        np.int64(1),
        np.zeros(2),
        torch.zeros(2),
        len,
    ],
    ids=lambda value: type(value).__name__,  # the same in every process
)
def test_what_has_no_canonical_form_is_refused(value: Any) -> None:
    for config in (value, [value], {"a": (value,)}, Left(size=value)):
        with pytest.raises(TypeError) as caught:
            plain(config)
        assert str(caught.value) == (
            f"{value!r} has no canonical form, so it cannot be part of a key"
        )
