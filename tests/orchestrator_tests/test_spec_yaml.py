"""What is wrong with a file before it is a study: its text, its YAML."""

import time
from pathlib import Path

import pytest

from orchestrator.errors import SpecError
from orchestrator.spec.load import load_study
from orchestrator.spec.yaml_tree import MAX_BYTES
from tests.orchestrator_tests.spec_files import SMALL, load, mistakes


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


A_TEXT_THAT_IS_NO_STUDY_FILE_CASES = {
    "": " the file is empty; a study has a name and a grid",
    "# nothing\n": " the file is empty; a study has a name and a grid",
    "---\n": " the file is empty; a study has a name and a grid",
    "- a\n": "1: a study is a mapping of keys to values",
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
    f"{SMALL}---\nname: t\n": "6: a second document starts here; a study file has one",
    f"{SMALL}store: {'[' * 40}{']' * 40}\n": (
        "6: store.0.0.0.0.0.0.0.0.0.0.0.0: a study file is at most 12 levels deep"
    ),
    f"{SMALL}# {'x' * MAX_BYTES}\n": " a study file has at most 100 kB",
}


@pytest.mark.parametrize(("text", "expected"), A_TEXT_THAT_IS_NO_STUDY_FILE_CASES.items())
def test_a_text_that_is_no_study_file(text: str, expected: str) -> None:
    assert mistakes(text) == [expected]


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


@pytest.mark.parametrize(
    ("addition", "expected"),
    [
        ("  seed: !!str 3\n", ["6: grid.seed: YAML tags are not read here; got !!str"]),
        ("  seed: !mine 3\n", ["6: grid.seed: YAML tags are not read here; got !mine"]),
        (
            "store: !!python/object/apply:os.system [ls]\n",
            ["6: store: YAML tags are not read here; got !!python/object/apply:os.system"],
        ),
        (
            "  seed: &a 3\n  target_label: *a\n",
            [
                "6: grid.seed: anchors and aliases are not read here; write the value out",
                "7: grid.target_label: anchors and aliases are not read here; write the value out",
            ],
        ),
        ("  <<: {seed: 3}\n", ["6: grid: merge keys are not read here; write the keys out"]),
        ("  ? [a, {b: 1}]\n  : 3\n", ["6: grid: a key is a plain word"]),
        ("name: t\n", ["6: name: the key stands twice; first on line 1"]),
        ("  seed: 1\n  seed: 2\n", ["7: grid.seed: the key stands twice; first on line 6"]),
    ],
)
def test_what_yaml_would_do_unseen(addition: str, expected: list[str]) -> None:
    assert mistakes(SMALL + addition) == expected


def test_many_aliases_take_no_time() -> None:
    levels = "".join(f"a{n}: &a{n} [{f'*a{n - 1}, ' * 9}]\n" for n in range(1, 9))
    start = time.perf_counter()
    found = mistakes(f"a0: &a0 [x]\n{levels}{SMALL}")
    assert time.perf_counter() - start < 2
    assert "1: a0: anchors and aliases are not read here; write the value out" in found


def test_a_file_with_a_byte_order_mark_is_read() -> None:
    assert load(f"\ufeff{SMALL}") == load(SMALL)
