"""ULRL on any network: unlearn, find the suspects, reinitialise and relearn."""

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypeAlias, get_args, get_type_hints, overload

import torch
from torch import Tensor, nn

from ulrl.clean import CleanSamples
from ulrl.datasets import DATASETS, Preprocessing
from ulrl.fitting import Samples
from ulrl.hyperparameters import (
    Hyperparameters,
    Preset,
    assemble,
    member,
    names,
    of_kind,
    preset_values,
)
from ulrl.messages import nearest
from ulrl.methods import METHODS, TUNERS, ULRL, RepairContext, RepairMethod, TuningMethod
from ulrl.metrics import Predict
from ulrl.models import Architecture, Classifier, ModelSpec, Weights, restore
from ulrl.randomness import checked_seed, generator, seeded_layer_rng
from ulrl.relearning import relearn
from ulrl.samples import Images, Labels, Source, as_images, as_samples
from ulrl.scoring import NeuronScores, score_neurons
from ulrl.unlearning import Ascent, unlearn
from ulrl.weight_selection import select_weights

OnEpoch: TypeAlias = Callable[[str, int, Mapping[str, float]], object]

_UNSUITED = (RuntimeError, ValueError, TypeError, LookupError, AssertionError, ArithmeticError)


@dataclass(frozen=True, kw_only=True, eq=False)
class Repair:
    """A repaired network, and what ULRL found in the victim.

    Attributes:
        network: A repaired copy, in eval mode, where the victim was; the victim is untouched.
        scores: Score, z and suspects of phase 1. `scores.places` names layer and row of each
            suspect: for the head, the class whose row the ascent moved out of proportion.
            `scores.collapse_class` is the class that phase 1 ended in. A benign network has
            suspects too, so they are no evidence of a backdoor.
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


@dataclass(frozen=True, kw_only=True, eq=False)
class MethodRepair:
    """A network that another method than ULRL repaired.

    Attributes:
        network: A repaired copy, in eval mode, where the victim was; the victim is untouched.
        findings: What the stage before the last one found, by name, on the CPU; empty where the
            method has one stage. Of a pruner ``score/NAME`` is the score of each part of the
            parameter NAME: the higher, the sooner it is cut.
    """

    network: nn.Module
    findings: Mapping[str, Tensor]


@overload
def repair(
    victim: nn.Module,
    images: Images | Source,
    labels: Labels | None,
    preprocessing: Preprocessing,
    *,
    method: Literal["ulrl"] = "ulrl",
    head: str | None = None,
    preset: Preset | str = Preset.DEFAULT,
    dataset: str = "cifar10",
    seed: int = 0,
    device: torch.device | str | None = None,
    on_epoch: OnEpoch | None = None,
    options: Mapping[str, Any] | None = None,
    **hyperparameters: Any,
) -> Repair: ...


@overload
def repair(
    victim: nn.Module,
    images: Images | Source,
    labels: Labels | None,
    preprocessing: Preprocessing,
    *,
    method: str,
    head: str | None = None,
    dataset: str = "cifar10",
    seed: int = 0,
    device: torch.device | str | None = None,
    on_epoch: OnEpoch | None = None,
    options: Mapping[str, Any] | None = None,
    **hyperparameters: Any,
) -> MethodRepair: ...


@torch.inference_mode(mode=False)
@torch.enable_grad()
def repair(  # noqa: PLR0913 - one call for everything; all but four have defaults
    victim: nn.Module,
    images: Images | Source,
    labels: Labels | None,
    preprocessing: Preprocessing,
    *,
    method: str = ULRL,
    head: str | None = None,
    preset: Preset | str = Preset.DEFAULT,
    dataset: str = "cifar10",
    seed: int = 0,
    device: torch.device | str | None = None,
    on_epoch: OnEpoch | None = None,
    options: Mapping[str, Any] | None = None,
    **hyperparameters: Any,
) -> Repair | MethodRepair:
    """Repair `victim` with a few clean samples: by ULRL (arXiv:2405.14781), or another method.

    Clean samples cannot show whether the backdoor is gone: measure the result on triggered images
    if you have any (`predictor`).

    Args:
        victim: A classifier of normalised images whose output is that of a linear layer. All
            its parameters train, in a copy, those that are frozen too. Its hooks are copied
            with it. One that normalises images itself has a preprocessing of mean 0 and std 1.
        images: Clean samples before normalisation: ``[n, c, h, w]`` of uint8, or of floats in
            [0, 1], which are rounded to 256 levels. Or a map-style ``Dataset``, or a
            ``DataLoader`` with a length, that gives such images with their labels. It is read
            once, so a random transform is applied once.
        labels: Their true classes; None where `images` is a ``Dataset`` or ``DataLoader``.
        preprocessing: Normalisation the victim expects, and the augmentation it was trained with.
        method: ``ulrl``, or a name of `ulrl.methods.METHODS`.
        head: Path of the linear layer whose output is the victim's; by default it is found.
        preset: Values of all hyper-parameters: ``default``, ``official`` or ``fine_tuning``; of
            ULRL alone.
        dataset: Name of the dataset whose values the preset, or the method, takes.
        seed: Of every random draw, at least 0.
        device: Where to compute; by default where the victim is.
        on_epoch: Called after each epoch with the phase (``unlearn`` or ``relearn``), the epoch
            from 1, and its running ``loss`` and ``accuracy``; by another method with the name of
            its stage, the step from 1, and nothing. An exception that it raises ends the repair.
        options: More of what follows, as a mapping: for a method's option that has the name of an
            argument above.
        **hyperparameters: Changes to the preset by name, e.g. ``unlearn_threshold=0.1``;
            `ulrl.hyperparameters.names` lists them. The samples are given, so those of how
            they are drawn (``clean_ratio``, ``clean_draw``) are refused. Of another method: its
            options.

    Raises:
        ValueError: A value is out of range, or samples and victim do not go together; there is no
            such method, or it does not apply to the victim.
        TypeError: A name is no hyper-parameter, or a value is of another kind; `on_epoch`
            cannot be called.
        DivergedError: Unlearning diverged before its accuracy fell to the threshold, or relearning
            did: there is no repaired network.
    """
    check_given(victim, preprocessing)
    hyperparameters = merged(options, hyperparameters)
    other = None if method == ULRL else _method(method, preset, dataset, hyperparameters)
    parts = _parts(preset, dataset, hyperparameters if other is None else {})
    if on_epoch is not None and not callable(on_epoch):
        raise TypeError(
            f"on_epoch is a function of the phase, the epoch and its metrics; got {on_epoch!r}"
        )
    samples = as_samples(images, labels, preprocessing, checked_seed(seed))
    check_victim(victim)
    home = next(victim.parameters()).device
    place = home if device is None else torch.device(device)
    weights = as_weights(victim, samples, preprocessing, head, place)
    clean = CleanSamples(
        samples=samples, index=torch.arange(len(samples.labels)), seed=checked_seed(seed)
    )
    hear = on_epoch or _ignore
    if other is not None:
        return _repair_by(other, victim, weights, clean, place, hear)
    classes = weights.model_spec.classes
    layers = parts.unlearn.layers
    parts.score.check(classes, layers)
    certain, named = parts.score.certain(classes, layers), parts.score.suspects is not None
    parts.relearn.check(certain, classes, named=named)
    for ascent in unlearn(parts.unlearn, weights, clean, parts.score.stop_at(classes), place):
        metrics = {"loss": ascent.loss[-1], "accuracy": ascent.accuracy[-1]}
        hear("unlearn", len(ascent.loss), metrics)
    scores = score_neurons(parts.score, ascent)
    run = relearn(parts.relearn, weights, select_weights(parts.reset, scores), clean, place)
    training = []
    for epoch in run.epochs:
        training.append((epoch.loss, epoch.accuracy))
        hear("relearn", epoch.number, {"loss": epoch.loss, "accuracy": epoch.accuracy})
    network = _returned(run.classifier, victim)
    return Repair(network=network, scores=scores, ascent=ascent, training=tuple(training))


def _repair_by(
    method: RepairMethod,
    victim: nn.Module,
    weights: Weights,
    clean: CleanSamples,
    place: torch.device,
    hear: OnEpoch,
) -> MethodRepair:
    """Run the stages of a method one after the other."""
    model_spec = weights.model_spec
    method.check(victim, model_spec.head, model_spec.classes)
    context = RepairContext(victim=weights, clean=clean, device=place, observe=_look_away)
    before: Mapping[str, Tensor] = {}
    found: list[Mapping[str, Tensor]] = []
    for stage in method.stages:
        steps = stage.checked(context, before)
        try:
            while True:
                hear(stage.name, next(steps).done, {})
        except StopIteration as end:
            before = end.value
            found.append(before)
    repaired = restore(replace(weights, state=dict(before)), place)
    return MethodRepair(
        network=_returned(repaired, victim), findings=found[-2] if len(found) > 1 else {}
    )


def _returned(classifier: Classifier, victim: nn.Module) -> nn.Module:
    """Return a network where the victim is, in eval mode, that trains what the victim trains."""
    home = next(victim.parameters()).device
    network: nn.Module = classifier.network.to(  # type: ignore[call-overload]
        home, memory_format=torch.contiguous_format
    )
    for parameter, original in zip(network.parameters(), victim.parameters(), strict=True):
        parameter.grad = None
        parameter.requires_grad_(original.requires_grad)
    return network.eval()


def _look_away(classifier: Classifier) -> None:
    del classifier


def predictor(
    network: nn.Module, preprocessing: Preprocessing, device: torch.device | str | None = None
) -> Predict:
    """Return what `measure` takes: a function from images to the classes `network` predicts.

    The function takes images before normalisation, as `repair` does, and predicts in eval mode,
    with a copy of the network as it is now. It raises `DivergedError` where an output is not
    finite.

    Args:
        network: A classifier of normalised images, such as a victim or a repaired network.
        preprocessing: Normalisation that it expects.
        device: Where to compute; by default where the network is.
    """
    check_given(network, preprocessing)
    place = next(network.parameters()).device if device is None else torch.device(device)
    model_spec = ModelSpec(
        architecture=_Given(network=network, path=""),
        classes=0,
        channels=len(preprocessing.mean),
        side=0,
        preprocessing=preprocessing,
    )
    classifier = Classifier(model_spec, _copy_of(network), place)
    return lambda images: classifier.predict(as_images(images, preprocessing))


def _ignore(phase: str, epoch: int, metrics: Mapping[str, float]) -> None:
    del phase, epoch, metrics


@dataclass(frozen=True, kw_only=True, eq=False)
class _Given(Architecture):
    """The architecture of a network that the caller built."""

    network: nn.Module = field(repr=False)
    path: str

    name = "given"

    @property
    def head(self) -> str:
        return self.path

    def build(self, *, classes: int, channels: int, side: int) -> nn.Module:
        del classes, channels, side  # it was built for them
        return _copy_of(self.network)


def _copy_of(network: nn.Module) -> nn.Module:
    """Return a copy all of whose parameters train."""
    try:
        copied = copy.deepcopy(network)
    except _UNSUITED as error:
        raise ValueError(
            f"the victim cannot be copied: {error}; a weight that weight_norm or prune computes "
            f"is made a parameter by remove_weight_norm or prune.remove"
        ) from error
    for parameter in copied.parameters():
        parameter.grad = None
        parameter.requires_grad_(parameter.is_floating_point())
    return copied


def _method(
    name: str, preset: Preset | str, dataset: str, options: Mapping[str, Any]
) -> RepairMethod:
    _text("dataset", dataset)
    if preset != Preset.DEFAULT and name in [*METHODS]:
        raise TypeError(f"preset is of ULRL, and {name} has options of its own; leave it out")
    named: RepairMethod = registered(METHODS, "repair method", name, options)
    method = named.resolved(dataset)
    if method.oracle:
        raise ValueError(
            f"rule oracle of {name} chooses by triggered images, which no defender has; it is for "
            f"studies, as an entry of repair"
        )
    return method


def merged(options: Mapping[str, Any] | None, others: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that are given as a mapping, and those that are given by name.

    Raises:
        TypeError: One is given both ways, or what is given is no mapping.
    """
    if options is None:
        return dict(others)
    if not isinstance(options, Mapping):
        raise TypeError(f"options is a mapping of names to values; got {options!r}")
    for name in options:
        if name in others:
            raise TypeError(f"{name} is given twice, by its name and in options; leave one out")
    return {**options, **others}


