"""What a GPU does by other kernels than a CPU is the same. These tests want a GPU."""

from typing import Any

import pytest
import torch
from torch import Tensor

from ulrl.datasets import Preprocessing
from ulrl.models import Classifier, ModelSpec, initialise
from ulrl.models.vit import ViTB16
from ulrl.randomness import generator

pytestmark = pytest.mark.gpu

VIT = ViTB16(size=224, patch=16, width=128, depth=2, heads=2)  # 197 tokens, 64 features a head


def classifier(device: str) -> Classifier:
    model_spec = ModelSpec(
        architecture=VIT,
        classes=10,
        channels=3,
        side=32,
        preprocessing=Preprocessing(mean=(0.5,) * 3, std=(0.25,) * 3, padding=4, flip=True),
    )
    made = initialise(model_spec, generator(0, "weights"), torch.device(device))
    torch.nn.init.normal_(made.head.weight, std=0.1, generator=_source(device))
    return made


def _source(device: str) -> torch.Generator:
    return torch.Generator(device).manual_seed(0)


@pytest.fixture
def pictures() -> Tensor:
    return torch.randint(256, (16, 3, 32, 32), generator=_source("cpu")).to(torch.uint8)


def gradients(made: Classifier, pictures: Tensor, dtype: torch.dtype) -> list[Tensor]:
    made.network.train()
    made.network.zero_grad()
    with torch.autocast(made.device.type, dtype=dtype, enabled=dtype != torch.float32):
        logits = made.logits(pictures)
    logits.float().square().mean().backward()  # type: ignore[no-untyped-call]
    return [p.grad.clone() for p in made.network.parameters() if p.grad is not None]


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """Note what fused attention is computed in."""
    noted: list[torch.dtype] = []
    attention = torch.nn.functional.scaled_dot_product_attention

    def noting(query: Tensor, *others: Any) -> Tensor:
        noted.append(query.dtype)
        return attention(query, *others)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noting)
    return noted


def test_fused_attention_has_the_gradients_of_its_formula(
    pictures: Tensor, fused: list[torch.dtype]
) -> None:
    there = classifier("cuda")
    here = classifier("cpu")
    here.network.load_state_dict(there.weights().state)
    exact = gradients(here, pictures, torch.float32)
    for dtype, apart in ((torch.float32, 1e-2), (torch.bfloat16, 5e-2), (torch.float16, 2e-2)):
        for one, other in zip(gradients(there, pictures, dtype), exact, strict=True):
            assert (one.cpu() - other).norm() <= apart * other.norm() + 1e-6, dtype
    assert set(fused) == {torch.bfloat16, torch.float16}  # float32's do not repeat


def test_fused_attention_has_the_same_gradients_each_time(pictures: Tensor) -> None:
    made = classifier("cuda")
    first = gradients(made, pictures, torch.bfloat16)
    for _ in range(10):
        for one, other in zip(gradients(made, pictures, torch.bfloat16), first, strict=True):
            assert torch.equal(one, other)


def test_predictions_by_tensor_cores_are_those_of_a_cpu(pictures: Tensor) -> None:
    there, here = classifier("cuda"), classifier("cpu")
    here.network.load_state_dict(there.weights().state)
    before = torch.backends.cuda.matmul.fp32_precision
    inside: list[str] = []
    watch = there.network.register_forward_hook(
        lambda *_: inside.append(torch.backends.cuda.matmul.fp32_precision)
    )
    predicted = there.predict(pictures)
    watch.remove()
    assert inside == ["tf32"]
    assert torch.backends.cuda.matmul.fp32_precision == before
    here.network.eval()
    with torch.no_grad():
        logits = here.logits(pictures)
    best = logits.topk(2, dim=1).values
    sure = best[:, 0] - best[:, 1] > 1e-2 * logits.abs().max()
    assert int(sure.sum()) >= 8
    assert torch.equal(predicted[sure], logits.argmax(dim=1)[sure])
