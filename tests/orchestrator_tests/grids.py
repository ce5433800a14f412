"""Plans of many axes, for tests of what a grid expands to."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from orchestrator.plan.plan import Plan, make_plan
from orchestrator.spec.model import AttackChoice, Exclusion, Grid
from tests.orchestrator_tests.small_studies import BADNETS, BLENDED, choice, small_study
from ulrl.attacks import LabelRule
from ulrl.attacks.sig import SIG
from ulrl.datasets.digits import Digits
from ulrl.hyperparameters import Preset
from ulrl.models.preact_resnet import PreActResNet18

ATTACKS = (
    choice(BADNETS),
    choice(BLENDED),
    choice(SIG(), LabelRule.CLEAN_LABEL, poison_ratio=0.05),
)


def plan_of(
    settings: dict[str, tuple[Any, ...]] | None = None,
    attacks: Sequence[AttackChoice] = ATTACKS,
    exclude: Sequence[dict[str, tuple[Any, ...]]] = (),
    preset: Preset = Preset.DEFAULT,
    **axes: Any,
) -> Plan:
    """Return the plan of a grid with its axes as given."""
    grid = Grid(
        attacks=tuple(attacks),
        settings=settings or {},
        **{"datasets": (Digits(),), "architectures": (PreActResNet18(),), **axes},
    )
    exclusions = tuple(Exclusion(conditions=conditions) for conditions in exclude)
    return make_plan(replace(small_study(preset=preset, exclude=exclusions), grid=grid))


def plan_with_every_axis() -> Plan:
    """Return a plan of (2 × 2 + 1) × 2 × 2 × 2 × 2 scenarios and 9 settings."""
    return plan_of(
        {"clean_ratio": (0.1,), "unlearn_threshold": (0.4, 0.2, 0.1), "reinit_ratio": (0, 0.5, 1)},
        datasets=(Digits(), Digits(size=32)),
        architectures=(PreActResNet18(width=4), PreActResNet18(width=8)),
        poison_ratios=(0.1, 0.2),
        target_labels=(0, 3),
        seeds=(0, 1),
    )