def registered(
    registry: Mapping[str, Any], what: str, name: object, options: Mapping[str, Any]
) -> Any:
    """Return what a name selects, with some options, and defaults for others.

    Raises:
        TypeError: It has no such option, a value is of another kind, or the name is no text.
        ValueError: There is no such name, or a value is out of range.
    """
    if not isinstance(name, str):
        raise TypeError(f"the {what}'s name is a text; got {name!r}")
    if name not in registry:
        near = nearest(name, registry) or f"; there are {', '.join(registry)}"
        raise ValueError(f"no {what} is called {name!r}{near}")
    kind: Any = registry[name]
    known = [part.name for part in fields(kind)]
    for option in options:
        if option not in known:
            there = f"it has {', '.join(known)}" if known else "it has none"
            raise TypeError(
                f"{name} has no option {option!r}{nearest(option, known) or f'; {there}'}"
            )
    hints = get_type_hints(kind)
    return kind(**{n: _as_option(n, value, hints[n]) for n, value in options.items()})


def _as_option(name: str, value: Any, hint: Any) -> Any:
    """Return the value of an option as its method holds it; words and names may be texts."""
    kinds = (hint, *get_args(hint))
    if TuningMethod not in kinds:
        return of_kind(name, value, hint)
    if isinstance(value, TuningMethod) or (value is None and type(None) in kinds):
        return value
    if isinstance(value, str):
        return registered(TUNERS, "tuner", value, {})
    if not isinstance(value, Mapping):
        optional = " or None" if type(None) in kinds else ""
        raise TypeError(
            f"{name} is the name of a tuner, or a mapping of it and its options{optional}; "
            f"got {value!r}"
        )
    given = dict(value)
    if "name" not in given:
        raise ValueError(f"{name} has the name of a tuner beside its options; got {value}")
    return registered(TUNERS, "tuner", given.pop("name"), given)


