"""Presets against the official configuration files, and how values become a configuration."""

import dataclasses
from collections import Counter
from enum import Enum
from typing import Any

import pytest

from ulrl.clean import CleanConfig, CleanDraw
from ulrl.hyperparameters import PARTS, Preset, assemble, names, preset_values
from ulrl.layers import Layers
from ulrl.precision import Precision
from ulrl.relearning import (
    CosineForm,
    CosineReduction,
    ReinitDistribution,
    RelearnConfig,
    RelearnSchedule,
)
from ulrl.scoring import Score, ScoreConfig, SuspectOrder, SuspectRule, ThresholdScale, ZeroMAD
from ulrl.supervised import VictimConfig
from ulrl.unlearning import Finder, StopAccuracy, UnlearnConfig
from ulrl.weight_selection import ReinitBias, ResetConfig

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
    "finder": Finder.ASCENT,
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
    "suspects": None,
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


@pytest.mark.parametrize("dataset", FOUR[:2])
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


def test_no_name_occurs_twice() -> None:
    counts = Counter(field.name for part in PARTS.values() for field in dataclasses.fields(part))
    assert max(counts.values()) == 1
    assert set(names()) == set(counts) == set(OFFICIAL | BY_DATASET["cifar10"])
    assert all(field.name == name for name, (_, field) in names().items())


@pytest.mark.parametrize("preset", list(Preset))
def test_assembled_values_are_those_put_in(preset: Preset) -> None:
    values = preset_values(preset, "gtsrb") | {"reinit_ratio": 0.25, "unlearn_threshold": 0.4}
    whole = assemble(values)
    for name, (part, _) in names().items():
        assert getattr(getattr(whole, part), name) == values[name]


def test_members_of_a_set_of_names_may_be_texts() -> None:
    """Else ``score="l2"`` would be compared with members, equal none and mean nothing."""
    members = {
        name: other
        for name, (_, entry) in names().items()
        if isinstance(entry.default, Enum)
        for other in list(type(entry.default))[-1:]
    }
    assert len(members) == 16
    assert assemble({name: str(member) for name, member in members.items()}) == assemble(members)
    for name, (part, _) in names().items():
        if name in members:
            whole = assemble({name: str(members[name])})
            assert getattr(getattr(whole, part), name) is members[name]


# The range of every field of a configuration, and the message outside it.


NAN, INF = float("nan"), float("inf")
CONFIGS = (VictimConfig, *PARTS.values())

