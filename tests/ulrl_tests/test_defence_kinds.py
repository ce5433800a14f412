"""Options of methods and audits from Python: values of another kind are refused by name."""

import dataclasses
import json
import re
from enum import StrEnum
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

import ulrl
from tests.ulrl_tests.tiny_networks import HeadAlone
from ulrl.audits import AUDITS
from ulrl.datasets import Preprocessing
from ulrl.defence import registered
from ulrl.hyperparameters import of_kind
from ulrl.methods import METHODS, TuningMethod

PLAIN = Preprocessing(mean=(0.5,) * 3, std=(0.25,) * 3, padding=1, flip=True)
IMAGES = torch.zeros(12, 3, 4, 4, dtype=torch.uint8)
LABELS = torch.arange(12) % 6
WRONG: tuple[Any, ...] = (None, True, 3, 0.5, "x", [1], [0.5], ["x"], {"a": 1}, (), "ft_sam")


def called(call: Any, network: str, method: str, given: dict[str, Any]) -> Any:
    """Call with sound arguments but for those given, the network's by the name `network`."""
    first = given.pop(network, HeadAlone(3 * 4 * 4, 6))
    sound = {"images": IMAGES, "labels": LABELS, "preprocessing": PLAIN, "method": method}
    return call(first, **(sound | given))


def repaired(**given: Any) -> Any:
    return called(ulrl.repair, "victim", "fine_tuning", given)


def audited(**given: Any) -> Any:
    return called(ulrl.audit, "network", "nc", given)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"method": "ft_sam", "adaptive": "no"}, "adaptive is True or False; got 'no'"),
    ({"epochs": True}, "epochs is a whole number; got True"),
    ({"epochs": None}, "epochs is a whole number; got None"),
    ({"epochs": 1.5}, "epochs is a whole number; got 1.5"),
    ({"lr": "0.1"}, "lr is a number; got '0.1'"),
    ({"method": "rnp", "mask_threshold": "2"}, "mask_threshold is a number or None; got '2'"),
    ({"method": "nad", "beta": 500}, "beta is a list of numbers; got 500"),
    ({"method": "nad", "beta": ["500"]}, "beta is a number; got '500'"),
    ({"method": "rnp", "tune": 5}, "tune is the name of a tuner, or a mapping of it and its opt"),
    ({"method": "rnp", "tune": ["ft_sam"]}, "options or None; got ['ft_sam']"),
    ({"method": "rnp", "tune": {"name": ["x"]}}, "the tuner's name is a text; got ['x']"),
    ({"method": "rnp", "tune": {"name": "ft_sam", "rho": "2"}}, "rho is a number; got '2'"),
    ({"method": ["rnp"]}, "the repair method's name is a text; got ['rnp']"),
    ({"method": None}, "the repair method's name is a text; got None"),
    ({"method": ["rnp"], "preset": "official"}, "the repair method's name is a text; got ['r"),
    ({"dataset": ["digits"]}, "dataset is a text; got ['digits']"),
    ({"method": "ulrl", "dataset": ["digits"]}, "dataset is a text; got ['digits']"),
    ({"method": "npd", "layer": 3}, "layer is a text or None; got 3"),
    ({"head": ["linear"]}, "head is a text or None; got ['linear']"),
    ({"victim": None}, "the network is a torch.nn.Module; got None"),
    ({"victim": torch.relu}, "the network is a torch.nn.Module; got <"),
    ({"victim": nn.ReLU}, "the network is a torch.nn.Module; got <class"),
    ({"preprocessing": None}, "preprocessing is a ulrl.Preprocessing; got None"),
]


@pytest.mark.parametrize(("given", "message"), REFUSED)
def test_what_a_repair_is_given_of_another_kind_is_refused(
    given: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        repaired(**given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steps": "3"}, "steps is a whole number; got '3'"),
        ({"steps": [3]}, "steps is a whole number; got [3]"),
        ({"method": ["nc"]}, "the audit's name is a text; got ['nc']"),
        ({"method": "freeeagle", "images": None, "side": "12"}, "side is a whole number or None; "),
        ({"method": "freeeagle", "images": None, "side": True}, "side is a whole number or None; "),
        ({"network": None}, "the network is a torch.nn.Module; got None"),
        ({"preprocessing": "cifar10"}, "preprocessing is a ulrl.Preprocessing; got 'cifar10'"),
        ({"on_step": 3}, "on_step is a function of the stage, what is done and what there is to"),
        ({"head": 1}, "head is a text or None; got 1"),
    ],
)
def test_what_an_audit_is_given_of_another_kind_is_refused(
    given: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        audited(**given)


def test_a_word_that_is_none_of_an_option_s_is_refused_as_none_is() -> None:
    for wrong in (None, "per_epcoh", 3):
        message = re.escape(f"schedule is per_epoch or per_batch; got {wrong!r}")
        with pytest.raises(ValueError, match=message):
            repaired(method="ft_sam", schedule=wrong)


def options() -> list[tuple[str, Any]]:
    """Return each option of all methods and audits with its type."""
    found = []
    for kind in [*METHODS.values(), *AUDITS.values()]:
        hints = get_type_hints(kind)
        found += [(part.name, hints[part.name]) for part in dataclasses.fields(kind)]  # type: ignore[arg-type]
    return found


def test_values_are_taken_that_a_study_file_takes_and_no_others() -> None:
    """Pydantic in strict JSON mode reads a study file; a tuple there may be one number."""
    taken = {True: 0, False: 0}
    for name, hint in options():
        if any(kind is TuningMethod for kind in (hint, *get_args(hint))):
            continue
        for value in WRONG:
            try:
                wanted = TypeAdapter(hint).validate_json(json.dumps(value), strict=True)
            except ValidationError:
                with pytest.raises((TypeError, ValueError), match=rf"^{name} is .*got"):
                    of_kind(name, value, hint)
                taken[False] += 1
            else:
                found = of_kind(name, value, hint)
                assert found == wanted
                assert isinstance(found, StrEnum) == isinstance(wanted, StrEnum)
                taken[True] += 1
    assert min(taken.values()) > 100


def test_numbers_of_numpy_are_numbers() -> None:
    made = registered(
        METHODS,
        "repair method",
        "ft_sam",
        {"epochs": np.int64(3), "rho": np.float32(0.5), "lr": 1, "schedule": "per_batch"},
    )
    assert (made.epochs, made.rho, made.lr) == (3, 0.5, 1)
    assert (type(made.epochs), type(made.rho)) == (int, float)
    assert made == METHODS["ft_sam"](epochs=3, rho=0.5, lr=1, schedule=made.schedule)  # type: ignore[call-arg]
    assert of_kind("beta", np.array([1.0, 2.0]), tuple[float, ...]) == (1.0, 2.0)
