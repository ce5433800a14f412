"""State dicts from outside: which fit a network, by name and shape."""

from dataclasses import replace

import pytest
import torch

from tests.ulrl_tests.states import State, refusal, same
from ulrl.interchange import fit_state
from ulrl.models import ModelSpec, Weights, initialise, restore
from ulrl.models.vit import ViTB16
from ulrl.randomness import generator


def test_weights_that_fit_give_the_same_scores(
    model_spec: ModelSpec, state: State, cpu: torch.device
) -> None:
    images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8, generator=generator(0, "x"))
    with torch.no_grad():
        expected = restore(Weights(model_spec=model_spec, state=state), cpu).logits(images)
        scores = restore(fit_state(dict(reversed(state.items())), model_spec), cpu).logits(images)
    assert torch.equal(scores, expected)


def test_the_result_is_a_copy(model_spec: ModelSpec, state: State) -> None:
    fitted = fit_state(state, model_spec)
    assert same(fitted.state, state)
    fitted.head.zero_()
    assert bool(state["linear.weight"].any())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.bfloat16])
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


def test_a_transposed_weight_of_as_many_numbers(model_spec: ModelSpec, state: State) -> None:
    wrong = state | {"linear.weight": state["linear.weight"].T}
    assert "1 of another shape" in refusal(lambda: fit_state(wrong, model_spec))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_none(model_spec: ModelSpec, state: State, bad: float) -> None:
    wrong = dict(state)
    wrong["linear.bias"] = torch.tensor([0.0, bad, *[0.0] * 8])
    message = refusal(lambda: fit_state(wrong, model_spec, "mine.pt"))
    assert message.startswith("mine.pt: linear.bias has 1 of 10 numbers that are NaN or infinite")


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64, torch.bool])
def test_numbers_of_another_kind(model_spec: ModelSpec, state: State, dtype: torch.dtype) -> None:
    wrong = state | {"linear.bias": torch.zeros(10, dtype=dtype)}
    assert f"linear.bias is {dtype}, and the network" in refusal(
        lambda: fit_state(wrong, model_spec)
    )


def test_both_names_of_a_transformers_mlp(model_spec: ModelSpec, cpu: torch.device) -> None:
    small = ViTB16(size=32, patch=16, width=16, depth=2, heads=2)
    plan = replace(model_spec, architecture=small)
    state = initialise(plan, generator(0, "imported"), cpu).weights().state
    old = {
        n.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2."): v
        for n, v in state.items()
    }
    assert sum("linear_" in name for name in old) == 8
    assert same(fit_state(old, plan).state, state)
    assert same(fit_state(state, plan).state, state)
    both = old | {"1.encoder.layers.encoder_layer_0.mlp.0.weight": torch.ones(64, 16)}
    assert "1 unexpected" in refusal(lambda: fit_state(both, plan))


def test_fitting_draws_nothing(model_spec: ModelSpec, state: State) -> None:
    before = torch.get_rng_state()
    fit_state(state, model_spec)
    assert torch.equal(torch.get_rng_state(), before)
