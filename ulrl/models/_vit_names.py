"""Names of a vision transformer's parameters in timm, torchvision and Hugging Face's library."""

import re
from collections.abc import Iterable

import torch
from torch import Tensor

State = dict[str, Tensor]
Rules = tuple[tuple[str, str], ...]

TO_TIMM: Rules = (
    # torchvision; before 0.13, which BackdoorBench uses, MLP layers were linear_1 and linear_2
    (r"^class_token$", "cls_token"),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
    (r"^(blocks\.\d+)\.ln_([12])\.", r"\1.norm\2."),
    (r"^(blocks\.\d+)\.self_attention\.in_proj_", r"\1.attn.qkv."),
    (r"^(blocks\.\d+)\.self_attention\.out_proj\.", r"\1.attn.proj."),
    (r"^(blocks\.\d+)\.mlp\.(0|linear_1)\.", r"\1.mlp.fc1."),
    (r"^(blocks\.\d+)\.mlp\.(3|linear_2)\.", r"\1.mlp.fc2."),
    (r"^encoder\.ln\.", "norm."),
    (r"^heads\.head\.", "head."),
    # Hugging Face's ViTForImageClassification
    (r"^(vit\.)?embeddings\.cls_token$", "cls_token"),
    (r"^(vit\.)?embeddings\.position_embeddings$", "pos_embed"),
    (r"^(vit\.)?embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^(vit\.)?encoder\.layer\.(\d+)\.", r"blocks.\2."),
    (r"^(blocks\.\d+)\.layernorm_before\.", r"\1.norm1."),
    (r"^(blocks\.\d+)\.layernorm_after\.", r"\1.norm2."),
    (r"^(blocks\.\d+)\.attention\.output\.dense\.", r"\1.attn.proj."),
    (r"^(blocks\.\d+)\.intermediate\.dense\.", r"\1.mlp.fc1."),
    (r"^(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    (r"^(vit\.)?layernorm\.", "norm."),
)
TO_TORCHVISION: Rules = (
    (r"^cls_token$", "class_token"),
    (r"^pos_embed$", "encoder.pos_embedding"),
    (r"^patch_embed\.proj\.", "conv_proj."),
    (r"^blocks\.(\d+)\.", r"encoder.layers.encoder_layer_\1."),
    (r"\.norm([12])\.", r".ln_\1."),
    (r"\.attn\.qkv\.", ".self_attention.in_proj_"),
    (r"\.attn\.proj\.", ".self_attention.out_proj."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.3."),
    (r"^norm\.", "encoder.ln."),
    (r"^head\.", "heads.head."),
)
CLASS_TOKENS = ("class_token", "vit.embeddings.cls_token", "embeddings.cls_token")
QUERY = re.compile(r"(blocks\.\d+)\.attention\.attention\.query\.(weight|bias)")


def timm_names(state: State) -> State:
    """Return a transformer's weights under timm's names; other weights as they are."""
    found = [name for name in CLASS_TOKENS if name in state]
    if not found:
        return state
    rules = TO_TIMM
    if found[0] != "class_token":
        rules = (*rules, (r"^classifier\.", "head."))
    return _joined(_renamed(state, rules))


def torchvision_names(state: State) -> State:
    """Return a transformer's weights, named as by any of the three, under torchvision's names."""
    return _renamed(timm_names(state), TO_TORCHVISION)


def _renamed(state: State, rules: Iterable[tuple[str, str]]) -> State:
    """Return `state` under new names, but for those that two weights would share."""
    new = {name: _new_name(name, rules) for name in state}
    taken = list(new.values())
    return {
        (name if taken.count(new[name]) > 1 else new[name]): value for name, value in state.items()
    }


def _new_name(name: str, rules: Iterable[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _joined(state: State) -> State:
    """Return weights with query, key and value in one matrix, as timm has them."""
    joined = dict(state)
    for name in state:
        if not (match := QUERY.fullmatch(name)):
            continue
        block, kind = match.groups()
        parts = [f"{block}.attention.attention.{part}.{kind}" for part in ("query", "key", "value")]
        if all(part in joined for part in parts) and f"{block}.attn.qkv.{kind}" not in joined:
            joined[f"{block}.attn.qkv.{kind}"] = torch.cat([joined.pop(part) for part in parts])
    return joined
