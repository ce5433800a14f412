"""What BackdoorBench records of each triggered image, checked entry by entry."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeGuard

from ulrl.interchange._facts import PoisonedCount
from ulrl.interchange._refusal import ImportRefused, shown
from ulrl.interchange._torchfile import PlainArray
from ulrl.poison import LabelRule

LARGEST = 10**9  # bound of the number of an image


@dataclass(frozen=True)
class Record:
    """One triggered image: its number in the dataset, the attacker's class and its own."""

    index: int
    wanted: int
    true: int


@dataclass(frozen=True, kw_only=True)
class Records:
    """The triggered images of the training or the test set, by number.

    Attributes:
        total: Images of the whole set.
    """

    entries: tuple[Record, ...]
    total: int


@dataclass(frozen=True)
class Reader:
    """A place in a file, whose values are taken only if they are what they should be."""

    content: Mapping[object, object]
    place: str

    def inner(self, key: str) -> "Reader":
        value = self.content.get(key)
        if not isinstance(value, Mapping):
            raise self.refusal(key, "a dict", value)
        return Reader(value, f"{self.place}: {key}")

    def whole(self, key: str, least: int = 0, most: int = LARGEST) -> int:
        value = self.content.get(key)
        if not _is_whole(value) or not least <= value <= most:
            raise self.refusal(key, f"a whole number from {least} to {most}", value)
        return value

    def word(self, key: str) -> str:
        value = self.content.get(key)
        if not isinstance(value, str) or not value.replace("_", "").isalnum():
            raise self.refusal(key, "a name of letters, digits and _", value)
        return value

    def numbers(self, key: str) -> list[int | float]:
        value = self.content.get(key)
        found = value.numbers if isinstance(value, PlainArray) else value
        if not isinstance(found, list) or not found:
            raise self.refusal(key, "an array of numbers", value)
        return found

    def refusal(self, key: str, rule: str, value: object) -> ImportRefused:
        got = type(value).__name__ if isinstance(value, (Mapping, PlainArray)) else shown(value)
        return ImportRefused(
            f"{self.place}: {key} is {rule}; got {got}; let BackdoorBench write the file again"
        )


def read_records(dataset: Reader, classes: int) -> Records:
    """Return the entries that BackdoorBench itself would serve as triggered images.

    Those are the images of ``original_index_array`` that ``poison_indicator`` marks.

    Raises:
        ImportRefused: The pictures were never saved, or an entry is not what it should be.
    """
    container = dataset.inner("bd_data_container")
    if container.content.get("save_folder_path") is None:
        raise ImportRefused(
            f"{container.place} kept its pictures in memory (save_folder_path is None), so they "
            f"are not in the folder; run the attack with a save folder"
        )
    if container.content.get("save_file_format") != ".png":
        found = container.content.get("save_file_format")
        raise container.refusal("save_file_format", "'.png'", found)
    marks = dataset.numbers("poison_indicator")
    numbers = dataset.numbers("original_index_array")
    if not all(_is_whole(number) and 0 <= number < len(marks) for number in numbers):
        raise dataset.refusal("original_index_array", f"numbers of {len(marks)} images", "others")
    if len(set(numbers)) < len(numbers):
        raise dataset.refusal("original_index_array", "each number once", "one of them twice")
    indices = sorted(int(number) for number in numbers if marks[int(number)] == 1)
    data = container.inner("data_dict")
    return Records(
        entries=tuple(_record(data, index, classes) for index in indices), total=len(marks)
    )


def rules_of(test: Records, classes: int) -> tuple[tuple[LabelRule, ...], int | None]:
    """Return the label rules that the recorded labels admit, and the target if there is one.

    ``all_to_one`` and ``clean_label`` look alike in a test set.
    """
    rules: list[LabelRule] = []
    target = None
    if len({record.wanted for record in test.entries}) == 1:
        rules += [LabelRule.ALL_TO_ONE, LabelRule.CLEAN_LABEL]
        target = test.entries[0].wanted
    if all(record.wanted == (record.true + 1) % classes for record in test.entries):
        rules.append(LabelRule.ALL_TO_ALL)
        target = target if len(rules) == 1 else None  # a single class: it may be either
    return tuple(rules), target


def poisoned_count(train: Records, target: int | None) -> tuple[PoisonedCount, bool]:
    """Return how many training images are poisoned, and whether their labels were left alone.

    WaNet and Input-aware also record images with noise in place of the trigger, whose
    labels were left alone whatever their class. Those are not poisoned; where there are
    any, images of the target class may be of either kind.
    """
    changed = sum(record.wanted != record.true for record in train.entries)
    of_target = sum(record.wanted == record.true == target for record in train.entries)
    count = len(train.entries)
    clean_label = count > 0 and of_target == count
    if clean_label or changed + of_target == count:
        return PoisonedCount(total=train.total, fewest=count, most=count), clean_label
    return PoisonedCount(total=train.total, fewest=changed, most=changed + of_target), False


def _record(data: Reader, index: int, classes: int) -> Record:
    entry = data.content.get(index)
    info = entry.get("other_info") if isinstance(entry, Mapping) else None
    match info:
        case [wanted, true] if _is_whole(wanted) and _is_whole(true):
            if 0 <= wanted < classes and 0 <= true < classes:
                return Record(index, wanted, true)
    raise data.refusal(
        f"{index}", f"a dict with other_info, two classes from 0 to {classes - 1}", info
    )


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
