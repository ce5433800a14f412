"""All public datasets: found in a folder, an archive or a mirror; decoded once; shared."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from tests.ulrl_tests.dataset_files import Sample
from tests.ulrl_tests.dataset_formats import tar_of, zip_of
from tests.ulrl_tests.dataset_server import serving
from ulrl.datasets import DATASETS, DatasetError, ImageSet
from ulrl.datasets._public import PublicDataset
from ulrl.datasets.digits import Digits


def snapshot(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


# Where the data may lie.


def test_from_a_folder(sample: Sample, tmp_path: Path) -> None:
    sample.unpack(tmp_path)
    sample.check(sample.dataset(tmp_path, download=False).load())


def test_from_archives(sample: Sample, tmp_path: Path) -> None:
    sample.put(tmp_path)
    sample.check(sample.dataset(tmp_path, download=False).load())
    assert {path.name for path in tmp_path.iterdir()} == {*sample.archives, "decoded"}


def test_from_a_mirror_on_disk_which_is_left_alone(sample: Sample, tmp_path: Path) -> None:
    mirror, root = tmp_path / "mirror", tmp_path / "root"
    sample.put(mirror)
    before = snapshot(mirror)
    sample.check(sample.dataset(root, download=False, mirror=str(mirror)).load())
    assert snapshot(mirror) == before
    assert [path.name for path in root.iterdir()] == ["decoded"]


def test_from_a_mirror_on_the_web(sample: Sample, tmp_path: Path) -> None:
    with serving(sample.archives) as site:
        dataset = sample.dataset(tmp_path / "new/root", mirror=site.url + "/")
        sample.check(dataset.load())
        sample.check(dataset.load())
    assert site.asked == [(name, None) for name in sample.archives]
    assert {name: (tmp_path / "new/root" / name).read_bytes() for name in sample.archives} == (
        sample.archives
    )


def test_a_folder_comes_before_archives_and_both_before_the_web(
    sample: Sample, tmp_path: Path
) -> None:
    sample.unpack(tmp_path)
    for name in sample.archives:
        (tmp_path / name).write_bytes(b"damaged")
    with serving(sample.archives) as site:
        sample.check(sample.dataset(tmp_path, mirror=site.url).load())
    assert site.asked == []


def test_a_damaged_archive_is_replaced_by_a_download(sample: Sample, tmp_path: Path) -> None:
    first = next(iter(sample.archives))
    (tmp_path / first).write_bytes(sample.archives[first][:-5])
    with serving(sample.archives) as site:
        sample.check(sample.dataset(tmp_path, mirror=site.url).load())


def test_a_damaged_archive_that_may_not_be_replaced(sample: Sample, tmp_path: Path) -> None:
    sample.put(tmp_path)
    first = next(iter(sample.archives))
    (tmp_path / first).write_bytes(b"damaged")
    with pytest.raises(DatasetError) as error:
        sample.dataset(tmp_path, download=False).load()
    right = sample.source.parts[next(iter(sample.source.parts))].archive.md5
    assert str(error.value) == (
        f"{sample.name} is not in {tmp_path} and could not be fetched ({tmp_path}/{first} has "
        f"MD5 46cc0df55d22d6eb6c37cabbc09f5193, not {right}: it is damaged, or another file; "
        f"download is false); put {first} there, or name a folder that has it with root:"
    )
    assert (tmp_path / first).read_bytes() == b"damaged"


def test_paths_that_leave_an_archive_lead_nowhere(sample: Sample, tmp_path: Path) -> None:
    root = tmp_path / "deep/root"
    packs: dict[str, Callable[[dict[str, bytes]], bytes]] = {".zip": zip_of, ".gz": tar_of}
    inside = next(iter(sample.source.parts.values())).inside
    hostile = {
        "../../escaped": b"x",
        f"{inside}../../../escaped": b"x",
        str(tmp_path / "escaped"): b"x",
    }
    first = next(iter(sample.archives))
    kept = {name: sample.files[name] for name in sample.files if name.startswith(inside)}
    archives = {**sample.archives, first: packs[Path(first).suffix](hostile | kept)}
    with pytest.MonkeyPatch.context() as patch:
        bad = sample.with_archives(archives)
        patch.setattr(f"{sample.module}.SOURCE", bad.source)
        bad.put(root)
        sample.check(bad.dataset(root, download=False).load())
    assert list(tmp_path.rglob("*escaped*")) == []
    assert {path.name for path in tmp_path.iterdir()} == {"deep"}


# What is known without a file.

# Means and deviations, mirrored or not, side, training and test images, as published.
KNOWN = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261), True, 32, 10, 50_000, 10_000),
    "cifar100": (
        (0.5071, 0.4865, 0.4409),
        (0.2673, 0.2564, 0.2762),
        False,
        32,
        100,
        50_000,
        10_000,
    ),
    "gtsrb": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), False, 32, 43, 39_209, 12_630),
    "tiny_imagenet": (
        (0.4802, 0.4481, 0.3975),
        (0.2302, 0.2265, 0.2262),
        False,
        64,
        200,
        100_000,
        10_000,
    ),
}


@pytest.mark.parametrize("name", KNOWN)
def test_what_is_known_without_a_file(name: str) -> None:
    dataset = DATASETS[name](root="/nowhere")  # type: ignore[call-arg]
    assert isinstance(dataset, PublicDataset)
    mean, std, flip, side, classes, train, test = KNOWN[name]
    preprocessing, info = dataset.preprocessing, dataset.info()
    assert (preprocessing.mean, preprocessing.std) == (mean, std)
    assert (preprocessing.flip, preprocessing.padding) == (flip, 4)
    assert (info.side, info.channels, info.classes) == (side, 3, classes)
    assert (info.train_count, info.test_count) == (train, test)
    assert dataset.label == name
    assert dataset.identity() == ({} if name.startswith("cifar") else {"decoded": 1})


# scikit-learn's digits against scikit-learn's own arrays.


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return Digits().load()


def test_counts_are_as_announced(images: ImageSet) -> None:
    info = Digits().info()
    assert tuple(images.train_labels.bincount().tolist()) == info.train_counts
    assert (len(images.train_images), len(images.test_images)) == (info.train_count, 500)
    assert info.train_count == 1297
    assert info.test_count == 500
    assert info.classes == images.classes == 10
    assert set(images.test_labels.tolist()) == set(range(10))


@pytest.mark.parametrize("size", [8, 32])
def test_shapes_and_types(size: int) -> None:
    images = Digits(size=size).load()
    assert Digits(size=size).info().side == size
    for pixels, labels in (
        (images.train_images, images.train_labels),
        (images.test_images, images.test_labels),
    ):
        assert pixels.dtype == torch.uint8
        assert labels.dtype == torch.int64
        assert pixels.shape == (len(labels), 3, size, size)
        assert pixels.is_contiguous()
        assert torch.equal(pixels[:, 0], pixels[:, 1])
        assert torch.equal(pixels[:, 0], pixels[:, 2])
    assert int(images.train_images.max()) == 255


def test_every_digit_is_used_once_and_with_its_label() -> None:
    """At 8 pixels nothing is enlarged, so the grey levels are scikit-learn's."""
    images = Digits(size=8).load()
    pixels = torch.cat([images.train_images, images.test_images])[:, 0].double()
    levels = (pixels * 16 / 255).round().to(torch.uint8)
    labels = torch.cat([images.train_labels, images.test_labels])
    ours = Counter(
        (int(label), level.numpy().tobytes()) for label, level in zip(labels, levels, strict=True)
    )
    data, targets = load_digits(return_X_y=True)
    theirs = Counter(
        (int(label), row.astype(np.uint8).tobytes())
        for label, row in zip(targets, data, strict=True)
    )
    assert ours.total() == 1797
    assert ours == theirs


def test_enlarged_bilinearly() -> None:
    """Output pixel i of 16 lies at (i + 1/2) / 2 - 1/2 among the 8, clamped at the edge."""
    small = Digits(size=8).load().train_images[:5, 0].double()
    large = Digits(size=16).load().train_images[:5, 0].double()
    weights = torch.zeros(16, 8, dtype=torch.float64)
    for i in range(16):
        place = min(max((i + 0.5) / 2 - 0.5, 0), 7)
        below = min(int(place), 6)
        weights[i, below] = below + 1 - place
        weights[i, below + 1] = place - below
    expected = weights @ small @ weights.T
    # Both are rounded to whole levels, the small one before it is enlarged here.
    assert float((large - expected).abs().max()) <= 1.01
