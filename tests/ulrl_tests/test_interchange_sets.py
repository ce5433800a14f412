"""The test sets that are made of triggered images from outside."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.ulrl_tests.backdoorbench import result, write_run
from tests.ulrl_tests.dataset_files import tiny_imagenet
from tests.ulrl_tests.states import refusal
from ulrl.attacks import NOTHING_LEARNED, LabelRule, stamp_bytes
from ulrl.attacks.badnets import BadNets
from ulrl.datasets import ImageSet
from ulrl.interchange import (
    TriggeredImages,
    imported_test_sets,
    read_backdoorbench,
)
from ulrl.poison import Poison
from ulrl.poisoning import MONITOR_COUNT, TestHalf, make_test_sets, split_halves
from ulrl.randomness import generator

FIELDS = ("clean", "clean_labels", "triggered", "true_labels", "target_labels")


def stamped(poison: Poison, pictures: ImageSet) -> TriggeredImages:
    """All test images with the trigger, as a stranger would have saved them, in any order."""
    count = len(pictures.test_labels)
    order = torch.randperm(count, generator=generator(1, "order"))
    trigger = poison.attack.trigger(0, NOTHING_LEARNED)
    stamps = stamp_bytes(trigger, pictures.test_images, generator(0, "test triggers"))
    labels = pictures.test_labels
    return TriggeredImages(
        images=stamps[order],
        true_labels=labels[order],
        target_labels=poison.target_labels(labels, pictures.classes)[order],
        index=order,
        source="theirs",
    )


def some(triggered: TriggeredImages, positions: torch.Tensor) -> TriggeredImages:
    wanted, index = triggered.target_labels, triggered.index
    return TriggeredImages(
        images=triggered.images[positions],
        true_labels=triggered.true_labels[positions],
        target_labels=None if wanted is None else wanted[positions],
        index=None if index is None else index[positions],
        source=triggered.source,
    )


def parts_equal(one: TestHalf, other: TestHalf) -> bool:
    return all(torch.equal(getattr(one, field), getattr(other, field)) for field in FIELDS)


@pytest.fixture
def theirs(badnets: Poison, pictures: ImageSet) -> TriggeredImages:
    return stamped(badnets, pictures)


@pytest.mark.parametrize("rule", [LabelRule.ALL_TO_ONE, LabelRule.ALL_TO_ALL])
def test_the_same_images_give_the_same_sets_as_our_own_attack(
    badnets: Poison, pictures: ImageSet, rule: LabelRule
) -> None:
    poison = replace(badnets, labels=rule)
    ours = make_test_sets(poison, pictures, seed=0)
    for wanted in (True, False):
        theirs = stamped(poison, pictures)
        if not wanted:
            theirs = replace(theirs, target_labels=None)
        sets = imported_test_sets(poison, pictures, theirs)
        for name in ("selection", "report", "monitor"):
            assert parts_equal(getattr(sets, name), getattr(ours, name))


def test_a_few_images_stay_in_the_half_of_their_test_image(
    badnets: Poison, pictures: ImageSet, theirs: TriggeredImages
) -> None:
    few = some(theirs, torch.arange(0, 150, 7))
    assert few.index is not None
    sets = imported_test_sets(badnets, pictures, few)
    halves = [set(half.tolist()) for half in split_halves(pictures.test_labels)]
    for part, half in zip((sets.selection, sets.report), halves, strict=True):
        expected = {
            few.images[i].numpy().tobytes()
            for i, index in enumerate(few.index.tolist())
            if index in half and int(few.true_labels[i]) != badnets.target_label
        }
        assert {image.numpy().tobytes() for image in part.triggered} == expected
        assert len(part.clean) == 75
    assert len(sets.selection.triggered) + len(sets.report.triggered) == int(
        (few.true_labels != badnets.target_label).sum()
    )


def test_the_monitor_has_its_own_images(badnets: Poison, pictures: ImageSet) -> None:
    many = replace(
        pictures,
        test_images=pictures.test_images.repeat(6, 1, 1, 1),
        test_labels=pictures.test_labels.repeat(6),
    )
    sets = imported_test_sets(badnets, many, stamped(badnets, many))
    assert parts_equal(sets.monitor, make_test_sets(badnets, many, seed=0).monitor)
    assert len(sets.monitor.clean) == MONITOR_COUNT

    later = split_halves(many.test_labels)
    all_theirs = stamped(badnets, many)
    assert all_theirs.index is not None
    beyond = torch.cat([later[0][MONITOR_COUNT:], later[1]])
    without = some(all_theirs, torch.isin(all_theirs.index, beyond).nonzero().flatten())
    sets = imported_test_sets(badnets, many, without)
    assert len(sets.monitor.triggered) > 0
    assert torch.equal(sets.monitor.triggered, sets.selection.triggered[:MONITOR_COUNT])


def test_without_numbers_images_are_halved_class_by_class(
    badnets: Poison, pictures: ImageSet, theirs: TriggeredImages
) -> None:
    unnumbered = replace(theirs, index=None)
    sets = imported_test_sets(badnets, pictures, unnumbered)
    counts = [
        part.true_labels.bincount(minlength=10).tolist() for part in (sets.selection, sets.report)
    ]
    assert [a + b for a, b in zip(*counts, strict=True)] == [15, 0, *[15] * 8]
    assert all(abs(a - b) <= 1 for a, b in zip(*counts, strict=True))
    both = torch.cat([sets.selection.triggered, sets.report.triggered])
    expected = unnumbered.images[unnumbered.true_labels != badnets.target_label]
    assert sorted(i.numpy().tobytes() for i in both) == sorted(
        i.numpy().tobytes() for i in expected
    )
    again = imported_test_sets(badnets, pictures, unnumbered)
    assert parts_equal(sets.report, again.report)
    assert torch.equal(sets.monitor.triggered, sets.selection.triggered[:MONITOR_COUNT])
    ours = make_test_sets(badnets, pictures, seed=0)
    assert torch.equal(sets.report.clean, ours.report.clean)


def by_folder(images: ImageSet) -> torch.Tensor:
    """Return the order of ImageFolder: by class, then by name as text."""
    names = [(int(label), f"val_{n}.JPEG", n) for n, label in enumerate(images.test_labels)]
    return torch.tensor([number for _, _, number in sorted(names)])


@pytest.mark.parametrize("benchmark", [True, False])
def test_numbers_in_the_order_of_image_folder(
    *, badnets: Poison, pictures: ImageSet, benchmark: bool
) -> None:
    """Each triggered image finds the test image it was made from, however they are numbered."""
    mixed = torch.randperm(len(pictures.test_labels), generator=generator(1, "published"))
    images = replace(
        pictures,
        test_images=pictures.test_images[mixed],
        test_labels=pictures.test_labels[mixed],
    )
    order = by_folder(images)
    theirs = stamped(badnets, images)
    assert theirs.index is not None
    place_of = torch.empty_like(order)
    place_of[order] = torch.arange(len(order))
    numbered = replace(theirs, index=place_of[theirs.index], by_folder=benchmark)
    tiny = replace(images, folder_order=order)
    ours = make_test_sets(badnets, images, seed=0)
    for given in (numbered, replace(theirs, by_folder=benchmark)):
        sets = imported_test_sets(badnets, tiny, given)
        for name in ("selection", "report", "monitor"):
            assert parts_equal(getattr(sets, name), getattr(ours, name))
    message = refusal(lambda: imported_test_sets(badnets, images, numbered))
    assert "and in the dataset it is of class" in message


def test_a_run_of_backdoorbench_on_tiny_imagenet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Test images are numbered as ImageFolder lists them; each finds its own clean image."""
    sample = tiny_imagenet()
    monkeypatch.setattr(f"{sample.module}.SOURCE", sample.source)
    sample.put(tmp_path / "data")
    images = sample.dataset(tmp_path / "data", download=False).load()
    labels = images.test_labels.tolist()
    listed = sorted((label, f"val_{n}.JPEG", n) for n, label in enumerate(labels))
    entries = [(i, 0, label) for i, (label, _, _) in enumerate(listed) if label]
    inverted = {(true, i): 255 - images.test_images[listed[i][2]] for i, _, true in entries}
    content = result({"w": torch.ones(1)}, entries, 12, num_classes=3, img_size=(64, 64, 3))
    run = read_backdoorbench(
        write_run(tmp_path / "run", content | {"clean_data": "tiny"}, inverted)
    )
    assert run.facts.dataset == "tiny_imagenet"
    poison = Poison(attack=BadNets(), labels=LabelRule.ALL_TO_ONE)
    sets = imported_test_sets(poison, images, run.triggered)
    for half in (sets.selection, sets.report):
        counted = half.clean_labels != 0
        assert torch.equal(255 - half.triggered, half.clean[counted])
        assert torch.equal(half.true_labels, half.clean_labels[counted])


