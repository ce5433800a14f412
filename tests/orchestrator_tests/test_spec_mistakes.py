"""Every kind of mistake in a study file, by the whole text that a user reads."""

import time
from pathlib import Path

import numpy as np
import pytest

from orchestrator.errors import Mistakes
from orchestrator.spec import load_study
from orchestrator.yamlfile import MAX_BYTES
from ulrl.attacks import ATTACKS
from ulrl.datasets import DATASETS
from ulrl.models import ARCHITECTURES

BASE = """\
name: s
grid:
  attack: badnets
  dataset: digits
  architecture: preact_resnet18
"""
ATTACK_NAMES = ", ".join(sorted(ATTACKS))
DATASET_NAMES = ", ".join(sorted(DATASETS))
ARCHITECTURE_NAMES = ", ".join(sorted(ARCHITECTURES))
NO_RANGES = "ranges are drawn by a sampler, which this version does not have; list the values"
RATIO_RULE = "poison_ratio is a fraction of the training set, above 0 and at most 0.5"
SECTIONS = (
    "name, preset, grid, exclude, victim, prune, objective, resources, mlflow, store"
)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def lines(text: str, *overrides: str) -> list[str]:
    """Return the mistakes of a file of that text, without the file's name."""
    Path("grid.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(Mistakes) as caught:
        load_study("grid.yaml", overrides)
    assert str(caught.value) == "\n".join(caught.value.lines)
    return [line.removeprefix("grid.yaml:") for line in caught.value.lines]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", " the file is empty; a study has a name and a grid"),
        ("# nothing\n", " the file is empty; a study has a name and a grid"),
        ("---\n", " the file is empty; a study has a name and a grid"),
        ("- a\n", "1: a study is a mapping of keys to values"),
        ("\n\ntext\n", "3: a study is a mapping of keys to values"),
        (
            f"{BASE}  seed: [1, 2\nobjective: der\n",
            "7: this is not YAML: while parsing a flow sequence, "
            "expected ',' or ']', but got ':'",
        ),
        (
            f"{BASE}\tseed: 1\n",
            "6: this is not YAML: while scanning for the next token, "
            "found character '\\t' that cannot start any token",
        ),
        (f"{BASE}  seed: \a\n", "6: this is not YAML: special characters are not allowed; "
            "got '\\x07'"),
        (f'{BASE}store: "\\UFFFFFFFF"\n', "1: this is not YAML: chr() arg not in range(0x110000)"),
        (f"{BASE}---\nname: t\n", "6: a second document starts here; a study file has one"),
        (f"{BASE}store: {'[' * 40}{']' * 40}\n", "6: store.0.0.0.0.0.0.0.0.0.0.0.0: "
            "a study file is at most 12 levels deep"),
        (f"{BASE}# {'x' * MAX_BYTES}\n", " a study file has at most 256 kB"),
    ],
)  # fmt: skip
def test_a_text_that_is_no_study_file(text: str, expected: str) -> None:
    assert lines(text) == [expected]


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"name: a\ngrid: \xe4\n")
    expected = {
        "none.yaml": "none.yaml: there is no such file",
        str(tmp_path): f"{tmp_path}: this is a folder; name the study file in it",
        "latin.yaml": "latin.yaml:2: the file is not UTF-8 text; got byte 0xe4",
        "a\0b": "a\0b: the file cannot be read: embedded null byte",
    }
    for path, line in expected.items():
        with pytest.raises(Mistakes) as caught:
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
                "7: grid.target_label: anchors and aliases are not read here; "
                "write the value out",
            ],
        ),
        ("  <<: {seed: 3}\n", ["6: grid: merge keys are not read here; write the keys out"]),
        ("  ? [a, {b: 1}]\n  : 3\n", ["6: grid: a key is a plain word"]),
        ("name: t\n", ["6: name: the key stands twice; first on line 1"]),
        ("  seed: 1\n  seed: 2\n", ["7: grid.seed: the key stands twice; first on line 6"]),
    ],
)
def test_what_yaml_would_do_unseen(addition: str, expected: list[str]) -> None:
    assert lines(BASE + addition) == expected


