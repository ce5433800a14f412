"""Attacks, datasets, architectures and repair methods from files outside the package."""

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from ulrl.attacks import ATTACKS
from ulrl.datasets import DATASETS
from ulrl.methods import METHODS
from ulrl.models import ARCHITECTURES

_PREFIX = "ulrl_plugin_"
_loaded: dict[str, "Plugin"] = {}  # by the module's name


class PluginError(Exception):
    """A file cannot be read, or does not run."""


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """A file of Python that registers something by name.

    Where one is unpickled it is loaded, so that objects of its classes can follow it.

    Attributes:
        path: Where it was read, for messages and tracebacks.
        source: Its text, which travels to the workers.
    """

    path: str
    source: str

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.path, self.source)

    @property
    def module(self) -> str:
        """The name of its module."""
        return _PREFIX + Path(self.path).stem

    @property
    def digest(self) -> str:
        """What tells its text from others."""
        return hashlib.sha256(self.source.encode()).hexdigest()


def _restored(path: str, source: str) -> Plugin:
    plugin = Plugin(path=path, source=source)
    load_plugin(plugin)
    return plugin


def read_plugin(path: Path) -> Plugin:
    """Return a file as a plugin.

    Raises:
        PluginError: It cannot be read.
    """
    try:
        return Plugin(path=str(path), source=path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise PluginError(f"{path} cannot be read: {error}") from error


def load_plugin(plugin: Plugin) -> None:
    """Run a plugin in this process, once; another text of the same name replaces the former.

    Raises:
        PluginError: It raises, or registers nothing.
    """
    if plugin.module in _loaded and _loaded[plugin.module].digest == plugin.digest:
        return
    unload(plugin.module)
    module = ModuleType(plugin.module)
    module.__file__ = plugin.path
    sys.modules[plugin.module] = module
    try:
        exec(compile(plugin.source, plugin.path, "exec"), module.__dict__)  # noqa: S102 - the user's own code
    except Exception as error:
        unload(plugin.module)
        raise PluginError(f"{plugin.path} raises {type(error).__name__}: {error}") from error
    if not _entries_of(plugin.module):
        unload(plugin.module)
        raise PluginError(
            f"{plugin.path} registers no attack, dataset, architecture or repair method"
        )
    _loaded[plugin.module] = plugin


def unload(module: str) -> None:
    """Forget a plugin's module and what it registered."""
    for registry, name in _entries_of(module):
        del registry[name]
    sys.modules.pop(module, None)
    _loaded.pop(module, None)


def source_of(made: object) -> str | None:
    """Return the digest of the plugin that defines an object's class; None if none does."""
    plugin = _loaded.get(type(made).__module__)
    return plugin.digest if plugin else None


def loaded() -> tuple[Plugin, ...]:
    """Return the plugins of this process."""
    return tuple(_loaded.values())


def _entries_of(module: str) -> list[tuple[dict[str, Any], str]]:
    registries: tuple[dict[str, Any], ...] = (ATTACKS, DATASETS, ARCHITECTURES, METHODS)
    return [
        (registry, name)
        for registry in registries
        for name, entry in registry.items()
        if entry.__module__ == module
    ]
