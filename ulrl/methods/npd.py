"""NPD: a layer that filters triggers out of one convolution's maps (Zhu et al., NeurIPS 2023)."""

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ulrl.attacks import Step
from ulrl.fitting import Epoch, SGDConfig, Sources, raise_if_diverged
from ulrl.messages import nearest
from ulrl.methods._base import RepairContext, RepairMethod, RepairStage, Tensors, register
from ulrl.methods._loop import Passes, train_by
from ulrl.models import Classifier, restore
from ulrl.randomness import preserved_default_rng
from ulrl.sgd import SGD

STEP = 0.1  # of a perturbation, in pixel units of [0, 1], before it is brought within the bound
ENOUGH = 0.6  # share of a batch at its targets from which on perturbations go no further
WARMUP_LR = 1e-4
EXACT = 1e-3  # largest difference in logits that folding may make, relative to the largest logit


@register("npd")
@dataclass(frozen=True, kw_only=True)
class NPD(RepairMethod):
    """Train a polariser, a 1×1 convolution with BatchNorm, within the frozen network.

    "Neural Polarizer: A Lightweight and Effective Backdoor Defense via Purifying Poisoned Features"
    (Zhu et al., NeurIPS 2023); defaults are the authors' code's. Each image is moved towards its
    strongest wrong class; the polariser learns to keep the prediction and to give low scores to
    that class and to whatever wrong class is the strongest then. The network is in eval mode, and
    images are seen as they are. The authors' samples are balanced over the classes, as by
    `clean_draw: per_class`.

    The place is ours. The authors insert the polariser before a 3×3 convolution, the zero padding
    of which does not commute with the polariser's shift, so that the repaired network has a layer
    more. Here it is between a convolution and the BatchNorm that follows it: the 1×1 convolution
    goes into the weights of the convolution, and the shift into its bias or the running mean of the
    BatchNorm, exactly. By default it is the first convolution of the last block, before which the
    authors insert it; in a plain sequence of layers, the last convolution.

    As ours are: a perturbed image is clipped to valid pixels wherever it is seen; whether enough
    images are at their targets is asked before each step. On Tiny-ImageNet the authors' code also
    takes steps along the gradient instead of its sign, and trains in train mode; this one does not.

    Attributes:
        layer: Path of the convolution, such as ``layer4.1.conv1``; by default see above.
        bound: Largest L2 norm of a perturbation, in [0, 1] pixel units, above 0; by default 3
            (GTSRB 5, Tiny-ImageNet 6).
        adversarial_weight: Weight of the cross-entropy of perturbed images and the prediction for
            the image as it is, at least 0; by default 0.4 (GTSRB 0.5, Tiny-ImageNet 1).
        push_weight: Weight of the two scores that are to be low, at least 0; by default 0.4
            (GTSRB 0.5, Tiny-ImageNet 0.1).
        inner_steps: Sign steps of a perturbation, from 1 to 100.
        lr: Learning rate, above 0; it stays as it is.
        epochs: Passes over the samples, from 1 to 1000.
        warmup_epochs: Passes before, at a low rate, without perturbations and with the polariser's
            BatchNorm in train mode, from 0 to 1000; by default 5 (Tiny-ImageNet 0).
        weight_decay: L2 penalty on the polariser, in [0, 1).
        batch_size: Samples per step.
    """

    layer: str | None = None
    bound: float | None = None
    adversarial_weight: float | None = None
    push_weight: float | None = None
    inner_steps: int = 2
    lr: float = 0.01
    epochs: int = 50
    warmup_epochs: int | None = None
    weight_decay: float = 5e-4
    batch_size: int = 128

    def __post_init__(self) -> None:
        if self.layer == "":
            raise ValueError("layer is the path of a convolution; got nothing")
        rules = (
            ("bound", 0, 1000, "above 0 and at most 1000"),
            ("adversarial_weight", -1, 1000, "in [0, 1000]"),
            ("push_weight", -1, 1000, "in [0, 1000]"),
        )
        for name, above, most, rule in rules:
            value = getattr(self, name)
            allowed = value is None or (above < value <= most and value >= 0)
            if not allowed:
                raise ValueError(f"{name} is {rule}; got {value}")
        if not 1 <= self.inner_steps <= 100:
            raise ValueError(f"inner_steps is from 1 to 100; got {self.inner_steps}")
        if self.warmup_epochs is not None and not 0 <= self.warmup_epochs <= 1000:
            raise ValueError(f"warmup_epochs is from 0 to 1000; got {self.warmup_epochs}")
        SGDConfig(
            epochs=self.epochs,
            batch_size=self.batch_size,
            rate=lambda _: self.lr,
            weight_decay=self.weight_decay,
        ).check("", self.lr)

    def resolved(self, dataset: str) -> "NPD":
        """Return it with the authors' numbers for a dataset."""
        bound, adversarial, push, warmup = {
            "gtsrb": (5.0, 0.5, 0.5, 5),
            "tiny_imagenet": (6.0, 1.0, 0.1, 0),
        }.get(dataset, (3.0, 0.4, 0.4, 5))
        given = self.adversarial_weight
        return replace(
            self,
            bound=bound if self.bound is None else self.bound,
            adversarial_weight=adversarial if given is None else given,
            push_weight=push if self.push_weight is None else self.push_weight,
            warmup_epochs=warmup if self.warmup_epochs is None else self.warmup_epochs,
        )

    def check(self, network: nn.Module, head: str, classes: int) -> None:
        """Raise ``ValueError`` where no BatchNorm follows the convolution, or any."""
        del head, classes
        offered = list(pairs(network))
        if not offered:
            raise ValueError(
                f"{self.name} needs a convolution with a BatchNorm after it, and the network has "
                f"none: elsewhere there are no weights that could hold the polariser"
            )
        if self.layer is not None and self.layer not in offered:
            raise ValueError(
                f"layer is a convolution with a BatchNorm after it, such as {place(network)}; got "
                f"{self.layer}{nearest(self.layer, offered)}"
            )

    @property
    def stages(self) -> tuple[RepairStage, ...]:
        """The training of the polariser alone."""
        if None in (self.bound, self.adversarial_weight, self.push_weight, self.warmup_epochs):
            raise ValueError(
                "bound, weights and warmup_epochs depend on the dataset: ask the method as "
                "`resolved` returns it"
            )
        return (Polarise(config=self),)


