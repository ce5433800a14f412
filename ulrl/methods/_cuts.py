"""Which parameters a repair sets to zero, and by which rule they are chosen.

A method scores parts of a network: channels, filters or single weights. What it found is a mapping
of tensors: for each parameter ``score/NAME``, a score of each of its parts, of a shape that
broadcasts to the parameter's; the higher, the sooner it is cut. Beside them lie the accuracies on
samples held out from the scoring, after cuts at a few levels: `sweep`.
"""

from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor

from ulrl.attacks import Step
from ulrl.clean import CleanSamples
from ulrl.errors import NotApplicable
from ulrl.methods._base import Tensors
from ulrl.models import Classifier

M = TypeVar("M")
Edit: TypeAlias = Mapping[str, Tensor]  # of each parameter that is cut, which entries become 0

_SCORE = "score/"
ORACLE_LEVELS, ORACLE_ASR, ORACLE_ACC = "oracle_levels", "oracle_asr", "oracle_acc"
_LEVELS, _ACCURACIES, _VICTIM = "levels", "accuracies", "victim"
_NONE = torch.finfo(torch.float32).min  # stands for no score: what a stage returns is finite


class Rule(StrEnum):
    """How the strength of a cut is chosen; which a method offers is its own affair."""

    BUDGET = "budget"  # the strongest cut that keeps enough of the accuracy on held-out samples
    THRESHOLD = "threshold"  # at a number of the method's own, such as a mask's value
    DEVIATIONS = "deviations"  # at so many standard deviations above a layer's mean
    OUTLIER = "outlier"  # above a modified z-score, as ULRL's
    LARGEST = "largest"  # a share of all parts, those of the highest scores
    ORACLE = "oracle"  # by the backdoor in test images, as published scripts do: no defence


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A rule with its strength.

    Attributes:
        rule: How the strength is chosen.
        strength: For ``budget`` the largest share of the victim's held-out accuracy to lose, in
            [0, 1]; for ``oracle`` likewise on the selection half; for ``largest`` the share of
            parts, in [0, 1]; else the lowest score that is cut.
    """

    rule: Rule
    strength: float

    def choose(self, found: Tensors) -> Edit:
        """Return what this rule cuts, by what a method found.

        With ``budget`` it is nothing where no cut of the sweep keeps enough, and among levels that
        cut equally many it is the first. With ``oracle`` it is the cut of the lowest ASR among
        those that lose less than `strength` of the victim's accuracy, of equal ones the weakest.
        """
        scores = scores_of(found)
        if self.rule is Rule.BUDGET:
            accuracies, levels = found[_ACCURACIES], found[_LEVELS]
            enough = accuracies >= (1 - self.strength) * found[_VICTIM] - 1e-9
            if not bool(enough.any()):
                return {}
            level = float(levels[enough].min())  # the lowest level is the strongest cut
        elif self.rule is Rule.ORACLE:
            best = _of_least_asr(found, self.strength)
            if best is None:
                return {}
            level = best
        elif self.rule is Rule.LARGEST:
            return _largest(scores, self.strength)
        else:
            level = self.strength
        return edit_at(scores, level)


def edit_at(scores: Mapping[str, Tensor], level: float) -> Edit:
    """Return the cut of all parts whose score is at least `level`; those of no score stay."""
    # Compared as they are stored, so that a level that was rounded is met.
    masks = {
        name: score >= torch.tensor(level, dtype=score.dtype) for name, score in scores.items()
    }
    return {name: mask for name, mask in masks.items() if bool(mask.any())}


def findings(scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return scores by parameter as what a stage finds; those that are not finite count as none.

    Raises:
        NotApplicable: There is no finite score.
    """
    found = {}
    for name, score in scores.items():
        values = score.detach().float().cpu()
        found[_SCORE + name] = torch.where(values.isfinite(), values, _NONE)
    if not any(bool((values > _NONE).any()) for values in found.values()):
        raise NotApplicable("no part of the network has a finite score")
    return found


def scores_of(found: Tensors) -> dict[str, Tensor]:
    """Return the scores by parameter of what a stage found."""
    return {
        name.removeprefix(_SCORE): value for name, value in found.items() if name.startswith(_SCORE)
    }


