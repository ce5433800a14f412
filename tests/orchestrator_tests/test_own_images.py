"""Studies on a user's own images: labels, and folders of files."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orchestrator.plan.plan import make_plan
from orchestrator.plan.resources import Compute
from orchestrator.spec.dump import resolved_yaml
from orchestrator.spec.load import load_study
from orchestrator.spec.model import Study
from orchestrator.store.keys import CacheKeys
from tests.orchestrator_tests.spec_files import SMALL as SMALLEST
from tests.orchestrator_tests.spec_files import load, mistakes

SMALL = SMALLEST + "  clean_ratio: 0.1\n"


@pytest.fixture(autouse=True)
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An array as MNIST is, and the same images in a folder."""
    monkeypatch.chdir(tmp_path)
    source = np.random.default_rng(1)
    arrays = {}
    for part in ("train", "test"):
        arrays[f"{part}_labels"] = np.repeat(np.arange(3), 20)
        arrays[f"{part}_images"] = source.integers(0, 256, (60, 16, 16), dtype=np.uint8)
        for label in range(3):
            place = tmp_path / f"mine/{part}/class{label}"
            place.mkdir(parents=True)
            for number in range(20):
                levels = arrays[f"{part}_images"][20 * label + number]
                Image.fromarray(levels).save(place / f"{number:02}.png")
    np.savez(tmp_path / "mine.npz", allow_pickle=True, **arrays)


def study_of(*entries: str) -> Study:
    return load(SMALL.replace("digits", f"[{', '.join(entries)}]"))


def victims(study: Study) -> dict[str, str]:
    """Return victims' keys by what results call their dataset."""
    keys = CacheKeys(study.victim, Compute())
    scenarios = make_plan(study).scenarios
    return {one.columns["dataset"]: keys.victim(one) for one in scenarios}


def test_labels_name_datasets_and_change_no_key() -> None:
    study = study_of("{arrays: mine.npz, label: My set (grey)}", "{folder: mine}")
    arrays, folder = study.grid.datasets
    first, other = arrays.load(), folder.load()
    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        assert (getattr(first, name) == getattr(other, name)).all()
    named = victims(study)
    plain = victims(study_of("{arrays: mine.npz}", "{folder: mine, label: folder}"))
    assert [*named] == ["My set (grey)", "folder(mine)"]
    assert [*plain] == ["arrays(mine.npz)", "folder"]
    assert [*named.values()] == [*plain.values()]
    Path("again.yaml").write_text(resolved_yaml(study))
    assert load_study("again.yaml").grid == study.grid


def test_an_exclusion_names_a_label() -> None:
    text = SMALL.replace("digits", "[{arrays: mine.npz, label: grey}, {folder: mine}]")
    study = load(f"{text}exclude: [{{dataset: grey}}]\n")
    assert [*victims(study)] == ["folder(mine)"]
    (line,) = mistakes(f"{text}exclude: [{{dataset: gray}}]\n")
    assert "no dataset is called 'gray'" in line


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            "{arrays: mine.npz, label: same}, {folder: mine, label: same}",
            "the results would call it same, as they do grid.dataset.0",
        ),
        ("{folder: mine, label: digits}, digits", "the results would call it digits, as they do"),
        ("{folder: mine, label: '/a'}", "label is of at most 60 letters, digits, blanks"),
        ("{folder: mine, label: 3}", "quote it to make it one"),
        ("{folder: mine, side: 0}", "side is in pixels, from 1 to 1024; got 0"),
    ],
)
def test_wrong_entries(entries: str, message: str) -> None:
    assert any(message in line for line in mistakes(SMALL.replace("digits", f"[{entries}]")))
