"""The test sets of a scenario whose triggered images come from outside."""

import torch
from jaxtyping import Int64
from torch import Tensor

from ulrl.datasets import ImageSet
from ulrl.interchange._facts import target_labels
from ulrl.interchange._refusal import ImportRefused
from ulrl.interchange._triggered import TriggeredImages
from ulrl.poison import Poison
from ulrl.poisoning import MONITOR_COUNT, TestHalf, TestSets, split_halves

Indices = Int64[Tensor, "_"]  # of any number


def imported_test_sets(poison: Poison, images: ImageSet, triggered: TriggeredImages) -> TestSets:
    """Return the test sets that `make_test_sets` would, with imported triggered images.

    A triggered image goes to the half that holds the test image it was made from. Its number
    counts in the dataset's order or, for a dataset that programs also read in the order of
    ``ImageFolder`` (Tiny-ImageNet), in that one: the labels have to agree. Where
    the file does not say which that is, triggered images are halved class by class on
    their own: a half may then hold the triggered form of a clean image of the other. The
    monitor has the triggered forms of its own clean images; where there are none, or the
    file does not tell, the first of the selection half. As everywhere, images that are of
    the wanted class already do not count.

    Raises:
        ImportRefused: Size, classes or test images differ from the dataset's, or one half
            would have no triggered image.
    """
    _check_form(images, triggered)
    wanted = target_labels(poison, triggered, images.classes)
    counted = poison.asr_mask(triggered.true_labels, images.classes).nonzero().flatten()
    clean = _clean_parts(images)
    if triggered.index is None:
        chosen = [counted[half] for half in split_halves(triggered.true_labels[counted])]
        chosen.append(chosen[0][:MONITOR_COUNT])
    else:
        index = _own_numbers(images, triggered, triggered.index)
        chosen = _chosen_by_index(clean, index[counted], counted, images)
    for name, positions in zip(("selection", "report"), chosen, strict=False):
        if len(positions) == 0:
            raise ImportRefused(
                f"{triggered.source} has no triggered image for the {name} half of the test set "
                f"that is not of the wanted class; add images, of all classes if possible"
            )
    selection, report, monitor = (
        TestHalf(
            clean=images.test_images[index],
            clean_labels=images.test_labels[index],
            triggered=triggered.images[positions],
            true_labels=triggered.true_labels[positions],
            target_labels=wanted[positions],
        )
        for index, positions in zip(clean, chosen, strict=True)
    )
    return TestSets(selection=selection, report=report, monitor=monitor)


def _clean_parts(images: ImageSet) -> list[Indices]:
    selection, report = split_halves(images.test_labels)
    return [selection, report, selection[:MONITOR_COUNT]]


def _chosen_by_index(
    clean: list[Indices], index: Indices, positions: Indices, images: ImageSet
) -> list[Indices]:
    """Return the positions of triggered images in the order of the clean ones of each part."""
    position_of = torch.full((len(images.test_labels),), -1)
    position_of[index] = positions
    chosen = [position_of[part][position_of[part] >= 0] for part in clean]
    if len(chosen[2]) == 0:
        chosen[2] = chosen[0][:MONITOR_COUNT]
    return chosen


def _check_form(images: ImageSet, triggered: TriggeredImages) -> None:
    found, needed = triggered.images.shape[1:], images.test_images.shape[1:]
    if found != needed:
        raise ImportRefused(
            f"{triggered.source} has images of {_form(found)}, and the dataset of "
            f"{_form(needed)}; name the dataset that they were made from"
        )


def _form(shape: torch.Size) -> str:
    channels, height, width = shape
    return f"{height}×{width}×{channels}"


def _own_numbers(images: ImageSet, triggered: TriggeredImages, index: Indices) -> Indices:
    """Return the numbers of test images in the dataset's order.

    Raises:
        ImportRefused: In no order of the dataset do the labels agree with its own.
    """
    count = len(images.test_labels)
    way_out = (
        "name the dataset that they were made from, or write the images to a triggered.npz "
        "without index, beside the state dict as model.pt"
    )
    if int(index.max()) >= count:
        raise ImportRefused(
            f"{triggered.source} has test image {int(index.max())}, and the dataset's are 0 to "
            f"{count - 1}; {way_out}"
        )
    orders = [index] if images.folder_order is None else [index, images.folder_order[index]]
    orders = orders[::-1] if triggered.by_folder else orders
    for numbers in orders:
        if torch.equal(images.test_labels[numbers], triggered.true_labels):
            return numbers
    expected = images.test_labels[orders[0]]
    differs = (expected != triggered.true_labels).nonzero().flatten().tolist()
    first = differs[0]
    raise ImportRefused(
        f"{triggered.source} has test image {int(index[first])} with class "
        f"{int(triggered.true_labels[first])}, and in the dataset it is of class "
        f"{int(expected[first])} ({len(differs)} of {len(index)} differ); {way_out}"
    )
