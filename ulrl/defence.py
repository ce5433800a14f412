"""ULRL on any network: unlearn, find the suspects, reinitialise and relearn."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor, nn

from ulrl.clean import CleanSamples
from ulrl.datasets import Treatment
from ulrl.fitting import Samples
from ulrl.hyperparameters import Preset, assemble, names, preset_values
from ulrl.models import Architecture, Blueprint, Weights
from ulrl.relearning import relearn
from ulrl.resetting import choose_resets
from ulrl.scoring import NeuronScores, score_neurons
from ulrl.unlearning import Ascent, unlearn


@dataclass(frozen=True, kw_only=True, eq=False)
class Repair:
    """A repaired network, and what ULRL found in the victim.

    Attributes:
        network: A repaired copy, in eval mode, where the victim was; the victim is untouched.
        scores: Score, z and suspects of phase 1; `scores.places` names layer and row of each
            suspect: for the head, the class whose row the ascent moved out of proportion.
        ascent: The curve of phase 1.
        training: Loss and accuracy of each epoch of phase 2.
    """

    network: nn.Module
    scores: NeuronScores
    ascent: Ascent
    training: tuple[tuple[float, float], ...]

    @property
    def plain_fine_tuning(self) -> bool:
        """Whether nothing was suspicious, so that phase 2 only fine-tuned the victim."""
        return not self.scores.suspects


def repair(  # noqa: PLR0913 - one call for everything; all but four have defaults
    victim: nn.Module,
    images: UInt8[Tensor, "n c h w"],
    labels: Int64[Tensor, " n"],
    treatment: Treatment,
    *,
    head: str | None = None,
    preset: Preset | str = Preset.DEFAULT,
    dataset: str = "cifar10",
    seed: int = 0,
    device: torch.device | str | None = None,
    **hyperparameters: Any,
) -> Repair:
    """Remove a backdoor from `victim` with a few clean samples (arXiv:2405.14781).

    Args:
        victim: A classifier of normalised images, that ends in a linear layer.
        images: Clean samples, square, values 0 to 255.
        labels: Their true classes.
        treatment: Normalisation the victim expects, and the augmentation it was trained with.
        head: Path of its last linear layer; by default the last one it has.
        preset: Values of all hyper-parameters: ``default``, ``official`` or ``fine_tuning``.
        dataset: Name of the dataset whose values the preset takes.
        seed: Of every random draw.
        device: Where to compute; by default where the victim is.
        **hyperparameters: Changes to the preset by name, e.g. ``unlearn_threshold=0.1``;
            `names` lists them. The samples are given, so ``clean_ratio`` means nothing here.

    Raises:
        ValueError: A value is out of range, or samples and victim do not go together.
        TypeError: A name is no hyper-parameter.
    """
    unknown = [name for name in hyperparameters if name not in names()]
    if unknown:
        raise TypeError(
            f"no hyper-parameter is called {unknown[0]!r}; there are {', '.join(names())}"
        )
    parts = assemble(preset_values(Preset(preset), dataset) | hyperparameters)
    place = next(victim.parameters()).device if device is None else torch.device(device)
    weights = _as_weights(victim, images, labels, treatment, head)
    clean = CleanSamples(
        samples=Samples(images=images.cpu(), labels=labels.cpu()),
        index=torch.arange(len(labels)),
        seed=seed,
    )
    stop = parts.score.stop_at(weights.blueprint.classes)
    *_, ascent = unlearn(parts.unlearn, weights, clean, stop, place)
    scores = score_neurons(parts.score, ascent)
    run = relearn(parts.relearn, weights, choose_resets(parts.reset, scores), clean, place)
    training = tuple((epoch.loss, epoch.accuracy) for epoch in run.epochs)
    network = run.classifier.network.to(  # type: ignore[call-overload]
        next(victim.parameters()).device,
        memory_format=torch.contiguous_format,
    )
    return Repair(network=network.eval(), scores=scores, ascent=ascent, training=training)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Given(Architecture):
    """The architecture of a network that somebody else built."""

    network: nn.Module = field(repr=False)
    path: str

    name = "given"

    @property
    def head(self) -> str:
        return self.path

    def build(self, *, classes: int, channels: int, side: int) -> nn.Module:
        del classes, channels, side  # it was built for them
        return copy.deepcopy(self.network)


def _as_weights(
    victim: nn.Module, images: Tensor, labels: Tensor, treatment: Treatment, head: str | None
) -> Weights:
    path = _last_linear(victim) if head is None else head
    linear = dict(victim.named_modules()).get(path)
    if not isinstance(linear, nn.Linear):
        raise ValueError(  # noqa: TRY004 - it is the path that is wrong
            f"head is the path of a linear layer of the victim; got {path!r}"
        )
    _check_samples(images, labels, linear.out_features, treatment.mean)
    blueprint = Blueprint(
        architecture=_Given(network=victim, path=path),
        classes=linear.out_features,
        channels=images.shape[1],
        side=images.shape[2],
        treatment=treatment,
    )
    state = {name: value.detach().cpu() for name, value in victim.state_dict().items()}
    return Weights(blueprint=blueprint, state=state)


def _check_samples(images: Tensor, labels: Tensor, classes: int, mean: Sequence[float]) -> None:
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[2] != images.shape[3]:
        raise ValueError(
            f"images are uint8 [n, c, h, w] with h = w; got {images.dtype} {list(images.shape)}"
        )
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1] or len(labels) < 2:
        raise ValueError(
            f"labels are int64, one for each of at least 2 images; got {labels.dtype} "
            f"{list(labels.shape)} for {len(images)}"
        )
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise ValueError(
            f"labels are classes of the victim, 0 to {classes - 1}; got {int(labels.min())} to "
            f"{int(labels.max())}"
        )
    if len(mean) != images.shape[1]:
        raise ValueError(
            f"treatment.mean has a number per channel; got {len(mean)} for {images.shape[1]}"
        )


def _last_linear(victim: nn.Module) -> str:
    paths: list[str] = [
        path for path, module in victim.named_modules() if isinstance(module, nn.Linear)
    ]
    if not paths:
        raise ValueError("the victim has no linear layer, and ULRL works on the last one")
    return paths[-1]
