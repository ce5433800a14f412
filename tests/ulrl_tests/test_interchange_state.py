"""State dicts from outside: what is read, what fits, and what is refused in one line."""

import argparse
import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import prune

from tests.ulrl_tests.backdoorbench import Bomb, rewrite_pickle
from tests.ulrl_tests.states import State, refusal, same
from ulrl.interchange import ImportRefused, read_state
from ulrl.randomness import generator

# Reading.


WRAPPERS = [
    *("model", "state_dict", "model_state_dict", "net", "network", "weights", "netC"),
    *("ema", "state_dict_ema", "anything"),
]
PREFIXES = [
    *("", "module.", "_orig_mod.", "model.", "net.", "network.", "netC.", "backbone."),
    *("module._orig_mod.", "_orig_mod.module.", "model.model.", "model.net.backbone."),
]


@pytest.mark.parametrize(
    ("wrapper", "prefix"),
    [*((name, "module.") for name in WRAPPERS), *((None, prefix) for prefix in PREFIXES)],
)
def test_all_ways_to_save_a_state_dict(
    saved: Callable[[Any], Path], state: State, wrapper: str | None, prefix: str
) -> None:
    named = {f"{prefix}{name}": value for name, value in state.items()}
    content = {wrapper: named, "epoch": 3} if wrapper else named
    assert same(read_state(saved(content)), state)


def test_what_training_scripts_save_beside_the_weights(
    saved: Callable[[Any], Path], state: State
) -> None:
    network = nn.Linear(2, 2)
    optimiser = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    other = {name: torch.zeros_like(value) for name, value in state.items()}
    contents: list[dict[str, Any]] = [
        {"model": state, "args": argparse.Namespace(lr=0.1, more=[1, {"a": None}]), "epoch": 3},
        {"state_dict": state, "state_dict_ema": other, "optimizer": optimiser.state_dict()},
        {"netC": state, "netG": other, "netM": other, "noise_grid": torch.ones(2, 2)},
        {"model": {"state_dict": state}, "best_acc": np.float64(0.9), "steps": np.int32(4)},
        {"ema": state, "optimizer": optimiser.state_dict(), "acc": np.ones(3, np.float32)},
    ]
    for content in contents:
        assert same(read_state(saved(content)), state)


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_exported_programs_are_named(tmp_path: Path) -> None:
    network = nn.Linear(2, 2)
    path = tmp_path / "model.pt"
    torch.jit.save(torch.jit.script(network), str(path))
    assert refusal(lambda: read_state(path)) == (
        f"{path} is a TorchScript archive, not weights alone; load it where it was made and save "
        f"model.state_dict()"
    )
    torch.export.save(torch.export.export(network, (torch.ones(1, 2),)), path)
    assert f"{path} is a torch.export archive" in refusal(lambda: read_state(path))


@pytest.mark.parametrize("wrapped", [True, False])
def test_whole_modules(saved: Callable[[Any], Path], *, wrapped: bool) -> None:
    network = nn.Linear(2, 2)
    path = saved({"model": network} if wrapped else network)
    expected = f"{path} asks for 'torch.nn.modules.linear.Linear', which was not run: "
    assert refusal(lambda: read_state(path)).startswith(expected)


def test_safetensors(tmp_path: Path, state: State) -> None:
    save_file(state, tmp_path / "model.safetensors")
    assert same(read_state(tmp_path / "model.safetensors"), state)


def test_pruning_is_folded_as_torch_applies_it(saved: Callable[[Any], Path]) -> None:
    network = nn.Sequential(nn.Linear(6, 4))
    prune.l1_unstructured(network[0], "weight", amount=0.5)  # type: ignore[no-untyped-call]
    read = read_state(saved(network.state_dict()))
    assert read.keys() == {"0.weight", "0.bias"}
    inputs = torch.randn(5, 6, generator=generator(0, "inputs"))
    outputs = nn.functional.linear(inputs, read["0.weight"], read["0.bias"])
    assert torch.equal(outputs, network(inputs))
    assert int((read["0.weight"] == 0).sum()) == 12


@pytest.mark.parametrize(
    "mask", [torch.full((2, 2), 0.5), torch.ones(4), torch.tensor([[1.0, 0.0], [2.0, 1.0]])]
)
def test_a_mask_that_is_none(saved: Callable[[Any], Path], mask: Tensor) -> None:
    path = saved({"w_orig": torch.ones(2, 2), "w_mask": mask})
    assert refusal(lambda: read_state(path)).startswith(f"{path}: 'w_mask' is no mask of 0 and 1")


