"""What may be done to a training from outside its loop."""

from collections.abc import Callable

from jaxtyping import Int64
from torch import Tensor
from torch.optim import Optimizer

from ulrl.models import Classifier


class TrainingHooks:
    """Alters the batches of a training, and trains along; by itself it does nothing.

    Attributes:
        late: Whether batches are altered after augmentation, or before.
        optimisers: Of networks that train along: zeroed and stepped with the classifier's.
    """

    late: bool = False
    optimisers: tuple[Optimizer, ...] = ()

    def start_epoch(self, number: int) -> None:
        """Make ready for an epoch, counted from 1."""
        del number

    def alter(
        self, images: Tensor, labels: Tensor, chosen: Int64[Tensor, " b"], classifier: Classifier
    ) -> tuple[Tensor, Tensor]:
        """Return the images and labels that are trained on instead, as many as came.

        Args:
            images: On the device, uint8 or float in grey levels (0 to 255), ``b c h w``.
            labels: On the device.
            chosen: Which samples of the training set these are, on the CPU.
            classifier: As it is before the step, in train mode; left so.
        """
        del chosen, classifier
        return images, labels

    def loss(
        self, logits: Tensor, labels: Tensor, objective: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        """Return what is minimised, for the batch that `alter` made last."""
        return objective(logits, labels)


NO_HOOKS = TrainingHooks()
