"""Where things lie: paths and URLs of a study file, made the same for every working folder."""

import re
from pathlib import Path
from urllib.parse import urlsplit

from fsspec import available_protocols

from orchestrator.spec_findings import Node, Wrong
from orchestrator.spec_values import fail, nearest, word

DATABASES = ("postgresql", "mysql", "mssql")
STORAGES = ("postgresql", "mysql", "mssql", "oracle")  # SQLAlchemy's own dialects
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(//)?")


def absolute_path(node: Node) -> str:
    """Return a local path as it is from the root; ``~`` is the user's home."""
    return _absolute(node, word(node))


def store_place(node: Node) -> str:
    """Return the store's place: an absolute path, or a URL that fsspec knows."""
    place = word(node)
    scheme, separator, rest = place.partition("://")
    if not separator:
        return _absolute(node, place)
    if scheme in ("file", "local"):
        return _absolute(node, rest)
    if scheme not in available_protocols():
        end = nearest(scheme, available_protocols())
        raise fail(node, "a path or a URL that fsspec can open", end)
    return place


def tracking_uri(node: Node) -> str:
    """Return the address of MLflow's server or database; a SQLite file's path is absolute."""
    uri = word(node)
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
    if not urlsplit(uri).netloc:
        raise fail(node, f"{scheme}://HOST and so on")
    return uri


def optuna_storage(node: Node) -> str:
    """Return where Optuna's record goes: a database's address, or a journal file's path."""
    place = word(node)
    match = _SCHEME.match(place)
    if match is None:
        return _absolute(node, place)
    scheme = match.group(1).lower()
    base = scheme.partition("+")[0]
    if base == "sqlite":
        return _sqlite(node, place)
    if base not in STORAGES:
        end = nearest(scheme, ["sqlite", *STORAGES])
        raise fail(node, "a path of a journal, or sqlite:///, postgresql:// or mysql://", end)
    if not urlsplit(place).netloc:
        raise fail(node, f"{scheme}://HOST and so on")
    return place


def _sqlite(node: Node, uri: str) -> str:
    driver, separator, rest = uri.partition(":///")
    path, question, options = rest.partition("?")
    if not separator or path in ("", ":memory:"):
        raise fail(node, "sqlite:///FILE, with three slashes and a file")
    return f"{driver}:///{_absolute(node, path)}{question}{options}"


def _absolute(node: Node, path: str) -> str:
    try:
        return str(Path(path).expanduser().absolute())
    except (RuntimeError, ValueError) as error:
        raise Wrong(node, f"{node.name} is a path; {error}") from error
