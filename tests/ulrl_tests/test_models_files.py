"""Files of weights: what loads, what is refused and how, and that nothing in them runs."""

import hashlib
import os
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ulrl.models import WeightsError
from ulrl.models.preact_resnet import PreActResNet18

SMALL = PreActResNet18(width=2)


def network(*, classes: int = 5, channels: int = 3) -> nn.Module:
    return SMALL.build(classes=classes, channels=channels, side=16)


@pytest.fixture
def trained() -> dict[str, Tensor]:
    return network().state_dict()


def started(path: Path, target: nn.Module) -> dict[str, Tensor]:
    replace(SMALL, weights=str(path)).start(target)
    return target.state_dict()


def refusal(path: Path, target: nn.Module) -> str:
    """Return what is said of a file, which leaves the network as it was."""
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(WeightsError) as error:
        started(path, target)
    after = target.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert "\n" not in str(error.value)
    return str(error.value).removeprefix(f"{path} ").removeprefix(f"{path}: ")


@pytest.mark.parametrize("form", ["w.pth", "w.pt", "w.safetensors", "parallel", "wrapped", "half"])
def test_weights_load(form: str, trained: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / (form if "." in form else "w.pth")
    content: dict[str, Any] = trained
    if form == "parallel":
        content = {f"module.{name}": value for name, value in trained.items()}
    if form == "wrapped":
        content = {"epoch": 3, "model": trained}
    if form == "half":
        trained = {n: v.half().float() if v.is_floating_point() else v for n, v in trained.items()}
        content = {n: v.half() if v.is_floating_point() else v for n, v in trained.items()}
    (save_file if path.suffix == ".safetensors" else torch.save)(content, path)
    state = started(path, network())
    assert all(torch.equal(value, trained[name]) for name, value in state.items())
    assert state["conv1.weight"].dtype == torch.float32


def test_a_head_for_other_classes_stays_as_drawn(
    trained: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save(trained, tmp_path / "w.pth")
    target = network(classes=7)
    drawn = target.state_dict()["linear.weight"].clone()
    state = started(tmp_path / "w.pth", target)
    assert torch.equal(state["linear.weight"], drawn)
    assert torch.equal(state["layer4.1.conv2.weight"], trained["layer4.1.conv2.weight"])


def test_colours_are_summed_for_images_of_one_channel(
    trained: dict[str, Tensor], tmp_path: Path
) -> None:
    """A grey image gets the scores that it would get as three equal channels."""
    torch.save(trained, tmp_path / "w.pth")
    grey, colour = network(channels=1), network()
    started(tmp_path / "w.pth", grey)
    started(tmp_path / "w.pth", colour)
    images = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = colour.eval()(images.expand(-1, 3, -1, -1))
        assert torch.allclose(grey.eval()(images), expected, atol=1e-5)


def test_what_does_not_fit_is_listed(trained: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({**trained, "conv1.weight": torch.zeros(2, 3, 5, 5)}, path)
    name = "does not fit preact_resnet18(width=2,weights=w.pth)"
    assert refusal(path, network()) == (
        f"{name}: 1 difference: conv1.weight is [2, 3, 5, 5], not [2, 3, 3, 3]"
    )
    del trained["layer1.0.bn1.weight"]
    torch.save({**trained, "fc": torch.zeros(1)}, path)
    assert refusal(path, network()) == (
        f"{name}: 2 differences: it lacks layer1.0.bn1.weight; the network has no fc"
    )
    torch.save({f"x.{n}": v for n, v in trained.items() if n.startswith("layer1.0")}, path)
    text = refusal(path, network())
    # 102 entries less 16 counters and the two of a head that may be missing, and the file's.
    count = 102 - 16 - 2 + len([n for n in trained if n.startswith("layer1.0")])
    assert text.startswith(
        f"{name}: {count} differences: it lacks conv1.weight; it lacks layer1.0."
    )
    assert text.endswith(f"; and {count - 5} more")


class Hostile:
    """Creates a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def test_nothing_in_a_file_runs(trained: dict[str, Tensor], tmp_path: Path) -> None:
    path, mark = tmp_path / "w.pth", tmp_path / "mark"
    torch.save({**trained, "extra": Hostile(mark)}, path)
    assert "which was not run: a file from outside holds tensors" in refusal(path, network())
    assert not mark.exists()
    torch.load(path, weights_only=False)
    assert mark.exists()  # so it would have


def test_other_files_and_none(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    text = "is not there; weights: names a file (.safetensors, .pth, .pt)"
    assert refusal(path, network()) == "is not there; check the path"
    with pytest.raises(WeightsError) as error:
        replace(SMALL, weights=str(path)).identity()
    assert str(error.value) == f"{path} {text}"
    path.mkdir()
    assert refusal(path, network()) == "is a folder; name the file with the weights"
    path.rmdir()
    os.mkfifo(path)
    assert refusal(path, network()) == "is no regular file; name the file with the weights"
    path.unlink()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no weights")
    assert refusal(path, network()).startswith("cannot be read as a file of ")


def test_the_content_is_what_a_key_knows(trained: dict[str, Tensor], tmp_path: Path) -> None:
    here, there = tmp_path / "a.pth", tmp_path / "b.pth"
    torch.save(trained, here)
    there.write_bytes(here.read_bytes())
    expected = {"weights": hashlib.sha256(here.read_bytes()).hexdigest()}
    assert replace(SMALL, weights=str(here)).identity() == expected
    assert replace(SMALL, weights=str(there)).identity() == expected
    torch.save({**trained, "more": torch.zeros(1)}, there)
    assert replace(SMALL, weights=str(there)).identity() != expected
    assert SMALL.identity() == {}
