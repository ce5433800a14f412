"""BackdoorBench's run folders: what is read of them, and what is refused in one line."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.random import Generator, default_rng
from PIL import Image

from tests.ulrl_tests.backdoorbench import Bomb, Entry, as_numpy_1, dataset_dict, rewrite_pickle
from tests.ulrl_tests.bb_runs import STATE, TEST, TOTAL, Writer, picture, refusal
from tests.ulrl_tests.states import refusal as refusal_of
from ulrl.attacks import ATTACKS, LabelRule
from ulrl.interchange import (
    PoisonedCount,
    VictimFacts,
    read_backdoorbench,
    read_state,
    read_triggered,
)
from ulrl.interchange._facts import check_poison
from ulrl.poison import Poison


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    return Writer(tmp_path / "badnet_0_1")


# What is read.


@pytest.mark.parametrize("numpy_1", [False, True])
@pytest.mark.parametrize("by_file", [False, True])
def test_a_run_of_either_numpy(write: Writer, numpy_1: bool, by_file: bool) -> None:  # noqa: FBT001
    folder = write()
    if numpy_1:
        rewrite_pickle(write.file(), as_numpy_1)
    run = read_backdoorbench(write.file() if by_file else folder)
    facts = run.facts
    assert (facts.architecture, facts.dataset) == ("preact_resnet18", "cifar10")
    assert (facts.classes, facts.side, facts.channels) == (10, 16, 3)
    assert run.state.keys() == STATE.keys()
    assert torch.equal(run.state["linear.weight"], STATE["linear.weight"])

    triggered = run.triggered
    assert triggered.index is not None
    assert triggered.target_labels is not None
    assert triggered.index.tolist() == [index for index, _, _ in TEST]
    assert triggered.true_labels.tolist() == [true for _, _, true in TEST]
    assert triggered.target_labels.tolist() == [0] * len(TEST)
    expected = torch.stack([picture(index) for index, _, _ in TEST])
    assert torch.equal(triggered.images, expected)


@pytest.mark.parametrize("index", [np.int32, np.uint16])
@pytest.mark.parametrize("mark", [np.bool_, np.float32])
def test_numbers_of_any_width(write: Writer, index: type, mark: type) -> None:
    """NumPy 1 on Windows has integers of 32 bits."""
    content = dataset_dict("bd_test_dataset", TEST, TOTAL)
    content["original_index_array"] = content["original_index_array"].astype(index)
    content["poison_indicator"] = content["poison_indicator"].astype(mark)
    container = content["bd_data_container"]
    container["data_dict"] = {
        index(key): {**entry, "other_info": [index(label) for label in entry["other_info"]]}
        for key, entry in container["data_dict"].items()
    }
    triggered = read_backdoorbench(write(bd_test=content)).triggered
    assert triggered.true_labels.tolist() == [true for _, _, true in TEST]
    assert triggered.index is not None
    assert triggered.index.tolist() == [number for number, _, _ in TEST]


def test_files_of_version_1(write: Writer) -> None:
    """It saved the pictures themselves."""
    old = {"x": [Image.new("RGB", (16, 16))], "y": [0], "original_index": [1]}
    assert refusal(write(bd_test=old)) == (
        f"{write.file()} holds pictures, as version 1 of BackdoorBench saved them, and only files "
        f"of plain values are read; save the state dict as model.pt and the triggered images as "
        f"triggered.npz (docs/interchange.md has the lines for it)"
    )


def test_the_lines_that_convert_version_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the page, on a file of that version's structure."""
    pictures = [Image.fromarray(picture(n).permute(1, 2, 0).numpy()) for n, _, _ in TEST]
    test = {
        "x": pictures,
        "y": [wanted for _, wanted, _ in TEST],
        "original_index": np.array([number for number, _, _ in TEST]),
        "original_targets": np.array([true for _, _, true in TEST]),
    }
    torch.save({"model": STATE, "bd_test": test}, tmp_path / "attack_result.pt")
    page = (Path(__file__).parents[2] / "docs/interchange.md").read_text()
    code = page.partition("these lines, run beside it")[2].partition("```python\n")[2]
    monkeypatch.chdir(tmp_path)
    exec(code.partition("```")[0], {})
    assert read_state(tmp_path / "model.pt").keys() == STATE.keys()
    triggered = read_triggered(tmp_path / "triggered.npz")
    assert torch.equal(triggered.images, torch.stack([picture(n) for n, _, _ in TEST]))
    assert triggered.index is not None
    assert triggered.index.tolist() == [number for number, _, _ in TEST]
    assert triggered.true_labels.tolist() == [true for _, _, true in TEST]


