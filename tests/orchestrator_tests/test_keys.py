"""Keys of results: everything that changes a number changes the key, and nothing else does."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from enum import Enum, StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch

from orchestrator import keys
from orchestrator.definition import Study
from orchestrator.keys import Compute, KeyRing, digest_of, plain, result_key
from orchestrator.plan import Plan, Scenario, Trial, make_plan
from tests.orchestrator_tests.small_studies import BADNETS, BLENDED, choice, small_study
from ulrl import poisoning
from ulrl.attacks import LabelRule, Stamp
from ulrl.attacks.blended import Blended
from ulrl.clean import CleanConfig
from ulrl.datasets import Treatment
from ulrl.datasets.arrays import Arrays
from ulrl.datasets.cifar10 import Cifar10
from ulrl.datasets.digits import Digits
from ulrl.hyperparameters import Hyperparameters
from ulrl.models.preact_resnet import PreActResNet18
from ulrl.relearning import RelearnConfig, ResetConfig, Suspects, choose_resets
from ulrl.scoring import NeuronScores, ScoreConfig
from ulrl.unlearning import UnlearnConfig
from ulrl.victim import VictimConfig

SUSPECTS = Suspects(rows=(1,), reset=torch.tensor([[True, False, True, False]]), reset_bias=True)
HEX = set("0123456789abcdef")


def plan_of(**other: Any) -> Plan:
    return make_plan(small_study(attacks=[choice(BLENDED)], **other))


@pytest.fixture(scope="module")
def trial() -> Trial:
    return plan_of().trials[0]


def ring(victim: VictimConfig | None = None, compute: Compute | None = None) -> KeyRing:
    return KeyRing(victim or VictimConfig(), compute or Compute())


def all_keys(keys: KeyRing, trial: Trial, suspects: Suspects = SUSPECTS) -> dict[str, str]:
    """Return the keys of everything that a trial needs."""
    victim = keys.victim(trial.scenario)
    relearn = keys.relearn(trial, suspects)
    return {
        "victim": victim,
        "ascent": keys.ascent(trial),
        "scores": keys.scores(trial, trial.hyperparameters.score),
        "relearn": relearn,
        "evaluated victim": keys.evaluation(victim),
        "evaluated": keys.evaluation(relearn),
    }


def changed(one: dict[str, str], other: dict[str, str]) -> set[str]:
    return {name for name in one if one[name] != other[name]}


ALL = {"victim", "ascent", "scores", "relearn", "evaluated victim", "evaluated"}
FROM_ASCENT = {"ascent", "scores"}
FROM_RELEARN = {"relearn", "evaluated"}


def other_value(value: Any) -> Any:
    """Return a legal value beside `value`."""
    if isinstance(value, StrEnum):
        return next(member for member in type(value) if member is not value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return 2 if value == 1 else value - 1
    if isinstance(value, float):
        return value * 0.5 if value else 0.25
    if isinstance(value, tuple):
        return (*value, 15)
    raise TypeError(value)


def variants(config: Any) -> Iterator[tuple[str, Any]]:
    """Yield, for each field that is no place, its name and a copy that differs in it."""
    for part in dataclasses.fields(config):
        if not part.metadata.get("runtime", False):
            value = getattr(config, part.name)
            yield part.name, replace(config, **{part.name: other_value(value)})


def cases(*configs: Any) -> list[Any]:
    return [
        pytest.param(config, id=f"{type(config).__name__}.{name}")
        for config in configs
        for name, config in variants(config)
    ]


def with_part(trial: Trial, **parts: Any) -> Trial:
    return replace(trial, hyperparameters=replace(trial.hyperparameters, **parts))


def with_scenario(trial: Trial, **parts: Any) -> Trial:
    return replace(trial, scenario=replace(trial.scenario, **parts))


@pytest.mark.parametrize("config", cases(VictimConfig()))
def test_every_field_of_the_victim_changes_all_keys(trial: Trial, config: VictimConfig) -> None:
    assert changed(all_keys(ring(), trial), all_keys(ring(config), trial)) == ALL


@pytest.mark.parametrize("config", cases(CleanConfig()))
def test_every_field_of_the_clean_samples_changes_what_uses_them(
    trial: Trial, config: CleanConfig
) -> None:
    base = with_part(trial, clean=CleanConfig())
    found = changed(all_keys(ring(), base), all_keys(ring(), with_part(trial, clean=config)))
    assert found == FROM_ASCENT | FROM_RELEARN


@pytest.mark.parametrize("config", cases(UnlearnConfig()))
def test_every_field_of_the_ascent_changes_what_it_makes(
    trial: Trial, config: UnlearnConfig
) -> None:
    """And not the relearning: phase 1 reaches it through its suspects alone."""
    base = with_part(trial, unlearn=UnlearnConfig())
    found = changed(all_keys(ring(), base), all_keys(ring(), with_part(trial, unlearn=config)))
    assert found == FROM_ASCENT


@pytest.mark.parametrize("config", cases(ScoreConfig()))
def test_every_field_of_the_score_changes_the_scores(trial: Trial, config: ScoreConfig) -> None:
    base = with_part(trial, score=ScoreConfig())
    found = changed(all_keys(ring(), base), all_keys(ring(), with_part(trial, score=config)))
    assert found == {"scores"}


@pytest.mark.parametrize("config", cases(RelearnConfig()))
def test_every_field_of_the_relearning_changes_what_it_makes(
    trial: Trial, config: RelearnConfig
) -> None:
    base = with_part(trial, relearn=RelearnConfig())
    found = changed(all_keys(ring(), base), all_keys(ring(), with_part(trial, relearn=config)))
    assert found == FROM_RELEARN


@pytest.mark.parametrize("config", cases(ResetConfig(reinit_ratio=1.0)))
def test_the_reset_reaches_the_key_through_the_suspects(trial: Trial, config: ResetConfig) -> None:
    scores = some_scores()
    suspects = [choose_resets(c, scores) for c in (ResetConfig(), config)]
    one, other = (
        all_keys(ring(), with_part(trial, reset=c), s)
        for c, s in zip((ResetConfig(), config), suspects, strict=True)
    )
    assert changed(one, other) == FROM_RELEARN


def some_scores(suspects: tuple[int, ...] = (1,), *, reached: bool = True) -> NeuronScores:
    movement = torch.arange(len(suspects) * 8.0).reshape(len(suspects), 8)
    return NeuronScores(
        shift=torch.ones(10),
        z=torch.ones(10),
        suspects=suspects,
        movement=movement,
        stop_epoch=2,
        threshold_reached=reached,
        diverged=False,
    )


@pytest.mark.parametrize(
    "suspects",
    [
        replace(SUSPECTS, rows=(2,)),
        replace(SUSPECTS, reset=torch.tensor([[True, False, False, True]])),
        replace(SUSPECTS, reset_bias=False),
        Suspects(rows=(1, 2), reset=SUSPECTS.reset.repeat(2, 1), reset_bias=True),
        Suspects(rows=(), reset=torch.empty(0, 4, dtype=torch.bool), reset_bias=True),
    ],
)
def test_every_part_of_the_suspects_changes_the_relearning(
    trial: Trial, suspects: Suspects
) -> None:
    assert changed(all_keys(ring(), trial), all_keys(ring(), trial, suspects)) == FROM_RELEARN


def test_settings_that_agree_in_their_suspects_share_a_relearning(trial: Trial) -> None:
    low, high = (
        with_part(
            trial,
            score=ScoreConfig(unlearn_threshold=threshold, z_threshold=z),
            unlearn=UnlearnConfig(unlearn_lr=lr),
        )
        for threshold, z, lr in ((0.1, 3.5, 0.01), (0.4, 2.0, 0.02))
    )
    one = choose_resets(ResetConfig(reinit_ratio=0.5), some_scores())
    # Half of eight weights, and four and two fifths rounded: the same four.
    other = choose_resets(ResetConfig(reinit_ratio=0.55), some_scores(reached=False))
    assert ring().relearn(low, one) == ring().relearn(high, other)
    assert digest_of(one) == digest_of(other)


def test_without_suspects_the_reinit_ratio_is_nothing(trial: Trial) -> None:
    """Nothing is re-initialised then, so all ratios share the plain fine-tuning."""
    none = some_scores(suspects=())
    found = {
        ring().relearn(trial, choose_resets(ResetConfig(reinit_ratio=ratio), none))
        for ratio in (0.0, 0.5, 1.0)
    }
    assert len(found) == 1


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


@pytest.mark.parametrize("attack", cases(Blended(alpha=0.3)))
def test_every_option_of_an_attack_changes_all_keys(trial: Trial, attack: Blended) -> None:
    poison = replace(trial.scenario.poison, attack=attack)
    other = with_scenario(trial, poison=poison)
    assert changed(all_keys(ring(), trial), all_keys(ring(), other)) == ALL


@pytest.mark.parametrize("compute", [Compute(device="cuda"), Compute(threads=2)])
def test_what_computes_changes_all_keys(trial: Trial, compute: Compute) -> None:
    assert changed(all_keys(ring(), trial), all_keys(ring(compute=compute), trial)) == ALL


def test_the_defence_seed_changes_what_the_defence_makes(trial: Trial) -> None:
    other = replace(trial, defence_seed=trial.defence_seed + 1)
    assert changed(all_keys(ring(), trial), all_keys(ring(), other)) == FROM_ASCENT | FROM_RELEARN


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


TREATMENT = Treatment(mean=(0.1,), std=(0.5,), padding=1, flip=False)


@pytest.mark.parametrize("treatment", cases(TREATMENT))
def test_how_images_are_treated_changes_all_keys(
    trial: Trial, monkeypatch: pytest.MonkeyPatch, treatment: Treatment
) -> None:
    monkeypatch.setattr(Digits, "treatment", TREATMENT)
    one = all_keys(ring(), trial)
    monkeypatch.setattr(Digits, "treatment", treatment)
    assert changed(one, all_keys(ring(), trial)) == ALL


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
    assert changed(before, all_keys(ring(), trial)) == FROM_RELEARN


def test_a_ring_that_has_seen_other_trials_gives_the_same_keys() -> None:
    study = small_study(
        settings={"unlearn_threshold": (0.1, 0.2), "alpha": (0.1, 0.2), "unlearn_lr": (0.1, 0.2)},
        grid={"seeds": (0, 1)},
    )
    trials = make_plan(study).trials
    used = ring()
    for trial in reversed(trials):
        all_keys(used, trial)
    assert [all_keys(used, trial) for trial in trials] == [
        all_keys(ring(), trial) for trial in trials
    ]


# What a key is made of.


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


def test_the_scheme_is_a_file_format() -> None:
    """A change of this key makes every store in the world recompute: bump VERSION instead."""
    found = all_keys(ring(), plan_of().trials[0])["evaluated"]
    assert found == "95ec43952db9b14e7aca8a40d04c7b7a084d7c61e7a8740db3f8a30f5fa93e2f"


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
    ids=repr,
)
def test_what_has_no_canonical_form_is_refused(value: Any) -> None:
    for config in (value, [value], {"a": (value,)}, Left(size=value)):
        with pytest.raises(TypeError) as caught:
            plain(config)
        assert str(caught.value) == (
            f"{value!r} has no canonical form, so it cannot be part of a key"
        )


def test_no_field_is_called_type() -> None:
    """It would hide which dataclass a key is about."""
    parts = [part.type for part in dataclasses.fields(Hyperparameters)]
    configs: list[Any] = [VictimConfig, CleanConfig, UnlearnConfig, ScoreConfig, RelearnConfig]
    configs += [ResetConfig, Digits, Cifar10, Arrays, Blended, PreActResNet18, Study]
    assert len(parts) == 5
    assert all(part.name != "type" for config in configs for part in dataclasses.fields(config))
