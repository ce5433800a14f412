"""Options of attacks, datasets and architectures that are refused: one row a rule.

Each message begins with these words; those that fit a line are whole.
"""

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ulrl.attacks import ATTACKS
from ulrl.attacks.sig import SIG
from ulrl.datasets import DATASETS
from ulrl.messages import at_least, at_most
from ulrl.models import ARCHITECTURES
from ulrl.registry import label_of, options_of, registrar

NAN, INF = float("nan"), float("inf")
KINDS: dict[str, Any] = {**ATTACKS, **DATASETS, **ARCHITECTURES}
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("badnets", {"size": 0}, "size is in pixels, at least 1; got 0"),
    ("badnets", {"inset": -1}, "inset is in pixels, at least 0; got -1"),
    ("badnets", {"level": 1.5}, "level is in [0, 1] pixel units; got 1.5"),
    ("blended", {"alpha": 0.0}, "alpha is a weight, so 0 < alpha <= 1; got 0.0"),
    ("sig", {"delta": 20.0}, "delta is in [0, 1] pixel units, so 0 < delta <= 1; got 20.0"),
    ("sig", {"frequency": 0}, "frequency is in periods, at least 1; got 0"),
    ("lf", {"pattern": "a.png"}, "pattern is a file that ends in .npy; got 'a.png'"),
    ("lf", {"pattern": "a.npy", "scale": 0.3}, "scale is about what pattern replaces; leave one o"),
    ("lf", {"pattern": "a.npy", "origin": "field"}, "origin is about what pattern replaces; leave"),
    ("ssba", {"train_replacements": "a.npy"}, "train_replacements goes with test_replacements; na"),
    ("ssba", {"train_replacements": "a.npy", "test_replacements": "b.npy", "bits": 8}, "bits is a"),
    ("lc", {"train_replacements": "a.npy", "steps": 3}, "steps is about what train_replacements r"),
    ("adaptive_blend", {"alpha": 0.0}, "alpha is a weight, in (0, 1]; got 0.0"),
    ("adaptive_blend", {"pieces": 15}, "pieces is a square number, at least 1; got 15"),
    ("adaptive_blend", {"masked": 16}, "masked is fewer than the 16 pieces, at least 0; got 16"),
    ("adaptive_blend", {"cover_ratio": -1.0}, "cover_ratio is in covers per poisoned image, 0 to"),
    ("adaptive_patch", {"opacities": (0.5, 0.5)}, "opacities is 4 numbers in (0, 1]; got [0.5, 0."),
    ("adaptive_patch", {"test_marks": (0, 4)}, "test_marks is different numbers of 0 to 3; got [0"),
    ("adaptive_patch", {"size": 2}, "size is in pixels, at least 3; got 2"),
    ("tact", {"cover_classes": (5, 5)}, "cover_classes names different classes, at least one; got"),
    ("lira", {"epsilon": 0.0}, "epsilon is in [0, 1] pixel units, above 0; got 0.0"),
    ("lira", {"lr": 0.0}, "lr is a learning rate, above 0 and at most 1; got 0.0"),
    ("lira", {"clean_weight": 1.0}, "clean_weight is a share, in (0, 1); got 1.0"),
    ("input_aware", {"density": 1.0}, "density is a share of pixels, in (0, 1); got 1.0"),
    ("input_aware", {"mask_weight": -1.0}, "mask_weight is a weight, 0 to 1e6; got -1.0"),
    ("ssba", {"bits": 0}, "bits is a count, at least 1; got 0"),
    ("ssba", {"batch_size": 1}, "batch_size is at least 2; got 1"),
    ("ssba", {"train_images": -1}, "train_images is a count, or 0 for all of them; got -1"),
    ("lf", {"scale": 0.0}, "scale is in [0, 1] pixel units, above 0; got 0.0"),
    ("lf", {"images": 0}, "images is a count, at least 1; got 0"),
    ("lf", {"fooling_rate": 1.5}, "fooling_rate is a share, in (0, 1]; got 1.5"),
    ("lf", {"cutoff": 0.1}, "cutoff is in pixels, 0.5 to 100; got 0.1"),
    ("trojannn", {"neurons": 0}, "neurons is a count, at least 1; got 0"),
    ("trojannn", {"reach": 2.0}, "reach is in [0, 1] pixel units, above 0; got 2.0"),
    ("trojannn", {"excitation": 0.0}, "excitation is above 0 and at most 1e6; got 0.0"),
    ("lc", {"amplitude": 0.0}, "amplitude is in [0, 1], above 0; got 0.0"),
    ("badnets", {"size": 3, "pattern": "a.png"}, "size is about what pattern replaces; leave one"),
    ("badnets", {"inset": 2, "pattern": "a.png"}, "inset is about what pattern replaces; leave on"),
    ("tact", {"inset": 2}, "inset is of the white square; give its size too; got 2"),
    ("blind", {"row": -1}, "row is in pixels from the top, at least 0; got -1"),
    ("blind", {"column": -2}, "column is at least 0, or at most -3 to count from the right; got -"),
    ("blind", {"clean_weight": 0.0}, "clean_weight is a weight, above 0 and at most 100; got 0.0"),
    ("blind", {"backdoor_weight": 101.0}, "backdoor_weight is a weight, above 0 and at most 100;"),
    ("poison_ink", {"colour": (80, 256, 80)}, "colour is red, green and blue in grey levels, 0 to"),
    (
        "poison_ink",
        {"colour": (255, 255, 255)},
        "colour is white, as what is no edge is; take a darker",
    ),
    ("poison_ink", {"threshold": 255.0}, "threshold is in grey levels, at least 0 and below 255;"),
    ("poison_ink", {"adversarial_weight": -1.0}, "adversarial_weight is a weight, 0 to 1e6; got -"),
    ("bpp", {"levels": 1}, "levels is per channel, 2 to 128; got 1"),
    ("bpp", {"negative_ratio": 101.0}, "negative_ratio is in images per poisoned image, 0 to 100;"),
    ("wanet", {"grid": 1}, "grid is in control points, 2 to 32; got 1"),
    ("wanet", {"strength": 0.0}, "strength is a scale, above 0 and at most 10; got 0.0"),
    ("wanet", {"cross_ratio": -1.0}, "cross_ratio is in images per poisoned image, 0 to 100; got"),
    ("vgg19_bn", {"width": 0}, "width is in channels, from 1 to 256; got 0"),
    ("vgg19_bn", {"dropout": 1.0}, "dropout is a share, so 0 <= dropout < 1; got 1.0"),
    ("vit_b_16", {"size": 30}, "size is a multiple of patch, here 16; got 30"),
    ("vit_b_16", {"width": 30, "heads": 4}, "width is a multiple of heads, here 4; got 30"),
    ("vit_b_16", {"depth": 0}, "depth is from 1 to 64; got 0"),
    ("vit_b_16", {"mlp": 0}, "mlp is in units, from 1 to 16384; got 0"),
    ("vit_b_16", {"depth": 2, "weights": "imagenet"}, "weights: imagenet are for patch 16, width"),
    ("refool", {"transmission": 0.0}, "transmission is a fraction of light, above 0 and below 1;"),
    ("refool", {"ghost_rate": -0.1}, "ghost_rate is a probability, from 0 to 1; got -0.1"),
    ("ctrl", {"magnitude": INF}, "magnitude is in grey levels of 255, above 0; got inf"),
    ("ctrl", {"positions": (3, 3)}, "positions are indices of coefficients, each at least 0 and o"),
    ("ftrojan", {"window": 31}, "window is in pixels, above the largest position, here 31; got 31"),
    ("blended", {"pattern": "nosie"}, "pattern is synthetic, noise or a file that ends in .png, ."),
    ("badnets", {"pattern": "a/mine.npy"}, "pattern is a file that ends in .png, .jpg, .jpeg, .bm"),
    ("arrays", {"arrays": "a.npz", "mean": (0.1, 0.2)}, "mean has one number or one per channel;"),
    ("arrays", {"arrays": "a.npz", "std": ()}, "std has one number or one per channel; got 0"),
    ("arrays", {"arrays": "a.npz", "std": (1.0, 0.0, 1.0)}, "std is a divisor, so above 0; got 0."),
    ("arrays", {"arrays": "a.npz", "padding": -1}, "padding is in pixels, at least 0; got -1"),
    ("arrays", {"arrays": "a.npz", "mean": (0.5, NAN, 0.5)}, "mean is"),
    ("digits", {"size": 7}, "size is a side in pixels, from 8 to 256; got 7"),
    ("preact_resnet18", {"width": 0}, "width is in channels, from 1 to 1024; got 0"),
    ("gtsrb", {"mirror": "data/mirror"}, "mirror is a URL that begins with http:// or https://, o"),
    ("gtsrb", {"mirror": "file:///m"}, "mirror is a URL that begins with http:// or https://, or"),
    ("timm", {"model": "resnet18", "size": 0}, "size is in pixels, from 1 to 2048; got 0"),
    ("timm", {"model": "inception_v3", "size": 32}, "inception_v3 gives no row of scores for an i"),
    ("timm", {"model": "resnet18", "classifier": "x.y"}, "resnet18 has no layer x.y; classifier n"),
    ("timm", {"model": "resnet18", "classifier": "layer4.1.conv1"}, "layer4.1.conv1, the last lay"),
    ("timm", {"model": "resnet18", "weights": "imagenette"}, "weights is imagenet or a file that"),
    ("timm", {"model": "resnet5o"}, "timm has no model 'resnet5o'; did you mean 'resnet50' or 're"),
    ("timm", {"model": "hf-hub:timm/resnet18"}, "timm has no model 'hf-hub:timm/resnet18'; write"),
    ("timm", {"model": "hf_hub:someone/resnet18"}, "timm has no model 'hf_hub:someone/resnet18'"),
    ("timm", {"model": "resnetv2_50"}, "head.fc, the last layer of resnetv2_50, is Conv2d, not a"),
    ("timm", {"model": "deit_tiny_distilled_patch16_224"}, "deit_tiny_distilled_patch16_224 has 2"),
    ("timm", {"model": "resnet18.a1_in1q"}, "timm has no weights 'resnet18.a1_in1q'; did you mean"),
]
# Images that an attack cannot stamp: side, channels.
UNSTAMPABLE: list[tuple[str, dict[str, Any], int, int, str]] = [
    ("ctrl", {}, 32, 1, "ctrl changes colours, so images have 3 channels; got 1"),
    ("ctrl", {}, 31, 3, "position 31 is there in images of at least 32 pixels; got 31"),
    ("ftrojan", {}, 32, 1, "ftrojan changes colours, so images have 3 channels; got 1"),
    (
        "ftrojan",
        {},
        48,
        3,
        "ftrojan cuts images into windows of 32 pixels, so their side is a mult",
    ),
    (
        "blind",
        {"row": 4},
        8,
        3,
        "a mark of 5 × 3 pixels at row 4, column -9 is not inside images of 8 pixels",
    ),
    ("poison_ink", {}, 28, 3, "its U-Net halves images four times: sides of 16·n; got 28"),
    ("poison_ink", {}, 40, 3, "its U-Net halves images four times: sides of 16·n; got 40"),
    ("input_aware", {}, 20, 3, "its networks halve images three times: sides of 8·n; got 20"),
    ("ssba", {}, 24, 3, "its encoder halves images four times: sides of 16·n; got 24"),
]
STAMPABLE: list[tuple[str, dict[str, Any], int]] = [
    *(("ctrl", {}, 32), ("ctrl", {"positions": (7,)}, 8), ("ftrojan", {}, 64)),
    *(("ftrojan", {"window": 16, "positions": (5,)}, 48), ("blind", {}, 16)),
    *(("poison_ink", {}, 32), ("input_aware", {}, 24), ("ssba", {}, 48)),
]


