"""Stage 4 of 5: reinitialise the suspects and fine-tune the victim away from them."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import cos, pi, sqrt

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy

from ulrl.clean import CleanSamples
from ulrl.fitting import Epoch, Schedule, train
from ulrl.models import Classifier, Weights, restore
from ulrl.randomness import generator
from ulrl.scoring import NeuronScores, weights_to_reset
from ulrl.unlearning import check_sgd

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class ResetConfig:
    """How much of a suspect is re-initialised.

    Attributes:
        reinit_ratio: Fraction of a suspect's incoming weights, those that moved most; 1.0
            is the official code (the whole neuron), 0.0 re-initialises nothing.
    """

    reinit_ratio: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.reinit_ratio <= 1:
            raise ValueError(
                f"reinit_ratio is a fraction of a neuron's weights, in [0, 1]; "
                f"got {self.reinit_ratio}"
            )


@dataclass(frozen=True, kw_only=True)
class RelearnConfig:
    """Phase 2; defaults are the official code's for CIFAR-10.

    Attributes:
        relearn_lr: Initial learning rate of SGD; it falls to 0 along half a cosine.
        relearn_momentum: Of SGD.
        relearn_weight_decay: L2 penalty.
        relearn_epochs: Epochs.
        relearn_batch_size: Samples per step; the last batch may be short.
        alpha: Weight of the cosine term.
        batchnorm_updates: Train-mode passes per step; the official code's logging makes a
            second one, and with it a second update of BatchNorm's running statistics.
    """

    relearn_lr: float = 0.005
    relearn_momentum: float = 0.9
    relearn_weight_decay: float = 0.0
    relearn_epochs: int = 20
    relearn_batch_size: int = 128
    alpha: float = 0.7
    batchnorm_updates: int = 1

    def __post_init__(self) -> None:
        check_sgd("relearn", self.relearn_lr, self.relearn_momentum, self.relearn_weight_decay)
        if not 1 <= self.relearn_epochs <= 1000:
            raise ValueError(f"relearn_epochs is from 1 to 1000; got {self.relearn_epochs}")
        if self.relearn_batch_size < 1:
            raise ValueError(f"relearn_batch_size is at least 1; got {self.relearn_batch_size}")
        if not 0 <= self.alpha <= 1000:
            raise ValueError(f"alpha is a weight, in [0, 1000]; got {self.alpha}")
        if self.batchnorm_updates not in (1, 2):
            raise ValueError(f"batchnorm_updates is 1 or 2; got {self.batchnorm_updates}")

    def rate(self, elapsed: float) -> float:
        """Return the learning rate, which changes between epochs only."""
        return self.relearn_lr * (1 + cos(pi * int(elapsed) / self.relearn_epochs)) / 2


@dataclass(frozen=True, kw_only=True, eq=False)
class Suspects:
    """All that phase 1 hands on: the flagged rows and which weights start afresh.

    Attributes:
        rows: Flagged rows in increasing order.
        reset: Which incoming weights of each are re-initialised.
        reset_bias: Whether their biases are set to 0.
    """

    rows: tuple[int, ...]
    reset: Bool[Tensor, "suspects fan_in"]
    reset_bias: bool


@dataclass(frozen=True, kw_only=True)
class RelearnRun:
    """A model in repair: drain `epochs`, then take the classifier."""

    classifier: Classifier
    epochs: Iterator[Epoch]


def choose_resets(config: ResetConfig, scores: NeuronScores) -> Suspects:
    """Return the suspects with the share of their weights that `config` gives up."""
    return Suspects(
        rows=scores.suspects,
        reset=weights_to_reset(scores.movement, config.reinit_ratio),
        reset_bias=bool(scores.suspects) and config.reinit_ratio > 0,
    )


def relearn(
    config: RelearnConfig,
    victim: Weights,
    suspects: Suspects,
    clean: CleanSamples,
    device: torch.device,
) -> RelearnRun:
    """Start phase 2 from the victim; the work is done as `epochs` of the result is drawn.

    What the ascent did to the weights is discarded. All parameters train on cross-entropy
    plus ``alpha`` times `cosine_term`. Without suspects this is plain fine-tuning.
    """
    classifier = restore(victim, device)
    rows = torch.tensor(suspects.rows, dtype=torch.long, device=device)
    original = classifier.head.weight.detach()[rows].clone()
    reinitialise(classifier.head, suspects, clean.seed)
    head = classifier.head

    def objective(logits: Tensor, labels: Tensor) -> Tensor:
        loss = cross_entropy(logits, labels)
        if len(rows) == 0:
            return loss
        return loss + config.alpha * cosine_term(head.weight[rows], original)

    optimiser = torch.optim.SGD(
        classifier.network.parameters(),
        lr=config.relearn_lr,
        momentum=config.relearn_momentum,
        weight_decay=config.relearn_weight_decay,
        fused=True,
    )
    schedule = Schedule(
        epochs=config.relearn_epochs,
        batch_size=config.relearn_batch_size,
        rate=config.rate,
        forwards_after_step=config.batchnorm_updates - 1,
    )
    sources = (
        generator(clean.seed, "relearn", "order"),
        generator(clean.seed, "relearn", "views"),
    )
    epochs = train(classifier, clean.samples, optimiser, objective, schedule, sources)
    return RelearnRun(classifier=classifier, epochs=epochs)


def cosine_term(
    rows: Float[Tensor, "suspects fan_in"], original: Float[Tensor, "suspects fan_in"]
) -> Float[Tensor, ""]:
    """Return the sum over suspects of the cosine between a row and what it was.

    Signed, so its minimum pushes each row to point away from its original direction.
    """
    return cosine_similarity(rows, original, dim=1).sum()


@torch.no_grad()
def reinitialise(head: nn.Linear, suspects: Suspects, seed: int) -> None:
    """Draw the marked weights afresh from U(-r, r), r = sqrt(2 / fan-in), in place.

    Every weight of the head has its own draw, used or not, so that two choices of
    suspects agree where they overlap.
    """
    bound = sqrt(2 / head.in_features)
    source = generator(seed, "relearn", "reset")
    fresh = (torch.rand(head.weight.shape, generator=source) * 2 - 1) * bound
    marked = torch.zeros(head.weight.shape, dtype=torch.bool)
    marked[list(suspects.rows)] = suspects.reset
    device = head.weight.device
    head.weight.copy_(torch.where(marked.to(device), fresh.to(device), head.weight))
    if suspects.reset_bias:
        head.bias[list(suspects.rows)] = 0
