"""Rules for values of a study file: misspelt names, paths and URLs."""

import re
import unicodedata
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import PlainValidator

from orchestrator.address import Address

DATABASES = ("postgresql", "mysql", "mssql")
STORAGES = (*DATABASES, "oracle")  # SQLAlchemy's own dialects
# File systems that keep what several machines write: no other of fsspec's is a store.
STORES = (
    *("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oci", "oss"),
    *("hdfs", "webhdfs", "sftp", "ssh", "ftp", "smb"),
)
_LETTERS = (
    *("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"),
    *("lambda", "mu", "nu", "xi", "pi", "rho", "sigma", "tau", "upsilon", "phi", "chi", "psi"),
    *("omega", "Gamma", "Delta", "Theta", "Lambda", "Xi", "Pi", "Sigma", "Upsilon", "Phi", "Psi"),
    "Omega",
)
GREEK = {  # LaTeX's commands, and the letters that they stand for
    f"$\\{name}$": unicodedata.lookup(
        f"GREEK {'SMALL' if name.islower() else 'CAPITAL'} LETTER {name.upper()}".replace("MB", "M")
    )
    for name in _LETTERS
}
NO_MLFLOW = "none"  # in place of its address
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(//)?")


class RuleError(ValueError):
    """A value is not what its key wants; the message adds the key and the value."""

    def __init__(self, rule: str, end: str = "") -> None:
        super().__init__(rule)
        self.rule, self.end = rule, end


def lettered(text: str) -> str:
    r"""Return a text in which letters stand for LaTeX's commands, as τ for ``$\tau$``."""
    for command, letter in GREEK.items():
        text = text.replace(command, letter)
    return text


def nearest(word: object, valid: Iterable[str], otherwise: str = "") -> str:
    """Return the end of a message about a misspelt word: the valid one that it resembles.

    Without one, `otherwise` introduces the list of all, if it is given.
    """
    words = list(valid)
    by_lower = {name.lower(): name for name in words}
    if close := get_close_matches(str(word).lower(), by_lower, n=1):
        return f"; did you mean {by_lower[close[0]]!r}?"
    return f"; {otherwise} {', '.join(words)}" if otherwise else ""


def absolute_path(value: Any) -> str:
    """Return a local path as it is from the root; ``~`` is the user's home."""
    path = _text(value)
    try:
        return str(Path(path).expanduser().absolute())
    except (RuntimeError, ValueError) as error:
        raise RuleError(f"a path ({error})") from error


def _text(value: Any) -> str:
    """Return a text; from here on, no message shows its secrets."""
    if not isinstance(value, str):
        numeric = isinstance(value, int | float) and not isinstance(value, bool)
        raise RuleError("a text", "; quote it to make it one" if numeric else "")
    Address(value)
    if re.search(r"\$[A-Za-z_{]", value):
        end = "; write its value, or let the shell do it with --set KEY=VALUE"
        raise RuleError("a place, in which $ stands for nothing", end)
    return value


def _store(value: Any) -> Address:
    """Return the store's place: an absolute path, or the URL of something that keeps files."""
    place = _text(value)
    match = _SCHEME.match(place)
    scheme = match[1] if match else "file"
    if scheme not in ("file", "local", *STORES):
        end = nearest(scheme, STORES) or f"; write a path, or one of {', '.join(STORES)}, ://..."
        raise RuleError("a path, or a URL of what keeps files for all machines", end)
    if "::" in place:
        raise RuleError("one place, without ::")
    is_local = scheme in ("file", "local")
    return Address(absolute_path(place.partition("://")[2] or place) if is_local else place)


def _tracking(value: Any) -> Address | None:
    """Return the address of MLflow's server or database; a SQLite file's path is absolute.

    None stands for no MLflow.
    """
    uri = _text(value)
    if uri == NO_MLFLOW:
        return None
    match = _SCHEME.match(uri)
    if match is None or match[1].lower() == "file":
        rule = "a server's http(s):// address or a database's, since MLflow no longer writes to"
        raise RuleError(f"{rule} folders", "; write sqlite:///runs/mlflow.db")
    rule = "an http(s)://, sqlite:/// or postgresql:// address"
    return _remote(uri, match[1].lower(), ("http", "https", *DATABASES), rule)


def _storage(value: Any) -> Address:
    """Return where Optuna's record goes: a database's address, or a journal file's path."""
    place = _text(value)
    match = _SCHEME.match(place)
    if match is None:
        return Address(absolute_path(place))
    rule = "a path of a journal, or sqlite:///, postgresql:// or mysql://"
    return _remote(place, match[1].lower(), STORAGES, rule)


def _remote(uri: str, scheme: str, valid: tuple[str, ...], rule: str) -> Address:
    """Return a SQLite file's address with its path absolute, or one with a host."""
    base = scheme.partition("+")[0]
    if base == "sqlite":
        driver, separator, rest = uri.partition(":///")
        path, question, options = rest.partition("?")
        if not separator or path in ("", ":memory:"):
            raise RuleError("sqlite:///FILE, with three slashes and a file")
        return Address(f"{driver}:///{absolute_path(path)}{question}{options}")
    if base not in valid:
        raise RuleError(rule, nearest(scheme, ("sqlite", *valid)))
    try:
        host = urlsplit(uri).netloc
    except ValueError:  # brackets that are no IPv6 address
        host = ""
    if not host:
        raise RuleError(f"{scheme}://HOST and so on")
    return Address(uri)


StorePlace = Annotated[Address, PlainValidator(_store)]
TrackingUri = Annotated[Address | None, PlainValidator(_tracking)]
OptunaStorage = Annotated[Address, PlainValidator(_storage)]
AbsolutePath = Annotated[str, PlainValidator(absolute_path)]
