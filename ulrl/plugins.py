"""Attacks, datasets, architectures, repair methods and metrics from outside the package."""

import hashlib
import sys
from dataclasses import dataclass
from importlib import import_module
from importlib.machinery import SourceFileLoader
from importlib.metadata import entry_points
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from ulrl.attacks import ATTACKS
from ulrl.audits import AUDITS
from ulrl.datasets import DATASETS
from ulrl.messages import nearest
from ulrl.methods import METHODS, TUNERS
from ulrl.metrics import OWN_METRICS
from ulrl.models import ARCHITECTURES

GROUP = "ulrl.plugins"  # of the entry points by which installed packages announce theirs
_PREFIX = "ulrl_plugin_"
_loaded: dict[str, "Plugin"] = {}  # by the module's name


class PluginError(Exception):
    """A plugin cannot be read, or does not run."""


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """A file of Python that registers something by name.

    Where one is unpickled it is loaded, so that objects of its classes can follow it.

    Attributes:
        path: Where it was read, for messages and tracebacks.
        source: Its text, which travels to the workers.
        name: Of the module, where it was found by a name and not by its path.
    """

    path: str
    source: str
    name: str = ""

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.path, self.source, self.name)

    @property
    def called(self) -> str:
        """What a study file calls it."""
        return self.name or self.path

    @property
    def module(self) -> str:
        """The name of its module."""
        return self.name or _PREFIX + Path(self.path).stem

    @property
    def digest(self) -> str:
        """What tells its text from others."""
        return hashlib.sha256(self.source.encode()).hexdigest()


def _restored(path: str, source: str, name: str) -> Plugin:
    plugin = Plugin(path=path, source=source, name=name)
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


def read_module(name: str) -> Plugin:
    """Return a module as a plugin: an installed package's, by its entry point, or any other.

    Modules are looked for where Python looks, and in the working folder.

    Raises:
        PluginError: There is no such module, or it has no source.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    announced = {entry.name: entry.module for entry in entry_points(group=GROUP)}
    module = announced.get(name, name)
    if module.partition(".")[0] in ("ulrl", "orchestrator"):
        raise PluginError(f"{module} is part of this package; name a module of your own")
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:  # of a package around it
        spec = None
    except Exception as error:
        raise PluginError(f"{module} raises {type(error).__name__}: {error}") from error
    if spec is None:
        hint = nearest(name, announced) or "; the name of a file ends with .py"
        raise PluginError(f"no module and no installed plugin is called {name!r}{hint}")
    if spec.origin is None or not spec.origin.endswith(".py"):
        raise PluginError(f"{module} has no file of Python; name the module that registers")
    plugin = read_plugin(Path(spec.origin))
    return Plugin(path=plugin.path, source=plugin.source, name=module)


def load_plugin(plugin: Plugin) -> None:
    """Run a plugin in this process, once; another text of the same name replaces the former.

    Raises:
        PluginError: It raises, or registers nothing.
    """
    if plugin.module in _loaded and _loaded[plugin.module].digest == plugin.digest:
        return
    loader = SourceFileLoader(plugin.module, plugin.path)
    spec = spec_from_file_location(plugin.module, plugin.path, loader=loader)
    if spec is None:
        raise PluginError(f"{plugin.called} is no module")
    try:
        for package in _packages_around(plugin.module):
            _import_or_replace(package)
        unload(plugin.module)  # it may be there as a module that something else imported
        module = sys.modules[plugin.module] = module_from_spec(spec)
        exec(compile(plugin.source, plugin.path, "exec"), module.__dict__)  # noqa: S102 - the user's own code
    except Exception as error:
        unload(plugin.module)
        raise PluginError(f"{plugin.called} raises {type(error).__name__}: {error}") from error
    if not _entries_of(plugin.module):
        unload(plugin.module)
        raise PluginError(
            f"{plugin.called} registers no attack, dataset, architecture, repair method or metric"
        )
    _loaded[plugin.module] = plugin


def _packages_around(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def _import_or_replace(package: str) -> None:
    """Let there be a package of that name, so that pickle finds a module in it."""
    try:
        import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        empty = sys.modules[package] = ModuleType(package)  # a worker may have the text alone
        empty.__path__ = []


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
    registries: tuple[dict[str, Any], ...] = (
        ATTACKS,
        DATASETS,
        ARCHITECTURES,
        METHODS,
        TUNERS,
        AUDITS,
        OWN_METRICS,
    )
    return [
        (registry, name)
        for registry in registries
        for name, entry in registry.items()
        if entry.__module__ == module
    ]
