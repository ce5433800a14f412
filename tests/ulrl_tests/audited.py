"""Audits of small models, stage by stage."""

from collections.abc import Mapping

import torch
from torch import Tensor

from tests.ulrl_tests.exact import exactly, in_single
from ulrl.audits import Audit, AuditResult, audit_context
from ulrl.clean import CleanSamples
from ulrl.datasets import ImageSet
from ulrl.fitting import Samples, Sources
from ulrl.models import ModelSpec, Weights, initialise
from ulrl.randomness import generator
from ulrl.supervised import VictimConfig, fit

CPU = torch.device("cpu")


def found_by(
    audit: Audit, model: Weights, clean: CleanSamples | None
) -> tuple[Mapping[str, Tensor], ...]:
    """Run every stage of an audit, which must leave the model's tensors as they were."""
    context = audit_context(model, clean, CPU)
    before: Mapping[str, Tensor] = {}
    results = []
    original = {name: value.clone() for name, value in model.state.items()}
    for stage in audit.stages:
        assert stage.cost(60) > 0
        steps = stage.checked(context, before)
        number = 0
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                before = end.value
                break
            assert 0 < step.done <= step.total
            assert step.done >= number  # progress does not go back
            number = step.done
        results.append(before)
    assert all(torch.equal(original[name], value) for name, value in model.state.items())
    return tuple(results)


def audited(audit: Audit, model: Weights, clean: CleanSamples | None) -> AuditResult:
    """Return what an audit says; the scores must be finite, one per class."""
    samples = 0 if clean is None else len(clean.index)
    result = audit.result(found_by(audit, model, clean)[-1], samples)
    assert result.scores.shape == (model.model_spec.classes,)
    assert bool(result.scores.isfinite().all())
    assert result.passes >= 0
    return result


def audited_exactly(audit: Audit, model: Weights, clean: CleanSamples | None) -> AuditResult:
    """Return what an audit says in double precision, the same on every kind of CPU."""
    with exactly():
        return audited(audit, model, clean)


_benign: dict[int, Weights] = {}


def benign_model(model_spec: ModelSpec, pictures: ImageSet, seed: int) -> Weights:
    """Return a model of the victim's recipe on clean data, trained once per process."""
    if seed not in _benign:
        samples = Samples(images=pictures.train_images, labels=pictures.train_labels)
        config = VictimConfig(epochs=8, batch_size=32)
        with exactly():
            classifier = initialise(model_spec, generator(seed, "victim", "weights"), CPU)
            for _ in fit(config, classifier, samples, Sources.of(seed, "victim")):
                pass
            _benign[seed] = in_single(classifier.weights())
    return _benign[seed]
