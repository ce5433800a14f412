"""What a study was computed with, from the record that its driver kept."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import Mistakes

FILE = "starts.jsonl"  # in logs/
_TEXTS = ("command", "executor", "device", "hardware", "system", "commit")


@dataclass(frozen=True, kw_only=True)
class Start:
    """One start of a driver that had work to do."""

    command: str
    executor: str
    device: str
    hardware: str
    system: str
    commit: str
    versions: Mapping[str, str]

    def facts(self) -> list[tuple[str, str]]:
        """Return what is worth a line each, but for the command."""
        versions = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        told = (
            ("Executor", f"{self.executor}, on {self.device}"),
            ("Driver's machine", self.hardware),
            ("System", self.system),
            ("Versions", versions),
            ("Commit", self.commit),
        )
        return [(term, text) for term, text in told if text]


def read_starts(path: Path) -> Sequence[Start]:
    """Return the record's starts, the last one last; none if there is no record.

    Raises:
        Mistakes: It is there, but a whole line of it is no record of a start.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ()
    except (OSError, UnicodeDecodeError) as error:
        raise Mistakes([f"{path}: cannot be read; {' '.join(str(error).split())}"]) from None
    lines = text[: text.rfind("\n") + 1].splitlines()  # a kill may have torn the last one
    return [_start(path, number, line) for number, line in enumerate(lines, start=1)]


def _start(path: Path, number: int, line: str) -> Start:
    try:
        found: Any = json.loads(line)
        texts = {name: found[name] for name in _TEXTS}
        versions = {name: str(value) for name, value in found["versions"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        texts, versions = {"command": None}, {}
    if not all(isinstance(text, str) for text in texts.values()):
        raise Mistakes([f"{path}: line {number} is no record of a start"])
    return Start(**texts, versions=versions)
