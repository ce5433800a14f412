"""CIFAR-10, from its archive or from a local folder."""

from dataclasses import dataclass

from ulrl.datasets._base import DatasetInfo, Preprocessing, register
from ulrl.datasets._cifar import Batch, Cifar, CifarSource
from ulrl.datasets._download import Archive
from ulrl.datasets._public import Part

SOURCE = CifarSource(  # checksums as torchvision has them
    parts={
        "images": Part(
            archive=Archive(
                file="cifar-10-python.tar.gz",
                url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
                md5="c58f30108f718f92721af3b95e74349a",
                size=170_498_071,
            ),
            inside="cifar-10-batches-py/",
            folders=("cifar-10-batches-py", ""),
            marker="data_batch_1",
        )
    },
    info=DatasetInfo(train_counts=(5000,) * 10, test_count=10_000, side=32),
    batches=(
        Batch(file="data_batch_1", md5="c99cafc152244af753f735de768cd75f"),
        Batch(file="data_batch_2", md5="d4bba439e000b95fd0a9bffe97cbabec"),
        Batch(file="data_batch_3", md5="54ebc095f3ab1f0389bbae665268c751"),
        Batch(file="data_batch_4", md5="634d18415352ddfa80567beed471001a"),
        Batch(file="data_batch_5", md5="482c414d41f54cd18b22e5b47cb7c3cb"),
        Batch(file="test_batch", md5="40351d587109b95175f43aff81a1287e", split="test"),
    ),
    labels="labels",
)


@register("cifar10")
@dataclass(frozen=True, kw_only=True)
class Cifar10(Cifar):
    """Krizhevsky's 60,000 images of ten classes (2009), 32×32.

    The root holds, or shall hold, ``cifar-10-python.tar.gz`` or what it unpacks to.
    """

    @property
    def source(self) -> CifarSource:
        return SOURCE

    @property
    def preprocessing(self) -> Preprocessing:
        return Preprocessing(
            mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.243, 0.261), padding=4, flip=True
        )
