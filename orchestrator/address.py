"""Addresses that may hold secrets, and texts without them.

Everything that leaves the program as text (terminal, logs, report, study folder, MLflow) is made
of addresses, which do not print their secrets, and of libraries' words, which `redacted` takes
the secrets out of.
"""

import re
from urllib.parse import quote, unquote, unquote_plus

HIDDEN = "***"
SHORTEST = 4  # characters of a secret that is looked for in other texts: "a" is everywhere
# Words in the names of a query's values that are secrets: sslpassword, X-Amz-Signature, sig.
_SECRET_NAME = re.compile(r"pass|pwd|token|secret|key|sig|credential|auth", re.IGNORECASE)
_INNER = re.compile(r"(?:password|pwd|token|secret|key)\s*=", re.IGNORECASE)  # ODBC's PWD=...
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]+")
_SPLIT = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/(?:/|(?=[^/]))(.*)", re.DOTALL)
# Whose paths may hold an @ while no user is named: object stores.
_OBJECTS = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oci", "oss"})
_known: set[str] = set()  # secrets of the addresses of this process, in all their spellings


class Address:
    """A path or URL whose secrets only `reveal` returns.

    Secret are ``user:password`` and a token before the ``@`` of a URL, and values of its query
    whose names are like ``password``, ``token`` or ``key``. `HIDDEN` stands in their place in
    ``str``, ``repr`` and ``format``. Addresses with different passwords are not equal.
    """

    __slots__ = ("_shown", "_text")

    def __init__(self, text: str) -> None:
        self._text = text
        self._shown, secrets = _parted(text)
        for secret in secrets:
            forms = (secret, unquote(secret), unquote_plus(secret), quote(secret, safe=""))
            _known.update(form for form in forms if len(form) >= SHORTEST)

    @classmethod
    def of(cls, place: "Address | str") -> "Address":
        """Return an address from itself or from its text."""
        return place if isinstance(place, Address) else cls(place)

    def reveal(self) -> str:
        """Return the address as its library wants it, secrets included: never print it."""
        return self._text

    @property
    def is_redacted(self) -> bool:
        """Whether this is what another address showed, so that it opens nothing."""
        return HIDDEN in self._text

    def __str__(self) -> str:
        return self._shown

    def __format__(self, spec: str) -> str:
        return format(self._shown, spec)

    def __repr__(self) -> str:
        return f"Address({self._shown!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Address) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> tuple[type["Address"], tuple[str]]:
        return Address, (self._text,)  # another process, too, learns what not to print


def redacted(text: str) -> str:
    """Return a text without the secrets of any address of this process, or of any URL in it."""
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return _URL.sub(lambda match: _parted(match.group())[0], text)


def _parted(text: str) -> tuple[str, list[str]]:
    """Return an address as it may be shown, and its secrets."""
    match = _SPLIT.fullmatch(text)
    if match is None:
        return text, []
    scheme, rest = match.groups()
    begin = len(text) - len(rest)
    end = _end_of_user(scheme.lower(), rest)
    user, rest = rest[: max(0, end)], rest[end + 1 :]
    place, question, query = rest.partition("?")
    shown_query, secrets = _query(query)
    front = f"{user}@" if end >= 0 else ""
    if ":" in user or (
        end >= 0 and scheme.lower() in ("http", "https")
    ):  # there, one word: a token
        front = f"{HIDDEN}@"
        secrets += [user, user.partition(":")[2]]
    shown = f"{text[:begin]}{front}{place}{question}{shown_query}"
    return shown, [secret for secret in secrets if secret and secret != HIDDEN]


def _end_of_user(scheme: str, rest: str) -> int:
    """Return where the @ after user and password stands, -1 if there is none.

    A password may hold what a URL should have encoded: ``/``, ``?``, ``#``, ``@``.
    """
    if rest.startswith("/"):  # no host, so nobody who enters there: sqlite:///, file:///
        return -1
    host = re.split("[/?#]", rest, maxsplit=1)[0]
    port = host.rpartition("]")[2].partition(":")[2]
    plain = "@" not in host and (not port or port.isdigit())
    before = rest.partition("?")[0]
    if plain and (scheme in _OBJECTS or "@" not in before):
        return -1
    return before.rfind("@") if "@" in before else rest.rfind("@")


def _query(query: str) -> tuple[str, list[str]]:
    """Return a query as it may be shown, and its secrets."""
    secrets: list[str] = []
    after = False  # a value that goes on after an & of its own
    parts = re.split("([&;])", query)
    for number, part in enumerate(parts):
        name, equals, value = part.partition("=")
        if number % 2:
            continue
        inner = unquote_plus(value)
        if equals:
            after = bool(_SECRET_NAME.search(name)) or bool(_INNER.search(inner))
        if after and (value or not equals) and part:
            secrets.append(value if equals else part)
            secrets += [one.partition("=")[2] for one in inner.split(";") if _INNER.match(one)]
            parts[number] = f"{name}={HIDDEN}" if equals else HIDDEN
    return "".join(parts), secrets