@dataclass(frozen=True, kw_only=True)
class Polarise(RepairStage):
    """Train the polariser and fold it into the network.

    Attributes:
        config: As `NPD.resolved` returns it.
    """

    config: NPD

    name = "polariser"

    def cost(self, samples: int) -> float:
        """Return a pass for each step of a perturbation, and two forward alone.

        Training needs no gradient below the polariser, which is near the end.
        """
        config = self.config
        warmup = (config.warmup_epochs or 0) / 3
        return samples * (warmup + config.epochs * (config.inner_steps + 2 / 3))

    def run(self, context: RepairContext, before: Tensors) -> Generator[Step, None, Tensors]:
        """Return the repaired network, which has the victim's layers.

        Raises:
            DivergedError: Training left the finite numbers.
            ValueError: The convolution's output goes elsewhere than into the BatchNorm.
        """
        del before
        config, samples = self.config, context.clean.samples
        classifier = restore(context.victim, context.device)
        classifier.network.eval().requires_grad_(requires_grad=False)
        convolution, norm = _layers(classifier, config.layer)
        _check_folding(context, config.layer)
        polariser = Polariser(convolution.out_channels).to(context.device)
        total = (config.warmup_epochs or 0) + config.epochs

        def look(epoch: Epoch) -> None:
            context.observe(classifier)
            if epoch.number == config.epochs:
                classifier.predict(samples.images)

        with inserted(polariser, convolution):
            for epoch in raise_if_diverged(
                _warm_up(classifier, polariser, context, config), "npd's warm-up", "another layer"
            ):
                yield Step(epoch.number, total)
            epochs = _train(classifier, polariser, context, config)
            for epoch in raise_if_diverged(epochs, "npd", "a smaller lr", look):
                yield Step(total - config.epochs + epoch.number, total)
        fold(polariser, convolution, norm)
        return classifier.weights().state