def _parts(preset: Preset | str, dataset: str, hyperparameters: dict[str, Any]) -> Hyperparameters:
    for name in hyperparameters:
        if name not in names():
            near = nearest(name, names()) or f"; there are {', '.join(names())}"
            raise TypeError(f"no hyper-parameter is called {name!r}{near}")
        if names()[name][0] == "clean":
            raise TypeError(
                f"{name} is of how samples are drawn; here they are given: leave it out"
            )
    if _text("dataset", dataset) not in DATASETS:
        near = nearest(dataset, DATASETS) or f"; there are {', '.join(DATASETS)}"
        raise ValueError(
            f"dataset is one whose values the preset takes; got {dataset!r}{near} (any other "
            f"takes cifar10's)"
        )
    chosen = Preset(member(Preset, "preset", preset))
    return assemble(preset_values(chosen, dataset) | hyperparameters)


def _text(name: str, value: str) -> str:
    found: str = of_kind(name, value, str)
    return found


def check_given(network: object, preprocessing: object) -> None:
    """Raise ``TypeError`` unless a caller gave a network and a preprocessing."""
    kinds = {
        "the network": (network, nn.Module, "torch.nn.Module"),
        "preprocessing": (preprocessing, Preprocessing, "ulrl.Preprocessing"),
    }
    for name, (value, kind, called) in kinds.items():
        if isinstance(value, type) or not isinstance(value, kind):
            raise TypeError(f"{name} is a {called}; got {value!r}")


