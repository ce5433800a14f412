"""The range of every field of a configuration, and the message outside it."""

import dataclasses
from enum import Enum
from typing import Any

import pytest

from ulrl.clean import CleanConfig
from ulrl.hyperparameters import PARTS, assemble, names
from ulrl.relearning import RelearnConfig
from ulrl.scoring import ScoreConfig
from ulrl.supervised import VictimConfig
from ulrl.unlearning import UnlearnConfig
from ulrl.weight_selection import ResetConfig

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
BAD = [(config, name, value) for (config, name), (_, bad) in RANGES.items() for value in bad]


@pytest.mark.parametrize(
    ("config", "name", "value"), BAD, ids=[f"{name}={value}" for _, name, value in BAD]
)
def test_out_of_range(config: type, name: str, value: Any) -> None:
    rule, _ = RANGES[config, name]
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


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("unlearn_threshold", 0.0),
        ("unlearn_threshold", 1.0),
        ("reinit_ratio", 0.0),
        ("clean_ratio", 1.0),
        ("max_suspects", 0),
        ("unlearn_momentum", 0.0),
        ("unlearn_milestones", ()),
        ("max_suspects", None),
        ("unlearn_clip_norm", INF),
        ("unlearn_clip_norm", None),
        ("relearn_clip_norm", None),
        ("unlearn_batchnorm_updates", 0),
        ("batchnorm_updates", 0),
        ("suspect_share", 0.0),
        ("suspect_share", 1.0),
        ("mad_epsilon", 0.0),
        ("alpha", 0.0),
    ],
)
def test_bounds_belong_to_the_range(name: str, value: Any) -> None:
    part, _ = names()[name]
    assert getattr(getattr(assemble({name: value}), part), name) == value


def test_nesterovs_form_wants_momentum() -> None:
    assert VictimConfig(momentum=0.0, nesterov=False).momentum == 0
    with pytest.raises(ValueError, match="nesterov") as error:
        VictimConfig(momentum=0.0)
    assert str(error.value) == "nesterov wants a momentum above 0; got 0"
