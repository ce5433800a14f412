"""Files of other libraries: their names are read for imports and for warm starts alike."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from tests.ulrl_tests.states import State, refusal, same
from ulrl.interchange import fit_state, read_state
from ulrl.models import Architecture, ModelSpec, Weights, initialise, restore
from ulrl.models.timm_model import TimmModel
from ulrl.models.vit import ViTB16
from ulrl.randomness import generator

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
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
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


@pytest.mark.parametrize("model", ["test_resnet", "resnet10t"])
def test_plain_files_of_timm(model_spec: ModelSpec, model: str) -> None:
    theirs = timm.create_model(model, num_classes=10, in_chans=3)
    plan = replace(model_spec, architecture=TimmModel(model=model))
    fitted = fit_state(theirs.state_dict(), plan)
    assert same(fitted.state, {f"1.{n}": v for n, v in theirs.state_dict().items()})
    assert same(fit_state(fitted.state, plan).state, fitted.state)


def test_torchvisions_files_have_timms_names(model_spec: ModelSpec) -> None:
    import torchvision.models  # type: ignore[import-untyped]

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = torchvision.models.resnet18(num_classes=10).eval()
    plan = replace(model_spec, architecture=TimmModel(model="resnet18", size=SIZE), side=SIZE)
    fitted = fit_state(theirs.state_dict(), plan)
    with torch.no_grad():
        assert torch.allclose(scores(fitted), theirs(treated(plan)), atol=1e-4)


def test_older_names_of_vgg_are_reshaped_and_no_more() -> None:
    """Timm's own rules rename torchvision's VGG; its linear layers become convolutions."""
    options = TimmModel(model="vgg11_bn")
    with torch.device("meta"):
        network = options.build(classes=10, channels=3, side=32)
    names = {
        "pre_logits.fc1": "classifier.0",
        "pre_logits.fc2": "classifier.3",
        "head.fc": "classifier.6",
    }
    theirs = {}
    for given, value in network.state_dict().items():
        name = given.removeprefix("1.")
        for ours, old in names.items():
            name = name.replace(ours, old)
        theirs[name] = value.flatten(1) if "classifier" in name and value.ndim == 4 else value
    named = options.named(theirs, network)
    assert {n: v.shape for n, v in named.items()} == {
        n: v.shape for n, v in network.state_dict().items()
    }


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


def test_a_file_of_another_architecture_is_refused(model_spec: ModelSpec) -> None:
    theirs = timm.create_model("test_resnet", num_classes=10)
    plan = replace(model_spec, architecture=VIT, side=SIZE)
    message = refusal(lambda: fit_state(theirs.state_dict(), plan))
    assert "missing (1.class_token" in message