def check_victim(victim: nn.Module) -> None:
    """Raise ``ValueError`` unless a network's parameters are float32."""
    kinds = {value.dtype for value in victim.parameters() if value.is_floating_point()}
    if not kinds:
        raise ValueError(
            "the victim has no parameters, and repairs and audits need those of its layers"
        )
    if kinds != {torch.float32}:
        found = ", ".join(sorted(str(kind) for kind in kinds))
        raise ValueError(
            f"the victim's parameters are float32; got {found}: call victim.float() first"
        )


def as_weights(
    victim: nn.Module,
    samples: Samples,
    preprocessing: Preprocessing,
    head: str | None,
    place: torch.device,
) -> Weights:
    """Return a network's weights, with all that is needed to build it again.

    Args:
        victim: A classifier of normalised images.
        samples: Images that it is tried on, with labels.
        preprocessing: Normalisation that it expects.
        head: Path of its last linear layer; None to find it.
        place: Where to try it.

    Raises:
        ValueError: It does not take such images, its output is not that of a linear layer, or the
            labels are not its classes.
    """
    linear = {path: one for path, one in victim.named_modules() if isinstance(one, nn.Linear)}
    of_kind("head", head, str | None)
    if head is not None and head not in linear:
        raise ValueError(
            f"head is the path of a linear layer of the victim; got {head!r}"
            + (nearest(head, linear) or f"; there are {_some(linear)}")
        )
    images = samples.images

    def model_spec(path: str, classes: int) -> ModelSpec:
        return ModelSpec(
            architecture=_Given(network=victim, path=path),
            classes=classes,
            channels=images.shape[1],
            side=images.shape[2],  # what it was built for is its own affair
            preprocessing=preprocessing,
        )

    ends = _ends(model_spec("", 0), images, place)
    path = (ends[-1] if ends else "") if head is None else head
    if path not in ends:
        what = f"the output of {path!r} is not the victim's" if path else "no linear layer's is"
        there = f", but that of {_some(ends)} is" if ends else ""
        raise ValueError(
            f"the victim's output is to be that of a linear layer with a row for each class, as "
            f"repair methods and audits need it; {what}{there}. It has the linear layers "
            f"{_some(linear) or 'none'}; give it without what follows the last one"
        )
    classes = linear[path].out_features
    low, high = int(samples.labels.min()), int(samples.labels.max())
    if low < 0 or high >= classes:
        raise ValueError(
            f"labels are classes of the victim, 0 to {classes - 1}; got {low} to {high}"
        )
    state = {name: value.detach().cpu() for name, value in victim.state_dict().items()}
    return Weights(model_spec=model_spec(path, classes), state=state)


