"""Colours that tell attacks apart for everybody, and shades that rise for everybody."""

import itertools
from random import Random

import numpy as np
import pytest

from orchestrator.reporting.svg import CIVIDIS, COLOURS, KNOWN, attack_styles, colour_at
from ulrl.attacks import ATTACKS

# Machado, Oliveira and Fernandes (2009), severity 1.0, on linear RGB.
SIGHTS = {
    "all colours": np.eye(3),
    "no red": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "no green": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "no blue": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
WHITE = TO_XYZ.sum(axis=1)


def lab(colour: str, sight: str) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """Return CIE L*a*b* of an sRGB colour as somebody sees it."""
    parts = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    seen = np.clip(SIGHTS[sight] @ linear, 0, 1)
    ratio = TO_XYZ @ seen / WHITE
    f = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def luminance(colour: str) -> float:
    """Return the relative luminance of an sRGB colour, from black 0 to white 1."""
    return float(((lab(colour, "all colours")[0] + 16) / 116) ** 3)


@pytest.mark.parametrize("sight", SIGHTS)
def test_attacks_are_told_apart(sight: str) -> None:
    distances = {
        (one, other): float(np.linalg.norm(lab(one, sight) - lab(other, sight)))
        for one, other in itertools.combinations(COLOURS, 2)
    }
    assert min(distances.values()) > 10, distances  # 2.3 is just noticeable


def test_every_attack_of_this_project_has_a_look_of_its_own() -> None:
    assert set(KNOWN) == set(ATTACKS) - {"imported", "none"}
    styles = attack_styles(KNOWN)
    assert len({style.colour for style in styles.values()}) == len(KNOWN)
    assert len({style.mark for style in styles.values()}) == len(KNOWN), "in grey too"
    mine = attack_styles(["mine"])["mine"]
    assert mine.colour not in {style.colour for style in styles.values()}


@pytest.mark.parametrize("paper", ["#ffffff", "#fdfdfc", "#16181b"])  # print, light, dark
def test_every_colour_shows_on_every_paper(paper: str) -> None:
    """By WCAG's contrast; 3 on both papers would leave no room for so many colours."""
    lights = {colour: luminance(colour) for colour in (*COLOURS, paper)}
    ratios = [(lights[one] + 0.05) / (lights[paper] + 0.05) for one in COLOURS]
    assert min(max(ratio, 1 / ratio) for ratio in ratios) > 2


@pytest.mark.parametrize("name", [*KNOWN, "mine"])
def test_variants_share_the_colour_and_nothing_else(name: str) -> None:
    styles = attack_styles([name, *(f"{name}(alpha={n})" for n in range(5))]).values()
    assert len({style.colour for style in styles}) == 1
    assert len({style.mark for style in styles}) == len({style.dash for style in styles}) == 6


@pytest.mark.parametrize("seed", range(10))
def test_company_and_order_change_no_look(seed: int) -> None:
    """A study, and another one of other attacks: what they share looks the same in both."""
    random = Random(seed)
    everybody = [*KNOWN, "mine", "badnets(size=5)", "sig(labels=clean_label)"]
    one, other = (random.sample(everybody, random.randint(1, len(everybody))) for _ in range(2))
    first, second = attack_styles(one), attack_styles(other)
    assert list(first) == one
    assert {name: first[name] for name in one if name in second} == {
        name: second[name] for name in one if name in second
    }
    pairs = [(style.colour, style.mark) for style in first.values()]
    assert len(set(pairs)) == len(pairs)


def test_the_scale_is_the_published_one_at_its_tenths() -> None:
    assert [colour_at(place / 10) for place in range(11)] == list(CIVIDIS)
    assert colour_at(-1) == CIVIDIS[0]
    assert colour_at(2) == CIVIDIS[-1]
