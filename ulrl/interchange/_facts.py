"""What a file from outside says of itself, and whether that is what a scenario asks for."""

from dataclasses import dataclass, fields

from jaxtyping import Int64
from torch import Tensor

from ulrl.attacks import LabelRule
from ulrl.interchange._refusal import ImportRefused
from ulrl.interchange._triggered import TriggeredImages
from ulrl.models import Blueprint
from ulrl.poisoning import Poison

OWN_DATA = "arrays"  # a dataset of the user's, whose name says nothing of its content
SLACK = 0.1  # relative difference up to which two poison ratios are one


@dataclass(frozen=True, kw_only=True)
class PoisonedCount:
    """How many training images a file says were poisoned.

    A few attacks record unpoisoned images with noise in the same list; of the target
    class these cannot be told from poisoned ones, hence two bounds.
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
    """

    architecture: str | None = None
    dataset: str | None = None
    classes: int | None = None
    side: int | None = None
    channels: int | None = None
    label_rules: tuple[LabelRule, ...] = ()
    target_label: int | None = None
    poisoned: PoisonedCount | None = None


def check_blueprint(facts: VictimFacts, blueprint: Blueprint, source: str) -> None:
    """Refuse a victim of another architecture, number of classes or form of images.

    Raises:
        ImportRefused: With the first thing that differs.
    """
    asked = VictimFacts(
        architecture=blueprint.architecture.name,
        classes=blueprint.classes,
        side=blueprint.side,
        channels=blueprint.channels,
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
        if not part.fewest * (1 - SLACK) - 1 <= count <= part.most * (1 + SLACK) + 1:
            found = f"{part.fewest}" if part.fewest == part.most else f"{part.fewest}–{part.most}"
            raise ImportRefused(
                f"{source} has {found} poisoned of {part.total} training images, and "
                f"poison_ratio {poison.poison_ratio} is {count}; {ending}"
            )


def wanted_labels(poison: Poison, triggered: TriggeredImages, classes: int) -> Int64[Tensor, " n"]:
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
    wanted = poison.wanted(true, classes)
    if triggered.wanted_labels is not None:
        differs = (triggered.wanted_labels != wanted).nonzero().flatten().tolist()
        if differs:
            first = differs[0]
            raise ImportRefused(
                f"{triggered.source} wants class {int(triggered.wanted_labels[first])} for an "
                f"image of class {int(true[first])}, and the scenario ({poison.labels}, "
                f"target_label {poison.target_label}) wants {int(wanted[first])}; change the "
                f"scenario's attack"
            )
    return wanted
