"""State dicts from outside: what is read, what fits, and what is refused in one line."""

import argparse
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import prune

from tests.ulrl_tests.backdoorbench import Bomb
from tests.ulrl_tests.states import State, refusal, same
from ulrl.interchange import ImportRefused, fit_state, read_state
from ulrl.models import Architecture, ModelSpec, Weights, initialise, restore
from ulrl.models.timm_model import TimmModel
from ulrl.models.vit import ViTB16
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


def test_all_ways_to_save_a_state_dict(saved: Callable[[Any], Path], state: State) -> None:
    ways = [*((name, "module.") for name in WRAPPERS), *((None, prefix) for prefix in PREFIXES)]
    for wrapper, prefix in ways:
        named = {f"{prefix}{name}": value for name, value in state.items()}
        content = {wrapper: named, "epoch": 3} if wrapper else named
        assert same(read_state(saved(content)), state), (wrapper, prefix)


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


# What is refused.


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (torch.ones(3), "holds no state dict but a Tensor; save model.state_dict()"),
        ({}, "holds no tensors by name; save model.state_dict()"),
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
    for place in range(start, start + 150, 5):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        try:
            read = read_state(path)
        except ImportRefused as refused:
            assert "\n" not in str(refused)  # noqa: PT017 - most bytes matter, a few do not
        else:
            assert all(type(value) is Tensor for value in read.values())


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
def test_a_missing_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    assert refusal(lambda: read_state(path)) == f"{path} is not there; check the path"


# State dicts from outside: which fit a network, by name and shape.


def test_weights_that_fit_give_the_same_scores(
    model_spec: ModelSpec, state: State, cpu: torch.device
) -> None:
    images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8, generator=generator(0, "x"))
    with torch.no_grad():
        expected = restore(Weights(model_spec=model_spec, state=state), cpu).logits(images)
        scores = restore(fit_state(dict(reversed(state.items())), model_spec), cpu).logits(images)
    assert torch.equal(scores, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_numbers_take_the_networks_precision(
    model_spec: ModelSpec, state: State, dtype: torch.dtype
) -> None:
    other = {n: v.to(dtype) if v.is_floating_point() else v for n, v in state.items()}
    fitted = fit_state(other, model_spec)
    assert {value.dtype for value in fitted.state.values()} == {torch.float32, torch.int64}
    assert torch.equal(fitted.head, state["linear.weight"].to(dtype).float())


def test_counters_may_be_missing_and_nothing_else(model_spec: ModelSpec, state: State) -> None:
    old = {n: v for n, v in state.items() if not n.endswith("num_batches_tracked")}
    assert len(old) < len(state)
    assert same(fit_state(old, model_spec).state, state)
    del old["layer1.0.bn1.running_mean"]
    assert "1 missing (layer1.0.bn1.running_mean)" in refusal(lambda: fit_state(old, model_spec))


def test_the_difference_is_listed(model_spec: ModelSpec, state: State) -> None:
    wrong = {n: v for n, v in state.items() if not n.startswith("layer4.1.conv")}
    wrong |= {f"extra{i}": torch.ones(1) for i in range(5)}
    wrong["linear.weight"] = torch.ones(7, 32)
    message = refusal(lambda: fit_state(wrong, model_spec, "mine.pt"))
    assert message == (
        "mine.pt does not fit preact_resnet18(width=4): 2 missing (layer4.1.conv1.weight, "
        "layer4.1.conv2.weight); 5 unexpected (extra0, extra1, extra2, ...); 1 of another shape "
        "(linear.weight [7, 32] instead of [10, 32]); name the architecture, its options and the "
        "dataset that the file was made with"
    )


@pytest.mark.parametrize("bad", [float("nan"), -float("inf")])
def test_numbers_that_are_none(model_spec: ModelSpec, state: State, bad: float) -> None:
    wrong = dict(state)
    wrong["linear.bias"] = torch.tensor([0.0, bad, *[0.0] * 8])
    message = refusal(lambda: fit_state(wrong, model_spec, "mine.pt"))
    assert message.startswith("mine.pt: linear.bias has 1 of 10 numbers that are NaN or infinite")


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64])
def test_numbers_of_another_kind(model_spec: ModelSpec, state: State, dtype: torch.dtype) -> None:
    wrong = state | {"linear.bias": torch.zeros(10, dtype=dtype)}
    assert f"linear.bias is {dtype}, and the network" in refusal(
        lambda: fit_state(wrong, model_spec)
    )


# Files of other libraries: their names are read for imports and for warm starts alike.