@pytest.mark.parametrize(
    ("name", "ours"),
    [("preactresnet18", "preact_resnet18"), ("vgg19_bn", "vgg19_bn"), ("vit_b_16", "vit_b_16")],
)
def test_names_of_architectures(write: Writer, name: str, ours: str) -> None:
    assert read_backdoorbench(write(model_name=name)).facts.architecture == ours


# What the labels tell.


def facts_with_training(write: Writer, train: list[Entry], total: int) -> Any:
    return read_backdoorbench(write(bd_train=dataset_dict("bd_train_dataset", train, total))).facts


def test_without_training_set_clean_labels_cannot_be_told_apart(write: Writer) -> None:
    facts = read_backdoorbench(write()).facts
    assert facts.label_rules == (LabelRule.ALL_TO_ONE, LabelRule.CLEAN_LABEL)
    assert facts.target_label == 0
    assert facts.poisoned is None


def test_all_to_one_poisons_the_target_class_too(write: Writer) -> None:
    facts = facts_with_training(write, [(0, 0, 0), (3, 0, 3), (5, 0, 5)], 30)
    assert facts.label_rules == (LabelRule.ALL_TO_ONE,)
    assert facts.poisoned == PoisonedCount(total=30, fewest=3, most=3)


def test_clean_labels(write: Writer) -> None:
    facts = facts_with_training(write, [(0, 0, 0), (10, 0, 0)], 30)
    assert facts.label_rules == (LabelRule.CLEAN_LABEL,)
    assert facts.target_label == 0
    assert facts.poisoned == PoisonedCount(total=30, fewest=2, most=2)


def test_all_to_all(write: Writer) -> None:
    entries = [(i, (i + 1) % 10, i % 10) for i in range(TOTAL)]
    content = dataset_dict("bd_test_dataset", entries, TOTAL)
    train = dataset_dict("bd_train_dataset", [(4, 5, 4), (9, 0, 9), (7, 7, 7)], 30)
    (write.folder / "bd_test_dataset/0").mkdir(parents=True)
    for index in (0, 10):
        pixels = picture(index).permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(write.folder / f"bd_test_dataset/0/{index}.png")
    facts = read_backdoorbench(write(bd_test=content, bd_train=train)).facts
    assert facts.label_rules == (LabelRule.ALL_TO_ALL,)
    assert facts.target_label is None
    assert facts.poisoned == PoisonedCount(total=30, fewest=2, most=2)


def test_labels_of_no_rule(write: Writer) -> None:
    content = dataset_dict("bd_test_dataset", [(4, 5, 4), (5, 5, 5), (3, 1, 3)], TOTAL)
    assert refusal(write(bd_test=content)) == (
        f"{write.file()}: the labels of bd_test are neither one target for all nor each class "
        f"plus 1; such an attack is not supported"
    )


# What is refused.


def test_a_hostile_file_is_not_executed(write: Writer, tmp_path: Path) -> None:
    trace = tmp_path / "exploded"
    assert "which was not run" in refusal(write(bd_train=Bomb(trace)))
    assert not trace.exists()
    torch.load(write.file(), weights_only=False)
    assert trace.exists(), "the bomb was none"


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.array([Path], dtype=object), "a NumPy dtype 'O8'"),
        (np.ones((2, 2)), "a NumPy array of more or less than one axis of numbers"),
        (np.ones(3, ">i8"), "a NumPy dtype with the state (3, '>', None, None, None, -1, -1, 0)"),
        (np.complex128(1), "a NumPy dtype 'c16'"),
    ],
)
def test_other_arrays_of_numpy(write: Writer, array: Any, reason: str) -> None:
    content = dataset_dict("bd_test_dataset", TEST, TOTAL)
    content["poison_indicator"] = array
    message = refusal(write(bd_test=content))
    assert reason in message or "asks for 'pathlib" in message


