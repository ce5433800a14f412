"""A victim from outside in one step, for studies."""

import hashlib
import json
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ulrl.interchange._backdoorbench import PICTURES, RESULT, read_backdoorbench
from ulrl.interchange._config import model_spec_of
from ulrl.interchange._facts import (
    VictimFacts,
    check_dataset,
    check_model_spec,
    check_normalisation,
    check_poison,
    target_labels,
)
from ulrl.interchange._refusal import ImportRefused, inside, inside_file, shown
from ulrl.interchange._state import fit_state, read_state
from ulrl.interchange._triggered import TriggeredImages, places_in, read_triggered
from ulrl.models import ModelSpec, Weights
from ulrl.poison import Poison

MODELS = ("model.safetensors", "model.pt", "model.pth")
TRIGGERED = ("triggered.npz", "triggered")
CONTENT = (
    f"{RESULT} with {PICTURES}/, or one of {', '.join(MODELS)} with triggered.npz or triggered/"
)


@dataclass(frozen=True, kw_only=True, eq=False)
class ImportedVictim:
    """A victim that was trained elsewhere.

    Attributes:
        weights: Those of the network that the scenario names.
        triggered: Test images with the trigger it was trained for.
        facts: What the file records beside; empty for a bare state dict.
        source: The file, for messages.
    """

    weights: Weights
    triggered: TriggeredImages
    facts: VictimFacts
    source: str


def load_victim(path: str | Path, model_spec: ModelSpec) -> ImportedVictim:
    """Return the victim of a folder, as weights of the network that `model_spec` describes.

    The folder is a run of BackdoorBench (or `path` its ``attack_result.pt``), or has
    ``model.safetensors``, ``model.pt`` or ``model.pth`` (see `read_state`) beside
    ``triggered.npz`` or ``triggered/`` (see `read_triggered`).

    Raises:
        ImportRefused: Anything in it is missing, damaged, doubtful or does not fit.
    """
    folder, model, pictures = _parts(path)
    if model == RESULT:
        run = read_backdoorbench(folder)
        facts, triggered, state, source = run.facts, run.triggered, run.state, run.source
    else:
        real, source = inside_file(folder, model), str(folder / model)
        triggered = replace(read_triggered(inside(folder, pictures)), source=str(folder / pictures))
        channels, side = triggered.images.shape[1:3]
        facts = VictimFacts(
            side=side, channels=channels, normalisation=_recorded_normalisation(real)
        )
        state = read_state(real)
    check_model_spec(facts, model_spec, str(folder))
    return ImportedVictim(
        weights=fit_state(state, model_spec, source),
        triggered=triggered,
        facts=facts,
        source=str(folder),
    )


def check_scenario(
    imported: ImportedVictim,
    *,
    architecture_name: str,
    dataset_name: str,
    poison: Poison,
    normalised: bool = False,
) -> None:
    """Refuse a victim that is not what a scenario says it is, as far as its file tells.

    The poison ratio counts only where it is recorded and clearly another one. A scenario
    on the user's own ``arrays`` may use a victim of any dataset's name, if its images are
    normalised as that dataset's.

    Args:
        imported: The victim, as `load_victim` returns it.
        architecture_name: Of the scenario, as are the next two.
        dataset_name: See `architecture_name`.
        poison: See `architecture_name`.
        normalised: Whether the user has said which normalisation this victim needs; then
            it is not compared with what the file records.

    Raises:
        ImportRefused: With the first thing that differs.
    """
    model_spec = imported.weights.model_spec
    if architecture_name != model_spec.architecture.name:
        raise ImportRefused(
            f"{imported.source} was read as {model_spec.architecture.name}, and the scenario has "
            f"{architecture_name}; read it for the scenario's architecture"
        )
    check_model_spec(imported.facts, model_spec, imported.source)
    check_dataset(imported.facts, dataset_name, imported.source)
    channels = {len(model_spec.preprocessing.mean), len(model_spec.preprocessing.std)}
    if channels != {model_spec.channels}:
        raise ImportRefused(
            f"{imported.source}: mean and std are for {max(channels)} channels, and the images "
            f"have {model_spec.channels}; write one number or one per channel at victim.import"
        )
    if not normalised:
        check_normalisation(imported.facts, model_spec, dataset_name, imported.source)
    check_poison(imported.facts, poison, imported.source)
    target_labels(poison, imported.triggered, model_spec.classes)


def fingerprint(path: str | Path) -> str:
    """Return a SHA-256 of what `load_victim` depends on: names and bytes, never the place.

    Raises:
        ImportRefused: A file is missing, or leads out of the folder.
    """
    folder, model, pictures = _parts(path)
    digest = hashlib.sha256()
    for name in (model, *_pictures(folder, pictures)):
        with inside_file(folder, name).open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{name}\n{content}\n".encode())
    return digest.hexdigest()


def _recorded_normalisation(path: Path) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Return what `export_model` wrote into a file of weights, if it was that."""
    if path.suffix != ".safetensors":
        return None
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get("ulrl")
    except (OSError, SafetensorError):
        return None  # the reader of the weights says what is wrong
    if text is None:
        return None
    try:
        config = json.loads(text)
    except (ValueError, RecursionError):
        config = None
    preprocessing = model_spec_of(config, f"{path}: its metadata").preprocessing
    return preprocessing.mean, preprocessing.std


def _pictures(folder: Path, name: str) -> list[str]:
    real = inside(folder, name)
    if not real.is_dir():
        return [name]
    return [f"{name}/{label}/{index}.png" for label, index in places_in(real)]


def _parts(path: str | Path) -> tuple[Path, str, str]:
    """Return the folder, the file of the model in it, and the file or folder of pictures."""
    folder = Path(path)
    if folder.name == RESULT:
        folder = folder.parent
    if not folder.is_dir():
        raise ImportRefused(
            f"{folder} is no folder{_nearest(folder)}; a victim's folder has {CONTENT}"
        )
    models = [name for name in (RESULT, *MODELS) if (folder / name).exists()]
    if len(models) != 1:
        raise ImportRefused(
            f"{folder} has {' and '.join(models) or 'no model'}; a victim's folder has {CONTENT}"
        )
    if models[0] == RESULT:
        return folder, RESULT, PICTURES
    pictures = [name for name in TRIGGERED if (folder / name).exists()]
    if len(pictures) != 1:
        raise ImportRefused(
            f"{folder} has {' and '.join(pictures) or 'no triggered images'}; a victim's folder "
            f"has {CONTENT}"
        )
    return folder, models[0], pictures[0]


def _nearest(folder: Path) -> str:
    """Return the part of a message that names what is there instead of a missing folder."""
    parent = folder.parent
    try:
        there = [entry.name for entry in parent.iterdir() if entry.is_dir()]
    except OSError:
        return f" ({parent} is none either)"
    close = get_close_matches(folder.name, there, n=1, cutoff=0.5)
    return f" (there is {shown(close[0])[1:-1]})" if close else ""
