"""What a file from outside says of itself, and whether that is what a scenario asks for."""

from dataclasses import dataclass, fields
from math import isclose, sqrt
from typing import TypeAlias

from jaxtyping import Int64
from torch import Tensor

from ulrl.attacks.imported import Imported
from ulrl.datasets import DATASETS
from ulrl.interchange._refusal import ImportRefused
from ulrl.interchange._triggered import TriggeredImages
from ulrl.models import ModelSpec
from ulrl.poison import LabelRule, Poison

Numbers: TypeAlias = tuple[float, ...]

OWN_DATA = "arrays"  # a dataset of the user's, whose name says nothing of its content
SLACK = 0.1  # relative difference up to which two poison ratios are one
BATCH = 128  # of BackdoorBench's training
WAY_OUT = "write the right mean and std at the entry of victim.import"
DEVIATIONS = 4  # of a random count, beyond which it is another ratio's


@dataclass(frozen=True, kw_only=True)
class PoisonedCount:
    """How many training images a file says were poisoned.

    A few attacks record unpoisoned images with noise in the same list; of the target
    class these cannot be distinguished from poisoned ones, hence two bounds.
    """

    total: int
    fewest: int
    most: int


@dataclass(frozen=True, kw_only=True)
class VictimFacts:
    """What is recorded beside the weights; None and an empty tuple where nothing is.

    Attributes:
        architecture: Our name of it.
        dataset: Our name of it.
        classes: Of the dataset.
        side: Of its images, in pixels.
        channels: Of its images.
        label_rules: Those of which the recorded labels may be the outcome.
        target_label: The class that all triggered images shall be taken for.
        poisoned: Size of the poisoned part of the training set.
        normalisation: Mean and standard deviation per channel, of pixels in [0, 1], that the
            network was trained with.
    """

    architecture: str | None = None
    dataset: str | None = None
    classes: int | None = None
    side: int | None = None
    channels: int | None = None
    label_rules: tuple[LabelRule, ...] = ()
    target_label: int | None = None
    poisoned: PoisonedCount | None = None
    normalisation: tuple[Numbers, Numbers] | None = None


def normalisation_of(dataset_name: str) -> tuple[Numbers, Numbers] | None:
    """Return what the field normalises a dataset with, if it is one that has a name here."""
    if dataset_name not in DATASETS or dataset_name == OWN_DATA:
        return None
    preprocessing = DATASETS[dataset_name]().preprocessing
    return preprocessing.mean, preprocessing.std


def check_model_spec(facts: VictimFacts, model_spec: ModelSpec, source: str) -> None:
    """Refuse a victim of another architecture, number of classes or form of images.

    Raises:
        ImportRefused: With the first thing that differs.
    """
    asked = VictimFacts(
        architecture=model_spec.architecture.name,
        classes=model_spec.classes,
        side=model_spec.side,
        channels=model_spec.channels,
    )
    for field in fields(facts):
        recorded, wanted = getattr(facts, field.name), getattr(asked, field.name)
        if wanted and recorded is not None and recorded != wanted:
            raise ImportRefused(
                f"{source} has {field.name} {recorded}, and the scenario {wanted}; change the "
                f"scenario's architecture or dataset, or name another file"
            )


def check_dataset(facts: VictimFacts, dataset_name: str, source: str) -> None:
    """Refuse a victim of another dataset.

    Raises:
        ImportRefused: The file names another one.
    """
    if facts.dataset not in (None, dataset_name) and dataset_name != OWN_DATA:
        raise ImportRefused(
            f"{source} was made with the dataset {facts.dataset}, and the scenario has "
            f"{dataset_name}; change the scenario's dataset, or name another file"
        )


