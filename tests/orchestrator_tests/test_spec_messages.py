"""What a user reads for each mistake in a study file: spec_messages.txt has a row a rule."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from orchestrator.errors import SpecError
from orchestrator.spec.load import load_study
from orchestrator.spec.yaml_tree import MAX_BYTES
from tests.orchestrator_tests.spec_files import SMALL, load, mistakes

pytestmark = pytest.mark.usefixtures("empty_folder")

RANGES = """\
name: s
grid:
  attack: [badnets, {name: badnets, size: 4}, {name: sig, poison_ratio: 0.05}]
  dataset: [digits, {name: digits, size: 32}]
  architecture: preact_resnet18
  poison_ratio: [0.1, 0.2]
  seed: [0, 1]
  relearn_epochs: [5, 9]
  alpha: {low: 0, high: 1}
  max_suspects: {low: 1, high: 5}
search: {sampler: tpe, settings: 8}
"""
AROUND = {
    "an axis": SMALL + "  @\n",
    "a section": SMALL + "@\n",
    "an attack": SMALL.replace("badnets", "@"),
    "a dataset": SMALL.replace("digits", "@"),
    "an architecture": SMALL.replace("preact_resnet18", "@"),
    "a range": SMALL + "  @\nsearch: {sampler: tpe, settings: 8}\n",
    "a search": SMALL + "  alpha: {low: 0, high: 1}\n@\n",
    "an exclusion": RANGES + "exclude: @\n",
    "a pruner": SMALL + "prune: @\n",
    "an import": SMALL.replace("badnets", "[badnets, blended]").replace(
        "digits", "[digits, cifar10]"
    )
    + "victim: {import: @}\n",
}


def rows() -> Iterator[tuple[str, list[str]]]:
    """Yield each study file of the table, and the lines that it gets."""
    around, text = "", ""
    lines: list[str] = []
    for row in (Path(__file__).parent / "spec_messages.txt").read_text().splitlines():
        if row.strip("[]") in AROUND:
            around = AROUND[row.strip("[]")]
        elif row and not row.startswith("#"):
            piece, _, line = row.partition(" => ")
            if piece.strip():
                if text:
                    yield text, lines
                text, lines = around.replace("@", piece.replace("\\n", "\n")), []
            lines += [line] if line else []
    yield text, lines


@pytest.mark.parametrize(("text", "expected"), list(rows()))
def test_every_rule_has_its_line(text: str, expected: list[str]) -> None:
    assert mistakes(text) == expected


def test_ten_mistakes_are_told_at_once_and_in_order() -> None:
    text = """\
name: a b
preset: best
grid:
  attack: [sgi, {name: badnets, size: 0}]
  dataset: digits
  seed: [0, 0]
  reinit_ratio: 2
  architecture: preact_resnet18