def test_many_aliases_take_no_time() -> None:
    levels = "".join(f"a{n}: &a{n} [{f'*a{n - 1}, ' * 9}]\n" for n in range(1, 9))
    start = time.perf_counter()
    found = lines(f"a0: &a0 [x]\n{levels}{BASE}")
    assert time.perf_counter() - start < 2
    assert "1: a0: anchors and aliases are not read here; write the value out" in found


@pytest.mark.parametrize(
    ("addition", "expected"),
    [
        ("objectiv: asr\n", "6: objectiv: unknown key; did you mean 'objective'?"),
        ("zzz: 1\n", f"6: zzz: unknown key; the keys are {SECTIONS}"),
        ("'a\\nb': 1\n", f"6: a\\nb: unknown key; the keys are {SECTIONS}"),
        ("search: {sampler: tpe}\n", f"6: search: {NO_RANGES}"),
        ("preset: offical\n", "6: preset: preset is default or official; got 'offical'; "
            "did you mean 'official'?"),
        ("preset:\n", "6: preset: preset is default or official; got nothing"),
        ("objective: [der]\n", "6: objective: objective is der, asr, acc or ra; got a list"),
        ("victim: {epoch: 3}\n", "6: victim.epoch: unknown key; did you mean 'epochs'?"),
        ("victim: {epochs: 0}\n", "6: victim.epochs: epochs is at least 1; got 0"),
        ("victim: {epochs: 2.5}\n", "6: victim.epochs: epochs is a whole number; got 2.5"),
        ("victim: {epochs: '3'}\n", "6: victim.epochs: epochs is a whole number; got '3'"),
        ("victim: {epochs: true}\n", "6: victim.epochs: epochs is a whole number; got true"),
        (f"victim: {{epochs: {'9' * 30}}}\n", "6: victim.epochs: epochs is at most 10^18; "
            f"got {'9' * 30}"),
        ("victim: {lr: .nan}\n", "6: victim.lr: lr is a number; got nan"),
        ("victim: {lr: .inf}\n", "6: victim.lr: lr is a number; got inf"),
        ("victim: {lr: 1e999}\n", "6: victim.lr: lr is a number; got '1e999'"),
        ("victim: {lr: '1e-3'}\n", "6: victim.lr: lr is a number; got '1e-3'"),
        ("victim: {lr: 010}\n", "6: victim.lr: lr is a number; got '010'"),
        ("victim: {lr: 1:30}\n", "6: victim.lr: lr is a number; got '1:30'"),
        ("victim: {lr: 0}\n", "6: victim.lr: lr is a learning rate, above 0 and at most 100; "
            "got 0.0"),
        ("victim: {min_asr: 80}\n", "6: victim.min_asr: min_asr is in [0, 1]; got 80"),
        ("victim: {import: a.pt}\n", "6: victim.import: pre-trained victims are not in this "
            "version, which trains its own"),
        ("victim: 3\n", "6: victim: victim is a mapping; got 3"),
        ("resources: {workers: 0}\n", "6: resources.workers: workers is at least 1; got 0"),
        ("resources: {cpu: 0.5}\n", "6: resources.cpu: cpu is a whole number; got 0.5"),
        ("resources: {gpu: 1.5}\n", "6: resources.gpu: gpu is at most 1, or a whole number; "
            "got 1.5"),
        ("resources: {gpu: -1}\n", "6: resources.gpu: gpu is at least 0; got -1"),
        ("resources: {worker: 2}\n", "6: resources.worker: unknown key; did you mean 'workers'?"),
        ("mlflow: {url: a}\n", "6: mlflow.url: unknown key; did you mean 'uri'?"),
        ("mlflow: {log_models: yes}\n", "6: mlflow.log_models: log_models is best, all or none; "
            "got true"),
        ("mlflow: {uri: mlruns}\n", "6: mlflow.uri: uri is a server's http(s):// address or a "
            "database's, since MLflow no longer writes to folders; got 'mlruns'; "
            "write sqlite:///runs/mlflow.db"),
        ("mlflow: {uri: 'file:///a'}\n", "6: mlflow.uri: uri is a server's http(s):// address or "
            "a database's, since MLflow no longer writes to folders; got 'file:///a'; "
            "write sqlite:///runs/mlflow.db"),
        ("mlflow: {uri: 'sqlite://a.db'}\n", "6: mlflow.uri: uri is sqlite:///FILE, with three "
            "slashes and a file; got 'sqlite://a.db'"),
        ("mlflow: {uri: 'sqlite:///:memory:'}\n", "6: mlflow.uri: uri is sqlite:///FILE, with "
            "three slashes and a file; got 'sqlite:///:memory:'"),
        ("mlflow: {uri: 'http://'}\n", "6: mlflow.uri: uri is http://HOST and so on; "
            "got 'http://'"),
        ("mlflow: {uri: 'htttp://a'}\n", "6: mlflow.uri: uri is an http(s)://, sqlite:/// or "
            "postgresql:// address; got 'htttp://a'; did you mean 'http'?"),
        ("store: ''\n", "6: store: store is a text; got ''"),
        ("store: 3\n", "6: store: store is a text; got 3; quote it to make it one"),
        ("store: s33://bucket\n", "6: store: store is a path or a URL that fsspec can open; "
            "got 's33://bucket'; did you mean 's3'?"),
        ("store: ~nobody-here/x\n", "6: store: store is a path; "
            "Could not determine home directory."),
    ],
)  # fmt: skip
def test_sections(addition: str, expected: str) -> None:
    assert lines(BASE + addition) == [expected]


