"""LF, SSBA and LC with arrays of a user's own: what BackdoorBench makes of its files.

What is expected is BackdoorBench's arithmetic, written again in NumPy.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.ulrl_tests.attack_tools import source
from ulrl.attacks import NOTHING_LEARNED, LabelRule, stamp_bytes
from ulrl.attacks._files import AttackFileError
from ulrl.attacks.lc import LC
from ulrl.attacks.lf import LF
from ulrl.attacks.ssba import SSBA
from ulrl.datasets import DatasetInfo, ImageSet
from ulrl.poison import Poison
from ulrl.poison_checks import check_poison
from ulrl.poisoning import make_test_sets, poison_training_set, split_halves

Array = npt.NDArray[Any]
SIDE = 32


def noise(shape: tuple[int, ...], seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def saved(path: Path, array: Array) -> str:
    np.save(path, array)
    return str(path)


def in_rows(images: torch.Tensor) -> Array:
    """Return images ``[N, H, W, C]``."""
    made: Array = images.permute(0, 2, 3, 1).numpy()
    return made


# LF.

PATTERNS: dict[str, Array] = {
    "as BackdoorBench's": noise((SIDE, SIDE, 3)) // 5,
    "several, the first counts": noise((2, SIDE, SIDE, 3)) // 5,
    "below 0": np.random.default_rng(2).normal(0, 60, (SIDE, SIDE, 3)),
}


def backdoorbench_lf(images: Array, pattern: Array) -> Array:
    if pattern.ndim == 4:
        pattern = pattern[0]
    if pattern.ndim == 2:
        pattern = np.stack([pattern] * 3, axis=-1)
    total = images.astype(np.float64) + pattern.astype(np.float64)
    return np.asarray(np.clip(total, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("name", PATTERNS)
def test_lf_with_a_file_is_backdoorbench_s(name: str, tmp_path: Path) -> None:
    pattern = PATTERNS[name]
    attack = LF(pattern=saved(tmp_path / "mine.npy", pattern))
    attack.check(side=SIDE, channels=3)
    images = noise((20, SIDE, SIDE, 3), seed=9)
    trigger = attack.trigger(0, NOTHING_LEARNED)
    ours = in_rows(stamp_bytes(trigger, torch.from_numpy(images).permute(0, 3, 1, 2), source()))
    assert (ours == backdoorbench_lf(images, pattern)).all()
    assert (ours != images).any()


# Sets of images.

TRAIN, TEST = 60, 40


@pytest.fixture
def images() -> ImageSet:
    return ImageSet(
        train_images=torch.from_numpy(noise((TRAIN, 3, SIDE, SIDE), seed=1)),
        train_labels=torch.arange(TRAIN) % 4,
        test_images=torch.from_numpy(noise((TEST, 3, SIDE, SIDE), seed=2)),
        test_labels=torch.arange(TEST) % 4,
        classes=4,
    )


FACTS = DatasetInfo(train_counts=(15,) * 4, test_count=TEST, side=SIDE)


def ssba_of(folder: Path, train: Array, test: Array) -> SSBA:
    return SSBA(
        train_replacements=saved(folder / "train.npy", train),
        test_replacements=saved(folder / "test.npy", test),
    )


def test_ssba_with_files_replaces_by_index(images: ImageSet, tmp_path: Path) -> None:
    train, test = (noise((count, SIDE, SIDE, 3), seed=count) for count in (TRAIN, TEST))
    attack = ssba_of(tmp_path, train, test)
    poison = Poison(attack=attack, labels=LabelRule.ALL_TO_ONE, poison_ratio=0.2)
    check_poison(poison, FACTS)
    assert attack.helper(poison) is None
    made = poison_training_set(poison, images, 0)
    expected = in_rows(images.train_images).copy()
    chosen = made.poisoned.nonzero().flatten().tolist()
    assert len(chosen) == 12
    for place in chosen:
        expected[place] = train[place]
    assert (in_rows(made.images) == expected).all()
    sets = make_test_sets(poison, images, 0)
    for index, half in zip(
        split_halves(images.test_labels), (sets.selection, sets.report), strict=True
    ):
        places = [place for place in index.tolist() if images.test_labels[place] != 0]
        assert (in_rows(half.triggered) == test[places]).all()
        assert (half.true_labels == images.test_labels[places]).all()


@pytest.mark.parametrize("order", [torch.randperm(TEST, generator=source()), torch.arange(TEST)])
def test_test_images_in_the_order_of_a_folder_are_put_in_order(
    images: ImageSet, order: torch.Tensor, tmp_path: Path
) -> None:
    """Triggered images look like their originals, which tells the two orders apart."""
    folder = torch.randperm(TEST, generator=source())
    near = in_rows(images.test_images) ^ 1
    file = near[order.numpy()]
    attack = ssba_of(tmp_path, noise((TRAIN, SIDE, SIDE, 3)), file)
    poison = Poison(attack=attack, labels=LabelRule.ALL_TO_ALL)
    fields = {name: getattr(images, name) for name in images.__dataclass_fields__}
    sets = make_test_sets(poison, ImageSet(**{**fields, "folder_order": folder}), 0)
    assert torch.equal(sets.report.triggered, sets.report.clean ^ 1)


def backdoorbench_corners(image: Array, amplitude: float) -> Array:
    """Four corners of 3×3 signs times 255, added and clipped; `image` is of 32 pixels."""
    signs = np.array([[1, -1, -1], [-1, 1, -1], [1, -1, 1]])
    added = np.zeros((SIDE, SIDE, 1))
    for rows, turned in ((slice(0, 3), signs), (slice(SIDE - 3, SIDE), signs)):
        added[rows, :3, 0] = turned
        added[rows, -3:, 0] = turned[:, ::-1]
    total = image.astype(np.float32) + np.float32(255 * amplitude) * added.astype(np.float32)
    return np.asarray(np.clip(total, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("amplitude", [0.5])
def test_lc_with_a_file_marks_its_images(
    images: ImageSet, amplitude: float, tmp_path: Path
) -> None:
    train = noise((TRAIN, SIDE, SIDE, 3), seed=5)
    attack = LC(amplitude=amplitude, train_replacements=saved(tmp_path / "train.npy", train))
    poison = Poison(attack=attack, labels=LabelRule.CLEAN_LABEL, poison_ratio=0.2, target_label=2)
    check_poison(poison, FACTS)
    assert attack.helper(poison) is None
    made = poison_training_set(poison, images, 0)
    expected = in_rows(images.train_images).copy()
    for place in made.poisoned.nonzero().flatten().tolist():
        expected[place] = backdoorbench_corners(train[place], amplitude)
    assert int(made.poisoned.sum()) == 12
    assert (in_rows(made.images) == expected).all()
    half = make_test_sets(poison, images, 0).report
    clean = in_rows(half.clean[half.clean_labels != 2])
    marked = [backdoorbench_corners(image, amplitude) for image in clean]
    assert (in_rows(half.triggered) == np.stack(marked)).all()


def test_files_of_another_dataset_are_refused(tmp_path: Path) -> None:
    train, test = saved(tmp_path / "a.npy", noise((TRAIN, SIDE, SIDE, 3))), str(tmp_path / "b.npy")
    attack = SSBA(train_replacements=train, test_replacements=test)
    poison = Poison(attack=attack, labels=LabelRule.ALL_TO_ONE)
    check_poison(poison, FACTS)  # a plan can do without
    with pytest.raises(AttackFileError) as missing:
        attack.identity()
    assert str(missing.value) == f"{test} is not there; test_replacements: names an .npy file"
    saved(Path(test), noise((TEST - 1, SIDE, SIDE, 3)))
    with pytest.raises(ValueError, match="test_replacements") as error:
        check_poison(poison, FACTS)
    assert str(error.value) == (
        "test_replacements has an image for each of the dataset's, [40, 32, 32, 3]; b.npy has "
        "[39, 32, 32, 3]: take the one of this dataset"
    )
    clean_label = Poison(attack=LC(train_replacements=test), labels=LabelRule.CLEAN_LABEL)
    with pytest.raises(ValueError, match=r"train_replacements .* \[60, 32, 32, 3\]; b\.npy has"):
        check_poison(clean_label, FACTS)


def _objects(path: Path) -> None:
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)


def _cut_short(path: Path) -> None:
    np.save(path, noise((TEST, SIDE, SIDE, 3)))
    path.write_bytes(path.read_bytes()[:-1])


def _too_much_promised(path: Path) -> None:
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (10**9, SIDE, SIDE, 3)}
        np.lib.format.write_array_header_1_0(file, header)


def _open_bracket(path: Path) -> None:
    """Write a header that Python's tokenizer cannot end, as one damaged byte can make it."""
    path.write_bytes(b"\x93NUMPY\x01\x00\x10\x00{'descr': (((((((")