# What is refused.


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (torch.ones(3), "holds no state dict but a Tensor; save model.state_dict()"),
        ({}, "holds no tensors by name; save model.state_dict()"),
        ({"a": 1}, ": a state dict has tensors by name; got 'a' with a int; "),
        ({3: torch.ones(1)}, ": a state dict has tensors by name; got 3 with a Tensor; "),
        ({"a\nb": [1]}, ": a state dict has tensors by name; got 'a\\nb' with a list; "),
        (
            {"model": {"a": torch.ones(1)}, "net": {"a": torch.ones(1)}},
            "has a dict under each of model, net, and which is meant is not clear; ",
        ),
        (
            {"ema": {"a": torch.ones(1)}, "ema2": {"a": torch.ones(1)}},
            "has a dict under each of ema, ema2, and which is meant is not clear; ",
        ),
        ({"a": torch.ones(2, 2).to_sparse()}, ": 'a' is sparse, quantised, complex or of a "),
        ({"a": torch.empty(3, device="meta")}, ": 'a' is sparse, quantised, complex or of a "),
        ({"a": torch.tensor([0.0, float("inf")])}, ": a has 1 of 2 numbers that are NaN or "),
        ({"a": torch.ones(1).expand(10**9)}, ": 'a' claims 1000000000 numbers, more than are in "),
    ],
)
def test_what_is_no_state_dict(saved: Callable[[Any], Path], content: Any, reason: str) -> None:
    path = saved(content)
    assert reason in refusal(lambda: read_state(path)).removeprefix(str(path))


def test_a_hostile_pickle_is_refused_and_not_executed(
    saved: Callable[[Any], Path], tmp_path: Path, state: State
) -> None:
    trace = tmp_path / "exploded"
    path = saved({"model": state, "extra": Bomb(trace)})
    message = refusal(lambda: read_state(path))
    assert message == (
        f"{path} asks for '{os.mkdir.__module__}.mkdir', which was not run: a file from outside "
        f"holds tensors, plain values and NumPy numbers only; save the state dict alone"
    )
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists(), "the bomb was none"


@pytest.mark.parametrize(
    "name", ["os.system", "builtins.eval", "numpy.load", "torch.load", "numpy.frombuffer"]
)
def test_functions_are_refused_by_name(
    saved: Callable[[Any], Path], state: State, name: str
) -> None:
    path = saved(state)
    order = name.replace(".", "\n").encode()
    rewrite_pickle(path, lambda data: b"\x80\x02c" + order + b"\n" + data[2:])
    shown = name.removeprefix("builtins.")  # torch leaves that away
    assert f"{path} asks for '{shown}', which was not run" in refusal(lambda: read_state(path))


def test_what_other_libraries_allow_is_not_allowed_here(saved: Callable[[Any], Path]) -> None:
    path = saved({"extra": Fraction(1, 2)})
    with torch.serialization.safe_globals([Fraction]):
        assert torch.load(path, weights_only=True) == {"extra": Fraction(1, 2)}
        assert "asks for 'fractions.Fraction'" in refusal(lambda: read_state(path))
        assert torch.load(path, weights_only=True) == {"extra": Fraction(1, 2)}
    assert Fraction not in torch.serialization.get_safe_globals()


def test_a_truncated_file(saved: Callable[[Any], Path], state: State) -> None:
    path = saved(state)
    whole = path.read_bytes()
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert refusal(lambda: read_state(path)).startswith(f"{path} cannot be read as a file of ")


def test_a_damaged_pickle(saved: Callable[[Any], Path]) -> None:
    path = saved({"a": torch.ones(2)})
    whole = path.read_bytes()
    start = whole.index(b"\x80\x02}")
    for place in range(start, start + 150):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        try:
            read = read_state(path)
        except ImportRefused as refused:
            assert "\n" not in str(refused)  # noqa: PT017 - most bytes matter, a few do not
        else:
            assert all(type(value) is Tensor for value in read.values())


def test_a_damaged_safetensors_file(tmp_path: Path, state: State) -> None:
    path = tmp_path / "model.safetensors"
    save_file(state, path)
    path.write_bytes(path.read_bytes()[:-5])
    message = refusal(lambda: read_state(path))
    assert message.startswith(f"{path} cannot be read as safetensors (")


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
def test_a_missing_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    assert refusal(lambda: read_state(path)) == f"{path} is not there; check the path"


def test_a_folder(tmp_path: Path) -> None:
    message = refusal(lambda: read_state(tmp_path))
    assert message == f"{tmp_path} is a folder; name the file with the weights"