def pairs(network: nn.Module) -> dict[str, str]:
    """Return the path of each convolution that can hold a polariser, and of its BatchNorm.

    They stand next to each other in one module. A grouped convolution cannot mix channels.
    """
    found: dict[str, str] = {}
    for path, parent in network.named_modules():
        children = list(parent.named_children())
        for (name, layer), (following, norm) in pairwise(children):
            if not (isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)):
                continue
            fits = layer.groups == 1 and layer.out_channels == norm.num_features
            if fits and norm.track_running_stats:
                prefix = f"{path}." if path else ""
                found[f"{prefix}{name}"] = f"{prefix}{following}"
    return found


def place(network: nn.Module) -> str:
    """Return the convolution that is nearest to the authors' place.

    It is the first one of the last module with such convolutions among its own children, or the
    last one in a plain sequence of layers. Shortcuts do not count.

    Raises:
        ValueError: There is none.
    """
    parents: dict[str, list[str]] = {}
    for path in pairs(network):
        parents.setdefault(path.rpartition(".")[0], []).append(path)
    blocks = [path for path in parents if path.rpartition(".")[0] not in {*parents} - {""}]
    if not blocks:
        raise ValueError("the network has no convolution with a BatchNorm after it")
    is_sequence = isinstance(network.get_submodule(blocks[-1]), nn.Sequential)
    return parents[blocks[-1]][-1 if is_sequence else 0]


class Polariser(nn.Module):
    """A 1×1 convolution and BatchNorm, at first an identity but for BatchNorm's epsilon."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        with preserved_default_rng():  # layers draw weights, which are overwritten
            self.mix = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        with torch.no_grad():
            self.mix.weight.copy_(torch.eye(channels)[:, :, None, None])
        self.eval()

    def forward(self, maps: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        polarised: Tensor = self.norm(self.mix(maps))
        return polarised


@contextmanager
def inserted(polariser: Polariser, convolution: nn.Conv2d) -> Iterator[None]:
    """Let what the convolution gives pass through the polariser inside."""
    hook = convolution.register_forward_hook(lambda _layer, _inputs, output: polariser(output))
    try:
        yield
    finally:
        hook.remove()


@torch.no_grad()
def fold(polariser: Polariser, convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Put the polariser, as it is in eval mode, into the layers before and after it.

    With P its matrix, m, v, g, b its BatchNorm's mean, variance, scale and shift, and
    s = g / sqrt(v + eps), it maps z to diag(s) P z + b - s m.
    """
    own = polariser.norm
    if own.running_mean is None or own.running_var is None or norm.running_mean is None:
        raise TypeError("a BatchNorm without running statistics has no shift of its own")
    # In double precision, so that the folded network differs by its own rounding alone.
    scale = own.weight.double() / (own.running_var.double() + own.eps).sqrt()
    matrix = scale[:, None] * polariser.mix.weight.double().flatten(1)
    shift = own.bias.double() - scale * own.running_mean.double()
    weight = (matrix @ convolution.weight.double().flatten(1)).reshape(convolution.weight.shape)
    convolution.weight.copy_(weight)
    if convolution.bias is None:
        norm.running_mean.copy_(norm.running_mean.double() - shift)
    else:
        convolution.bias.copy_(matrix @ convolution.bias.double() + shift)


Logits = Callable[[Tensor], Tensor]


def targeted_perturbations(
    logits: Logits,
    images: UInt8[Tensor, "n c h w"],
    targets: Int64[Tensor, " n"],
    *,
    bound: float,
    steps: int,
) -> Float[Tensor, "n c h w"]:
    """Return images in grey levels that were moved towards a class each, by sign steps.

    Args:
        logits: Maps from images in grey levels to class scores.
        images: In grey levels.
        targets: Classes to move to. Once more than `ENOUGH` of the images are there, all stay.
        bound: Largest L2 norm of a change, in [0, 1] pixel units.
        steps: How many at most.
    """
    start = images.float()
    delta = torch.zeros_like(start)
    for _ in range(steps):
        delta.requires_grad_()
        scores = logits((start + 255 * delta).clamp(0, 255))
        if float((scores.argmax(dim=1) == targets).float().mean()) > ENOUGH:
            break
        (gradient,) = torch.autograd.grad(cross_entropy(scores, targets, reduction="sum"), delta)
        delta = delta.detach() - STEP * gradient.sign()
        norms = delta.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
        delta = delta * (bound / norms.clamp(min=bound))
    return (start + 255 * delta.detach()).clamp(0, 255)