def _ends(model_spec: ModelSpec, images: Tensor, place: torch.device) -> list[str]:
    """Return the paths of the linear layers whose output is the network's, by trying it."""
    network = model_spec.architecture.build(classes=0, channels=0, side=0)
    inner = getattr(network, "_orig_mod", network)  # of torch.compile, which may miss hooks
    probe = Classifier(model_spec, inner, place)
    seen: dict[str, Any] = {}
    hooks = [
        module.register_forward_hook(
            lambda _module, _inputs, output, path=path: seen.update(
                {path: output.clone() if isinstance(output, Tensor) else output}
            )
        )
        for path, module in network.named_modules()
        if isinstance(module, nn.Linear)
    ]
    with torch.no_grad(), seeded_layer_rng(generator(0, "probe"), place):
        for mode, count in (("train", 2), ("eval", 1)):  # one image, so that nothing splits it
            inner.train(mode == "train")
            try:
                scores: Any = probe.logits(images[:count])
            except _UNSUITED as error:
                shape = list(images.shape[1:])
                raise ValueError(
                    f"the victim fails on clean samples of shape {shape} in {mode} mode: {error}"
                ) from error
            if not isinstance(scores, Tensor) or scores.ndim != 2:
                got = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
                raise ValueError(
                    f"the victim returns class scores [n, classes] in {mode} mode; got {got}: "
                    f"switch off other outputs (in torchvision: aux_logits=False)"
                )
    for hook in hooks:
        hook.remove()
    if not bool(scores.isfinite().all()):
        raise ValueError("the victim's output for a clean sample is not finite")
    return [
        path
        for path, output in seen.items()
        if isinstance(output, Tensor)
        and output.shape == scores.shape
        and torch.equal(output, scores)
    ]


def _some(paths: Iterable[str]) -> str:
    """Return the last few names."""
    return ", ".join(map(repr, list(paths)[-5:]))