def test_a_dtype_that_calls_its_integers_pointers(write: Writer) -> None:
    """NumPy itself would take the flags, and follow the integers."""
    path = write()
    plain = b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t"  # the end of a dtype's state: no flags
    rewrite_pickle(write.file(), lambda data: data.replace(plain, plain[:-2] + b"\x3ft"))
    assert "a NumPy dtype with the state (3, '<', None, None, None, -1, -1, 63)" in refusal(path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_name": "densenet161"}, "model_name is one of preactresnet18, vgg19_bn, vit_b_16"),
        ({"model_name": "../vgg19_bn"}, "model_name is a name of letters, digits and _; got '../"),
        ({"num_classes": "10"}, "num_classes is a whole number from 2 to 100000; got '10'"),
        ({"img_size": (16, 32, 3)}, "img_size is height, width and channels of square images; "),
        ({"bd_test": {}}, "bd_test: bd_data_container is a dict; got None"),
        ({"model": None}, "model holds no tensors by name"),
        ({"num_classes": 5}, "is a dict with other_info, two classes from 0 to 4; got [0, 5]"),
    ],
)
def test_values_that_are_not_what_they_should_be(
    write: Writer, changes: dict[str, Any], reason: str
) -> None:
    message = refusal(write(**changes))
    assert message.startswith(f"{write.file()}: ")
    assert reason in message


def broken(change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    content = dataset_dict("bd_test_dataset", TEST, TOTAL)
    change(content)
    return content


def _in_memory(content: dict[str, Any]) -> None:
    content["bd_data_container"]["save_folder_path"] = None


def _jpeg(content: dict[str, Any]) -> None:
    content["bd_data_container"]["save_file_format"] = ".jpg"


def _entry(value: object) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        content["bd_data_container"]["data_dict"][1] = value

    return change


def _indices(*values: float) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        content["original_index_array"] = np.array(values)

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_in_memory, "kept its pictures in memory (save_folder_path is None)"),
        (_jpeg, "save_file_format is '.png'; got '.jpg'"),
        (_entry(None), "data_dict: 1 is a dict with other_info, two classes from 0 to 9; got None"),
        (_entry({"other_info": [0, "../../x"]}), "two classes from 0 to 9; got [0, '../../x']"),
        (_indices(12), "original_index_array is numbers of 12 images"),
        (_indices(1, 1), "original_index_array is each number once"),
        (_indices(0), "bd_test marks no image as triggered"),
    ],
)
def test_entries_that_are_not_what_they_should_be(
    write: Writer, change: Callable[[dict[str, Any]], None], reason: str
) -> None:
    message = refusal(write(bd_test=broken(change)))
    assert message.startswith(f"{write.file()}: bd_test")
    assert reason in message


# The pictures of BackdoorBench's run folders: where they may lie and what they may be.


CONTENTS = (b"", b"no picture", b"GIF89a" + bytes(60))


def first(folder: Path) -> Path:
    return folder / "bd_test_dataset/1/1.png"


def test_a_missing_picture(write: Writer) -> None:
    folder = write()
    first(folder).unlink()
    assert refusal(folder) == f"{first(folder)} is not there; copy the folder as a whole"


@pytest.mark.parametrize("what", ["picture", "class", "all"])
def test_a_link_out_of_the_folder(write: Writer, tmp_path: Path, what: str) -> None:
    folder = write()
    inside = {
        "picture": first(folder),
        "class": first(folder).parent,
        "all": folder / "bd_test_dataset",
    }
    moved = tmp_path / "elsewhere"
    inside[what].rename(moved)
    inside[what].symlink_to(moved)
    assert refusal(folder) == (
        f"{first(folder)} leads out of {folder}, and only what lies in the folder is read; copy "
        f"the file to where the link is"
    )