def strongest_wrong(
    scores: Float[Tensor, "n classes"], labels: Int64[Tensor, " n"]
) -> Int64[Tensor, " n"]:
    """Return the class of the highest score but the true one."""
    return scores.detach().scatter(1, labels[:, None], -torch.inf).argmax(dim=1)


def push(scores: Float[Tensor, "n classes"], classes: Int64[Tensor, " n"]) -> Tensor:
    """Return the mean of -log(1.0001 - p), with p the probability of the class of each row."""
    chosen = scores.softmax(dim=1).gather(1, classes[:, None])
    return -torch.log(1.0001 - chosen).mean()


def _warm_up(
    classifier: Classifier, polariser: Polariser, context: RepairContext, config: NPD
) -> Iterator[Epoch]:
    sgd = SGD(polariser, lr=WARMUP_LR, momentum=0.0, weight_decay=0.0)

    def take(images: Tensor, labels: Tensor, rate: float) -> tuple[Tensor, Tensor]:
        del rate  # it does not change
        logits = classifier.logits(images)
        loss = cross_entropy(logits, labels)
        _step(sgd, loss)
        return loss, logits

    polariser.train()
    passes = _passes(config, config.warmup_epochs or 0)
    sources = Sources.of(context.clean.seed, "npd warm-up")
    yield from train_by(classifier, context.clean.samples, take, passes, sources)
    polariser.eval()


def _train(
    classifier: Classifier, polariser: Polariser, context: RepairContext, config: NPD
) -> Iterator[Epoch]:
    sgd = SGD(polariser, lr=config.lr, momentum=0.9, weight_decay=config.weight_decay)
    bound = config.bound or 0.0

    def take(images: Tensor, labels: Tensor, rate: float) -> tuple[Tensor, Tensor]:
        del rate  # it does not change
        logits = classifier.logits(images)
        targets = strongest_wrong(logits, labels)
        moved = targeted_perturbations(
            classifier.logits, images, targets, bound=bound, steps=config.inner_steps
        )
        scores = classifier.logits(moved)
        stay = cross_entropy(scores, logits.detach().argmax(dim=1))
        pushed = push(scores, strongest_wrong(scores, labels)) + push(scores, targets)
        loss = cross_entropy(logits, labels)
        loss = loss + (config.adversarial_weight or 0.0) * stay
        loss = loss + (config.push_weight or 0.0) * pushed
        _step(sgd, loss)
        return loss, logits

    sources = Sources.of(context.clean.seed, "npd")
    passes = _passes(config, config.epochs)
    return train_by(classifier, context.clean.samples, take, passes, sources)


def _passes(config: NPD, epochs: int) -> Passes:
    return Passes(
        epochs=epochs,
        batch_size=config.batch_size,
        rate=lambda _: config.lr,
        augment=False,
        train_mode=False,
    )


def _step(sgd: SGD, loss: Tensor) -> None:
    sgd.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    sgd.step()


def _layers(classifier: Classifier, layer: str | None) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    path = place(classifier.network) if layer is None else layer
    convolution = classifier.network.get_submodule(path)
    norm = classifier.network.get_submodule(pairs(classifier.network)[path])
    if not (isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)):
        raise TypeError(f"{path} is no convolution with a BatchNorm after it")
    return convolution, norm


@torch.no_grad()
def _check_folding(context: RepairContext, layer: str | None) -> None:
    """Raise ``ValueError`` where a folded polariser is not what the inserted one is.

    Layers that stand next to each other need not be joined.
    """
    classifier = restore(context.victim, context.device)
    classifier.network.eval()
    convolution, norm = _layers(classifier, layer)
    polariser = Polariser(convolution.out_channels).to(context.device)
    polariser.norm.weight.copy_(torch.linspace(0.5, 1.5, convolution.out_channels))
    polariser.norm.bias.copy_(torch.linspace(1.0, -1.0, convolution.out_channels))
    images = context.clean.samples.images[:8]
    with inserted(polariser, convolution):
        wanted = classifier.logits(images)
    fold(polariser, convolution, norm)
    apart = float((classifier.logits(images) - wanted).abs().max())
    if apart > EXACT * float(wanted.abs().max()):
        raise ValueError(
            f"{NPD.name} cannot go into {layer or place(classifier.network)}: what the convolution "
            f"gives also goes elsewhere than into the BatchNorm after it; name another layer"
        )
