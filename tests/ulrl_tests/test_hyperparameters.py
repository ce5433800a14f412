"""Presets against the official configuration files, and how values become a configuration."""

import dataclasses
from collections import Counter
from enum import Enum

import pytest

from ulrl.clean import CleanDraw
from ulrl.hyperparameters import PARTS, Hyperparameters, Preset, assemble, names, preset_values
from ulrl.layers import Layers
from ulrl.precision import Precision
from ulrl.relearning import (
    CosineForm,
    CosineReduction,
    ReinitDistribution,
    RelearnConfig,
    RelearnSchedule,
)
from ulrl.scoring import (
    Score,
    SuspectOrder,
    SuspectRule,
    ThresholdScale,
    ZeroMAD,
)
from ulrl.unlearning import StopAccuracy
from ulrl.weight_selection import ReinitBias

FOUR = ["cifar10", "cifar100", "gtsrb", "tiny_imagenet"]

# From the official repository's files and code, read on paper: what every dataset has.
OFFICIAL = {
    "clean_ratio": 0.01,
    "clean_draw": CleanDraw.RANDOM,
    "unlearn_lr": 0.01,
    "unlearn_momentum": 0.9,
    "unlearn_weight_decay": 5e-4,
    "unlearn_clip_norm": 20.0,
    "unlearn_epochs": 20,
    "unlearn_milestones": (10, 20),
    "unlearn_batch_size": 128,
    "unlearn_augment": True,
    "unlearn_batchnorm_updates": 1,
    "unlearn_precision": Precision.AMP,
    "stop_accuracy": StopAccuracy.RUNNING,
    "layers": Layers.HEAD,
    "unlearn_threshold": 0.20,
    "threshold_scale": ThresholdScale.ABSOLUTE,
    "score": Score.L1,
    "score_bias": False,
    "suspect_rule": SuspectRule.OUTLIER,
    "suspect_share": 0.15,  # of no consequence with that rule
    "mad_epsilon": 0.0,
    "z_threshold": 3.5,
    "max_suspects": 2,
    "suspect_order": SuspectOrder.INDEX,
    "zero_mad": ZeroMAD.INFINITE,
    "reinit_ratio": 1.0,
    "reinit_bias": ReinitBias.ZERO,
    "reinit_distribution": ReinitDistribution.UNIFORM,
    "reinit_scale": 1.0,
    "relearn_schedule": RelearnSchedule.COSINE,
    "relearn_clip_norm": None,
    "relearn_augment": True,
    "relearn_precision": Precision.AMP,
    "cosine_form": CosineForm.SIGNED,
    "cosine_reduction": CosineReduction.SUM,
    "relearn_momentum": 0.9,
    "relearn_weight_decay": 0.0,
    "relearn_epochs": 20,
    "relearn_batch_size": 128,
    "batchnorm_updates": 2,
}
BY_DATASET = {
    "cifar10": {"relearn_lr": 0.005, "alpha": 0.7},
    "cifar100": {"relearn_lr": 0.001, "alpha": 0.001},
    "gtsrb": {"relearn_lr": 0.001, "alpha": 0.001},
    "tiny_imagenet": {"relearn_lr": 0.001, "alpha": 0.001},
}


@pytest.mark.parametrize("dataset", FOUR)
def test_official_values(dataset: str) -> None:
    assert preset_values(Preset.OFFICIAL, dataset) == OFFICIAL | BY_DATASET[dataset]


@pytest.mark.parametrize("dataset", FOUR)
def test_default_decides_the_quirks_and_keeps_the_rest(dataset: str) -> None:
    decided = {
        "suspect_order": SuspectOrder.SCORE,
        "zero_mad": ZeroMAD.MEAN_DEVIATION,
        "batchnorm_updates": 1,
    }
    expected = OFFICIAL | BY_DATASET[dataset] | decided
    assert preset_values(Preset.DEFAULT, dataset) == expected


@pytest.mark.parametrize("dataset", [*FOUR, "digits"])
def test_fine_tuning_is_wu_et_als(dataset: str) -> None:
    """NeurIPS 2022: SGD at 0.01 with decay for a hundred epochs, whatever the dataset."""
    changed = {
        "max_suspects": 0,
        "relearn_lr": 0.01,
        "relearn_weight_decay": 5e-4,
        "relearn_epochs": 100,
        "relearn_batch_size": 256,
    }
    usual = {name: entry.default for name, (_, entry) in names().items()}
    assert preset_values(Preset.FINE_TUNING, dataset) == usual | changed


@pytest.mark.parametrize("preset", list(Preset))
def test_other_datasets_take_cifar10s_values(preset: Preset) -> None:
    assert preset_values(preset, "digits") == preset_values(preset, "cifar10")


def test_no_name_occurs_twice() -> None:
    counts = Counter(field.name for part in PARTS.values() for field in dataclasses.fields(part))
    assert max(counts.values()) == 1
    assert set(names()) == set(counts) == set(OFFICIAL | BY_DATASET["cifar10"])
    assert all(field.name == name for name, (_, field) in names().items())


def test_parts_are_those_of_the_whole() -> None:
    assert set(PARTS) == {field.name for field in dataclasses.fields(Hyperparameters)}
    for part, config in PARTS.items():
        assert getattr(Hyperparameters(), part) == config()


@pytest.mark.parametrize("preset", list(Preset))
def test_assembled_values_are_those_put_in(preset: Preset) -> None:
    values = preset_values(preset, "gtsrb") | {"reinit_ratio": 0.25, "unlearn_threshold": 0.4}
    whole = assemble(values)
    for name, (part, _) in names().items():
        assert getattr(getattr(whole, part), name) == values[name]


def test_silence_means_default() -> None:
    assert assemble({}) == Hyperparameters()
    assert assemble({"alpha": 0.1}) == Hyperparameters(relearn=RelearnConfig(alpha=0.1))


def test_members_of_a_set_of_names_may_be_texts() -> None:
    """Else ``score="l2"`` would be compared with members, equal none and mean nothing."""
    members = {
        name: other
        for name, (_, entry) in names().items()
        if isinstance(entry.default, Enum)
        for other in list(type(entry.default))[-1:]
    }
    assert len(members) == 15
    assert assemble({name: str(member) for name, member in members.items()}) == assemble(members)
    for name, (part, _) in names().items():
        if name in members:
            whole = assemble({name: str(members[name])})
            assert getattr(getattr(whole, part), name) is members[name]


def test_texts_that_are_none_of_the_names_are_errors() -> None:
    with pytest.raises(ValueError, match="score") as error:
        assemble({"score": "l3"})
    assert str(error.value) == "score is l1 or l2 or relative; got 'l3'"


def test_unknown_names_are_errors() -> None:
    with pytest.raises(KeyError, match="aplha"):
        assemble({"aplha": 0.1})


def test_values_out_of_range_are_errors() -> None:
    with pytest.raises(ValueError, match=r"^reinit_ratio .*got 1\.5$"):
        assemble({"reinit_ratio": 1.5})
