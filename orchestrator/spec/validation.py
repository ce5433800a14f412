"""Typed values, paths and URLs of a study file, each with its place and its rule."""

import re
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from enum import StrEnum
from math import isfinite, isinf, ulp
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

from orchestrator.address import Address, redacted
from orchestrator.spec.yaml_tree import UNREADABLE, InvalidValue, Problems, YamlNode

E = TypeVar("E", bound=StrEnum)
Reader: TypeAlias = Callable[[YamlNode], Any]
NOTHING: Mapping[str, str] = {}
LARGEST = 10**18  # whole numbers fit 64 bits, in tables and elsewhere
# YAML 1.1 wants a dot and a signed exponent; people write 1e-3. A whole number of very many
# digits is read as text.
_DECIMAL = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+|[1-9][0-9]{40,})")


def shown(node: YamlNode) -> str:
    """Return a value as a message shows it."""
    kinds = {type(None): "nothing", tuple: "a list", dict: "a mapping"}
    if isinstance(node.value, bool):
        return str(node.value).lower()
    text = kinds.get(type(node.value)) or redacted(repr(node.value))  # before it is cut
    return text if len(text) <= 60 else f"{text[:57]}..."


def listed(words: Iterable[str], joint: str = ", ") -> str:
    """Return ``a, b or c`` (or with another last joint)."""
    *most, last = words
    return f"{', '.join(most)}{joint}{last}" if most else last


def nearest(word: str, valid: Iterable[str], otherwise: str = "") -> str:
    """Return the end of a message about a misspelt word: the valid one that it resembles.

    Without one, `otherwise` introduces the list of all, if it is given.
    """
    words = list(valid)
    by_lower = {name.lower(): name for name in words}
    if close := get_close_matches(word.lower(), by_lower, n=1):
        return f"; did you mean {by_lower[close[0]]!r}?"
    return f"; {otherwise} {', '.join(words)}" if otherwise else ""


def fail(node: YamlNode, rule: str, end: str = "") -> InvalidValue:
    """Return the exception for a value that is not what its key wants."""
    if node.value is UNREADABLE:
        return InvalidValue(node, "")
    return InvalidValue(node, f"{node.name} is {rule}; got {shown(node)}{end}")


def number(node: YamlNode) -> float:
    """Return a finite number, as a float.

    0.30000000000000004, as arithmetic in floats leaves it, is read as the 0.3 that it stands
    for, so that no axis has one value twice.
    """
    value = node.value
    if node.plain and isinstance(value, str) and _DECIMAL.fullmatch(value):
        value = float(value)
        if isinf(value):
            raise fail(node, f"at most {sys.float_info.max:.1e} in magnitude")
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise fail(node, "a number")
    value = float(value) + 0.0  # -0.0 becomes 0.0: equal values have equal text
    rounded = float(f"{value:.12g}")
    noise = len(repr(rounded)) <= 12 and abs(rounded - value) <= 4 * ulp(value)
    return rounded if noise else value


def whole(node: YamlNode) -> int:
    """Return a whole number; ``2.0`` is one."""
    try:
        value = number(node)
    except InvalidValue:
        raise fail(node, "a whole number") from None
    if not value.is_integer() or abs(value) > LARGEST:
        raise fail(node, "a whole number" if not value.is_integer() else "at most 10^18")
    return node.value if isinstance(node.value, int) else int(value)


def truth(node: YamlNode) -> bool:
    """Return a bool."""
    if not isinstance(node.value, bool):
        raise fail(node, "true or false")
    return node.value


def word(node: YamlNode) -> str:
    """Return a text of one line or less, that is not empty."""
    if not isinstance(node.value, str) or not node.value or not node.value.isprintable():
        numeric = isinstance(node.value, int | float)
        raise fail(node, "a text", "; quote it to make it one" if numeric else "")
    return node.value


def choice(node: YamlNode, enum: type[E]) -> E:
    """Return the member of a set of names."""
    names = [str(member) for member in enum]
    if node.value not in names:
        end = nearest(node.value, names) if isinstance(node.value, str) else ""
        raise fail(node, listed(names, " or "), end)
    return enum(node.value)


def between(node: YamlNode, value: float, low: float, high: float | None = None) -> None:
    """Raise `InvalidValue` unless ``low <= value <= high``."""
    if value < low or (high is not None and value > high):
        raise fail(node, f"at least {low:g}" if high is None else f"in [{low:g}, {high:g}]")


