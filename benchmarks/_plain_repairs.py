"""Repair methods as their papers' loops go, one network and one class at a time.

Written from the formulas with torch's optimisers. Draws of samples, views and noise are those of
the library, so that results can be compared; so is the crop, which is no method's own.
"""

from collections.abc import Callable, Iterator
from math import cos, pi

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ulrl.augmentation import apply_views, draw_views
from ulrl.clean import CleanSamples
from ulrl.fitting import Sources
from ulrl.methods._cuts import Edit
from ulrl.methods._loop import hold_out, seen
from ulrl.models import Classifier, Weights, restore
from ulrl.randomness import generator

CPU = torch.device("cpu")
LEVELS = [step / 100 for step in range(100)]  # masks of at most these are cut
State = dict[str, Tensor]


def batches(
    classifier: Classifier, clean: CleanSamples, stage: str, epochs: int, size: int
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield the number of the epoch, images in random views, and labels."""
    sources = Sources.of(clean.seed, stage)
    for epoch in range(epochs):
        order = torch.randperm(len(clean.index), generator=sources.order)
        images = seen(classifier, clean.samples, sources, augment=True)
        for index in torch.split(order, size):
            yield epoch, images[index], clean.samples.labels[index]


def descend(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    """Take a step down a loss."""
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()


def sgd_of(network: nn.Module, lr: float = 0.01, decay: float = 5e-4) -> torch.optim.SGD:
    """Return SGD as fine-tuning has it."""
    return torch.optim.SGD(network.parameters(), lr=lr, momentum=0.9, weight_decay=decay)


def fine_tuning(victim: Weights, clean: CleanSamples, epochs: int, size: int) -> State:
    """Return the network after SGD, whose rate goes down by half a cosine."""
    classifier = restore(victim, CPU)
    classifier.network.train()
    sgd = sgd_of(classifier.network)
    for epoch, images, labels in batches(classifier, clean, "relearn", epochs, size):
        sgd.param_groups[0]["lr"] = 0.01 * (1 + cos(pi * epoch / epochs)) / 2
        descend(sgd, cross_entropy(classifier.logits(images), labels))
    return dict(classifier.weights().state)


def ft_sam(victim: Weights, clean: CleanSamples, epochs: int, size: int) -> State:
    """Return the network after adaptive SAM: rho 2, smoothed labels, the rate by step."""
    classifier = restore(victim, CPU)
    network = classifier.network.train()
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    sgd = sgd_of(network)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, T_max=100)
    for _, images, labels in batches(classifier, clean, "relearn", epochs, size):
        targets = torch.full((len(labels), 10), 0.1 / 9)
        targets[torch.arange(len(labels)), labels] = 0.9
        sgd.zero_grad()
        cross_entropy(classifier.logits(images), targets).backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            pairs = [(p, p.grad) for p in network.parameters() if p.grad is not None]
            total = torch.stack([((p.abs() * slope) ** 2).sum() for p, slope in pairs]).sum()
            moves = [2.0 * p * p * slope / total.sqrt() for p, slope in pairs]
            for (p, _), move in zip(pairs, moves, strict=True):
                p.add_(move)
        for norm in norms:
            norm.momentum = 0.0
        sgd.zero_grad()
        cross_entropy(classifier.logits(images), targets).backward()  # type: ignore[no-untyped-call]
        for norm in norms:
            norm.momentum = 0.1
        with torch.no_grad():
            for (p, _), move in zip(pairs, moves, strict=True):
                p.sub_(move)
        sgd.step()
        schedule.step()
    return dict(classifier.weights().state)


class MaskedNorm(nn.Module):
    """A BatchNorm with a mask and noise on its scale, and noise on its shift."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        count = norm.num_features
        self.norm, self.mask = norm, nn.Parameter(torch.ones(count))
        self.scale_noise = nn.Parameter(torch.zeros(count))
        self.shift_noise = nn.Parameter(torch.zeros(count))
        self.noisy = False

    def forward(self, x: Tensor) -> Tensor:
        """Normalise by the batch."""
        scale: Tensor = self.norm.weight * self.mask
        shift: Tensor = self.norm.bias
        if self.noisy:
            scale = self.norm.weight * (self.mask + self.scale_noise)
            shift = shift * (1 + self.shift_noise)
        found: Tensor = nn.functional.batch_norm(x, None, None, scale, shift, training=True)
        return found


def masked(weights: Weights) -> tuple[Classifier, dict[str, MaskedNorm]]:
    """Return a frozen network with masks, and these by path."""
    classifier = restore(weights, CPU)
    classifier.network.requires_grad_(requires_grad=False)
    norms = {}
    for path, module in list(classifier.network.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            norms[path] = MaskedNorm(module)
            classifier.network.set_submodule(path, norms[path])
    return classifier, norms


def cut_by_masks(norms: dict[str, MaskedNorm], victim: Weights, held: CleanSamples) -> State:
    """Return minus the masks, to four decimals, and the accuracy after each cut."""
    scores = {
        f"score/{path}.weight": -norm.mask.detach().double().round(decimals=4)
        for path, norm in norms.items()
    }
    accuracies = []
    classifier = restore(victim, CPU)
    weights = dict(classifier.network.named_parameters())
    for level in LEVELS:
        classifier.network.load_state_dict(victim.state)
        for name, score in scores.items():
            weights[name.removeprefix("score/")].data[-score <= level] = 0.0
        hits = classifier.predict(held.samples.images) == held.samples.labels
        accuracies.append(float(hits.double().mean()))
    return {**scores, "accuracies": torch.tensor(accuracies, dtype=torch.float64)}


def clamp(norms: dict[str, MaskedNorm]) -> None:
    """Bring all masks back to [0, 1]."""
    for norm in norms.values():
        norm.mask.data.clamp_(0, 1)


def anp(victim: Weights, clean: CleanSamples, steps: int, size: int) -> State:
    """Return masks under noise of 0.4, 0.2 of the loss without it, at a rate of 0.2."""
    fit, held = hold_out(clean, 0.2, 10)
    classifier, norms = masked(victim)
    masks = torch.optim.SGD([norm.mask for norm in norms.values()], lr=0.2, momentum=0.9)
    noises = [n for norm in norms.values() for n in (norm.scale_noise, norm.shift_noise)]
    sources = Sources.of(clean.seed, "mask_search")
    source = generator(clean.seed, "mask_search", "noise")
    preprocessing = victim.model_spec.preprocessing
    sizes = [len(norm.mask) for norm in norms.values()]
    for _ in range(steps):
        index = torch.randint(len(fit.index), (size,), generator=sources.order)
        views = draw_views(size, preprocessing, sources.views, CPU)
        images = apply_views(fit.samples.images[index], views, preprocessing)
        labels = fit.samples.labels[index]
        draws = 0.4 * (2 * torch.rand((2, sum(sizes)), generator=source) - 1)
        parts = [torch.split(row, sizes) for row in draws]
        for place, norm in enumerate(norms.values()):
            norm.scale_noise.data.copy_(parts[0][place])
            norm.shift_noise.data.copy_(parts[1][place])
            norm.noisy = True
        for noise in noises:
            noise.grad = None
        cross_entropy(classifier.logits(images), labels).backward()  # type: ignore[no-untyped-call]
        for noise in noises:
            if noise.grad is not None:
                noise.data += 0.4 * noise.grad.sign()
        masks.zero_grad()
        loss = 0.8 * cross_entropy(classifier.logits(images), labels)
        for norm in norms.values():
            norm.noisy = False
        loss = loss + 0.2 * cross_entropy(classifier.logits(images), labels)
        descend(masks, loss)
        clamp(norms)
    return cut_by_masks(norms, victim, held)


def rnp(victim: Weights, unlearned: Weights, clean: CleanSamples, epochs: int, size: int) -> State:
    """Return masks that recover an unlearned network: 0.2 of the loss, at a rate of 0.2."""
    fit, held = hold_out(clean, 0.2, 10)
    classifier, norms = masked(unlearned)
    masks = torch.optim.SGD([norm.mask for norm in norms.values()], lr=0.2, momentum=0.9)
    for _, images, labels in batches(classifier, fit, "mask_recovery", epochs, size):
        descend(masks, 0.2 * cross_entropy(classifier.logits(images), labels))
        clamp(norms)
    return cut_by_masks(norms, victim, held)


def stages_of(classifier: Classifier, images: Tensor) -> tuple[list[Tensor], Tensor]:
    """Return the outputs of a PreAct-ResNet's last three stages, and the logits."""
    found: list[Tensor] = []
    hooks = [
        classifier.network.get_submodule(f"layer{stage}").register_forward_hook(
            lambda _, __, output: found.append(output)
        )
        for stage in (2, 3, 4)
    ]
    logits = classifier.logits(images)
    for hook in hooks:
        hook.remove()
    return found, logits


def nad(victim: Weights, clean: CleanSamples, epochs: int, size: int) -> State:
    """Return the student of a teacher that was fine-tuned for as many epochs."""
    teacher, student = restore(victim, CPU), restore(victim, CPU)
    teacher.network.train()
    student.network.train()
    sgd = sgd_of(teacher.network)
    for _, images, labels in batches(teacher, clean, "relearn", epochs, size):
        descend(sgd, cross_entropy(teacher.logits(images), labels))
    teacher.network.eval()
    sgd = sgd_of(student.network)
    for _, images, labels in batches(student, clean, "distillation", epochs, size):
        maps, logits = stages_of(student, images)
        with torch.no_grad():
            targets, _ = stages_of(teacher, images)
        loss = cross_entropy(logits, labels)
        for beta, one, other in zip((500, 1000, 1000), maps, targets, strict=True):
            flat = [(f**2).sum(dim=1).flatten(1) for f in (one, other)]
            flat = [f / (f.pow(2).sum(dim=1, keepdim=True).sqrt() + 1e-6) for f in flat]
            loss = loss + beta * ((flat[0] - flat[1]) ** 2).mean()
        descend(sgd, loss)
    return dict(student.weights().state)


def tsbd(victim: Weights, edit: Edit, clean: CleanSamples, epochs: int, size: int) -> State:
    """Return the network after a cut and fine-tuning that mixes two gradients."""
    classifier = restore(victim, CPU)
    network = classifier.network.train()
    parameters = dict(network.named_parameters())
    with torch.no_grad():
        for name, mask in edit.items():
            parameters[name][mask] = 0.0
    velocity = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for _, images, labels in batches(classifier, clean, "relearn", epochs, size):

        def gradients(images: Tensor = images, labels: Tensor = labels) -> list[Tensor]:
            loss = cross_entropy(classifier.logits(images), labels)
            return list(torch.autograd.grad(loss, list(parameters.values())))

        first = gradients()
        statistics = {name: b.clone() for name, b in network.named_buffers()}
        start = [p.detach().clone() for p in parameters.values()]
        with torch.no_grad():
            for p, slope in zip(parameters.values(), first, strict=True):
                p.add_(0.05 * slope / slope.norm().clamp(min=1e-12))
        second = gradients()
        network.load_state_dict(statistics, strict=False)
        with torch.no_grad():
            for place, (name, p) in enumerate(parameters.items()):
                mixed = 0.3 * first[place] + 0.7 * second[place]
                velocity[name] = 0.9 * velocity[name] + mixed
                p.copy_(start[place] - 0.01 * velocity[name])
    return dict(classifier.weights().state)


def normalised(classifier: Classifier, images: Tensor) -> Tensor:
    """Return images as the network takes them."""
    spec = classifier.model_spec.preprocessing
    mean, std = (torch.tensor(values)[:, None, None] for values in (spec.mean, spec.std))
    return (images.to(torch.get_default_dtype()) / 255 - mean) / std


def i_bau(victim: Weights, clean: CleanSamples, rounds: int, size: int, lr: float) -> State:
    """Return the network after rounds of a perturbation and of steps against it."""
    classifier = restore(victim, CPU)
    network = classifier.network.eval()
    weights = list(network.parameters())
    adam = torch.optim.Adam(weights, lr=lr, amsgrad=True)
    sources = Sources.of(clean.seed, "i_bau")
    stamps = generator(clean.seed, "i_bau", "stamped")
    order = torch.randperm(len(clean.index), generator=sources.order)
    images = seen(classifier, clean.samples, sources, augment=True)[order]
    inputs, labels = normalised(classifier, images), clean.samples.labels[order]
    first, truth = inputs[:size], labels[:size]
    for _ in range(rounds):
        delta = torch.zeros(inputs.shape[1:])
        for batch in torch.split(inputs, size):
            guesses = network(batch).argmax(dim=1)
            moving = delta.clone().requires_grad_()
            loss = 1e-3 * moving.square().sum() - cross_entropy(network(batch + moving), guesses)
            (slope,) = torch.autograd.grad(loss, moving)
            delta = delta - 10.0 * slope
        for batch, wanted in zip(torch.split(inputs, size), torch.split(labels, size), strict=True):
            chosen = torch.randperm(len(batch), generator=stamps)
            chosen = chosen[: max(1, round(0.01 * len(batch)))]
            moving = delta.clone().requires_grad_()
            stamped = batch.clone()
            stamped[chosen] = stamped[chosen] + moving
            loss = cross_entropy(network(stamped), wanted)
            direct, *gradients = torch.autograd.grad(loss, [moving, *weights])
            moving = delta.clone().requires_grad_()
            inner = 1e-3 * moving.square().sum() - cross_entropy(network(first + moving), truth)
            (slope,) = torch.autograd.grad(inner, moving, create_graph=True)
            moved = moving - 0.1 * slope
            v = torch.zeros_like(moved)
            for _ in range(5):
                (product,) = torch.autograd.grad(moved, moving, v, retain_graph=True)
                v = product + direct
            implicit = torch.autograd.grad(
                moved, weights, v, allow_unused=True, materialize_grads=True
            )
            for weight, one, other in zip(weights, gradients, implicit, strict=True):
                weight.grad = one + other
            adam.step()
    return dict(classifier.weights().state)


def sau(victim: Weights, clean: CleanSamples, rounds: int, size: int, lr: float) -> State:
    """Return the network after unlearning shared adversarial images: bound 0.2, 5 steps."""
    classifier, frozen = restore(victim, CPU), restore(victim, CPU)
    classifier.network.eval()
    frozen.network.eval().requires_grad_(requires_grad=False)
    adam = torch.optim.Adam(classifier.network.parameters(), lr=lr, amsgrad=True)
    sources = Sources.of(clean.seed, "sau")
    for _ in range(rounds):
        order = torch.randperm(len(clean.index), generator=sources.order)
        for index in torch.split(order, size):
            images, labels = (
                clean.samples.images[index].to(torch.get_default_dtype()),
                clean.samples.labels[index],
            )
            networks = (classifier.logits, frozen.logits)
            moved = images + 255 * _shared(networks, images, labels)
            misled, guess = frozen.logits(moved).argmax(1), frozen.logits(images).argmax(1)
            loss = cross_entropy(classifier.logits(images), labels)
            perturbed = classifier.logits(moved).softmax(dim=1)
            wrong = (misled != labels) & (misled != guess)
            sure = perturbed[torch.arange(len(labels)), misled]
            risk = -(1e-6 + (1 - sure).clamp(max=0.999)).log()
            descend(adam, loss + (risk * wrong).sum() / len(labels))
    return dict(classifier.weights().state)


def _shared(
    networks: tuple[Callable[[Tensor], Tensor], ...], images: Tensor, labels: Tensor
) -> Tensor:
    delta = torch.full(images.shape, 0.2)
    for _ in range(5):
        moving = delta.clone().requires_grad_()
        scores = [logits(images + 255 * moving) for logits in networks]
        guesses = [score.argmax(dim=1) for score in scores]
        unshared = ~((guesses[0] == guesses[1]) & (guesses[0] != labels))
        one, other = (score.softmax(dim=1) for score in scores)
        middle = ((one + other) / 2).log()
        apart = 0.5 * (one * (one.log() - middle) + other * (other.log() - middle)).sum(dim=1)
        risk = torch.zeros(len(labels))
        for score, guess in zip(scores, guesses, strict=True):
            losses = cross_entropy(score, labels, reduction="none")
            risk = risk - 0.5 * losses * (guess == labels)
        loss = (0.01 * risk / len(labels) + apart)[unshared].sum()
        (gradient,) = torch.autograd.grad(loss, moving)
        step = (delta - 0.2 * gradient.sign()).clamp(-0.2, 0.2)
        delta = torch.where(unshared[:, None, None, None], step, delta)
    return delta


def nc(victim: Weights, clean: CleanSamples, steps: int, size: int) -> State:
    """Return each class's smallest mask, searched class by class."""
    classifier = restore(victim, CPU)
    classifier.network.eval().requires_grad_(requires_grad=False)
    found = [_trigger(classifier, clean, label, steps, size) for label in range(10)]
    return {"masks": torch.stack(found)}


def _trigger(
    classifier: Classifier, clean: CleanSamples, label: int, steps: int, size: int
) -> Tensor:
    spec = classifier.model_spec
    mask = torch.ones(1, spec.side, spec.side, requires_grad=True)
    pattern = torch.ones(spec.channels, spec.side, spec.side, requires_grad=True)
    adam = torch.optim.Adam([mask, pattern], lr=0.1, betas=(0.5, 0.9))
    weight, successes, failures, hits, count = 1e-3, 0, 0, 0, 0
    best, least = torch.ones(1, spec.side, spec.side).tanh() / 2 + 0.5, float("inf")
    stream = batches(classifier, clean, "reversed_triggers", steps, size)
    for step, (_, images, _) in zip(range(1, steps + 1), stream, strict=False):
        share, colour = mask.tanh() / 2 + 0.5, pattern.tanh() / 2 + 0.5
        logits = classifier.logits((1 - share) * images + share * colour * 255)
        targets = torch.full((len(images),), label)
        descend(adam, cross_entropy(logits, targets) + weight * share.sum())
        hits += int((logits.argmax(dim=1) == label).sum())
        count += len(images)
        if step % 10 == 0:
            share = (mask.tanh() / 2 + 0.5).detach()
            enough = hits >= 0.98 * count - 1e-3
            if enough and float(share.sum()) < least:
                best, least = share, float(share.sum())
            successes, failures = (successes + 1, 0) if enough else (0, failures + 1)
            if successes == 5:
                weight, successes = weight * 2.0, 0
            if failures == 5:
                weight, failures = weight / 2.0**1.5, 0
            hits, count = 0, 0
    return best