def apply(edit: Edit, classifier: Classifier) -> None:
    """Set what an edit names to zero, in place."""
    parameters = dict(classifier.network.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, mask in edit.items():
            parameters[name].masked_fill_(mask.to(parameters[name].device), 0.0)


def stay_cut(edit: Edit, classifier: Classifier) -> None:
    """Let no gradient move what an edit has set to zero."""
    parameters = dict(classifier.network.named_parameters(remove_duplicate=False))
    for name, mask in edit.items():
        left = ~mask.to(parameters[name].device)
        parameters[name].register_hook(left.__mul__)  # type: ignore[no-untyped-call]


def sweep(
    found: Tensors, levels: Iterable[float], classifier: Classifier, held: CleanSamples
) -> Generator[Step, None, Tensors]:
    """Measure the accuracy on held-out samples after a cut at each level.

    Returns `found` with the levels, the accuracies and that of the uncut network. The classifier,
    the victim, is left as it was.
    """
    victim = _accuracy(classifier, held)
    ordered = sorted(set(levels), reverse=True)
    accuracies = yield from after_cuts(
        scores_of(found), ordered, classifier, lambda cut: _accuracy(cut, held), victim
    )
    return {
        **found,
        _LEVELS: torch.tensor(ordered, dtype=torch.float64),
        _ACCURACIES: torch.tensor(accuracies, dtype=torch.float64),
        _VICTIM: torch.tensor([victim], dtype=torch.float64),
    }


def after_cuts(
    scores: Mapping[str, Tensor],
    levels: list[float],
    classifier: Classifier,
    measure: Callable[[Classifier], M],
    victim: M,
) -> Generator[Step, None, list[M]]:
    """Return what is measured of a network after a cut at each level; it is left as it was.

    Args:
        scores: By parameter.
        levels: From the highest to the lowest, so that a cut includes the one before.
        classifier: The victim.
        measure: Looks at the cut network.
        victim: What is measured of the victim.
    """
    parameters = dict(classifier.network.named_parameters(remove_duplicate=False))
    before = {name: parameters[name].detach().clone() for name in scores}
    measured = [victim]
    last: Edit = {}
    for number, level in enumerate(levels, start=1):
        edit = edit_at(scores, level)
        if not _same(edit, last):
            apply(edit, classifier)
            measured.append(measure(classifier))
        else:
            measured.append(measured[-1])
        last = edit
        yield Step(number, len(levels))
    with torch.no_grad():
        for name, values in before.items():
            parameters[name].copy_(values)
    return measured[1:]


def _of_least_asr(found: Tensors, loss: float) -> float | None:
    """Return the level that `OracleSweep` found best; None where no cut is better than none."""
    asr, acc = found[ORACLE_ASR].tolist(), found[ORACLE_ACC].tolist()
    allowed = [
        (rate, number)
        for number, (rate, accuracy) in enumerate(zip(asr, acc, strict=True))
        if accuracy > (1 - loss) * acc[0]
    ]
    number = min(allowed, default=(0.0, 0))[1]  # the first is the victim's, without a level
    return float(found[ORACLE_LEVELS][number - 1]) if number else None


def _accuracy(classifier: Classifier, held: CleanSamples) -> float:
    answers = classifier.predict(held.samples.images)
    return int((answers == held.samples.labels).sum()) / len(answers)


def _same(edit: Edit, other: Edit) -> bool:
    return edit.keys() == other.keys() and all(torch.equal(edit[n], other[n]) for n in edit)


def _largest(scores: Mapping[str, Tensor], share: float) -> Edit:
    """Return the cut of a share of the parts that have a score.

    Equal scores go by the parameter's name and the place in it. Many masks, for example, are
    exactly 1: a cut of all from the lowest score on could take far more than the share.
    """
    groups = _cut_together(scores)
    values = torch.cat([scores[group[0]].flatten() for group in groups])
    count = round(share * int((values > _NONE).sum()))
    chosen = torch.zeros(len(values), dtype=torch.bool)
    chosen[values.argsort(descending=True, stable=True)[:count]] = True
    parts = torch.split(chosen, [scores[group[0]].numel() for group in groups])
    return {
        name: part.reshape(scores[name].shape)
        for group, part in zip(groups, parts, strict=True)
        for name in group
        if bool(part.any())
    }


def _cut_together(scores: Mapping[str, Tensor]) -> list[list[str]]:
    """Return the scored parameters in order, those of a layer that have the same scores in one.

    Scale and shift of a channel, for example, are one part.
    """
    groups: list[list[str]] = []
    for name in sorted(scores):
        first = groups[-1][0] if groups else ""
        same_layer = first.rpartition(".")[0] == name.rpartition(".")[0]
        if first and same_layer and torch.equal(scores[first].flatten(), scores[name].flatten()):
            groups[-1].append(name)
        else:
            groups.append([name])
    return groups