@pytest.mark.parametrize(
    "write",
    [
        *(_objects, _cut_short, _too_much_promised, _open_bracket),
        lambda path: path.write_text("words"),
    ],
)
def test_what_is_no_plain_array(write: Any, tmp_path: Path) -> None:
    path = tmp_path / "mine.npy"
    write(path)
    attack = LC(train_replacements=str(path))
    attack.check(side=SIDE, channels=3)
    attack.check_info(FACTS)
    with pytest.raises(AttackFileError) as error:
        attack.identity()
    why = "TokenError" if write is _open_bracket else "ValueError"
    assert str(error.value) == f"{path} cannot be read as an .npy of a plain array ({why})"


def test_identity_is_what_the_files_hold(tmp_path: Path) -> None:
    first, copy, other = (str(tmp_path / f"{name}.npy") for name in "abc")
    for path, seed in ((first, 0), (copy, 0), (other, 1)):
        saved(Path(path), noise((4, SIDE, SIDE, 3), seed))
    makers: list[Any] = [
        lambda path: LF(pattern=path),
        lambda path: LC(train_replacements=path),
        lambda path: SSBA(train_replacements=path, test_replacements=first),
        lambda path: SSBA(train_replacements=first, test_replacements=path),
    ]
    for make in makers:
        identities = [make(path).identity() for path in (first, copy, other)]
        assert identities[0] == identities[1] != identities[2]
    for bare in (LF(), LC(), SSBA()):
        assert bare.identity() == {}