def _link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_link_to_itself, " is not there"),
        (_pipe, " is no regular file"),
        *((lambda path, c=c: path.write_bytes(c), " cannot be read as PNG (") for c in CONTENTS),
        *(
            (lambda path, k=k: path.write_bytes(path.read_bytes()[:k]), " cannot be read as PNG (")
            for k in (20, 400)
        ),
    ],
)
def test_what_is_no_picture(write: Writer, change: Callable[[Path], object], message: str) -> None:
    folder = write()
    change(first(folder))
    assert refusal(folder).startswith(f"{first(folder)}{message}")


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (Image.new("RGB", (32, 32)), "32×32 RGB"),
        (Image.new("RGBA", (16, 16)), "16×16 RGBA"),
        (Image.new("1", (20_000, 20_000)), "20000×20000 1"),  # more than Pillow likes to open
    ],
)
def test_a_picture_of_another_form(write: Writer, image: Image.Image, found: str) -> None:
    folder = write()
    image.save(first(folder))
    message = refusal(folder)
    assert message.startswith(f"{first(folder)} is {found}, not 16×16 RGB; all triggered") or (
        "decompression bomb" in message
    )


# Poison ratios of BackdoorBench's files: which counts of poisoned images a scenario admits.


TRAIN = (50_000, 39_209, 100_000)  # CIFAR, GTSRB, Tiny-ImageNet
BY_BATCH = ("wanet", "bpp", "input_aware")
RATIOS = (0.1, 0.05, 0.01, 0.005, 0.001)
OTHERS = ((0.1, 0.05), (0.05, 0.1), (0.01, 0.02), (0.01, 0.005), (0.001, 0.01))


def of_batches(ratio: float, total: int, source: Generator) -> int:
    """Return the count that a training in batches of 128 poisons, drawn batch by batch."""
    count = 0
    for start in range(0, total, 128):
        share = ratio * min(128, total - start)
        count += int(share) if share >= 1 else int(source.uniform() < share)
    return count


@dataclass(frozen=True)
class Case:
    attack: str
    ratio: float
    total: int

    def check(self, fewest: int, most: int | None = None) -> None:
        poison = Poison(
            attack=ATTACKS[self.attack](), labels=LabelRule.ALL_TO_ONE, poison_ratio=self.ratio
        )
        most = fewest if most is None else most
        count = PoisonedCount(total=self.total, fewest=fewest, most=most)
        check_poison(VictimFacts(poisoned=count), poison, "theirs")

    def refuses(self) -> Callable[[int], str]:
        return lambda count: refusal_of(lambda: self.check(count))


@pytest.mark.parametrize("attack", BY_BATCH)
def test_attacks_that_poison_by_batch(attack: str) -> None:
    for ratio, total in product(RATIOS, TRAIN):
        case, source = Case(attack, ratio, total), default_rng(0)
        for _ in range(5):
            case.check(of_batches(ratio, total, source))
        case.check(round(ratio * total))  # the ratio itself, as this project draws


def test_the_counts_of_the_leaderboards_one_per_cent() -> None:
    """391 of 50,000, 307 of 39,209, 782 of 100,000: one image of each batch."""
    for total, count in ((50_000, 391), (39_209, 307), (100_000, 782)):
        Case("bpp", 0.01, total).check(count)
        assert f"has {count} poisoned of {total}" in Case("badnets", 0.01, total).refuses()(count)


@pytest.mark.parametrize("attack", [*BY_BATCH, "badnets"])
def test_the_counts_of_another_ratio(attack: str) -> None:
    for (ratio, other), total in product(OTHERS, TRAIN):
        refused = Case(attack, ratio, total).refuses()
        assert "poisoned of" in refused(of_batches(other, total, default_rng(0)))
        assert "poisoned of" in refused(round(other * total))