# The rule each field's message states, and values just outside it.
RANGES: dict[tuple[type, str], tuple[str, tuple[Any, ...]]] = {
    (VictimConfig, "epochs"): ("epochs is at least 1", (0, -1)),
    (VictimConfig, "batch_size"): ("batch_size is at least 2", (1, 0)),
    (VictimConfig, "lr"): (
        "lr is a learning rate, above 0 and at most 100",
        (0.0, -0.1, 100.5, NAN, INF),
    ),
    (VictimConfig, "warmup"): ("warmup is a fraction, in [0, 1)", (-0.1, 1.0, NAN)),
    (VictimConfig, "period"): ("period is in epochs, at least 1", (0, -1)),
    (VictimConfig, "momentum"): ("momentum is in [0, 1)", (1.0, -0.5, NAN)),
    (VictimConfig, "weight_decay"): ("weight_decay is in [0, 1)", (-1e-9, 1.0, NAN)),
    (CleanConfig, "clean_ratio"): (
        "clean_ratio is a fraction of the clean training set, above 0 and at most 1",
        (0.0, -0.1, 1.01, NAN),
    ),
    (UnlearnConfig, "unlearn_lr"): (
        "unlearn_lr is above 0 and at most 100",
        (0.0, -0.1, 100.5, NAN, INF),
    ),
    (UnlearnConfig, "unlearn_momentum"): ("unlearn_momentum is in [0, 1)", (-0.1, 1.0, NAN)),
    (UnlearnConfig, "unlearn_weight_decay"): (
        "unlearn_weight_decay is in [0, 1)",
        (-0.1, 1.0, NAN),
    ),
    (UnlearnConfig, "unlearn_clip_norm"): (
        "unlearn_clip_norm is above 0, or null",
        (0.0, -1.0, NAN),
    ),
    (UnlearnConfig, "unlearn_epochs"): ("unlearn_epochs is from 1 to 1000", (0, 1001)),
    (UnlearnConfig, "unlearn_milestones"): (
        "unlearn_milestones are epochs from 1",
        ((0,), (10, -1)),
    ),
    (UnlearnConfig, "unlearn_batch_size"): ("unlearn_batch_size is at least 1", (0, -3)),
    (UnlearnConfig, "unlearn_batchnorm_updates"): (
        "unlearn_batchnorm_updates is 0, 1 or 2",
        (-1, 3),
    ),
    (ScoreConfig, "suspect_share"): (
        "suspect_share is a fraction of the neurons, in [0, 1]",
        (-0.01, 1.01, NAN),
    ),
    (ScoreConfig, "mad_epsilon"): ("mad_epsilon is in [0, 1e6]", (-1e-9, 2e6, NAN)),
    (ScoreConfig, "unlearn_threshold"): (
        "unlearn_threshold is an accuracy, in [0, 1]",
        (-0.01, 1.01, NAN),
    ),
    (ScoreConfig, "z_threshold"): ("z_threshold is above 0 and at most 1e6", (0.0, 2e6, NAN)),
    (ScoreConfig, "max_suspects"): ("max_suspects is at least 0, or null", (-1,)),
    (ScoreConfig, "suspects"): (
        "suspects are rows of the head from 0, in increasing order, at least one",
        ((), (-1,), (1, 0), (2, 2)),
    ),
    (ResetConfig, "reinit_ratio"): (
        "reinit_ratio is a fraction of a neuron's weights, in [0, 1]",
        (-0.01, 1.01, NAN),
    ),
    (RelearnConfig, "relearn_lr"): (
        "relearn_lr is above 0 and at most 100",
        (0.0, 100.5, NAN, INF),
    ),
    (RelearnConfig, "relearn_momentum"): ("relearn_momentum is in [0, 1)", (-0.1, 1.0, NAN)),
    (RelearnConfig, "relearn_weight_decay"): (
        "relearn_weight_decay is in [0, 1)",
        (-0.1, 1.0, NAN),
    ),
    (RelearnConfig, "relearn_epochs"): ("relearn_epochs is from 1 to 1000", (0, 1001)),
    (RelearnConfig, "relearn_batch_size"): ("relearn_batch_size is at least 1", (0,)),
    (RelearnConfig, "alpha"): ("alpha is a weight, in [0, 1000]", (-0.1, 1000.5, NAN, INF)),
    (RelearnConfig, "batchnorm_updates"): ("batchnorm_updates is 0, 1 or 2", (-1, 3)),
    (RelearnConfig, "relearn_clip_norm"): ("relearn_clip_norm is above 0, or null", (0.0, NAN)),
    (RelearnConfig, "reinit_scale"): (
        "reinit_scale is a factor, above 0 and at most 1000",
        (0.0, -1.0, 1000.5, NAN, INF),
    ),
}


@pytest.mark.parametrize(("config", "name"), RANGES, ids=str)
def test_out_of_range(config: type, name: str) -> None:
    rule, bad = RANGES[config, name]
    for value in bad:
        with pytest.raises(ValueError, match=name) as error:
            config(**{name: value})
        shown = list(value) if isinstance(value, tuple) else value
        assert str(error.value) == f"{rule}; got {shown}"


def test_every_field_has_a_range() -> None:
    fields = {
        (config, field.name)
        for config in CONFIGS
        for field in dataclasses.fields(config)
        if not isinstance(field.default, (Enum, bool))
    }
    assert fields == set(RANGES)


def test_nesterovs_form_wants_momentum() -> None:
    assert VictimConfig(momentum=0.0, nesterov=False).momentum == 0
    with pytest.raises(ValueError, match="nesterov") as error:
        VictimConfig(momentum=0.0)
    assert str(error.value) == "nesterov wants a momentum above 0; got 0"
