"""All public datasets: found in a folder, an archive or a mirror; decoded once; shared."""

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from tests.ulrl_tests.dataset_files import Sample
from tests.ulrl_tests.dataset_formats import tar_of, zip_of
from tests.ulrl_tests.dataset_server import serving
from ulrl.datasets import DATASETS, DatasetError
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


def test_from_the_official_address(
    sample: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(sample.archives) as site:
        parts = {
            role: replace(
                part,
                archive=replace(part.archive, url=f"{site.url}/{part.archive.file}"),
            )
            for role, part in sample.source.parts.items()
        }
        monkeypatch.setattr(f"{sample.module}.SOURCE", replace(sample.source, parts=parts))
        sample.check(sample.dataset(tmp_path).load())


def test_a_folder_comes_before_archives_and_both_before_the_web(
    sample: Sample, tmp_path: Path
) -> None:
    sample.unpack(tmp_path)
    for name in sample.archives:
        (tmp_path / name).write_bytes(b"damaged")
    with serving(sample.archives) as site:
        sample.check(sample.dataset(tmp_path, mirror=site.url).load())
    assert site.asked == []


def test_an_incomplete_folder_gives_way_to_the_archive(sample: Sample, tmp_path: Path) -> None:
    sample.unpack(tmp_path)
    sample.put(tmp_path)
    for name in sample.files:
        if name.endswith(("batch_4", "train", ".JPEG", "00001_00000.ppm")):
            (tmp_path / name).unlink()
            break
    sample.check(sample.dataset(tmp_path, download=False).load())


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


def test_a_mirror_on_disk_without_the_archive(sample: Sample, tmp_path: Path) -> None:
    (tmp_path / "mirror").mkdir()
    with pytest.raises(DatasetError, match=f"nor is {next(iter(sample.archives))} in"):
        sample.dataset(tmp_path, mirror=str(tmp_path / "mirror")).load()


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


@pytest.mark.parametrize("name", KNOWN)
def test_where_a_dataset_lies_is_not_what_it_is(name: str) -> None:
    dataset = DATASETS[name]()
    assert isinstance(dataset, PublicDataset)
    assert {part.name for part in fields(dataset)} == {"root", "download", "mirror"}
    assert all(part.metadata["runtime"] for part in fields(dataset))


def test_a_dataset_of_no_files_has_nothing_to_fetch() -> None:
    assert list(Digits().fetch()) == []


def test_the_types_are_those_of_the_stages(sample: Sample, tmp_path: Path) -> None:
    sample.put(tmp_path)
    images = sample.dataset(tmp_path).load()
    assert images.train_images.dtype == images.test_images.dtype == torch.uint8
    assert images.train_labels.dtype == images.test_labels.dtype == torch.int64
    assert images.train_images.is_contiguous()
