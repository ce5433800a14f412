"""CIFAR's pickled batches: what is read of them, and that nothing in them is executed."""

import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.ulrl_tests.dataset_files import Sample, cifar10
from tests.ulrl_tests.dataset_formats import md5, python2_pickle
from ulrl.datasets import DatasetError
from ulrl.datasets._cifar import CifarSource
from ulrl.datasets.cifar10 import SOURCE

FOLDER = "cifar-10-batches-py"


@pytest.fixture
def sample(published: Callable[[Sample], Sample]) -> Sample:
    return published(cifar10())


def load_with(
    sample: Sample, root: Path, name: str, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Load a folder of which one file is another, that file's checksum taken for the true one."""
    sample.unpack(root)
    (root / FOLDER / name).write_bytes(content)
    source = sample.source
    assert isinstance(source, CifarSource)
    batches = [
        replace(batch, md5=md5(content)) if batch.file == name else batch
        for batch in source.batches
    ]
    monkeypatch.setattr(f"{sample.module}.SOURCE", replace(source, batches=tuple(batches)))
    sample.dataset(root, download=False).load()


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.trace}",)


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch"])
def test_a_file_of_another_checksum_is_not_unpickled(
    sample: Sample, tmp_path: Path, name: str
) -> None:
    sample.unpack(tmp_path)
    trace = tmp_path / "exploded"
    content = pickle.dumps(Bomb(trace))
    (tmp_path / FOLDER / name).write_bytes(content)
    with pytest.raises(DatasetError) as error:
        sample.dataset(tmp_path, download=False).load()
    right = md5(sample.files[f"{FOLDER}/{name}"])
    assert str(error.value) == (
        f"cifar10 is not in {tmp_path} and could not be fetched ({name} of {tmp_path}/{FOLDER} "
        f"has MD5 {md5(content)}, not {right}: it is damaged, or another file; download is "
        f"false); put cifar-10-python.tar.gz there, or name a folder that has it with root:"
    )
    assert not trace.exists()


def test_even_a_file_of_the_right_checksum_executes_nothing(
    sample: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = tmp_path / "exploded"
    content = pickle.dumps(Bomb(trace))
    with pytest.raises(DatasetError, match="is not admitted"):
        load_with(sample, tmp_path, "data_batch_3", content, monkeypatch)
    assert not trace.exists()


ROWS = np.zeros((20, 3072), np.uint8)


@pytest.mark.parametrize(
    "entry",
    [
        ["no mapping"],
        {"labels": [0] * 20},
        {"data": ROWS[:19], "labels": [0] * 20},
        {"data": ROWS, "labels": [0] * 19},
        {"data": ROWS, "labels": ["zero"] * 20},
    ],
    ids=["no mapping", "no data", "short", "few labels", "words"],
)
def test_batches_of_another_shape(
    sample: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: Any
) -> None:
    with pytest.raises(DatasetError, match="data_batch_3 is no batch of images"):
        load_with(sample, tmp_path, "data_batch_3", python2_pickle(entry), monkeypatch)


@pytest.mark.parametrize("label", [-1, 10])
def test_labels_out_of_range(
    sample: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, label: int
) -> None:
    content = python2_pickle({"data": ROWS, "labels": [label] * 20})
    with pytest.raises(DatasetError) as error:
        load_with(sample, tmp_path, "test_batch", content, monkeypatch)
    assert str(error.value) == (
        "cifar10 is not the published set: labels of test are missing, or outside 0 to 9"
    )


def test_checksums_are_those_of_torchvision() -> None:
    from torchvision.datasets import CIFAR10  # type: ignore[import-untyped]

    archive = SOURCE.parts["images"].archive
    assert (archive.file, archive.url, archive.md5) == (
        CIFAR10.filename,
        CIFAR10.url,
        CIFAR10.tgz_md5,
    )
    listed = [[batch.file, batch.md5] for batch in SOURCE.batches]
    assert listed == [*CIFAR10.train_list, *CIFAR10.test_list]