DEPTH, WIDTH, SIZE = 2, 16, 32
VIT = ViTB16(size=SIZE, patch=16, width=WIDTH, depth=DEPTH, heads=2)
TIMM_VIT = {"img_size": SIZE, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": 2}


def reference(**options: Any) -> nn.Module:
    """Return a small transformer of timm, its weights drawn wide, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network: nn.Module = timm.create_model("vit_base_patch16_224", **(TIMM_VIT | options))
        for value in network.parameters():
            nn.init.normal_(value, std=0.2)
    return network.eval()


def torchvisions(state: State) -> State:
    """Return weights under torchvision's names, by replacements written here."""
    words = {
        "cls_token": "class_token",
        "pos_embed": "encoder.pos_embedding",
        "patch_embed.proj": "conv_proj",
        "norm1": "ln_1",
        "norm2": "ln_2",
        "attn.qkv.": "self_attention.in_proj_",
        "attn.proj": "self_attention.out_proj",
        "mlp.fc1": "mlp.0",
        "mlp.fc2": "mlp.3",
    }
    out = {}
    for given, value in state.items():
        name = given
        if name.startswith("blocks."):
            name = f"encoder.layers.encoder_layer_{name.removeprefix('blocks.')}"
        elif name.startswith("norm."):
            name = f"encoder.ln.{name.removeprefix('norm.')}"
        elif name.startswith("head."):
            name = f"heads.{name}"
        for old, new in words.items():
            name = name.replace(old, new)
        out[name] = value
    return out


def hugging_faces(state: State) -> State:
    """Return weights under the names of ViTForImageClassification, query, key and value apart."""
    words = {
        "patch_embed.proj": "patch_embeddings.projection",
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attn.proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    out: State = {}
    for given, value in state.items():
        name = given
        for old, new in words.items():
            name = name.replace(old, new)
        if ".attn.qkv." in name:
            _, number, *_, kind = name.split(".")
            for part, third in zip(("query", "key", "value"), value.chunk(3), strict=True):
                out[f"vit.encoder.layer.{number}.attention.attention.{part}.{kind}"] = third
        elif name.startswith("head."):
            out[f"classifier.{name.removeprefix('head.')}"] = value
        elif name.startswith("norm."):
            out[f"vit.layernorm.{name.removeprefix('norm.')}"] = value
        elif name.startswith("blocks."):
            out[f"vit.encoder.layer.{name.removeprefix('blocks.')}"] = value
        else:
            out[f"vit.embeddings.{name.replace('pos_embed', 'position_embeddings')}"] = value
    return out


FORMS: dict[str, Callable[[State], State]] = {
    "timm": dict,
    "torchvision": torchvisions,
    "hugging face": hugging_faces,
}
IMAGES = torch.randint(256, (2, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(0)).byte()


def scores(weights: Weights) -> Tensor:
    classifier = restore(weights, torch.device("cpu"))
    classifier.network.eval()
    with torch.no_grad():
        return classifier.logits(IMAGES)


def treated(model_spec: ModelSpec) -> Tensor:
    mean = torch.tensor(model_spec.preprocessing.mean).reshape(1, -1, 1, 1)
    std = torch.tensor(model_spec.preprocessing.std).reshape(1, -1, 1, 1)
    return (IMAGES / 255 - mean) / std


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_vit_b_16_reads_three_libraries(
    model_spec: ModelSpec, tmp_path: Path, form: str, prefix: str
) -> None:
    """The scores are those of timm's own network; a warm start reads the same file alike."""
    plan = replace(model_spec, architecture=VIT, side=SIZE)
    theirs = reference(num_classes=10)
    named = {f"{prefix}{n}": v for n, v in FORMS[form](theirs.state_dict()).items()}
    torch.save({"model": named}, tmp_path / "w.pt")
    fitted = fit_state(read_state(tmp_path / "w.pt"), plan)
    with torch.no_grad():
        expected = theirs(treated(plan))
    assert expected.std() > 0.1
    assert torch.allclose(scores(fitted), expected, atol=1e-4)
    warm = replace(plan, architecture=replace(VIT, weights=str(tmp_path / "w.pt")))
    started = initialise(warm, generator(0), torch.device("cpu")).weights()
    assert same(started.state, fitted.state)


@pytest.mark.parametrize("form", FORMS)
def test_a_transformer_of_timm_reads_three_libraries(
    model_spec: ModelSpec, tmp_path: Path, form: str
) -> None:
    model = "vit_tiny_patch16_224"
    plan = replace(model_spec, architecture=TimmModel(model=model, size=SIZE), side=SIZE)
    theirs = timm.create_model(model, img_size=SIZE, num_classes=10).eval()
    nn.init.normal_(theirs.get_parameter("head.weight"), generator=generator(0, "head"))
    torch.save(FORMS[form](theirs.state_dict()), tmp_path / "w.pt")
    fitted = fit_state(read_state(tmp_path / "w.pt"), plan)
    with torch.no_grad():
        assert torch.allclose(scores(fitted), theirs(treated(plan)), atol=1e-3)


@pytest.mark.parametrize(
    "architecture", [VIT, TimmModel(model="test_vit", size=SIZE)], ids=["vit_b_16", "timm"]
)
def test_a_victim_of_another_size_is_not_interpolated(
    model_spec: ModelSpec, architecture: Architecture
) -> None:
    """A warm start may interpolate position embeddings; a victim would be another network."""
    if isinstance(architecture, ViTB16):
        theirs = reference(num_classes=10, img_size=64)
    else:
        theirs = timm.create_model("test_vit", img_size=64, num_classes=10)
    plan = replace(model_spec, architecture=architecture, side=SIZE)
    message = refusal(lambda: fit_state(theirs.state_dict(), plan))
    assert "of another shape" in message
    assert "pos_embed" in message
