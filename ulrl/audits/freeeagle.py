"""FreeEagle: features invented for each class, without data, lean towards the target class."""

from collections.abc import Generator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Adam

from ulrl.attacks import Step
from ulrl.audits._base import Audit, AuditResult, check_rules, register
from ulrl.errors import NotApplicable
from ulrl.messages import nearest
from ulrl.methods import RepairContext, RepairStage, Tensors
from ulrl.methods._loop import reproducible
from ulrl.models import Classifier, restore
from ulrl.randomness import generator

CLASSES = 10  # taken for costs, which are asked for without the number of classes
SHOWN = 50  # steps between two reports


@register("freeeagle")
@dataclass(frozen=True, kw_only=True)
class FreeEagle(Audit):
    """Invent features that the network's second half calls class s, and see where else they lean.

    Fu et al., USENIX Security 2023; defaults are the official code's. It needs no data. The
    network is cut in the middle. For each class one feature map is fitted, from a random start, to
    be classified as the class, with an L2 penalty, and never below 0 where the cut's output never
    is. The tendency of class t, its score, is the mean probability of t for the features of all
    others. The statistic is ``(max - Q3) / (Q3 - Q1)`` of the n tendencies that are not 0; it is 0
    where the quartiles are equal. Q1 and Q3 are the values at ⌊n / 4⌋ and ⌊3 n / 4⌋ of these in
    order, counted from 0, not interpolated ones as NumPy's.

    The paper's threshold is set on labelled benign and trojaned models of the same kind, so there
    is none by default, and no verdict: read the rank of a class, and compare statistics.

    Attributes:
        cut: Path of the module whose output is invented. Layers with weights have to follow, and
            may see the image through this output alone. By default ``layer2`` of a ResNet, the
            middle one of the max pools of a VGG, the middle block of a vision transformer (the last
            is ours); for other networks it has to be named.
        steps: Of Adam, from 1 to 100000.
        lr: Learning rate of Adam, above 0.
        weight_decay: L2 penalty, in [0, 1).
        seed: Of the random start, at least 0.
        threshold: Statistic above which the class of the largest tendency is flagged, at least 0.
    """

    cut: str | None = None
    steps: int = 1000
    lr: float = 0.01
    weight_decay: float = 0.005
    seed: int = 0
    threshold: float | None = None

    needs_samples = False

    def __post_init__(self) -> None:
        rules = {
            "cut": (self.cut is None or bool(self.cut), "the path of a module"),
            "steps": (1 <= self.steps <= 100_000, "from 1 to 100000"),
            "lr": (0 < self.lr <= 100, "above 0 and at most 100"),
            "weight_decay": (0 <= self.weight_decay < 1, "in [0, 1)"),
            "seed": (self.seed >= 0, "at least 0"),
            "threshold": (self.threshold is None or self.threshold >= 0, "at least 0"),
        }
        check_rules(self, rules)

    def check(self, network: nn.Module, head: str, classes: int) -> None:
        """Raise ``ValueError`` where there is no such cut, or too few classes for quartiles.

        Also where the cut is the last layer or has it inside, so that nothing follows.
        """
        if classes < 5:
            raise ValueError(
                f"{self.name} compares the largest tendency with the upper quartile, which it is "
                f"itself for fewer than 5 classes; there are {classes}"
            )
        path, _ = cut_of(network, self.cut)
        if f"{head}.".startswith(f"{path}."):
            raise ValueError(_nothing_follows(path))

    def check_images(self, network: nn.Module, channels: int, side: int) -> None:
        """Raise ``ValueError`` where the cut does not part the network, as a trial run tells.

        A network that does not run without numbers is tried by the audit itself.
        """
        path, module = cut_of(network, self.cut)
        device = next(network.parameters()).device
        images = torch.zeros(2, channels, side, side, device=device, requires_grad=True)
        found: list[Tensor] = []

        def begin_anew(_module: nn.Module, _inputs: object, output: object) -> object:
            outputs.append(output)
            if not isinstance(output, Tensor):
                return output
            found.append(output.detach().requires_grad_())
            return found[-1].clone()

        outputs: list[object] = []
        handle = module.register_forward_hook(begin_anew)
        try:
            with torch.enable_grad():
                logits = network.eval()(images)
        except (RuntimeError, NotImplementedError):
            return
        finally:
            handle.remove()
        _check_outputs(path, outputs)
        _check_followed(path, network, logits)
        if _depends(logits, [images]):
            raise NotApplicable(_passed_by(path))

    @property
    def stages(self) -> tuple[RepairStage, ...]:
        """The features."""
        features = InventFeatures(
            cut=self.cut,
            steps=self.steps,
            lr=self.lr,
            weight_decay=self.weight_decay,
            seed=self.seed,
        )
        return (features,)

    def result(self, found: Tensors, samples: int) -> AuditResult:
        """Return the tendency towards each class as the scores.

        The details are ``probabilities`` ``[classes, classes]``: of each class (column) for the
        features of a class (row).
        """
        del samples
        probabilities = found["probabilities"]
        tendencies = tendencies_of(probabilities)
        statistic = spread(tendencies)
        rule = "the paper's threshold is set on labelled models of the same kind"
        suspects = None
        if self.threshold is not None:
            rule = f"(max - Q3) / (Q3 - Q1) of the tendencies is above the given {self.threshold:g}"
            suspects = (int(tendencies.argmax()),) if statistic > self.threshold else ()
        return AuditResult(
            scores=tendencies,
            statistic=statistic,
            rule=rule,
            threshold=self.threshold,
            suspects=suspects,
            passes=float(self.steps * len(tendencies)),
            details={"probabilities": probabilities},
        )


