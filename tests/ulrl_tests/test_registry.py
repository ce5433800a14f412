"""Selection by name."""

from pathlib import Path
from typing import Any

import pytest

from ulrl.attacks import ATTACKS
from ulrl.attacks.sig import SIG
from ulrl.datasets import DATASETS
from ulrl.models import ARCHITECTURES
from ulrl.registry import import_all, label_of, options_of, registrar


@pytest.mark.parametrize("registry", [ATTACKS, DATASETS, ARCHITECTURES])
def test_registered_classes_know_their_name(registry: dict[str, Any]) -> None:
    assert registry
    for name, entry in registry.items():
        assert entry.name == name
        assert entry.__dataclass_params__.frozen
        assert entry.__doc__


def test_a_taken_name_raises() -> None:
    entries: dict[str, Any] = {}
    register = registrar("attack", entries)

    @register("mine")
    class First:
        pass

    with pytest.raises(ValueError, match="mine") as error:

        @register("mine")
        class Second:
            pass

    assert str(error.value) == (
        "attack 'mine' is already registered by test_a_taken_name_raises.<locals>.First"
    )
    assert entries == {"mine": First}


def test_every_public_module_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "zoo_of_tests"
    package.mkdir()
    (package / "__init__.py").write_text("SEEN = []\n")
    for name in ("ape", "bee", "_base"):
        text = f"from zoo_of_tests import SEEN\nSEEN.append({name!r})\n"
        (package / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    import_all("zoo_of_tests", [str(package)])
    import zoo_of_tests  # type: ignore[import-not-found]

    assert zoo_of_tests.SEEN == ["ape", "bee"]


def test_labels_show_the_options_that_differ() -> None:
    assert options_of(SIG()) == {}
    assert options_of(SIG(frequency=3)) == {"frequency": 3}
    assert label_of(SIG()) == "sig"
    assert label_of(SIG(delta=0.1, frequency=3)) == "sig(delta=0.1,frequency=3)"
