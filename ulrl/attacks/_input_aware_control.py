"""How the input-aware attack trains its pattern network along with the victim."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

from ulrl.attacks._base import Learned, Trigger
from ulrl.attacks._control import StampingControl
from ulrl.attacks._helper import Scene
from ulrl.attacks._input_aware_networks import diversity, sharpened, standardised
from ulrl.attacks._networks import kept
from ulrl.models import Classifier

if TYPE_CHECKING:
    from ulrl.poisoning import Poison


class PatternControl(StampingControl):
    """Puts patterns on poisoned images, and patterns of other images on covers."""

    def __init__(  # noqa: PLR0913 - the parts of the published training
        self,
        poison: "Poison",
        scene: Scene,
        *,
        trigger: Trigger,
        mask: nn.Module,
        pattern: nn.Module,
        lr: float,
        betas: tuple[float, float],
        diversity_weight: float,
        accumulate: bool,
    ) -> None:
        images = scene.images
        super().__init__(
            poison, trigger, images.train_labels, classes=images.classes, seed=scene.seed
        )
        kind = _Accumulating if accumulate else Adam
        self.optimisers = (kind(pattern.parameters(), lr=lr, betas=betas),)
        self._mask = mask
        self._pattern = pattern.train()
        self._statistics = scene.learned["statistics"]
        self._diversity_weight = diversity_weight
        self._diversity: Tensor | None = None

    def alter(self, images: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        self._diversity = None
        return super().alter(images, *rest)

    def shown(
        self, images: Tensor, poisoned: Tensor, covers: Tensor, classifier: Classifier
    ) -> Tensor:
        del classifier
        count = len(poisoned)
        index = torch.cat([poisoned, covers])
        pixels = images[index].float() / 255
        if len(index) < 2:  # one image has no other, nor a batch of one a variance
            return images
        seen = standardised(pixels, self._statistics)
        made = self._pattern(seen)
        with torch.no_grad():
            where = sharpened(self._mask(seen))
        # Poisoned images have their own patterns; covers those of the images before them.
        others = torch.arange(len(index), device=index.device)
        others[count:] -= 1
        altered = pixels + (made[others] - pixels) * where
        self._diversity = diversity(seen, seen.roll(1, dims=0), made, made.roll(1, dims=0))
        shown = images.float()
        shown[index] = 255 * altered.clamp(0, 1)
        return shown

    def loss(
        self, logits: Tensor, labels: Tensor, objective: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        loss = objective(logits, labels)
        return loss if self._diversity is None else loss + self._diversity_weight * self._diversity

    def learned(self) -> Learned:
        return kept(self._pattern, "pattern")


class _Accumulating(Adam):
    """Adam that is never told to forget gradients: a published bug, on request."""

    def zero_grad(self, set_to_none: bool = True) -> None:  # noqa: FBT001, FBT002 - torch's
        """Keep what has gathered."""
        del set_to_none
