"""Triggered images from outside: files of arrays, and folders of pictures."""

import io
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.ulrl_tests.backdoorbench import Bomb, result, write_pngs, write_run
from tests.ulrl_tests.dataset_files import tiny_imagenet
from tests.ulrl_tests.states import refusal
from ulrl.attacks import NOTHING_LEARNED, LabelRule, stamp_bytes
from ulrl.attacks.badnets import BadNets
from ulrl.datasets import ImageSet
from ulrl.interchange import TriggeredImages, imported_test_sets, read_backdoorbench, read_triggered
from ulrl.poison import Poison
from ulrl.poisoning import MONITOR_COUNT, TestHalf, make_test_sets, split_halves
from ulrl.randomness import generator


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a sound file of five 8-px images, some arrays changed; None leaves one out."""

    def save(**changes: npt.NDArray[Any] | None) -> Path:
        source = np.random.default_rng(0)
        arrays: dict[str, Any] = {
            "images": source.integers(0, 256, (5, 8, 8, 3), dtype=np.uint8),
            "labels": np.array([0, 1, 2, 0, 1]),
        }
        arrays |= changes
        path = tmp_path / "triggered.npz"
        kept = {name: array for name, array in arrays.items() if array is not None}
        np.savez_compressed(path, allow_pickle=True, **kept)
        return path

    return save


# Files.


def test_a_file_of_arrays(write: Callable[..., Path]) -> None:
    path = write(wanted=np.full(5, 3, np.uint8), index=np.array([7, 5, 0, 1, 2], np.int32))
    triggered = read_triggered(path)
    with np.load(path) as arrays:
        expected = arrays["images"].transpose(0, 3, 1, 2)
    assert np.array_equal(triggered.images.numpy(), expected)
    assert triggered.true_labels.tolist() == [0, 1, 2, 0, 1]
    assert triggered.target_labels is not None
    assert triggered.target_labels.tolist() == [3] * 5
    assert triggered.index is not None
    assert triggered.index.tolist() == [7, 5, 0, 1, 2]
    assert triggered.index.dtype == triggered.true_labels.dtype == torch.int64


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"images": None}, " lacks images, uint8 [N, H, W, C]; add them"),
        ({"labels": None}, " lacks labels, the true class of each image; add them"),
        ({"images": np.zeros((5, 3, 8, 8), np.uint8)}, ": images is uint8 [N, H, W, C] with N "),
        ({"labels": np.zeros(4, int)}, ": labels is one integer for each of 5 images; got int64 "),
        ({"labels": np.array([0, 1, 2, 0, -1])}, ": labels counts from 0; got -1 to 2"),
        ({"wanted": np.array([0, 1, 2, 0, 2**40])}, ": wanted counts from 0; got 0 to 10995"),
        ({"index": np.array([1, 2, 3, 4, 1])}, ": index names a test image once; got one of them"),
    ],
)
def test_arrays_that_are_not_what_they_should_be(
    write: Callable[..., Path], changes: dict[str, npt.NDArray[Any] | None], reason: str
) -> None:
    path = write(**changes)
    assert refusal(lambda: read_triggered(path)).startswith(f"{path}{reason}")


def test_pickled_arrays_are_refused_and_not_executed(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    trace = tmp_path / "exploded"
    path = write(labels=np.array([Bomb(trace), *[None] * 4]))
    message = refusal(lambda: read_triggered(path))
    assert message.startswith(f"{path} cannot be read as an .npz of plain arrays (Object arrays")
    assert not trace.exists()
    with np.load(path, allow_pickle=True) as arrays:
        assert len(arrays["labels"]) == 5
    assert trace.exists(), "the bomb was none"


def test_damaged_files(write: Callable[..., Path]) -> None:
    path = write()
    whole = path.read_bytes()
    for damaged in (b"", whole[:-30], whole[:100], b"no archive"):
        path.write_bytes(damaged)
        refusal(lambda: read_triggered(path))
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    path.write_bytes(buffer.getvalue())
    assert "is a single array" in refusal(lambda: read_triggered(path))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", b"no array")
    refusal(lambda: read_triggered(path))


# Folders.


def test_a_folder_of_pictures(tmp_path: Path, pictures: ImageSet) -> None:
    chosen = {(3, 10): 0, (1, 9): 1, (3, 2): 2}
    write_pngs(tmp_path, {place: pictures.test_images[i] for place, i in chosen.items()})
    (tmp_path / ".DS_Store").touch()
    triggered = read_triggered(tmp_path)
    assert triggered.index is not None
    assert triggered.index.tolist() == [2, 9, 10]
    assert triggered.true_labels.tolist() == [3, 1, 3]
    assert torch.equal(triggered.images, pictures.test_images[[2, 1, 0]])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("1/notes.txt", "is no PNG file"),
        ("1/-1.png", "has '-1.png', whose name is no number"),
        ("9999999999/1.png", "has '9999999999', whose name is no number"),
        ("2/3.png", "3.png is there under another label too"),
    ],
)
def test_folders_with_anything_else(
    tmp_path: Path, pictures: ImageSet, name: str, reason: str
) -> None:
    write_pngs(tmp_path, {(1, 3): pictures.test_images[0]})
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    assert reason in refusal(lambda: read_triggered(tmp_path))


# The test sets that are made of triggered images from outside.


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
        pictures, test_images=pictures.test_images[mixed], test_labels=pictures.test_labels[mixed]
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