@pytest.mark.parametrize(("name", "options", "message"), REFUSED)
def test_options_out_of_range(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r"^.") as error:
        KINDS[name](**options)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(("name", "options", "side", "channels", "message"), UNSTAMPABLE)
def test_images_that_cannot_be_stamped(
    name: str, options: dict[str, Any], side: int, channels: int, message: str
) -> None:
    with pytest.raises(ValueError, match=r"^.") as error:
        ATTACKS[name](**options).check(side=side, channels=channels)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(("name", "options", "side"), STAMPABLE)
def test_images_that_just_can(name: str, options: dict[str, Any], side: int) -> None:
    ATTACKS[name](**options).check(side=side, channels=3)


# Selection by name.


@pytest.mark.parametrize("registry", [ATTACKS, DATASETS, ARCHITECTURES])
def test_registered_classes_know_their_name(registry: dict[str, Any]) -> None:
    assert registry
    for name, entry in registry.items():
        assert entry.name == name
        assert entry.__dataclass_params__.frozen
        assert entry.__doc__


def test_a_taken_name_raises() -> None:
    entries: dict[str, Any] = {}
    register = registrar("attack", entries)

    @register("mine")
    class First:
        pass

    with pytest.raises(ValueError, match="mine") as error:

        @register("mine")
        class Second:
            pass

    assert str(error.value) == (
        "attack 'mine' is already registered by test_a_taken_name_raises.<locals>.First; choose "
        "another name"
    )
    assert entries == {"mine": First}


