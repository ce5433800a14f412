"""How the input-aware attack trains its pattern network along with the victim."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

from ulrl.attacks._input_aware_networks import diversity, sharpened, standardised
from ulrl.attacks._networks import kept
from ulrl.helper import AttackContext, Learned
from ulrl.models import Classifier
from ulrl.poison import Poison, StampingHooks, Trigger


class PatternHooks(StampingHooks):
    """Puts patterns on poisoned images, and those of other images on covers."""

    def __init__(  # noqa: PLR0913 - the parts of the published training
        self,
        poison: Poison,
        context: AttackContext,
        *,
        trigger: Trigger,
        mask: nn.Module,
        pattern: nn.Module,
        lr: float,
        betas: tuple[float, float],
        diversity_weight: float,
        accumulate: bool,
    ) -> None:
        images = context.images
        super().__init__(
            poison, trigger, images.train_labels, classes=images.classes, seed=context.seed
        )
        kind = _Accumulating if accumulate else Adam
        self.optimisers = (kind(pattern.parameters(), lr=lr, betas=betas),)
        self._mask = mask
        self._pattern = pattern.train()
        self._statistics = context.learned["statistics"]
        self._diversity_weight = diversity_weight
        self._diversity: Tensor | None = None

    def alter(self, images: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        self._diversity = None
        return super().alter(images, *rest)

    def shown(
        self, images: Tensor, poisoned: Tensor, covers: Tensor, classifier: Classifier
    ) -> Tensor | None:
        """Return the batch with poisoned images and covers stamped, and note the diversity.

        Poisoned images get their own pattern through their own mask, covers the pattern of
        another image through the mask of that one. The others are taken from the batch, which
        is shuffled; the published code draws them in a second loader.
        """
        del classifier
        stamped = torch.cat([poisoned, covers])
        others = _others(stamped, len(images))
        # A batch of one has no other image, nor a single pattern of 1 × 1 features a variance.
        if len(images) < 2 or len(poisoned) + len(stamped) < 2:
            return None
        count = len(poisoned)
        pixels = images[stamped].float() / 255
        seen = self._standardised(images[torch.cat([poisoned, others])].float() / 255)
        made = self._pattern(seen)
        # Whose pattern and mask each stamped image gets, among those of `seen`.
        giver = torch.arange(len(stamped), device=images.device)
        giver[count:] += count
        with torch.no_grad():
            where = sharpened(self._mask(seen[giver]))
        altered = pixels + (made[giver] - pixels) * where
        if count:
            own, other = slice(count), slice(count, 2 * count)
            standard = self._standardised(made)
            self._diversity = diversity(seen[own], seen[other], standard[own], standard[other])
        shown = images.float()
        shown[stamped] = 255 * altered.clamp(0, 1)
        return shown

    def _standardised(self, pixels: Tensor) -> Tensor:
        return standardised(pixels, self._statistics)

    def loss(
        self, logits: Tensor, labels: Tensor, objective: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        loss = objective(logits, labels)
        return loss if self._diversity is None else loss + self._diversity_weight * self._diversity

    def learned(self) -> Learned:
        return kept(self._pattern, "pattern")


class _Accumulating(Adam):
    """Adam whose gradients are never zeroed: a bug of the published code, on request."""

    def zero_grad(self, set_to_none: bool = True) -> None:  # noqa: FBT001, FBT002 - torch's
        """Keep what has gathered."""
        del set_to_none


def _others(chosen: Tensor, count: int) -> Tensor:
    """Return another image of a batch for each chosen one: one that is not chosen, if it can."""
    spare = torch.ones(count, dtype=torch.bool, device=chosen.device)
    spare[chosen] = False
    ring = torch.cat([chosen, spare.nonzero().flatten()])
    return ring.roll(-min(len(chosen), count - 1))[: len(chosen)]