@dataclass(frozen=True, kw_only=True)
class InventFeatures(RepairStage):
    """Fit features of the middle of the network to each class; all classes are one batch.

    Attributes:
        cut: Path of the module whose output is invented, or None for the default.
        steps: Of Adam.
        lr: Its learning rate.
        weight_decay: L2 penalty.
        seed: Of the random start.
    """

    cut: str | None
    steps: int
    lr: float
    weight_decay: float
    seed: int

    name = "invented_features"

    def cost(self, samples: int) -> float:
        """Return a pass per step and class, for ten classes."""
        del samples
        return float(self.steps * CLASSES)

    def run(self, context: RepairContext, before: Tensors) -> Generator[Step, None, Tensors]:
        """Return what the network says of the features.

        Returns:
            ``probabilities`` ``[classes, classes]`` in [0, 1]: a row for the features of each
            class, a column for the class that the network may see in them.

        Raises:
            ValueError: The network's output depends on the image in another way, too.
        """
        del before
        classifier = restore(context.victim, context.device)
        classes = range(context.victim.model_spec.classes)
        features = yield from self.invent(classifier, list(classes))
        probabilities = Tail(classifier, self.cut, self.seed)(features).softmax(dim=1)
        return {"probabilities": probabilities.cpu()}

    def invent(
        self, classifier: Classifier, labels: list[int]
    ) -> Generator[Step, None, Float[Tensor, "classes ..."]]:
        """Return features that are classified as `labels`, on the device.

        Args:
            classifier: Whose parameters are frozen from here on.
            labels: Of the classes; each has the same random start whatever others there are.
        """
        tail = Tail(classifier, self.cut, self.seed)
        starts = [
            torch.rand(tail.shape, generator=generator(self.seed, self.name, str(label)))
            for label in labels
        ]
        features = torch.stack(starts).to(classifier.device).requires_grad_()
        targets = torch.tensor(labels, device=classifier.device)
        optimiser = Adam([features], lr=self.lr, weight_decay=self.weight_decay)
        with reproducible():
            for step in range(1, self.steps + 1):
                optimiser.zero_grad()
                # A sum over classes, so that none depends on how many there are.
                loss = cross_entropy(tail(features), targets, reduction="sum")
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                if tail.above_zero:
                    with torch.no_grad():
                        features.clamp_(min=0)
                if step % SHOWN == 0 or step == self.steps:
                    yield Step(step, self.steps)
        return features.detach()


class Tail:
    """What follows a cut: a function from features to logits, in eval mode.

    Attributes:
        shape: Of the features of one image.
        above_zero: Whether the cut's output is never below 0, as after a ReLU.
    """

    def __init__(self, classifier: Classifier, cut: str | None, seed: int) -> None:
        network = classifier.network.eval()
        self._classifier = classifier
        self._path, self._module = cut_of(network, cut)
        spec = classifier.model_spec
        shape = (spec.classes, spec.channels, spec.side, spec.side)
        source = generator(seed, "freeeagle", "probe")
        images = torch.randint(256, shape, generator=source).to(torch.uint8)
        self._images = images.to(classifier.device)
        with torch.no_grad():
            outputs = self._outputs()
            self.shape = tuple(outputs.shape[1:])
            self.above_zero = bool((outputs >= 0).all())
            self._check(outputs)
        for parameter in network.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        with torch.enable_grad():
            _check_followed(self._path, network, self(outputs))
        network.requires_grad_(requires_grad=False)

    def __call__(self, features: Float[Tensor, "n ..."]) -> Float[Tensor, "n classes"]:
        """Return the logits for features, at most as many as there are classes."""
        # The copy, since a layer that works in place must not change the features.
        handle = self._module.register_forward_hook(lambda *_: features.clone())
        try:
            return self._classifier.logits(self._images[: len(features)]).float()
        finally:
            handle.remove()

    def _outputs(self) -> Tensor:
        outputs: list[object] = []
        handle = self._module.register_forward_hook(
            lambda _module, _inputs, output: outputs.append(output)
        )
        try:
            self._classifier.logits(self._images)
        finally:
            handle.remove()
        return _check_outputs(self._path, outputs).clone()

    def _check(self, outputs: Tensor) -> None:
        """Refuse a cut beside which the image has another way to the output."""
        logits = self(outputs[:1].expand(outputs.shape))
        if not torch.allclose(logits, logits[:1].expand(logits.shape), rtol=1e-3, atol=1e-3):
            raise NotApplicable(_passed_by(self._path))


