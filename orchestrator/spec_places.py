"""Where things lie: paths and URLs of a study file, made the same for every working folder."""

import re
from pathlib import Path
from urllib.parse import urlsplit

from orchestrator.address import Address
from orchestrator.spec_findings import Node, Wrong
from orchestrator.spec_values import fail, listed, nearest, word

DATABASES = ("postgresql", "mysql", "mssql")
STORAGES = ("postgresql", "mysql", "mssql", "oracle")  # SQLAlchemy's own dialects
# File systems that keep what several machines write: no other of fsspec's is a store.
STORES = (
    *("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oci", "oss"),
    *("hdfs", "webhdfs", "sftp", "ssh", "ftp", "smb"),
)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(//)?")
_VARIABLE = re.compile(r"\$[A-Za-z_{]")


def absolute_path(node: Node) -> str:
    """Return a local path as it is from the root; ``~`` is the user's home."""
    return _absolute(node, word(node))


def store_place(node: Node) -> Address:
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


def tracking_uri(node: Node) -> Address:
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


def optuna_storage(node: Node) -> Address:
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


def _with_host(node: Node, scheme: str, uri: str) -> Address:
    try:
        host = urlsplit(uri).netloc
    except ValueError:  # brackets that are no IPv6 address
        host = ""
    if not host:
        raise fail(node, f"{scheme}://HOST and so on")
    return Address(uri)


def _sqlite(node: Node, uri: str) -> Address:
    driver, separator, rest = uri.partition(":///")
    path, question, options = rest.partition("?")
    if not separator or path in ("", ":memory:"):
        raise fail(node, "sqlite:///FILE, with three slashes and a file")
    return Address(f"{driver}:///{_absolute(node, path)}{question}{options}")


def _absolute(node: Node, path: str) -> str:
    if _VARIABLE.search(path):
        raise _variable(node)
    try:
        return str(Path(path).expanduser().absolute())
    except (RuntimeError, ValueError) as error:
        raise Wrong(node, f"{node.name} is a path; {error}") from error


def _variable(node: Node) -> Wrong:
    end = f"; write its value, or let the shell do it: --set {node.path}=..."
    return fail(node, "a place, in which $ stands for nothing", end)