def at_most(node: YamlNode, value: float, most: float) -> None:
    """Raise `InvalidValue` where a number is larger than a library, or any machine, can take."""
    if value > most:
        raise fail(node, f"at most {most:,}")


def fraction(node: YamlNode) -> float:
    """Return a number in [0, 1]."""
    value = number(node)
    between(node, value, 0, 1)
    return value


def mapping(
    node: YamlNode, valid: Iterable[str], found: Problems, refused: Mapping[str, str] = NOTHING
) -> dict[str, YamlNode]:
    """Return the known keys of a section; an empty one has none.

    Keys in `refused` are none of them, and have their own explanation.
    """
    if node.value is None:
        return {}
    if not isinstance(node.value, dict):
        raise fail(node, "a mapping")
    for key in refused.keys() & node.value.keys():
        found.add(node.value[key], refused[key])
    others = {key: part for key, part in node.value.items() if key not in refused}
    return known(others, valid, found, "unknown key", "the keys are")


def section(node: YamlNode, readers: Mapping[str, Reader], found: Problems) -> dict[str, Any]:
    """Return the right values of a section by key, and note the others."""
    values = {}
    for key, part in mapping(node, readers, found).items():
        with found.collecting():
            values[key] = readers[key](part)
    return values


def known(
    entries: Mapping[str, YamlNode],
    valid: Iterable[str],
    found: Problems,
    complaint: str,
    hint: str,
) -> dict[str, YamlNode]:
    """Return the entries with valid keys, and note the others."""
    names = list(valid)
    for key, node in entries.items():
        if key not in names:
            found.add(node, complaint.format(key) + nearest(key, names, hint))
    return {key: node for key, node in entries.items() if key in names}


def reader_for(hint: Any) -> Reader:
    """Return the reader for a dataclass field's type.

    Raises:
        TypeError: No study file can hold a value of that type.
    """
    simple: dict[Any, Reader] = {float: number, int: whole, bool: truth, str: word}
    if hint in simple:
        return simple[hint]
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return lambda node: choice(node, hint)
    parts = get_args(hint)
    if get_origin(hint) is tuple and parts[1:] == (...,):
        one = reader_for(parts[0])
        return lambda node: tuple(one(item) for item in items(node))
    if get_origin(hint) in (Union, types.UnionType) and len(parts) == 2 and parts[1] is type(None):
        inner = reader_for(parts[0])
        return lambda node: None if node.value is None else inner(node)
    raise TypeError(f"a study file has no values of type {hint}")


def field_reader(owner: type[Any], name: str) -> tuple[Reader, Any]:
    """Return the reader of one field of a dataclass whose rules `owner` knows, and its type."""
    hint = get_type_hints(owner)[name]
    read = reader_for(hint)

    def checked(node: YamlNode) -> Any:
        value = read(node)
        try:
            owner(**{name: value})
        except ValueError as error:
            # A rule about several fields names another first, and waits for them all.
            if str(error).startswith(name):
                raise InvalidValue(node, str(error)) from error
        return value

    return checked, hint


def items(node: YamlNode) -> tuple[YamlNode, ...]:
    """Return a list's items; anything else is a list of one."""
    return node.value if isinstance(node.value, tuple) else (node,)


def axis_values(
    node: YamlNode, reader: Reader, hint: Any, found: Problems
) -> list[tuple[YamlNode, Any]]:
    """Return the values of one key that may list several, each with its place.

    A scalar is a list of one. Where each value is a list of its own, a flat list is one
    value. What is wrong, empty or there twice is noted and left out.
    """
    nodes = items(node)
    is_list = get_origin(hint) is tuple
    if is_list and nodes and not any(isinstance(item.value, tuple) for item in nodes):
        nodes = (node,)
    if not nodes or (node.value is None and type(None) not in get_args(hint)):
        found.add(node, f"{node.name} has no values; list at least one")
        return []
    places: dict[Any, YamlNode] = {}
    for item in nodes:
        with found.collecting():
            value = reader(item)
            if value in places:
                found.add(item, f"{plainly(value)} stands twice; first at {places[value].path}")
            else:
                places[value] = item
    return [(item, value) for value, item in places.items()]


