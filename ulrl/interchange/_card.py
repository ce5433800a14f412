"""The model card of an exported model."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ulrl.interchange._config import Inner, shape_options
from ulrl.models import ModelSpec
from ulrl.registry import options_of

TABLES = {
    "scenario": "What was attacked, and how",
    "setting": "How it was repaired",
    "metrics": "What came of it",
}
WARNING = """\
This is a model from a study of backdoors. It was trained on poisoned data, and it may still
react to a trigger: use it for research, not in production."""


def card_text(model_spec: ModelSpec, inner: Inner, card: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the card in Markdown, with the front matter that model hubs read.

    Raises:
        ValueError: `card` has a table that no card has.
    """
    unknown = [name for name in card if name not in TABLES]
    if unknown:
        raise ValueError(f"a card has {', '.join(TABLES)}; got {unknown[0]!r}")
    parts = [_front(model_spec, card), f"# {model_spec.architecture.label}", WARNING]
    for name, title in TABLES.items():
        if name in card:
            show = _percent if name == "metrics" else _plain
            parts += [f"## {title}", _table(name, card[name], show)]
    parts += ["## Loading", f"```python\n{loading_code(model_spec, inner)}```"]
    parts.append(
        "`config.json` has the same in a form for programs: architecture and options, classes, "
        "size and normalisation."
    )
    return "\n\n".join(parts) + "\n"


def loading_code(model_spec: ModelSpec, inner: Inner) -> str:
    """Return Python that builds the network from this folder and scores a picture."""
    library = _library(model_spec)
    build, resize = _BUILD[library](model_spec), inner.side if library != "ulrl" else None
    preprocessing = model_spec.preprocessing
    shape = f"1, {model_spec.channels}, {model_spec.side}, {model_spec.side}"
    lines = [
        *build,
        "",
        f"mean = torch.tensor({list(preprocessing.mean)}).reshape(1, -1, 1, 1)",
        f"std = torch.tensor({list(preprocessing.std)}).reshape(1, -1, 1, 1)",
        f"pixels = torch.rand({shape})  # pictures, their pixels in [0, 1]",
        "inputs = (pixels - mean) / std",
    ]
    if resize:
        lines += [
            "inputs = torch.nn.functional.interpolate(",
            f'    inputs, ({resize}, {resize}), mode="bilinear", antialias=True',
            ")",
        ]
    return "\n".join([*lines, "scores = model(inputs)", ""])


def _library(model_spec: ModelSpec) -> str:
    """Return who has this network under these names."""
    architecture = model_spec.architecture
    if architecture.name == "timm":
        return "timm"
    changed = options_of(architecture).keys() & shape_options(architecture).keys()
    usual = model_spec.channels == 3 and model_spec.side >= 32
    torchvisions = {"vgg19_bn": set[str](), "vit_b_16": {"size"}}
    if usual and architecture.name in torchvisions and changed <= torchvisions[architecture.name]:
        return "torchvision"
    return "ulrl"


def _from_timm(model_spec: ModelSpec) -> list[str]:
    options: Any = model_spec.architecture
    arguments = [f"{options.model!r}", f"num_classes={model_spec.classes}"]
    arguments += [f"in_chans={model_spec.channels}", 'checkpoint_path="model.safetensors"']
    if options.size is not None and _takes_size(options):
        arguments.append(f"img_size={options.size}")
    listed = "".join(f"    {argument},\n" for argument in arguments)
    return ["import timm", "import torch", "", f"model = timm.create_model(\n{listed}).eval()"]


def _takes_size(options: Any) -> bool:
    from ulrl.models._timm import model_info_of

    facts = model_info_of(options.model)
    return facts.fixed and facts.sides != (options.size, options.size)


def _from_torchvision(model_spec: ModelSpec) -> list[str]:
    name = model_spec.architecture.name
    size = options_of(model_spec.architecture).get("size")
    sized = f", image_size={size}" if size else ""
    return [
        "import torch",
        "from safetensors.torch import load_file",
        f"from torchvision.models import {name}",
        "",
        f"model = {name}(num_classes={model_spec.classes}{sized})",
        'model.load_state_dict(load_file("model.safetensors"))',
        "model.eval()",
    ]


def _from_ulrl(model_spec: ModelSpec) -> list[str]:
    del model_spec  # it is in config.json
    return [
        "import torch",
        "from ulrl.interchange import load_exported",
        "from ulrl.models import restore",
        "",
        "# A torch module; its definition is the one thing that no other library has.",
        'model = restore(load_exported("."), torch.device("cpu")).network.eval()',
    ]


_BUILD: dict[str, Callable[[ModelSpec], list[str]]] = {
    "timm": _from_timm,
    "torchvision": _from_torchvision,
    "ulrl": _from_ulrl,
}


def _front(model_spec: ModelSpec, card: Mapping[str, Mapping[str, Any]]) -> str:
    library = "timm" if model_spec.architecture.name == "timm" else "pytorch"
    lines = [f"library_name: {library}", "pipeline_tag: image-classification"]
    lines += ["tags:", "- backdoor", "- ulrl"]
    dataset = card.get("scenario", {}).get("dataset")
    if isinstance(dataset, str):
        lines += ["datasets:", f"- {json.dumps(dataset)}"]  # JSON's strings are YAML's
    return "\n".join(["---", *lines, "---"])


def _table(name: str, rows: Mapping[str, Any], show: Callable[[Any], str]) -> str:
    def lines() -> Iterator[str]:
        yield f"| {name} | |"
        yield "|---|---|"
        for key, value in rows.items():
            yield f"| {_cell(str(key))} | {_cell(show(value))} |"

    return "\n".join(lines())


def _cell(text: str) -> str:
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").split())


def _percent(value: Any) -> str:
    fraction = isinstance(value, float | int) and not isinstance(value, bool)
    return f"{100 * value:.2f} %" if fraction else _plain(value)


def _plain(value: Any) -> str:
    if value is None:
        return "–"
    return value if isinstance(value, str) else json.dumps(value, default=str)