@pytest.mark.parametrize("name", ["a b", ".hidden", "a/b", "x" * 101, "ä"])
def test_names_that_no_folder_should_have(name: str) -> None:
    rule = "letters, digits, - _ and . (not first), at most 100"
    shown = repr(name) if len(name) < 60 else f"'{'x' * 56}..."
    text = BASE.replace("name: s", f"name: {name}")
    assert lines(text) == [f"1: name: name is {rule}; got {shown}"]


def test_keys_that_must_be_there() -> None:
    assert lines("objective: der\n") == [
        "1: name: this key is required",
        "1: grid: this key is required",
    ]
    assert lines("name: s\ngrid: {seed: 1}\n") == [
        "2: grid.attack: this axis is required",
        "2: grid.dataset: this axis is required",
        "2: grid.architecture: this axis is required",
    ]
    assert lines("name: s\ngrid: [1]\n") == [
        "2: grid: grid is a mapping of axes to values; got a list"
    ]


@pytest.mark.parametrize(
    ("addition", "expected"),
    [
        ("sede: 1", ["6: grid.sede: no axis is called 'sede'; did you mean 'seed'?"]),
        ("seed: []", ["6: grid.seed: seed has no values; list at least one"]),
        ("seed:", ["6: grid.seed: seed has no values; list at least one"]),
        ("seed: [0, ~]", ["6: grid.seed.1: seed is a whole number; got nothing"]),
        ("seed: -1", ["6: grid.seed: seed is in [0, 1e+18]; got -1"]),
        ("seed: {low: 0, high: 3}", ["6: grid.seed: seed is a whole number; got a mapping"]),
        ("seed: [1, 1.0, 1e0]", [
            "6: grid.seed.1: 1 stands twice; first at grid.seed.0",
            "6: grid.seed.2: 1 stands twice; first at grid.seed.0",
        ]),
        ("alpha: [0.7, 0.70]", ["6: grid.alpha.1: 0.7 stands twice; first at grid.alpha.0"]),
        ("target_label: 10", ["6: grid.target_label: on digits, target_label is one of the 10 "
            "classes, 0 to 9; got 10"]),
        ("poison_ratio: [0.1, 0]", [f"6: grid.poison_ratio.1: {RATIO_RULE}; got 0.0"]),
        ("poison_ratio: 1e-5", ["6: grid.poison_ratio: on digits, poison_ratio 1e-05 of 1297 "
            "training images is no image; the smallest value is 0.00077"]),
        ("clean_ratio: [0.1, 0.001]", ["6: grid.clean_ratio.1: on digits, clean_ratio 0.001 of "
            "1297 training images is 1 samples, and ULRL needs at least 2: from 0.0015 on"]),
        ("clean_ratio: 0", ["6: grid.clean_ratio: clean_ratio is a fraction of the clean "
            "training set, above 0 and at most 1; got 0.0"]),
        ("reinit_ratio: [true]", ["6: grid.reinit_ratio.0: reinit_ratio is a number; got true"]),
        ("reinit_ratio: .nan", ["6: grid.reinit_ratio: reinit_ratio is a number; got nan"]),
        ("reinit_ratio: 1.5", ["6: grid.reinit_ratio: reinit_ratio is a fraction of a neuron's "
            "weights, in [0, 1]; got 1.5"]),
        ("unlearn_threshold: {low: 0, high: 1}", [f"6: grid.unlearn_threshold: {NO_RANGES}"]),
        ("unlearn_lr: 0", ["6: grid.unlearn_lr: unlearn_lr is above 0 and at most 100; got 0.0"]),
        ("max_suspects: 2.5", ["6: grid.max_suspects: max_suspects is a whole number; got 2.5"]),
        ("zero_mad: infinit", ["6: grid.zero_mad: zero_mad is mean_deviation or infinite; "
            "got 'infinit'; did you mean 'infinite'?"]),
        ("unlearn_milestones: [[5], [5]]", ["6: grid.unlearn_milestones.1: [5] stands twice; "
            "first at grid.unlearn_milestones.0"]),
        ("unlearn_milestones: [10, x]", ["6: grid.unlearn_milestones.1: unlearn_milestones is a "
            "whole number; got 'x'"]),
        ("unlearn_milestones: [[5], [0]]", ["6: grid.unlearn_milestones.1: unlearn_milestones "
            "are epochs from 1; got [0]"]),
    ],
)  # fmt: skip
def test_axes(addition: str, expected: list[str]) -> None:
    assert lines(f"{BASE}  {addition}\n") == expected


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ("[sig, sgi]", ["3: grid.attack.1: no attack is called 'sgi'; did you mean 'sig'?"]),
        ("[SIGG]", ["3: grid.attack.0: no attack is called 'SIGG'; did you mean 'sig'?"]),
        ("zzzz", [f"3: grid.attack: no attack is called 'zzzz'; there are {ATTACK_NAMES}"]),
        ("[]", ["3: grid.attack: attack has no values; list at least one"]),
        ("~", ["3: grid.attack: attack has no values; list at least one"]),
        ("[3]", ["3: grid.attack.0: attack is a name, or a mapping with a name and options; "
            "got 3"]),
        ("{size: 3}", ["3: grid.attack: the attack has no name; write {name: ..., OPTION: ...}"]),
        ("{name: 3}", ["3: grid.attack.name: name is a text; got 3; quote it to make it one"]),
        ("[sig, badnets, sig]", ["3: grid.attack.2: the same attack stands twice; "
            "first at grid.attack.0"]),
        ("[sig, {name: sig, labels: clean_label}]", ["3: grid.attack.1: the same attack stands "
            "twice; first at grid.attack.0"]),
        ("[{name: badnets, poison_ratio: 0.1}, badnets]", ["3: grid.attack.1: the same attack "
            "stands twice; first at grid.attack.0"]),
        ("[{name: blended, alpha: [0.1, 0.2]}, blended]", ["3: grid.attack.1: the same attack "
            "stands twice; first at grid.attack.0"]),
        ("{name: blended, alpha: [0.1, 1e-1]}", ["3: grid.attack.alpha.1: 0.1 stands twice; "
            "first at grid.attack.alpha.0"]),
        ("{name: badnets, sise: 3}", ["3: grid.attack.sise: badnets has no option 'sise'; "
            "did you mean 'size'?"]),
        ("{name: badnets, zzz: 3}", ["3: grid.attack.zzz: badnets has no option 'zzz'; it has "
            "size, inset, level, labels, poison_ratio, stamp"]),
        ("[badnets, {name: sig, delta: 20.0, frequency: 0}]", [
            "3: grid.attack.1.delta: delta is in [0, 1] pixel units, so 0 < delta <= 1; got 20.0",
            "3: grid.attack.1.frequency: frequency is in periods, at least 1; got 0",
        ]),
        ("{name: badnets, size: [3, 0]}", ["3: grid.attack.size.1: size is in pixels, at least "
            "1; got 0"]),
        ("{name: badnets, size: []}", ["3: grid.attack.size: size has no values; list at least "
            "one"]),
        ("{name: badnets, labels: clean_label}", ["3: grid.attack.labels: badnets admits labels "
            "all_to_one, all_to_all; got clean_label"]),
        ("{name: badnets, poison_ratio: 0}", [f"3: grid.attack.poison_ratio: {RATIO_RULE}; "
            "got 0.0"]),
        ("{name: badnets, stamp: after}", ["3: grid.attack.stamp: stamp is before_augmentation "
            "or after_augmentation; got 'after'"]),
        ("{name: badnets, size: 17}", ["3: grid.attack: on digits, a square of 17 pixels at "
            "inset 0 fits images of at least 17 pixels; got 16"]),
        ("{name: sig, poison_ratio: 0.2}", ["3: grid.attack.poison_ratio: on digits, "
            "poison_ratio counts against all 1297 training images, and clean_label takes them "
            "from class 0, which has 128: at most 0.0986; got 0.2"]),
        # The default ratio is written nowhere, so the attack that it does not suit is named.
        ("[badnets, sig]", ["3: grid.attack.1: on digits, poison_ratio counts against all 1297 "
            "training images, and clean_label takes them from class 0, which has 128: at most "
            "0.0986; got 0.1"]),
    ],
)  # fmt: skip
def test_attacks(entries: str, expected: list[str]) -> None:
    text = BASE.replace("attack: badnets", f"attack: {entries}")
    if "sig" in entries and "counts against" not in expected[0]:
        text = text.replace("dataset: digits", "dataset: cifar10")
    assert lines(text) == expected


