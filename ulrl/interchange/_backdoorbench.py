"""Victims from BackdoorBench's run folders."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path

import torch
from torch import Tensor

from ulrl.interchange._facts import VictimFacts, normalisation_of
from ulrl.interchange._pictures import Form, read_pngs
from ulrl.interchange._records import Reader, Records, poisoned_count, read_records, rules_of
from ulrl.interchange._refusal import ImportRefused, inside_file, shown
from ulrl.interchange._state import as_state
from ulrl.interchange._torchfile import read_torch
from ulrl.interchange._triggered import TriggeredImages
from ulrl.poison import LabelRule

RESULT = "attack_result.pt"
PICTURES = "bd_test_dataset"
ARCHITECTURES = {
    "preactresnet18": "preact_resnet18",
    "vgg19_bn": "vgg19_bn",
    "vit_b_16": "vit_b_16",
}
DATASETS = {"tiny": "tiny_imagenet"}  # the others have our names
ATTACKS = {
    "badnet": "badnets",
    "ftrojann": "ftrojan",
    "inputaware": "input_aware",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class BackdoorBenchRun:
    """The victim of a run folder and the triggered test images beside it.

    Attributes:
        facts: What the run records: all of it but the poisoned part of the training set,
            which is None where the file does not have it.
        state: The victim's tensors by BackdoorBench's names.
        triggered: With the attacker's classes and the numbers of the test images.
        source: The file, for messages.
    """

    facts: VictimFacts
    state: dict[str, Tensor] = field(repr=False)
    triggered: TriggeredImages
    source: str


def read_backdoorbench(path: str | Path) -> BackdoorBenchRun:
    """Return the run of a folder that has ``attack_result.pt``, or of that file.

    The file holds paths of its author's machine and settings; neither is used. A picture's
    place is the folder, its true class and its number.

    Raises:
        ImportRefused: The file or a picture is missing, damaged or not what it should be.
    """
    folder = Path(path)
    if folder.name == RESULT:
        folder = folder.parent
    source = str(folder / RESULT)
    content = read_torch(inside_file(folder, RESULT))
    if not isinstance(content, Mapping):
        raise ImportRefused(
            f"{source} holds no dict but a {type(content).__name__}; take the file that "
            f"BackdoorBench's attack wrote"
        )
    file = Reader(content, source)
    test, facts = _facts(file)
    triggered = _triggered(folder, test, facts)
    state = as_state(content.get("model"), f"{source}: model")
    return BackdoorBenchRun(facts=facts, state=state, triggered=triggered, source=source)


def zoo_name(*, dataset: str, architecture: str, attack: str, poison_ratio: float) -> str:
    """Return the folder that BackdoorBench's zoo has for a scenario, by our names.

    For example ``cifar10_preactresnet18_badnet_0_1`` for ``badnets`` at 0.1.
    """
    tables = (DATASETS, ARCHITECTURES, ATTACKS)
    theirs = {ours: name for table in tables for name, ours in table.items()}
    ratio = format(Decimal(repr(poison_ratio)), "f").replace(".", "_")
    return "_".join([*(theirs.get(name, name) for name in (dataset, architecture, attack)), ratio])


def _facts(file: Reader) -> tuple[Records, VictimFacts]:
    name, dataset = file.word("model_name"), file.word("clean_data")
    if name not in ARCHITECTURES:
        raise ImportRefused(
            f"{file.place}: model_name is one of {', '.join(ARCHITECTURES)}; got {shown(name)}; "
            f"for another network give its state dict as model.pt beside triggered.npz"
        )
    classes = file.whole("num_classes", 2, 100_000)
    form = _form(file)
    test = read_records(file.inner("bd_test"), classes)
    if not test.entries:
        raise ImportRefused(f"{file.place}: bd_test marks no image as triggered; run the attack")
    rules, target = rules_of(test, classes)
    if not rules:
        raise ImportRefused(
            f"{file.place}: the labels of bd_test are neither one target for all nor each class "
            f"plus 1; such an attack is not supported"
        )
    ours = DATASETS.get(dataset, dataset)
    facts = VictimFacts(
        architecture=ARCHITECTURES[name],
        dataset=ours,
        normalisation=normalisation_of(ours),
        classes=classes,
        side=form.side,
        channels=form.channels,
        label_rules=rules,
        target_label=target,
    )
    if file.content.get("bd_train") is None:
        return test, facts
    return test, _with_training(facts, read_records(file.inner("bd_train"), classes))


def _with_training(facts: VictimFacts, train: Records) -> VictimFacts:
    count, clean_label = poisoned_count(train, facts.target_label)
    left_out = LabelRule.ALL_TO_ONE if clean_label else LabelRule.CLEAN_LABEL
    rules = tuple(rule for rule in facts.label_rules if rule is not left_out)
    return replace(facts, label_rules=rules, poisoned=count)


def _form(file: Reader) -> Form:
    size = file.content.get("img_size")
    match size:
        case (int(height), int(width), 1 | 3 as channels) if 1 <= height == width <= 4096:
            return Form(channels=int(channels), side=int(height))
    raise file.refusal("img_size", "height, width and channels of square images", size)


def _triggered(folder: Path, test: Records, facts: VictimFacts) -> TriggeredImages:
    form = Form(channels=facts.channels or 0, side=facts.side or 0)
    places = [(record.true, record.index) for record in test.entries]
    return TriggeredImages(
        images=read_pngs(folder, PICTURES, places, form),
        true_labels=torch.tensor([record.true for record in test.entries]),
        target_labels=torch.tensor([record.wanted for record in test.entries]),
        index=torch.tensor([record.index for record in test.entries]),
        source=str(folder / PICTURES),
        by_folder=True,
    )