def check_normalisation(
    facts: VictimFacts, model_spec: ModelSpec, dataset_name: str, source: str
) -> None:
    """Refuse a victim whose images would be normalised otherwise than in its training.

    Raises:
        ImportRefused: The file records other numbers than the scenario has; or neither says any.
    """
    preprocessing = model_spec.preprocessing
    mean, std = preprocessing.mean, preprocessing.std
    if facts.normalisation is None:
        unsaid = not any(mean) and all(value == 1 for value in std)
        if dataset_name == OWN_DATA and unsaid:
            raise ImportRefused(
                f"{source} does not record how its training normalised images, nor does the "
                f"dataset {OWN_DATA}; {WAY_OUT}: 0 and 1 for pixels in [0, 1]"
            )
        return
    theirs = facts.normalisation
    pairs = zip((*theirs[0], *theirs[1]), (*mean, *std), strict=False)
    if len(theirs[0]) != len(mean) or not all(isclose(a, b, abs_tol=1e-6) for a, b in pairs):
        of = f" (those of {facts.dataset})" if facts.dataset else ""
        raise ImportRefused(
            f"{source} was trained with mean {list(theirs[0])} and std {list(theirs[1])}{of}, and "
            f"the scenario's dataset has mean {list(mean)} and std {list(std)}; {WAY_OUT}"
        )


def check_poison(facts: VictimFacts, poison: Poison, source: str) -> None:
    """Refuse a victim whose attacker labelled otherwise, or poisoned clearly more or less.

    Raises:
        ImportRefused: With the first thing that differs.
    """
    ending = "change the scenario's attack to what the file was made with, or name another file"
    rules = facts.label_rules
    if rules and poison.labels not in rules:
        raise ImportRefused(
            f"{source} has labels {' or '.join(rules)}, and the scenario {poison.labels}; {ending}"
        )
    all_to_all = poison.labels is LabelRule.ALL_TO_ALL
    if not all_to_all and facts.target_label not in (None, poison.target_label):
        raise ImportRefused(
            f"{source} has target_label {facts.target_label}, and the scenario "
            f"{poison.target_label}; {ending}"
        )
    if facts.poisoned is not None:
        part, count = facts.poisoned, poison.count(facts.poisoned.total)
        fewest, most = _counts(poison, part.total)
        if part.most < fewest * (1 - SLACK) - 1 or part.fewest > most * (1 + SLACK) + 1:
            found = f"{part.fewest}" if part.fewest == part.most else f"{part.fewest}–{part.most}"
            raise ImportRefused(
                f"{source} has {found} poisoned of {part.total} training images, and "
                f"poison_ratio {poison.poison_ratio} is {count}; {ending}"
            )


def _counts(poison: Poison, total: int) -> tuple[float, float]:
    """Return bounds of how many of `total` training images are poisoned at a ratio.

    BackdoorBench's attacks that draw other images in each epoch poison ``int(ratio * n)`` of
    a batch of n; where that is none, one image with probability ``ratio * n``.
    """
    nominal = poison.count(total)
    if not (poison.attack.redrawn or isinstance(poison.attack, Imported)):
        return nominal, nominal
    mean = variance = 0.0
    for size, batches in ((BATCH, total // BATCH), (total % BATCH, 1)):
        share = poison.poison_ratio * size
        if share >= 1:
            mean += batches * int(share)
        else:
            mean += batches * share
            variance += batches * share * (1 - share)
    spread = DEVIATIONS * sqrt(variance)
    return min(nominal, mean - spread), max(nominal, mean + spread)


def target_labels(poison: Poison, triggered: TriggeredImages, classes: int) -> Int64[Tensor, " n"]:
    """Return the class that the attacker wants for each triggered image.

    Raises:
        ImportRefused: A label is none of the classes, or the file wants other classes than
            the scenario's attacker.
    """
    true = triggered.true_labels
    if int(true.max()) >= classes:
        raise ImportRefused(
            f"{triggered.source} has an image of class {int(true.max())}, and the dataset's "
            f"classes are 0 to {classes - 1}; name the dataset that it was made from"
        )
    wanted = poison.target_labels(true, classes)
    if triggered.target_labels is not None:
        differs = (triggered.target_labels != wanted).nonzero().flatten().tolist()
        if differs:
            first = differs[0]
            raise ImportRefused(
                f"{triggered.source} wants class {int(triggered.target_labels[first])} for an "
                f"image of class {int(true[first])}, and the scenario ({poison.labels}, "
                f"target_label {poison.target_label}) wants {int(wanted[first])}; change the "
                f"scenario's attack"
            )
    return wanted
