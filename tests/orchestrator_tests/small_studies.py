"""Studies small enough for tests, as values."""

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.address import Address
from orchestrator.spec.model import AttackChoice, Grid, Prune, PrunerChoice, Study, Tracking
from orchestrator.spec.space import Axis
from ulrl.attacks import Attack, LabelRule
from ulrl.attacks.badnets import BadNets
from ulrl.attacks.blended import Blended
from ulrl.datasets.digits import Digits
from ulrl.models.preact_resnet import PreActResNet18
from ulrl.recipes import VictimRecipe

BADNETS = BadNets(size=2)
BLENDED = Blended(alpha=0.3)
WILCOXON = PrunerChoice(pruner="wilcoxon", arguments={"p_threshold": 0.05, "n_startup_steps": 5})
FEW = {"clean_ratio": (0.05,), "relearn_epochs": (2,), "unlearn_epochs": (3,)}
MEDIAN = PrunerChoice(pruner="median", arguments={"n_startup_trials": 2, "n_warmup_steps": 1})


def choice(attack: Attack, labels: LabelRule = LabelRule.ALL_TO_ONE, **other: Any) -> AttackChoice:
    """Return an entry of the attack axis."""
    return AttackChoice(attack=attack, labels=labels, **other)


def small_study(
    *,
    store: Address | str = "memory://nowhere",
    attacks: Sequence[AttackChoice] = (choice(BADNETS), choice(BLENDED)),
    settings: Mapping[str, Axis] | None = None,
    grid: Mapping[str, Any] | None = None,
    prune: Prune | None = None,
    few: Mapping[str, tuple[Any, ...]] = FEW,
    **other: Any,
) -> Study:
    """Return a study on tiny pictures with a tiny network: a second for all of it."""
    axes: dict[str, Any] = {
        "datasets": (Digits(size=8),),
        "architectures": (PreActResNet18(width=1),),
        **(grid or {}),
    }
    return Study(
        **{
            "name": "small",
            "source": "grid.yaml",
            "grid": Grid(attacks=tuple(attacks), settings={**(settings or {}), **few}, **axes),
            "victim": VictimRecipe.of(epochs=1, batch_size=64),
            "prune": prune or Prune(),
            "mlflow": Tracking(uri=Address("sqlite:///nowhere.db")),
            **other,
            "store": Address.of(store),
        }
    )


def table_study(settings: int, scenarios: int, prune: Prune | None = None, **other: Any) -> Study:
    """Return a study of so many settings and scenarios, none of which is ever trained.

    The settings differ in ``alpha``; the preset's own, 0.7, is the last of the grid.
    """
    alphas = tuple(round(0.7 + 0.1 * number, 1) for number in reversed(range(settings)))
    return small_study(
        attacks=[choice(BADNETS)],
        settings={"alpha": alphas},
        grid={"seeds": tuple(range(scenarios))},
        few={},
        prune=prune,
        **other,
    )
