"""Rules for suspects that cannot tell the neurons of a small head apart, refused at planning."""

from pathlib import Path

import numpy as np
import pytest

from tests.orchestrator_tests.spec_files import SMALL, load, mistakes

NO_OUTLIER = (
    "on arrays(few.npz), suspect_rule outlier cannot answer for 2 classes: the larger of two "
    "scores has the same z whatever they are, 1.596 (infinite with zero_mad: infinite); write "
    "suspect_rule: largest and suspect_share: 0.5 to flag the larger"
)


def no_share(share: str, classes: int, least: str) -> str:
    return (
        f"on arrays(few.npz), suspect_share {share} of {classes} neurons is less than half of one, "
        f"so none is ever flagged; from {least} on it is one (max_suspects: 0 is plain fine-tuning)"
    )


@pytest.fixture(autouse=True)
def _two_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_classes(2)


def write_classes(classes: int) -> None:
    labels = np.arange(400) % classes
    images = np.zeros((400, 8, 8, 3), np.uint8)
    np.savez(
        "few.npz",
        train_images=images,
        train_labels=labels,
        test_images=images[:100],
        test_labels=labels[:100],
    )


def study(*axes: str, preset: str = "default", more: str = "") -> str:
    lines = "".join(f"  {axis}\n" for axis in axes)
    return (
        f"name: s\npreset: {preset}\n{more}grid:\n  attack: badnets\n  dataset: "
        "{arrays: few.npz}\n  architecture: preact_resnet18\n" + lines
    )


@pytest.mark.parametrize("preset", ["default", "official"])
def test_outliers_among_two_classes(preset: str) -> None:
    assert mistakes(study(preset=preset)) == [f"5: grid.dataset: {NO_OUTLIER}"]
    assert mistakes(study("suspect_rule: [largest, outlier]", "suspect_share: 0.5")) == [
        f"7: grid.suspect_rule.1: {NO_OUTLIER}"
    ]


@pytest.mark.parametrize(
    "axes",
    [
        ("suspect_rule: largest", "suspect_share: 0.5"),
        ("max_suspects: 0",),
        ("layers: all",),
        ("mad_epsilon: 0.5",),
        ("preset: fine_tuning",),
    ],
)
def test_what_two_classes_allow(axes: tuple[str, ...]) -> None:
    text = study(*axes)
    load(text.replace("preset: default\n", "") if axes[0].startswith("preset") else text)


def test_a_share_of_less_than_half_a_neuron() -> None:
    assert mistakes(study("suspect_rule: largest", "suspect_share: [0.5, 0.2]")) == [
        f"8: grid.suspect_share.1: {no_share('0.2', 2, '0.25')}"
    ]
    write_classes(3)
    assert mistakes(study("suspect_rule: largest")) == [
        f"5: grid.dataset: {no_share('0.15', 3, '0.17')}"
    ]
    load(study("suspect_rule: outlier"))  # of three classes one may stand out


def test_settings_that_a_sampler_draws() -> None:
    search = "search: {sampler: random, settings: 3}\n"
    axes = ("suspect_rule: [outlier, largest]", "suspect_share: {low: 0.2, high: 0.5}")
    assert mistakes(study(*axes, more=search)) == [
        f"8: grid.suspect_rule.0: {NO_OUTLIER}",
        f"9: grid.suspect_share.low: {no_share('0.2', 2, '0.25')}",
    ]


INVERTED = (
    "on digits, suspect_share flags all 10 rows of the head, and a signed cosine of weight {} for "
    "each turns every row into its opposite: in all trials so far ACC fell below chance; write "
    "cosine_reduction: mean, a smaller alpha, another cosine_form, or flag fewer rows"
)
ALL_ROWS = f"{SMALL}  suspect_rule: largest\n  suspect_share: 1.0\n  max_suspects: null\n"


@pytest.mark.parametrize(
    ("more", "weight"),
    [("", "0.7"), ("  alpha: [0.2, 0.4]\n", "0.4"), ("  preset: official\n", "0.7")],
)
def test_a_head_is_not_turned_inside_out(more: str, weight: str) -> None:
    assert mistakes(ALL_ROWS + more) == [f"7: grid.suspect_share: {INVERTED.format(weight)}"]


@pytest.mark.parametrize(
    "more",
    [
        "  alpha: 0.2\n",
        "  cosine_reduction: mean\n",
        "  cosine_form: [absolute, clamped]\n",
        "  alpha: {low: 0.1, high: 1.0}\nsearch: {sampler: random, settings: 2}\n",
    ],
)
def test_what_may_be_done_to_a_whole_head(more: str) -> None:
    load(ALL_ROWS + more)
