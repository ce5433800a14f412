"""CIFAR-10 from a folder in the real on-disk format, and without one."""

import hashlib
import pickle
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10  # type: ignore[import-untyped]

from ulrl.datasets import DatasetError
from ulrl.datasets.cifar10 import Cifar10

BATCH = 20
Pin = Callable[[Path], None]


def write_folder(root: Path) -> tuple[np.ndarray, list[int]]:
    """Write six batches of pickled dictionaries; return the training pixels and labels."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    source = np.random.default_rng(0)
    pixels, labels = [], []
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        rows = source.integers(0, 256, (BATCH, 3072), dtype=np.uint8)
        classes = [int(label) for label in source.integers(0, 10, BATCH)]
        entry = {"batch_label": name, "labels": classes, "data": rows, "filenames": []}
        (folder / name).write_bytes(pickle.dumps(entry, protocol=2))
        pixels.append(rows)
        labels.append(classes)
    meta = {"label_names": list("abcdefghij"), "num_cases_per_batch": BATCH, "num_vis": 3072}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol=2))
    return np.concatenate(pixels[:5]), [label for batch in labels[:5] for label in batch]


@pytest.fixture
def pin(monkeypatch: pytest.MonkeyPatch) -> Pin:
    """Make torchvision take the checksums of a written folder for the true ones."""

    def digest(path: Path) -> str:
        return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()

    def accept(root: Path) -> None:
        folder = root / CIFAR10.base_folder
        train = [[name, digest(folder / name)] for name, _ in CIFAR10.train_list]
        test = [[name, digest(folder / name)] for name, _ in CIFAR10.test_list]
        meta = CIFAR10.meta | {"md5": digest(folder / "batches.meta")}
        monkeypatch.setattr(CIFAR10, "train_list", train)
        monkeypatch.setattr(CIFAR10, "test_list", test)
        monkeypatch.setattr(CIFAR10, "meta", meta)

    return accept


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise URLError("Network is unreachable")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", refuse)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("download", [True, False])
def test_reads_a_local_folder_without_the_network(
    tmp_path: Path, pin: Pin, *, download: bool
) -> None:
    pixels, labels = write_folder(tmp_path)
    pin(tmp_path)
    images = Cifar10(root=str(tmp_path), download=download).load()
    assert images.train_images.shape == (5 * BATCH, 3, 32, 32)
    assert images.test_images.shape == (BATCH, 3, 32, 32)
    assert images.train_images.dtype == torch.uint8
    assert images.train_labels.dtype == images.test_labels.dtype == torch.int64
    assert images.classes == 10
    # A row of the file is 1024 red, 1024 green and 1024 blue pixels, row by row.
    assert (images.train_images.flatten(1).numpy() == pixels).all()
    assert images.train_labels.tolist() == labels


def test_absent_and_not_to_be_downloaded(tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as error:
        Cifar10(root=str(tmp_path), download=False).load()
    assert str(error.value) == (
        f"cifar10 is not in {tmp_path} and could not be fetched (Dataset not found or "
        f"corrupted. You can use download=True to download it); put cifar-10-python.tar.gz "
        f"there, or name a folder that has it with root:"
    )


@pytest.mark.usefixtures("no_network")
def test_absent_without_a_network(tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as error:
        Cifar10(root=str(tmp_path)).load()
    assert str(error.value) == (
        f"cifar10 is not in {tmp_path} and could not be fetched (<urlopen error Network is "
        f"unreachable>); put cifar-10-python.tar.gz there, or name a folder that has it with "
        f"root:"
    )


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.trace,)  # type: ignore[return-value]


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
def test_a_file_of_another_checksum_is_not_unpickled(tmp_path: Path, pin: Pin, name: str) -> None:
    write_folder(tmp_path)
    pin(tmp_path)
    trace = tmp_path / "exploded"
    (tmp_path / CIFAR10.base_folder / name).write_bytes(pickle.dumps(Bomb(trace)))
    with pytest.raises(DatasetError):
        Cifar10(root=str(tmp_path), download=False).load()
    assert not trace.exists()


def test_what_is_known_without_a_file() -> None:
    dataset = Cifar10(root="/nowhere")
    facts = dataset.facts()
    assert facts.train_counts == (5000,) * 10
    assert (facts.test_count, facts.side, facts.channels) == (10_000, 32, 3)
    assert dataset.label == "cifar10"
    assert dataset.identity() == {}
    treatment = dataset.treatment
    assert treatment.mean == (0.4914, 0.4822, 0.4465)
    assert treatment.std == (0.247, 0.243, 0.261)
    assert (treatment.padding, treatment.flip) == (4, True)


def test_two_workers_never_fetch_at_once(
    tmp_path: Path, pin: Pin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has its own handle of the lock, as two processes would."""
    write_folder(tmp_path)
    pin(tmp_path)
    inside, most = 0, 0

    def fetch(_: CIFAR10) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.05)
        inside -= 1

    monkeypatch.setattr(CIFAR10, "download", fetch)
    with ThreadPoolExecutor(3) as workers:
        loaded = list(workers.map(lambda _: Cifar10(root=str(tmp_path)).load(), range(3)))
    assert most == 1
    assert all(len(images.train_labels) == 5 * BATCH for images in loaded)
