"""Rules of options that several methods have, and of the networks that they apply to."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from torch import nn

from ulrl.fitting import BATCHNORM
from ulrl.methods._cuts import Cut, Rule
from ulrl.methods._tuning import CuttingMethod

ORACLE_LOSS = 0.1  # of the accuracy, above which BackdoorBench takes no cut
# Options that say how strong a cut is: what they are, and their range in words and numbers.
_STRENGTHS = {
    "budget": ("a share of the held-out accuracy, in [0, 1]", 0, 1),
    "mask_threshold": ("a mask, in [0, 1]", 0, 1),
    "share": ("a share of what can be cut, in [0, 1]", 0, 1),
    "z_threshold": ("a modified z-score, in (0, 1000]", 0, 1000),
    "u": ("a number of standard deviations, in [0, 100]", 0, 100),
}


def cut_of(method: Any, offered: Mapping[Rule, tuple[str, float]]) -> Cut:
    """Return the rule of a method that cuts, with its strength.

    The rule is the method's `rule`; where that is None, the one whose option is given, else the
    first that is offered.

    Args:
        method: With `rule` and the options of all rules as fields.
        offered: For each rule, the option that holds its strength ("" if none does), and the
            default.

    Raises:
        ValueError: The method has no such rule, a strength is out of range, or an option is given
            that means nothing by the rule.
    """
    if method.rule is not None and method.rule not in offered:
        raise ValueError(f"rule is {' or '.join(offered)} for {method.name}; got {method.rule}")
    given = {
        rule: getattr(method, option)
        for rule, (option, _) in offered.items()
        if option and getattr(method, option) is not None
    }
    rule = method.rule or next(iter([*given, *offered]))
    for other, value in given.items():
        option = offered[other][0]
        what, low, high = _STRENGTHS[option]
        if not low <= value <= high:
            raise ValueError(f"{option} is {what}; got {value}")
        if other is not rule:
            raise ValueError(f"{option} means nothing by the rule {rule}; leave one of them out")
    return Cut(rule=rule, strength=given.get(rule, offered[rule][1]))


def batchnorms(network: nn.Module) -> Iterator[tuple[str, BATCHNORM]]:
    """Yield each BatchNorm that has a scale and running statistics, by its path."""
    for path, module in network.named_modules():
        if isinstance(module, BATCHNORM) and module.affine and module.track_running_stats:
            yield path, module


def check_batchnorm(network: nn.Module, name: str) -> None:
    """Raise ``ValueError`` where a network has no BatchNorm with a scale."""
    if not any(True for _ in batchnorms(network)):
        raise ValueError(f"{name} needs BatchNorm layers, and the network has none")


@dataclass(frozen=True, kw_only=True)
class CutByDeviations(CuttingMethod):
    """A method that cuts channels by how far their scores lie above their layer's mean.

    Attributes:
        rule: ``deviations``, ``budget`` or ``oracle``; by default the one whose option is given.
        u: Standard deviations, by default 3, on Tiny-ImageNet `tiny_imagenet_u`.
        budget: Largest share of the held-out accuracy to lose, in [0, 1], by default 0.05.
    """

    tiny_imagenet_u: ClassVar[float]

    rule: Rule | None = None
    u: float | None = None
    budget: float | None = None

    def __post_init__(self) -> None:
        self._cut  # noqa: B018 - for its rules

    @property
    def _cut(self) -> Cut:
        offered = {
            Rule.DEVIATIONS: ("u", 3.0),
            Rule.BUDGET: ("budget", 0.05),
            Rule.ORACLE: ("", ORACLE_LOSS),
        }
        return cut_of(self, offered)

    def resolved(self, dataset: str) -> Self:
        """Return it with BackdoorBench's number of deviations for a dataset."""
        method = super().resolved(dataset)
        usual = self._cut.rule is Rule.DEVIATIONS and self.u is None
        tiny = usual and dataset == "tiny_imagenet"
        return replace(method, u=self.tiny_imagenet_u) if tiny else method