def test_labels_show_the_options_that_differ() -> None:
    assert options_of(SIG()) == {}
    assert options_of(SIG(frequency=3)) == {"frequency": 3}
    assert label_of(SIG()) == "sig"
    assert label_of(SIG(delta=0.1, frequency=3)) == "sig(delta=0.1,frequency=3)"


# Numbers that messages name must obey the rule they are named for.


SHARES = st.builds(Fraction, st.integers(1, 100_000), st.integers(1, 1_000_000))


@given(SHARES)
def test_at_least_is_not_below(share: Fraction) -> None:
    named = Fraction(at_least(share))
    assert share <= named <= share * Fraction(11, 10)


@given(SHARES)
def test_at_most_is_not_above(share: Fraction) -> None:
    named = Fraction(at_most(share))
    assert share * Fraction(999, 1000) <= named <= share


@pytest.mark.parametrize(
    ("share", "least", "most"),
    [
        (Fraction(1, 100), "0.01", "0.01"),
        (Fraction(2, 199), "0.011", "0.01005"),  # 0.010050251...
        (Fraction(43, 500), "0.086", "0.086"),
        (Fraction(2, 3), "0.67", "0.6666"),
        (Fraction(99_999, 100_000), "1", "0.9999"),
    ],
)
def test_by_hand(share: Fraction, least: str, most: str) -> None:
    assert (at_least(share), at_most(share)) == (least, most)