@pytest.mark.parametrize(
    ("axis", "entry", "expected"),
    [
        ("attack", "tact", f"attack 'tact' is not in this version; it has {ATTACK_NAMES}"),
        (
            "dataset",
            "tiny_imagenet",
            f"dataset 'tiny_imagenet' is not in this version; it has {DATASET_NAMES}",
        ),
        (
            "architecture",
            "timm:resnet50",
            f"architecture 'timm:resnet50' is not in this version; it has {ARCHITECTURE_NAMES}",
        ),
    ],
)
def test_names_that_other_versions_have(axis: str, entry: str, expected: str) -> None:
    kept = [line for line in BASE.splitlines(keepends=True) if f"  {axis}:" not in line]
    text = f"{''.join(kept)}  {axis}: ['{entry}']\n"
    assert lines(text) == [f"5: grid.{axis}.0: {expected}"]


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ("arrays", "4: grid.dataset: arrays needs arrays; write {arrays: FILE.npz}"),
        ("{name: arrays}", "4: grid.dataset: arrays needs arrays; write {arrays: FILE.npz}"),
        ("{arrays: a.npz, men: 3}", "4: grid.dataset.men: arrays has no option 'men'; "
            "did you mean 'mean'?"),
        ("{arrays: a.npz, std: [0, 1, 1]}", "4: grid.dataset.std: std is a divisor, so above 0; "
            "got 0.0"),
        ("{arrays: a.npz, flip: 1}", "4: grid.dataset.flip: flip is true or false; got 1"),
        ("{arrays: 3}", "4: grid.dataset.arrays: arrays is a text; got 3; quote it to make it "
            "one"),
        ("{name: digits, arrays: a.npz}", "4: grid.dataset.arrays: digits has no option "
            "'arrays'; it has size"),
        ("[digits, {name: digits, size: 16}]", "4: grid.dataset.1: digits stands twice; "
            "first at grid.dataset.0"),
        ("[{arrays: a/x.npz}, {arrays: b/x.npz}]", "4: grid.dataset.1: the results would call "
            "it arrays(x.npz), as they do grid.dataset.0"),
        ("[cifar10, {name: cifar10, root: b}]", "4: grid.dataset.1: the results would call it "
            "cifar10, as they do grid.dataset.0"),
        ("{name: digits, size: [32, 4]}", "4: grid.dataset.size.1: size is a side in pixels, "
            "from 8 to 256; got 4"),
    ],
)  # fmt: skip
def test_datasets(entries: str, expected: str) -> None:
    assert lines(BASE.replace("dataset: digits", f"dataset: {entries}")) == [expected]


