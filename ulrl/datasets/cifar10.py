"""CIFAR-10, downloaded by torchvision or read from a local folder."""

import contextlib
import fcntl
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ulrl.datasets._base import Dataset, DatasetError, Facts, ImageSet, Treatment, register


@register("cifar10")
@dataclass(frozen=True, kw_only=True)
class Cifar10(Dataset):
    """Krizhevsky's 60,000 images of ten classes (2009), 32×32.

    Attributes:
        root: Folder that holds, or shall hold, torchvision's ``cifar-10-batches-py``.
        download: Fetch the archive when the folder lacks it; its checksum is verified.
    """

    root: str = field(default="data", metadata={"runtime": True})
    download: bool = field(default=True, metadata={"runtime": True})

    @property
    def label(self) -> str:
        return self.name

    @property
    def treatment(self) -> Treatment:
        return Treatment(
            mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.243, 0.261), padding=4, flip=True
        )

    def facts(self) -> Facts:
        return Facts(train_counts=(5000,) * 10, test_count=10_000, side=32)

    def identity(self) -> dict[str, Any]:
        return {}  # torchvision verifies checksums, so the name fixes the content

    def load(self) -> ImageSet:
        from torchvision.datasets import CIFAR10  # type: ignore[import-untyped]

        try:
            with _alone(Path(self.root), fills=self.download):
                parts = [
                    CIFAR10(self.root, train, download=self.download) for train in (True, False)
                ]
        except (OSError, RuntimeError) as error:
            folder = Path(self.root).absolute()
            raise DatasetError(
                f"cifar10 is not in {folder} and could not be fetched ({error}); put "
                f"cifar-10-python.tar.gz there, or name a folder that has it with root:"
            ) from error
        tensors = [torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous() for part in parts]
        labels = [torch.tensor(part.targets) for part in parts]
        return ImageSet(
            train_images=tensors[0],
            train_labels=labels[0],
            test_images=tensors[1],
            test_labels=labels[1],
            classes=10,
        )


@contextlib.contextmanager
def _alone(root: Path, *, fills: bool) -> Iterator[None]:
    """Let one process at a time look into a folder that it may have to fill.

    Workers start together: without this, the second would find the first one's archive
    half written and call it corrupted.
    """
    with contextlib.ExitStack() as stack:
        if fills:
            with contextlib.suppress(OSError):  # a read-only folder is complete, or of no use
                root.mkdir(parents=True, exist_ok=True)
                lock = stack.enter_context((root / ".cifar10.lock").open("w"))
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield
