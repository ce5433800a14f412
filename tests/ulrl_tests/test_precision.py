"""Number formats: what they mean where, and that training in them stays near."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from tests.ulrl_tests.tiny_networks import Victims
from ulrl.clean import CleanConfig, CleanSamples, draw_clean_samples
from ulrl.datasets import ImageSet
from ulrl.hyperparameters import assemble
from ulrl.models import ModelSpec, initialise
from ulrl.poison import Poison
from ulrl.precision import Precision
from ulrl.randomness import generator
from ulrl.relearning import relearn
from ulrl.supervised import VictimConfig
from ulrl.unlearning import unlearn
from ulrl.victim import train_victim
from ulrl.weight_selection import LayerSuspects, Suspects

FP32, BF16, FP16, AUTO, AMP = Precision
CPU = torch.device("cpu")
State = dict[str, Tensor]
ROW_1 = LayerSuspects(weight="linear.weight", rows=(1,), reset=torch.ones(1, 32, dtype=torch.bool))


@pytest.mark.parametrize(
    ("device", "native", "meant"),
    [
        ("cpu", True, (FP32, BF16, FP16, FP32, FP32)),
        ("cuda", True, (FP32, BF16, FP16, BF16, FP16)),
        ("cuda", False, (FP32, BF16, FP16, FP32, FP16)),
    ],
)
def test_what_each_format_means(
    device: str, meant: tuple[Precision, ...], monkeypatch: pytest.MonkeyPatch, *, native: bool
) -> None:
    def supported(*, including_emulation: bool) -> bool:
        return native or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert tuple(precision.on(torch.device(device)) for precision in Precision) == meant


@pytest.mark.parametrize(
    ("precision", "dtype", "scaled"),
    [
        (FP32, torch.float32, False),
        (AUTO, torch.float32, False),
        (AMP, torch.float32, False),
        (BF16, torch.bfloat16, False),
        (FP16, torch.float16, True),
    ],
)
def test_a_product_is_computed_in_the_format(
    precision: Precision, dtype: torch.dtype, *, scaled: bool
) -> None:
    with precision.casting(CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    assert precision.scaler(CPU).is_enabled() is scaled


Train = Callable[[Precision], tuple[State, State]]  # weights before and after


@pytest.fixture(scope="module")
def clean(pictures: ImageSet) -> CleanSamples:
    return draw_clean_samples(CleanConfig(clean_ratio=0.12), pictures, seed=0)


@pytest.fixture(params=["victim", "ascent", "relearning"])
def training(
    request: pytest.FixtureRequest,
    victim_of: Victims,
    pictures: ImageSet,
    model_spec: ModelSpec,
    badnets: Poison,
    clean: CleanSamples,
) -> Train:
    """Each of the three trainings, short."""

    def of_victim(precision: Precision) -> tuple[State, State]:
        config = VictimConfig(epochs=1, batch_size=64, precision=precision)
        run = train_victim(config, model_spec, badnets, pictures, 0, CPU)
        start = initialise(model_spec, generator(0, "victim", "weights"), CPU).weights().state
        assert len(list(run.epochs)) == 1
        return start, run.classifier.weights().state

    def of_ascent(precision: Precision) -> tuple[State, State]:
        values = {"unlearn_epochs": 2, "unlearn_batch_size": 16, "layers": "all"}
        config = assemble({**values, "unlearn_precision": precision}).unlearn
        *_, ascent = unlearn(config, victim_of(0), clean, 0.0, CPU)
        return dict(ascent.before), ascent.at(2)

    def of_relearning(precision: Precision) -> tuple[State, State]:
        values = {"relearn_epochs": 2, "relearn_batch_size": 16, "batchnorm_updates": 2}
        config = assemble({**values, "relearn_precision": precision}).relearn
        suspects = Suspects(layers=(ROW_1,), reset_bias=True)
        run = relearn(config, victim_of(0), suspects, clean, CPU)
        start = run.classifier.weights().state
        assert len(list(run.epochs)) == 2
        return start, run.classifier.weights().state

    trainings = {"victim": of_victim, "ascent": of_ascent, "relearning": of_relearning}
    return trainings[request.param]


def flat(state: State) -> Tensor:
    parts = [value.flatten() for name, value in state.items() if "tracked" not in name]
    return torch.cat(parts).double()


@pytest.mark.parametrize("precision", [BF16, FP16])
def test_half_the_bits_give_finite_weights_near_by(
    training: Train, precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    # At 65,536, where scaling begins, some CPUs' first step overflows and is left out: then one
    # training has a step less than the other, whatever their arithmetic.
    scaler = partial(torch.amp.GradScaler, init_scale=1024.0)
    monkeypatch.setattr(torch.amp, "GradScaler", scaler)
    start, whole = map(flat, training(FP32))
    _, half = training(precision)
    assert all(value.dtype in (torch.float32, torch.int64) for value in half.values())
    there = flat(half)
    assert bool(there.isfinite().all())
    assert not torch.equal(there, whole)
    # bf16 has eight bits, so a forward pass is right to a hundredth or so.
    assert float((there - whole).norm()) < 0.2 * float((whole - start).norm())


@pytest.mark.parametrize("precision", [AUTO, AMP])
def test_on_a_cpu_automatic_is_fp32_bit_for_bit(training: Train, precision: Precision) -> None:
    (_, whole), (_, automatic) = training(FP32), training(precision)
    assert all(torch.equal(value, automatic[name]) for name, value in whole.items())
