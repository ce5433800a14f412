"""Selection by name: what a study file may call an attack, a dataset or an architecture."""

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

T = TypeVar("T", bound=Callable[..., Any])
W = TypeVar("W")


def registrar(kind: str, entries: dict[str, Any]) -> Callable[[str], Callable[[T], T]]:
    """Return the decorator factory that enters classes or functions into `entries` under a name.

    A name that is taken raises ``ValueError``: two meanings of one word in a study file
    would be worse than a failed import.
    """

    def register(name: str) -> Callable[[T], T]:
        def add(entry: T) -> T:
            if name in entries:
                taken = entries[name].__qualname__
                raise ValueError(
                    f"{kind} {name!r} is already registered by {taken}; choose another name"
                )
            entry.name = name  # type: ignore[attr-defined]
            entries[name] = entry
            return entry

        return add

    return register


def import_all(package: str, path: list[str]) -> None:
    """Import every public module of `package`, so that adding a file is enough."""
    for module in pkgutil.iter_modules(path):
        if not module.name.startswith("_"):
            importlib.import_module(f"{package}.{module.name}")


def options_of(entry: Any, *, places: bool = True) -> dict[str, Any]:
    """Return the fields of a registered object that differ from their defaults.

    Without `places`, those that say where something lies are left out.
    """
    return {
        field.name: getattr(entry, field.name)
        for field in dataclasses.fields(entry)
        if getattr(entry, field.name) != field.default
        and (places or not field.metadata.get("runtime", False))
    }


def words_of(kind: type[Any], option: str, words: Iterable[W]) -> list[W]:
    """Return the words that an option of a registered class may be, of those of its type.

    A class that refuses one says ``OPTION is ...``; what it says of other options is no refusal.
    """

    def refused(word: W) -> bool:
        try:
            kind(**{option: word})
        except (TypeError, ValueError) as error:
            return str(error).startswith(f"{option} is ")
        return False

    return [word for word in words if not refused(word)]


def label_of(entry: Any) -> str:
    """Return the name with its non-default options, as ``preact_resnet18(width=16)``."""
    options = ",".join(f"{name}={value}" for name, value in options_of(entry).items())
    return f"{entry.name}({options})" if options else str(entry.name)
