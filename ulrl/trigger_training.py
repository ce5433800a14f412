"""Train what an attack needs before its trigger can be stamped.

Studies cache these results; this is for the gallery and for scripts.
"""

from dataclasses import replace

from torch import Tensor

from ulrl.helper import AttackContext, Helper, Learned
from ulrl.poison import FixedAttack, Poison
from ulrl.victim import train_victim


def train_trigger(poison: Poison, context: AttackContext, *, victim: bool = False) -> Learned:
    """Return what an attack learns in this context; nothing for most.

    Args:
        poison: What the attacker does.
        context: With what; `AttackContext.learned` is not looked at.
        victim: Whether a victim is trained too where the trigger is learned along with one.
    """
    learned: dict[str, Tensor] = {}
    for helper in _chain(poison.attack.helper(poison)):
        learned = _result(helper, replace(context, learned=learned))
    if not victim or isinstance(poison.attack, FixedAttack):
        return learned
    if poison.attack.training_hooks(poison, replace(context, learned=learned)) is None:
        return learned
    run = train_victim(
        context.recipe,
        context.model_spec,
        poison,
        context.images,
        context.seed,
        context.device,
        learned,
    )
    for _ in run.epochs:
        pass
    return {**learned, **run.learned()}


def _chain(helper: Helper | None) -> list[Helper]:
    return [] if helper is None else [*_chain(helper.needs), helper]


def _result(helper: Helper, context: AttackContext) -> dict[str, Tensor]:
    steps = helper.trained(context)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            tensors: dict[str, Tensor] = end.value
            return tensors