def _check_outputs(path: str, outputs: list[object]) -> Tensor:
    """Return the one tensor that a cut gives, or raise `NotApplicable`."""
    if len(outputs) != 1 or not isinstance(outputs[0], Tensor):
        raise NotApplicable(
            f"cut is the path of a module that is called once and returns a tensor; "
            f"{path} was called {len(outputs)} times, with other outputs or none"
        )
    return outputs[0]


def _check_followed(path: str, network: nn.Module, logits: Tensor) -> None:
    """Raise `NotApplicable` where no layer with weights follows a cut.

    Args:
        path: Of the cut.
        network: Whose parameters have gradients.
        logits: Its output, by features in place of the cut's output.
    """
    if not _depends(logits, [one for one in network.parameters() if one.requires_grad]):
        raise NotApplicable(_nothing_follows(path))


def _depends(logits: Tensor, inputs: list[Tensor]) -> bool:
    """Whether autograd knows a way from one of the inputs to the logits."""
    if not logits.requires_grad:
        return False
    found = torch.autograd.grad(logits.sum(), inputs, retain_graph=True, allow_unused=True)
    return any(one is not None for one in found)


def _nothing_follows(path: str) -> str:
    return (
        f"cut is a module that layers with weights follow, and none follows {path}; name one "
        f"in the middle of the network"
    )


def _passed_by(path: str) -> str:
    return (
        f"cut is a module through which alone the network sees the image; {path} is passed by, "
        f"perhaps inside a residual block: name the whole block or stage"
    )


def cut_of(network: nn.Module, cut: str | None) -> tuple[str, nn.Module]:
    """Return the path and the module of a cut; None is the default for the network.

    Raises:
        ValueError: There is no such module, or no default.
    """
    modules = {path: module for path, module in network.named_modules() if path}
    if cut is not None:
        if cut not in modules:
            some = ", ".join(path for path, _ in network.named_children())
            hint = nearest(cut, modules) or f"; there are {some} and what is inside them"
            raise ValueError(f"cut is the path of a module of the network; got {cut!r}{hint}")
        return cut, modules[cut]
    for path, module in modules.items():
        if path.rpartition(".")[2] == "layer2":
            return path, module
    pools = [path for path, module in modules.items() if isinstance(module, nn.MaxPool2d)]
    if len(pools) > 1:
        middle = pools[len(pools) // 2]
        return middle, modules[middle]
    for path, module in modules.items():
        blocks = list(dict(module.named_children()))
        if f".{path}".endswith((".blocks", ".encoder.layers")) and len(blocks) > 1:
            middle = f"{path}.{blocks[len(blocks) // 2 - 1]}"
            return middle, modules[middle]
    some = ", ".join(path for path, _ in network.named_children())
    raise ValueError(
        f"cut has no default for this network; name the path of a module in its middle, of {some} "
        f"and what is inside them"
    )


def tendencies_of(probabilities: Float[Tensor, "k k"]) -> Float[Tensor, " k"]:
    """Return the mean probability of each class for the features of all others, in [0, 1]."""
    others = probabilities - probabilities.diagonal().diag()
    return others.sum(dim=0) / (len(probabilities) - 1)


def spread(tendencies: Float[Tensor, " k"]) -> float:
    """Return ``(max - Q3) / (Q3 - Q1)`` of the values that are not 0.

    The quartiles are the values at ⌊n / 4⌋ and ⌊3 n / 4⌋ of the n in order. Where they are equal
    nothing is known of the largest, and the result is 0.
    """
    known = tendencies[tendencies != 0].sort().values
    if not len(known):
        return 0.0
    first, third = (float(known[len(known) * quarter // 4]) for quarter in (1, 3))
    return (float(known[-1]) - third) / (third - first) if third > first else 0.0