def test_architectures() -> None:
    text = BASE.replace(
        "architecture: preact_resnet18",
        "architecture:\n  - {name: preact_resnet18, width: 0}\n  - preact_resnet18\n"
        "  - name: preact_resnet18\n    width: 64\n  - preact_resnet19",
    )
    assert lines(text) == [
        "6: grid.architecture.0.width: width is in channels, from 1 to 1024; got 0",
        "8: grid.architecture.2: preact_resnet18 stands twice; first at grid.architecture.1",
        "10: grid.architecture.3: no architecture is called 'preact_resnet19'; "
        "did you mean 'preact_resnet18'?",
    ]


def test_a_dataset_file_that_is_broken(tmp_path: Path) -> None:
    np.savez(tmp_path / "half.npz", train_images=np.zeros((2, 8, 8, 3), np.uint8))
    text = BASE.replace("dataset: digits", "dataset: [digits, {arrays: half.npz}]")
    assert lines(text) == [
        f"4: grid.dataset.1: {tmp_path}/half.npz lacks train_labels, test_images, test_labels; "
        "it has ['train_images']"
    ]


def test_each_message_comes_once() -> None:
    text = f"{BASE}  target_label: [0, 11]\n  architecture: x\n"
    text = text.replace("attack: badnets", "attack: [badnets, blended]").replace(
        "  architecture: x\n", "  seed: [0, 1, 2]\n"
    )
    assert lines(text) == [
        "6: grid.target_label.1: on digits, target_label is one of the 10 classes, 0 to 9; got 11"
    ]