def test_the_likelier_order_counts_where_the_labels_agree_with_both(
    badnets: Poison, pictures: ImageSet, theirs: TriggeredImages
) -> None:
    """The labels of these test images are sorted, so both orders agree with all of them."""
    order = by_folder(pictures)
    tiny = replace(pictures, folder_order=order)
    _, report = split_halves(pictures.test_labels)
    images = {}
    for folder in (False, True):
        sets = imported_test_sets(badnets, tiny, replace(theirs, by_folder=folder))
        numbers = [n for n in report.tolist() if pictures.test_labels[n] != badnets.target_label]
        place_of = {int(n): place for place, n in enumerate(order)}
        wanted = [place_of[n] if folder else n for n in numbers]
        assert theirs.index is not None
        position_of = {int(n): place for place, n in enumerate(theirs.index)}
        images[folder] = theirs.images[[position_of[n] for n in wanted]]
        assert torch.equal(sets.report.triggered, images[folder])
    assert not torch.equal(images[False], images[True])


WRONG: dict[str, tuple[Callable[[TriggeredImages], TriggeredImages], str]] = {
    "another label": (
        lambda t: replace(t, true_labels=(t.true_labels + (t.index == 4)) % 10, target_labels=None),
        (
            "theirs has test image 4 with class 1, and in the dataset it is of class 0 (1 of 150 "
            "differ); name the dataset that they were made from, or write the images to a "
            "triggered.npz without index, beside the state dict as model.pt"
        ),
    ),
    "a test image too many": (
        lambda t: replace(t, index=t.index + 1),  # type: ignore[operator, arg-type]
        "theirs has test image 150, and the dataset's are 0 to 149; ",
    ),
    "a class too many": (
        lambda t: replace(t, true_labels=t.true_labels + 1, target_labels=None),
        "theirs has an image of class 10, and the dataset's classes are 0 ",
    ),
    "another size": (
        lambda t: replace(t, images=t.images[:, :, :8, :8]),
        "theirs has images of 8×8×3, and the dataset of 16×16×3; name the dataset that they",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_images_of_another_dataset(
    badnets: Poison, pictures: ImageSet, theirs: TriggeredImages, case: str
) -> None:
    change, message = WRONG[case]
    said = refusal(lambda: imported_test_sets(badnets, pictures, change(theirs)))
    assert said.startswith(message)


def test_another_target(badnets: Poison, pictures: ImageSet, theirs: TriggeredImages) -> None:
    other = replace(badnets, target_label=2)
    message = refusal(lambda: imported_test_sets(other, pictures, theirs))
    assert message.startswith("theirs wants class 1 for an image of class ")
    assert "(all_to_one, target_label 2) wants 2" in message


@pytest.mark.parametrize("numbered", [True, False])
def test_a_half_without_images(
    *, badnets: Poison, pictures: ImageSet, theirs: TriggeredImages, numbered: bool
) -> None:
    selection, _ = split_halves(pictures.test_labels)
    target = theirs.true_labels == badnets.target_label
    assert theirs.index is not None
    first = (~target & torch.isin(theirs.index, selection)).nonzero().flatten()[:1]
    alone = some(theirs, torch.cat([first, target.nonzero().flatten()]))
    if not numbered:
        alone = replace(alone, index=None)
    message = refusal(lambda: imported_test_sets(badnets, pictures, alone))
    assert message.startswith("theirs has no triggered image for the report half of the test set ")
