"""Certify: no small patch, whatever is on it, turns more than a share of images to a class."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from scipy.special import betaincinv
from torch import Tensor, nn

from ulrl.attacks import Step
from ulrl.audits._base import Audit, AuditResult, check_rules, register
from ulrl.audits._bounds import KNOWN, Bounder, Box
from ulrl.errors import NotApplicable
from ulrl.methods import RepairContext, RepairStage, Tensors
from ulrl.models import Classifier, restore
from ulrl.randomness import generator

MARGIN = 1e-4  # a difference of outputs counts as positive above this, whatever rounding does
LAYERS, PARAMETERS = 12, 100_000  # of a small network, at most
PASS = 1000  # images in one backward pass
USUAL = 196 * 30  # passes per image taken for costs: of 16 × 16 grey pixels and ten classes

_BOUNDED = (
    *(nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, nn.ReLU, nn.AvgPool2d),
    *(nn.AdaptiveAvgPool2d, nn.Flatten, nn.Dropout, nn.Dropout2d, nn.Identity),
)


@register("certify")
@dataclass(frozen=True, kw_only=True)
class Certify(Audit):
    """Bound the success of every square patch, anywhere on the image, with any content.

    For a target class and a position of the patch, images of other classes that the network
    classifies well are counted. One of them is proved safe where, whatever the patch shows,
    the output of its true class stays above the target's. The share of the others is an upper bound
    on the success of any patch at that position; the score of a class is the largest over all
    positions, and 1 where every image that counts is of the class itself. Where the network
    classifies no image well, there is no result. This is a stronger form of what Pham and Sun
    verify (CAV 2022), without their sampling of sets. The bounds are linear (CROWN), in float64.

    It says nothing about triggers of another shape (blended, warped), about larger patches, or
    about other images but for the interval in the details. A bound near 1 is no evidence of a
    backdoor: it may be loose, the more so the deeper the network is.

    Attributes:
        patch: Side of the patch in pixels, at least 1; all channels are free.
        images: Clean samples that are looked at, at most; a fixed draw of the seed's.
        success: Share of the images that a trigger would have to turn, in (0, 1]: a class whose
            bound is at least this is not cleared, and is a suspect.
        confidence: Of the interval for other images, in (0, 1).
    """

    patch: int = 3
    images: int = 100
    success: float = 0.9
    confidence: float = 0.95

    def __post_init__(self) -> None:
        rules = {
            "patch": (1 <= self.patch <= 1024, "from 1 to 1024 pixels"),
            "images": (self.images >= 1, "at least 1"),
            "success": (0 < self.success <= 1, "above 0 and at most 1"),
            "confidence": (0 < self.confidence < 1, "in (0, 1)"),
        }
        check_rules(self, rules)

    def check(self, network: nn.Module, head: str, classes: int) -> None:
        """Raise ``ValueError`` where the network is not small, or has layers without a bound."""
        del head, classes
        parameters = sum(value.numel() for value in network.parameters())
        layers = [one for one in network.modules() if isinstance(one, nn.Conv2d | nn.Linear)]
        if parameters > PARAMETERS or len(layers) > LAYERS:
            raise ValueError(
                f"{self.name} is for small networks: at most {LAYERS} convolutions and linear "
                f"layers and {PARAMETERS} parameters; this one has {len(layers)} and {parameters}"
            )
        for path, module in network.named_modules():
            ours = type(module).__module__.startswith("torch.nn")
            whole = isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict)
            if ours and not whole and not isinstance(module, _BOUNDED):
                raise ValueError(
                    f"{self.name} cannot bound {type(module).__name__} ({path}); it knows {KNOWN}"
                )

    def check_images(self, network: nn.Module, channels: int, side: int) -> None:
        """Raise ``ValueError`` where the patch is larger than the images."""
        del network, channels
        check_patch(self.patch, side)

    @property
    def stages(self) -> tuple[RepairStage, ...]:
        """The bounds."""
        return (BoundPatches(patch=self.patch, images=self.images),)

    def result(self, found: Tensors, samples: int) -> AuditResult:
        """Return the bound of each target class as its score.

        The details are ``bounds`` ``[classes, rows, columns]``, by the position of the patch's
        upper left pixel; ``worst`` ``[classes, 2]``, the position with the largest one; ``images``
        ``[classes]``, how many were counted; and ``upper`` ``[classes]``, a bound for images drawn
        like these, which holds for all classes and positions at once with the confidence
        (Clopper and Pearson, divided among them). Where no image was counted, all bounds are 1.
        """
        del samples
        left, counted = found["left"], found["images"]
        classes, rows, columns = left.shape
        known = counted > 0
        bounds = (left / counted.clamp(min=1)[:, None, None]).where(known[:, None, None], 1.0)
        scores, places = bounds.flatten(1).max(dim=1)
        most = left.flatten(1).max(dim=1).values
        share = (1 - self.confidence) / (classes * rows * columns)
        upper = betaincinv(most.numpy() + 1, (counted - most).numpy().clip(min=1e-9), 1 - share)
        whole = (most < counted) & known
        return AuditResult(
            scores=scores,
            statistic=float(scores.max()),
            rule=(
                f"a {self.patch} × {self.patch} patch that turns {self.success:g} of the images "
                f"to it is not ruled out (Pham and Sun 2022: 0.9)"
            ),
            threshold=self.success,
            suspects=tuple((scores >= self.success).nonzero().flatten().tolist()),
            passes=float(found["passes"]),
            details={
                "bounds": bounds,
                "worst": torch.stack([places // columns, places % columns], dim=1),
                "images": counted,
                "upper": torch.from_numpy(upper).float().where(whole, 1.0),
            },
        )


@dataclass(frozen=True, kw_only=True)
class BoundPatches(RepairStage):
    """Count the images that a patch at each position may turn to each class.

    Attributes:
        patch: Side of the patch in pixels.
        images: Clean samples that are looked at, at most.
    """

    patch: int
    images: int

    name = "patch_bounds"

    def cost(self, samples: int) -> float:
        """Return what a small grey image takes; others take more."""
        return float(min(samples, self.images) * USUAL)

    def run(self, context: RepairContext, before: Tensors) -> Generator[Step, None, Tensors]:
        """Return the counts.

        Returns:
            ``left`` ``[classes, rows, columns]``: of the ``images`` ``[classes]`` that are
            classified well and not of the class, how many are not proved safe from a patch at that
            place; ``passes``.

        Raises:
            ValueError: A layer cannot be bounded, the patch is larger than the images, or no image
                is classified well.
        """
        del before
        spec = context.victim.model_spec
        check_patch(self.patch, spec.side)
        classifier = restore(context.victim, context.device)
        clean = context.clean
        source = generator(clean.seed, self.name)
        chosen = torch.randperm(len(clean.index), generator=source)[: self.images]
        images, labels = clean.samples.images[chosen], clean.samples.labels[chosen]
        right = classifier.predict(images) == labels
        if not bool(right.any()):
            raise NotApplicable(
                f"certify counts images that the network classifies well, and of the {len(right)} "
                f"that it looked at it classifies none so"
            )
        images, labels = images[right].to(context.device), labels[right].to(context.device)
        across = spec.side - self.patch + 1
        left = torch.zeros(spec.classes, across * across, dtype=torch.int64)
        total = len(images) * across * across
        done = 0
        for number, place, safe in self._bounded(classifier, images, labels):
            for target in range(spec.classes):
                hit = ~safe[:, target] & (labels[number] != target)
                left[target] += torch.bincount(place[hit].cpu(), minlength=across * across)
            done += len(number)
            yield Step(done, total)
        counted = torch.tensor([int((labels != target).sum()) for target in range(spec.classes)])
        each = (spec.channels * self.patch**2 + 4) / 3 + spec.classes * 2 / 3
        return {
            "left": left.reshape(spec.classes, across, across),
            "images": counted,
            "passes": torch.tensor(total * each),
        }

    def _bounded(
        self, classifier: Classifier, images: Tensor, labels: Tensor
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield for some images (by number) and places which classes they are safe from."""
        network = classifier.network.eval().double().requires_grad_(requires_grad=False)
        spec = classifier.model_spec
        size = (spec.channels, spec.side, spec.side)
        inputs, lowest, highest = _inputs(classifier, images)
        places = _places(size, self.patch).to(images.device)
        count = max(1, min(PASS // spec.classes, len(images) * len(places)))
        bounder = Bounder(network, size, count, spec.classes)
        identity = torch.eye(spec.classes, dtype=torch.float64, device=images.device)
        with torch.no_grad():
            outputs = network(inputs)
        work = torch.arange(len(images) * len(places), device=images.device)
        for part in torch.split(work, count):
            # The last part is filled up, since all have one size.
            filled = torch.cat([part, part[-1:].expand(count - len(part))])
            number, place = filled // len(places), filled % len(places)
            box = _box(inputs[number], lowest, highest, places[place])
            differences = identity[labels[number]][:, None] - identity
            least = bounder.least(box, differences)
            actual = (differences * outputs[number][:, None]).sum(dim=2)
            if not bool((least <= actual + MARGIN).all()):
                raise RuntimeError("a bound does not hold for the image itself")
            safe = least > MARGIN
            yield number[: len(part)], place[: len(part)], safe[: len(part)]


def check_patch(patch: int, side: int) -> None:
    """Raise `NotApplicable` where a patch is larger than the images."""
    if patch > side:
        raise NotApplicable(f"patch is at most the side of the images, {side} pixels; got {patch}")


def _inputs(
    classifier: Classifier, images: Tensor
) -> tuple[Float64[Tensor, "n c h w"], Tensor, Tensor]:
    """Return images as the network takes them, with its range of pixels: ``[c, 1, 1]``."""
    preprocessing = classifier.model_spec.preprocessing
    mean, std = (
        torch.tensor(values, dtype=torch.float64, device=images.device)[:, None, None]
        for values in (preprocessing.mean, preprocessing.std)
    )
    return (images.double() / 255 - mean) / std, -mean / std, (1 - mean) / std


def _places(size: tuple[int, int, int], patch: int) -> Tensor:
    """Return the pixels of a patch at each place, as indices into an image made flat."""
    channels, height, width = size
    pixels = torch.arange(channels * height * width).reshape(1, *size).double()
    patches = nn.functional.unfold(pixels, patch)[0].T.long()
    return patches.contiguous()


def _box(inputs: Tensor, lowest: Tensor, highest: Tensor, free: Tensor) -> Box:
    half = ((highest - lowest) / 2).expand(inputs.shape[1:]).flatten()
    middle = ((highest + lowest) / 2).expand(inputs.shape[1:]).flatten()
    flat = inputs.flatten(1)
    center = flat.scatter(1, free, middle[free])
    radius = torch.zeros_like(flat).scatter(1, free, half[free])
    return Box(center=center.reshape(inputs.shape), radius=radius.reshape(inputs.shape), free=free)