def test_a_grid_that_is_too_large() -> None:
    seeds = ", ".join(map(str, range(1001)))
    thresholds = ", ".join(str(n / 1000) for n in range(1000))
    text = f"{BASE}  seed: [{seeds}]\n  unlearn_threshold: [{thresholds}]\n"
    assert lines(text) == ["2: grid: a grid has at most 1,000,000 trials; got 1,001,000"]
    options = f"{{name: badnets, size: [{seeds[3:]}], inset: [{seeds}]}}"
    assert lines(BASE.replace("attack: badnets", f"attack: {options}")) == [
        "3: grid.attack: a grid has at most 1,000,000 trials; got 1,001,000 entries here"
    ]


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
    start = time.perf_counter()
    found = lines(text)
    assert time.perf_counter() - start < 1
    assert found == [
        "1: name: name is letters, digits, - _ and . (not first), at most 100; got 'a b'",
        "2: preset: preset is default or official; got 'best'",
        "4: grid.attack.0: no attack is called 'sgi'; did you mean 'sig'?",
        "4: grid.attack.1.size: size is in pixels, at least 1; got 0",
        "6: grid.seed.1: 0 stands twice; first at grid.seed.0",
        "7: grid.reinit_ratio: reinit_ratio is a fraction of a neuron's weights, in [0, 1]; "
        "got 2.0",
        "9: victim.epochs: epochs is at least 1; got 0",
        "10: objective: objective is der, asr, acc or ra; got 'dre'; did you mean 'der'?",
        "11: resources.gpu: gpu is at most 1, or a whole number; got 1.5",
        "12: stor: unknown key; did you mean 'store'?",
    ]