victim: {epochs: 0}
objective: dre
resources: {gpu: 1.5}
stor: x
"""
    start = time.process_time()
    found = mistakes(text, "limits.attempts=0", "gird=1")
    assert time.process_time() - start < 1
    assert [line.partition(": ")[0] for line in found[:10]] == [
        *("1", "2", "4", "4", "6", "7", "9", "10", "11", "12")
    ]
    assert [line.split(": ")[1] for line in found[:10]] == [
        *("name", "preset", "grid.attack.0", "grid.attack.1.size", "grid.seed.1"),
        *("grid.reinit_ratio", "victim.epochs", "objective", "resources.gpu", "stor"),
    ]
    assert found[10:] == [
        "--set limits.attempts=0: limits.attempts: attempts is at least 1; got 0",
        "--set gird=1: gird: unknown key; did you mean 'grid'?",
    ]


FILES = {
    "": " the file is empty; a study has a name and a grid",
    "---\n": " the file is empty; a study has a name and a grid",
    "\n\ntext\n": "3: a study is a mapping of keys to values",
    f"{SMALL}  seed: [1, 2\nobjective: der\n": (
        "7: this is not YAML: while parsing a flow sequence, expected ',' or ']', but got ':'"
    ),
    f"{SMALL}\tseed: 1\n": (
        "6: this is not YAML: while scanning for the next token, found character '\\t' that "
        "cannot start any token"
    ),
    f"{SMALL}  seed: \a\n": "6: this is not YAML: special characters are not allowed; got '\\x07'",
    f'{SMALL}store: "\\UFFFFFFFF"\n': "6: this is not YAML: an escape names no character",
    f"{SMALL}---\nname: t\n": (
        "6: this is not YAML: expected a single document in the stream, but found another document"
    ),
    f"{SMALL}store: {'[' * 40}{']' * 40}\n": (
        "6: this is not YAML: a study file is at most 12 levels deep"
    ),
    f"{SMALL}# {'x' * MAX_BYTES}\n": " a study file has at most 100 kB",
    f"{SMALL}'a\\nb': 1\nobjective:\n": (
        "7: objective: objective is der, asr, acc or ra; got nothing"
    ),
}


@pytest.mark.parametrize(("text", "expected"), FILES.items())
def test_a_text_that_is_no_study_file(text: str, expected: str) -> None:
    assert mistakes(text)[-1] == expected


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"name: a\ngrid: \xe4\n")
    expected = {
        "none.yaml": "none.yaml: there is no such file",
        str(tmp_path): f"{tmp_path}: this is a folder; name the study file in it",
        "latin.yaml": "latin.yaml:2: the file is not UTF-8 text; got byte 0xe4",
        "a\0b": "a\0b: the file cannot be read: embedded null byte",
    }
    for path, line in expected.items():
        with pytest.raises(SpecError) as caught:
            load_study(path)
        assert caught.value.lines == (line,)
    assert load(f"\ufeff{SMALL}") == load(SMALL)  # with a byte order mark


def test_many_aliases_take_no_time() -> None:
    levels = "".join(f"a{n}: &a{n} [{f'*a{n - 1}, ' * 9}]\n" for n in range(1, 9))
    start = time.process_time()
    found = mistakes(f"a0: &a0 [x]\n{levels}{SMALL}")
    assert time.process_time() - start < 2
    assert "1: a0: anchors and aliases are not read here; write the value out" in found


@pytest.mark.parametrize("name", ["a b", ".hidden", "a/b", "x" * 101, "ä", "1e-3"])
def test_names_that_no_folder_should_have(name: str) -> None:
    (line,) = mistakes(SMALL.replace("name: s", f"name: {name}"))
    assert line.startswith("1: name: name is ")


def test_a_dataset_file_that_is_broken(tmp_path: Path) -> None:
    np.savez(tmp_path / "half.npz", train_images=np.zeros((2, 8, 8, 3), np.uint8))
    text = SMALL.replace("dataset: digits", "dataset: [digits, {arrays: half.npz}]")
    assert mistakes(text) == [
        (
            f"4: grid.dataset.1: {tmp_path}/half.npz lacks train_labels, test_images, test_labels; "
            "it has ['train_images']"
        )
    ]


def test_each_message_comes_once() -> None:
    text = SMALL.replace("badnets", "[badnets, blended]") + "  target_label: [0, 11]\n"
    assert mistakes(f"{text}  seed: [0, 1, 2]\n") == [
        "6: grid.target_label.1: on digits, target_label is one of the 10 classes, 0 to 9; got 11"
    ]


def test_a_grid_that_is_too_large() -> None:
    seeds = ", ".join(map(str, range(1001)))
    thresholds = ", ".join(str(n / 1000) for n in range(1000))
    text = f"{SMALL}  seed: [{seeds}]\n  unlearn_threshold: [{thresholds}]\n"
    assert mistakes(text) == ["2: grid: a grid has at most 1,000,000 trials; got 1,001,000"]
    options = f"{{name: badnets, size: [{seeds[3:]}], inset: [{seeds}]}}"
    assert mistakes(SMALL.replace("attack: badnets", f"attack: {options}")) == [
        "3: grid.attack: one entry stands for at most 10,000; got 1,001,000"
    ]
