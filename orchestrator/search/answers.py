"""What a pruner said, kept so that a resume need not ask it all again."""

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from orchestrator.files import write_text

MINDS = ("optuna", "scipy", "numpy")  # another version may answer otherwise


class PrunerAnswers:
    """A pruner's answers, each under a digest of all that it had been told.

    A resume tells it the same again, and a test costs it more than anything else does. A file
    that is absent, damaged or of other versions holds no answer: then the pruner is asked.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = self._read()
        self._given: dict[str, bool] = {}

    def get(self, told: "PrunerHistory") -> bool | None:
        """Return the answer to all that was told, or None if nobody asked yet."""
        answer = self._known.get(told.digest)
        if answer is not None:
            self._given[told.digest] = answer
        return answer

    def put(self, told: "PrunerHistory", *, answer: bool) -> None:
        """Keep an answer."""
        self._known[told.digest] = self._given[told.digest] = answer

    def save(self) -> None:
        """Write down the answers that were given since this start."""
        text = json.dumps(self._given)
        write_text(self._path, f"{_checksum(text)}\n{text}\n")

    def _read(self) -> dict[str, bool]:
        try:
            checksum, text = self._path.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError):
            return {}
        if checksum != _checksum(text):
            return {}
        found: dict[str, bool] = json.loads(text)
        return found


class PrunerHistory:
    """A digest of all that a study of Optuna's was told, in order."""

    def __init__(self, *kind: Any) -> None:
        self._state = hashlib.blake2b(repr(kind).encode(), digest_size=16)

    def add(self, *event: Any) -> None:
        """Take in one more event; floats count to the last bit."""
        self._state.update(repr(event).encode())

    @property
    def digest(self) -> str:
        return self._state.hexdigest()


def _checksum(text: str) -> str:
    minds = [version(name) for name in MINDS]
    return hashlib.sha256(repr((minds, text)).encode()).hexdigest()
