"""An audit as one call, on a network that the library did not build."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ulrl
from tests.ulrl_tests.audited import audited
from tests.ulrl_tests.repairs import clean_samples
from tests.ulrl_tests.tiny_networks import HeadAlone
from ulrl.audits.freeeagle import FreeEagle
from ulrl.audits.nc import NeuralCleanseAudit
from ulrl.datasets import ImageSet, Preprocessing
from ulrl.models import Weights, restore
from ulrl.randomness import generator

CPU = torch.device("cpu")
PLAIN = Preprocessing(mean=(0.5,) * 3, std=(0.25,) * 3, padding=1, flip=True)


class Foreign(nn.Module):
    """Somebody's network: the library's victim under other names."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.wrapped = inner

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.wrapped(x)
        return scores


def test_a_foreign_network_has_the_result_of_the_library_s(
    victim_of: Callable[[int], Weights], pictures: ImageSet
) -> None:
    model, clean = victim_of(0), clean_samples(pictures)
    network = Foreign(restore(model, CPU).network)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    steps: list[tuple[str, int, int]] = []
    found = ulrl.audit(
        network,
        "nc",
        clean.samples.images,
        clean.samples.labels,
        preprocessing=model.model_spec.preprocessing,
        on_step=lambda *step: steps.append(step),
        steps=5,
        search_batch_size=30,
    )
    wanted = audited(NeuralCleanseAudit(steps=5, search_batch_size=30), model, clean)
    torch.testing.assert_close(found.scores, wanted.scores)
    assert (found.statistic, found.suspects) == (wanted.statistic, wanted.suspects)
    assert found.passes == wanted.passes
    assert steps == [("reversed_triggers", 5, 5)]
    assert all(torch.equal(before[n], value) for n, value in network.state_dict().items())


def test_an_audit_without_data_takes_the_side(victim_of: Callable[[int], Weights]) -> None:
    model = victim_of(0)
    network = Foreign(restore(model, CPU).network)
    preprocessing = model.model_spec.preprocessing
    for seed in (0, 3):
        found = ulrl.audit(
            network, "freeeagle", preprocessing=preprocessing, side=16, steps=2, seed=seed
        )
        wanted = audited(FreeEagle(steps=2, seed=seed), model, None)
        torch.testing.assert_close(found.scores, wanted.scores)


@pytest.mark.parametrize(
    ("method", "given", "message"),
    [
        ("nc", {}, "nc needs clean samples: give images with their labels"),
        ("ncc", {}, "no audit is called 'ncc'; did you mean 'nc'"),
        ("freeeagle", {}, "side is that of the images that the network takes"),
        ("freeeagle", {"side": 0}, "needs it where there are no images; got 0"),
        ("freeeagle", {"side": 4, "steps": 0}, "steps is from 1 to 100000"),
        ("freeeagle", {"side": 4, "seed": -1}, "at least 0"),
        ("freeeagle", {"side": 4}, "cut has no default for this network"),
        ("freeeagle", {"side": 5}, "the victim fails on clean samples"),
    ],
)
def test_what_does_not_go_together_is_refused(
    method: str, given: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ulrl.audit(HeadAlone(3 * 4 * 4, 6), method, preprocessing=PLAIN, **given)  # type: ignore[arg-type]


def test_an_option_that_there_is_not_is_refused() -> None:
    network = HeadAlone(3 * 4 * 4, 6)
    with pytest.raises(TypeError, match="freeeagle has no option 'stepss'; did you mean 'steps'"):
        ulrl.audit(network, "freeeagle", preprocessing=PLAIN, side=4, stepss=3)


def test_every_option_of_an_audit_can_be_set(pictures: ImageSet) -> None:
    """Also one that has the name of an argument: ``images`` of ``certify``."""
    torch.manual_seed(0)
    network, clean = HeadAlone(3 * 4 * 4, 6), clean_samples(pictures)
    images, labels = clean.samples.images[:20, :, :4, :4], clean.samples.labels[:20] % 6

    def counted(**given: Any) -> int:
        found = ulrl.audit(network, "certify", images, labels, preprocessing=PLAIN, **given)
        return int(found.details["images"].sum()) // 5  # each image counts for the other five

    right = int((restored(network, images) == labels).sum())
    assert counted() == right > 0
    assert counted(options={"images": 20}, patch=2) == right
    assert counted(options={"images": 20, "patch": 2}) == right
    order = torch.randperm(20, generator=generator(0, "patch_bounds"))[:10]
    chosen = int((restored(network, images[order]) == labels[order]).sum())
    assert counted(options={"images": 10}) == chosen < right


def restored(network: nn.Module, images: Tensor) -> Tensor:
    return ulrl.predictor(network, PLAIN)(images)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"options": {"steps": 3}, "steps": 3}, "steps is given twice, by its name and in options"),
        ({"options": {"stepss": 3}}, "freeeagle has no option 'stepss'"),
        ({"options": {"seed": 3}}, "seed is an argument of audit; leave it out of options"),
        ({"options": ["steps"]}, "options is a mapping of names to values; got ['steps']"),
    ],
)
def test_options_that_do_not_go_together_are_refused(given: dict[str, Any], message: str) -> None:
    network = HeadAlone(3 * 4 * 4, 6)
    with pytest.raises(TypeError, match=re.escape(message)):
        ulrl.audit(network, "freeeagle", preprocessing=PLAIN, side=4, **given)