def plainly(value: Any) -> str:
    """Return a value as one would write it in the file."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(plainly, value))}]"
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


DATABASES = ("postgresql", "mysql", "mssql")
STORAGES = ("postgresql", "mysql", "mssql", "oracle")  # SQLAlchemy's own dialects
# File systems that keep what several machines write: no other of fsspec's is a store.
STORES = (
    *("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oci", "oss"),
    *("hdfs", "webhdfs", "sftp", "ssh", "ftp", "smb"),
)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(//)?")
_VARIABLE = re.compile(r"\$[A-Za-z_{]")


def absolute_path(node: YamlNode) -> str:
    """Return a local path as it is from the root; ``~`` is the user's home."""
    return _absolute(node, word(node))


def store_place(node: YamlNode) -> Address:
    """Return the store's place: an absolute path, or the URL of something that keeps files."""
    place = word(node)
    Address(place)  # from here on, no message shows its secrets
    scheme, separator, rest = place.partition("://")
    if not separator and _SCHEME.match(place):
        scheme, separator = place.partition(":")[0], ":"
    if separator and scheme not in ("file", "local", *STORES):
        urls = [f"{name}://" for name in STORES]
        end = nearest(scheme, STORES) or f"; write a path, or one of {listed(urls, ' or ')}"
        raise fail(node, "a path, or a URL of what keeps files for all machines", end)
    if "::" in place:
        raise fail(node, "one place, without ::")
    if not separator or scheme in ("file", "local"):
        return Address(_absolute(node, rest if separator else place))
    if _VARIABLE.search(place):
        raise _variable(node)
    return Address(place)


def tracking_uri(node: YamlNode) -> Address:
    """Return the address of MLflow's server or database; a SQLite file's path is absolute."""
    uri = word(node)
    Address(uri)  # from here on, no message shows its secrets
    match = _SCHEME.match(uri)
    scheme = match.group(1).lower() if match else ""
    base = scheme.partition("+")[0]
    if scheme in ("", "file"):
        raise fail(
            node,
            "a server's http(s):// address or a database's, since MLflow no longer writes to "
            "folders",
            "; write sqlite:///runs/mlflow.db",
        )
    if base == "sqlite":
        return _sqlite(node, uri)
    if base not in ("http", "https", *DATABASES):
        end = nearest(scheme, ["http", "https", "sqlite", *DATABASES])
        raise fail(node, "an http(s)://, sqlite:/// or postgresql:// address", end)
    return _with_host(node, scheme, uri)


def optuna_storage(node: YamlNode) -> Address:
    """Return where Optuna's record goes: a database's address, or a journal file's path."""
    place = word(node)
    Address(place)  # from here on, no message shows its secrets
    match = _SCHEME.match(place)
    if match is None:
        return Address(_absolute(node, place))
    scheme = match.group(1).lower()
    base = scheme.partition("+")[0]
    if base == "sqlite":
        return _sqlite(node, place)
    if base not in STORAGES:
        end = nearest(scheme, ["sqlite", *STORAGES])
        raise fail(node, "a path of a journal, or sqlite:///, postgresql:// or mysql://", end)
    return _with_host(node, scheme, place)


def _with_host(node: YamlNode, scheme: str, uri: str) -> Address:
    try:
        host = urlsplit(uri).netloc
    except ValueError:  # brackets that are no IPv6 address
        host = ""
    if not host:
        raise fail(node, f"{scheme}://HOST and so on")
    return Address(uri)


def _sqlite(node: YamlNode, uri: str) -> Address:
    driver, separator, rest = uri.partition(":///")
    path, question, options = rest.partition("?")
    if not separator or path in ("", ":memory:"):
        raise fail(node, "sqlite:///FILE, with three slashes and a file")
    return Address(f"{driver}:///{_absolute(node, path)}{question}{options}")


def _absolute(node: YamlNode, path: str) -> str:
    if _VARIABLE.search(path):
        raise _variable(node)
    try:
        return str(Path(path).expanduser().absolute())
    except (RuntimeError, ValueError) as error:
        raise InvalidValue(node, f"{node.name} is a path; {error}") from error


def _variable(node: YamlNode) -> InvalidValue:
    end = f"; write its value, or let the shell do it: --set {node.path}=..."
    return fail(node, "a place, in which $ stands for nothing", end)
