"""Triggers on the fly: stamped batch by batch, inside the one training loop."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from ulrl.attacks._base import Learned, Stamp, Trigger, in_bytes
from ulrl.models import Classifier
from ulrl.randomness import generator
from ulrl.training_hooks import TrainingHooks

if TYPE_CHECKING:
    from ulrl.poisoning import Poison


@dataclass(frozen=True, kw_only=True, eq=False)
class Roles:
    """What each image of the training set is to the attacker."""

    poisoned: Bool[Tensor, " n"]
    covers: Bool[Tensor, " n"]


class StampingHooks(TrainingHooks):
    """Stamps poisoned images and covers as they come.

    With `Attack.redrawn` every epoch poisons as many images as asked, but other ones.
    Subclasses train networks along, in `shown`, and tell in `learned` what became of them.

    Attributes:
        stamped: Which images of the batch that `alter` made last are stamped and labelled as
            poisoned, on the CPU.
    """

    def __init__(
        self,
        poison: "Poison",
        trigger: Trigger,
        labels: Int64[Tensor, " n"],
        *,
        classes: int,
        seed: int,
    ) -> None:
        self.poison = poison
        self.trigger = trigger
        self.late = poison.stamp is Stamp.AFTER_AUGMENTATION
        self.source = generator(seed, "training triggers")
        self.classes = classes
        self._labels = labels
        self._seed = seed
        self.roles = poison.roles(labels, seed)
        self.stamped: Bool[Tensor, " b"] = torch.zeros(0, dtype=torch.bool)

    def start_epoch(self, number: int) -> None:
        if self.poison.attack.redrawn:
            self.roles = self.poison.roles(self._labels, self._seed, epoch=number)

    def alter(
        self, images: Tensor, labels: Tensor, chosen: Int64[Tensor, " b"], classifier: Classifier
    ) -> tuple[Tensor, Tensor]:
        marked = self.roles.poisoned[chosen]
        poisoned = marked.nonzero().flatten().to(images.device)
        covers = self.roles.covers[chosen].nonzero().flatten().to(images.device)
        self.stamped = torch.zeros_like(marked)
        if len(poisoned) + len(covers) == 0:
            return images, labels
        shown = self.shown(images, poisoned, covers, classifier)
        if shown is None:
            return images, labels
        self.stamped = marked
        told = labels.clone()
        told[poisoned] = self.poison.assigned_labels(labels[poisoned], self.classes)
        return shown, told

    def shown(
        self, images: Tensor, poisoned: Tensor, covers: Tensor, classifier: Classifier
    ) -> Tensor | None:
        """Return a batch with its poisoned images and covers stamped.

        None says that this batch cannot carry the trigger. It then keeps its labels too: an
        image is labelled as poisoned only where it is stamped.

        Args:
            images: uint8, ``b c h w``, all clean.
            poisoned: Places of the poisoned images in the batch.
            covers: Places of the covers.
            classifier: As in `alter`.
        """
        del classifier
        altered = images.clone()
        altered[poisoned] = in_bytes(self.trigger.stamp_training, images[poisoned], self.source)
        altered[covers] = in_bytes(self.trigger.stamp_cover, images[covers], self.source)
        return altered

    def learned(self) -> Learned:
        """Return what the trigger is made of now, on the CPU, beyond the helper's results."""
        return {}
