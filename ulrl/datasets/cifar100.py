"""CIFAR-100, from its archive or from a local folder."""

from dataclasses import dataclass

from ulrl.datasets._base import DatasetInfo, Preprocessing, register
from ulrl.datasets._cifar import Batch, Cifar, CifarSource
from ulrl.datasets._download import Archive
from ulrl.datasets._public import Part

SOURCE = CifarSource(  # checksums as torchvision has them
    parts={
        "images": Part(
            archive=Archive(
                file="cifar-100-python.tar.gz",
                url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
                md5="eb9058c3a382ffc7106e4002c42a8d85",
                size=169_001_437,
            ),
            inside="cifar-100-python/",
            folders=("cifar-100-python", ""),
            marker="train",
        )
    },
    info=DatasetInfo(train_counts=(500,) * 100, test_count=10_000, side=32),
    batches=(
        Batch(file="train", md5="16019d7e3df5f24257cddd939b257f8d"),
        Batch(file="test", md5="f0ef6b0ae62326f3e7ffdfab6717acfc", split="test"),
    ),
    labels="fine_labels",
)


@register("cifar100")
@dataclass(frozen=True, kw_only=True)
class Cifar100(Cifar):
    """Krizhevsky's 60,000 images of a hundred classes (2009), 32×32.

    The classes are the fine ones. The root holds, or shall hold,
    ``cifar-100-python.tar.gz`` or what it unpacks to.
    """

    @property
    def source(self) -> CifarSource:
        return SOURCE

    @property
    def preprocessing(self) -> Preprocessing:
        # No flip: the benchmarks mirror CIFAR-10 only.
        return Preprocessing(
            mean=(0.5071, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2762), padding=4, flip=False
        )
