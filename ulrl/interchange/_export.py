"""Models out to others: weights, how the network is built and fed, and a model card."""

import json
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ulrl.interchange._card import card_text
from ulrl.interchange._config import as_json, config_of, inner_of, model_spec_of, with_prefix
from ulrl.interchange._refusal import ImportRefused, inside_file, reason_of
from ulrl.interchange._state import fit_state, read_state
from ulrl.models import Weights

MODEL, CONFIG, CARD = "model.safetensors", "config.json", "README.md"


def export_model(
    weights: Weights, folder: str | Path, card: Mapping[str, Mapping[str, Any]]
) -> None:
    """Write a model as a folder that others can use without this program.

    ``model.safetensors`` has the weights by the names that timm and torchvision know (of
    a network behind a resize, without the resize), ``config.json`` the architecture with
    its options, the classes and the preprocessing, ``README.md`` a model card that says
    how to load it. The same arguments write the same bytes.

    Args:
        weights: The model.
        folder: Appears complete or not at all. An earlier export there is replaced.
        card: What the card tells, a table for each of ``scenario``, ``setting`` and
            ``metrics`` that is there, from names to plain values; metrics are fractions
            and shown in percent.

    Raises:
        FileExistsError: Something else is at `folder`.
        ValueError: `card` has other tables.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    inner = inner_of(weights.model_spec)
    config = config_of(weights.model_spec, inner)
    text = card_text(weights.model_spec, inner, card)
    state = {
        name.removeprefix(inner.prefix): value.contiguous() for name, value in weights.state.items()
    }
    if folder.exists() and not _is_export(folder):
        raise FileExistsError(f"{folder} is there and no exported model; name another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = folder.parent / f".{folder.name}.{secrets.token_hex(4)}"
    aside.mkdir()
    try:
        # One entry: with several, safetensors writes them in an order that chance decides.
        save_file(state, aside / MODEL, metadata={"ulrl": json.dumps(config, allow_nan=False)})
        (aside / CONFIG).write_text(as_json(config), encoding="utf-8")
        (aside / CARD).write_text(text, encoding="utf-8")
        _put(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def load_exported(folder: str | Path) -> Weights:
    """Return the weights of a folder that `export_model` wrote.

    Raises:
        ImportRefused: A file is missing, damaged, or does not fit the others.
    """
    folder = Path(folder)
    try:
        config = json.loads(inside_file(folder, CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ImportRefused(
            f"{folder / CONFIG} cannot be read as JSON ({reason_of(error)}); export the model again"
        ) from error
    model_spec = model_spec_of(config, str(folder / CONFIG))
    state = read_state(inside_file(folder, MODEL))
    try:
        inner = inner_of(model_spec)
    except Exception as error:  # networks raise anything where options do not go together
        raise ImportRefused(
            f"{folder / CONFIG}: its network cannot be built ({reason_of(error)}); export it again"
        ) from error
    named = with_prefix(state, inner.prefix)
    return fit_state(named, model_spec, str(folder / MODEL))


def _is_export(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    found = {entry.name for entry in folder.iterdir()}
    return not found or found == {MODEL, CONFIG, CARD}


def _put(aside: Path, folder: Path) -> None:
    """Rename a folder into place; a reader finds the old one, none for a moment, or the new."""
    if folder.exists():
        old = aside.with_name(f"{aside.name}.old")
        folder.rename(old)
        try:
            aside.rename(folder)
        except OSError:
            old.rename(folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
    else:
        aside.rename(folder)
