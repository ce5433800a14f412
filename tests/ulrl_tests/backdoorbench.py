"""Run folders of BackdoorBench's structure, written with torch and NumPy as it writes them."""

import os
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

Entry = tuple[int, int, int]  # number of the image, the attacker's class, the true class
AUTHORS = "/home/author/record/badnet_0_1"


def dataset_dict(name: str, entries: Sequence[Entry], total: int) -> dict[str, Any]:
    """Return what BackdoorBench keeps of a poisoned training or test set."""
    indices = np.array([index for index, _, _ in entries])
    marks = np.zeros(total)
    marks[indices] = 1
    place = f"{AUTHORS}/{name}"
    data = {
        key: {"path": f"{place}/{true}/{key}.png", "other_info": [wanted, true]}
        for key, (_, wanted, true) in zip(indices, entries, strict=True)  # keys are np.int64
    }
    return {
        "bd_data_container": {
            "save_folder_path": place,
            "data_dict": data,
            "save_file_format": ".png",
        },
        "getitem_all": True,
        "getitem_all_switch": False,
        "original_index_array": np.arange(total) if name == "bd_train_dataset" else indices,
        "poison_indicator": marks,
        "save_folder_path": place,
    }


def result(
    state: dict[str, Tensor], test: Sequence[Entry], total: int, **changes: Any
) -> dict[str, Any]:
    """Return the content of ``attack_result.pt`` for 16-px pictures of ten classes."""
    content = {
        "model_name": "preactresnet18",
        "num_classes": 10,
        "model": state,
        "data_path": "../data",
        "img_size": (16, 16, 3),
        "clean_data": "cifar10",
        "bd_train": None,
        "bd_test": dataset_dict("bd_test_dataset", test, total),
    }
    return content | changes


def write_run(folder: Path, content: Any, pictures: dict[tuple[int, int], Tensor]) -> Path:
    """Write a run: its file and ``bd_test_dataset/<true>/<index>.png``; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(content, folder / "attack_result.pt")
    write_pngs(folder / "bd_test_dataset", pictures)
    return folder


def write_pngs(folder: Path, pictures: dict[tuple[int, int], Tensor]) -> None:
    for (true, index), picture in pictures.items():
        path = folder / str(true) / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(path)


def rewrite_pickle(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Change the pickle inside a file of ``torch.save``, whatever its tensors."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, change(data) if name.endswith("data.pkl") else data)


def as_numpy_1(pickled: bytes) -> bytes:
    """Return a pickle with the names that NumPy 1 gives its helpers."""
    assert b"numpy._core.multiarray" in pickled
    return pickled.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.trace),)
