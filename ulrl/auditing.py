"""An audit of any network: is it backdoored, and towards which class?"""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn

from ulrl.audits import AUDITS, Audit, AuditResult, audit_context
from ulrl.clean import CleanSamples
from ulrl.datasets import Preprocessing
from ulrl.defence import as_weights, check_given, check_victim, merged, registered
from ulrl.fitting import Samples
from ulrl.hyperparameters import of_kind
from ulrl.randomness import checked_seed, generator
from ulrl.samples import Images, Labels, Source, as_samples

OnStep: TypeAlias = Callable[[str, int, int], object]


@torch.inference_mode(mode=False)
@torch.enable_grad()
def audit(  # noqa: PLR0913 - one call for everything; all but three have defaults
    network: nn.Module,
    method: str,
    images: Images | Source | None = None,
    labels: Labels | None = None,
    *,
    preprocessing: Preprocessing,
    side: int | None = None,
    head: str | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    on_step: OnStep | None = None,
    options: Mapping[str, Any] | None = None,
    **others: Any,
) -> AuditResult:
    """Look for a backdoor in `network`, with a few clean samples or without data.

    No audit finds every backdoor, and some flag benign networks: read `AuditResult.rule`, and
    audit a benign network of the same kind if you have one.

    Args:
        network: A classifier of normalised images whose output is that of a linear layer. It
            stays as it is.
        method: A name of `ulrl.audits.AUDITS`.
        images: Clean samples, as `repair` takes them; they may be left out for an audit that
            needs none.
        labels: Their true classes; None where `images` is a ``Dataset`` or ``DataLoader``.
        preprocessing: Normalisation that the network expects, and the augmentation that it was
            trained with.
        side: Of the images that the network takes, in pixels; only where `images` is left out.
        head: Path of the linear layer whose output is the network's; by default it is found.
        seed: Of every random draw, at least 0.
        device: Where to compute; by default where the network is.
        on_step: Called now and then with the stage's name, what is done and what there is to do.
            An exception that it raises ends the audit.
        options: Of the audit, as a mapping: for one that has the name of an argument above, such as
            ``options={"images": 10}`` of ``certify``.
        **others: More options of the audit, by name.

    Raises:
        ValueError: A value is out of range, or samples and network do not go together; there is
            no such audit, it does not apply to the network, or it needs samples.
        TypeError: The audit has no such option, or a value is of another kind; `on_step` cannot
            be called.
        DivergedError: The audit left the finite numbers.
    """
    seed = checked_seed(seed)
    check_given(network, preprocessing)
    if on_step is not None and not callable(on_step):
        raise TypeError(
            f"on_step is a function of the stage, what is done and what there is to do; got "
            f"{on_step!r}"
        )
    chosen = _chosen(method, merged(options, others), seed)
    clean = _clean(chosen, images, labels, preprocessing, seed)
    samples = _noise(preprocessing, side, method) if clean is None else clean.samples
    check_victim(network)
    home = next(network.parameters()).device
    place = home if device is None else torch.device(device)
    weights = as_weights(network, samples, preprocessing, head, place)
    chosen.check(network, weights.model_spec.head, weights.model_spec.classes)
    context = audit_context(weights, clean if chosen.needs_samples else None, place)
    found: Mapping[str, Tensor] = {}
    for stage in chosen.stages:
        steps = stage.checked(context, found)
        try:
            while True:
                step = next(steps)
                if on_step is not None:
                    on_step(stage.name, step.done, step.total)
        except StopIteration as end:
            found = end.value
    return chosen.result(found, len(context.clean.index))


def _chosen(name: str, options: Mapping[str, Any], seed: int) -> Audit:
    kind: Any = AUDITS.get(name) if isinstance(name, str) else None
    if kind is not None and any(part.name == "seed" for part in fields(kind)):
        if "seed" in options:
            raise TypeError("seed is an argument of audit; leave it out of options")
        options = {**options, "seed": seed}  # of an audit without samples
    made: Audit = registered(AUDITS, "audit", name, options)
    return made


def _clean(
    chosen: Audit,
    images: Images | Source | None,
    labels: Labels | None,
    preprocessing: Preprocessing,
    seed: int,
) -> CleanSamples | None:
    if images is None:
        if chosen.needs_samples:
            raise ValueError(f"{chosen.name} needs clean samples: give images with their labels")
        return None
    samples = as_samples(images, labels, preprocessing, seed)
    return CleanSamples(samples=samples, index=torch.arange(len(samples.labels)), seed=seed)


def _noise(preprocessing: Preprocessing, side: int | None, name: str) -> Samples:
    """Return two images of noise to try a network on."""
    side = cast("int | None", of_kind("side", side, int | None))
    if side is None or side < 1:
        raise ValueError(
            f"side is that of the images that the network takes, in pixels; {name} needs it where "
            f"there are no images; got {side}"
        )
    shape = (2, len(preprocessing.mean), side, side)
    images = torch.randint(256, shape, generator=generator(0, "probe")).to(torch.uint8)
    return Samples(images=images, labels=torch.zeros(2, dtype=torch.int64))
