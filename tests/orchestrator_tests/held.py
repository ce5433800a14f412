"""Claims of one result, and what they look like when somebody else holds them."""

import json
import os
import time
from pathlib import Path
from typing import Any

from orchestrator.store.locks import ResultLock
from orchestrator.store.store import Store

KEY = "ab" + "0" * 62


def turn(store: Store, key: str = KEY) -> ResultLock:
    return store.turn("relearn", key)


def file_of(store: Store) -> Path:
    return Path(str(store.url)) / ".claims" / f"relearn-{KEY}"


def left(store: Store) -> list[str]:
    """Return the files of claims that are there."""
    return [str(name) for name in store._files.find(f"{store._root}/.claims")]


def age(store: Store, seconds: float) -> None:
    """Let a claim's last sign of life be that long ago."""
    then = time.time() - seconds
    os.utime(file_of(store), (then, then))


def rewrite(store: Store, **fields: Any) -> None:
    """Let a claim be of somebody else, alive now."""
    holder = json.loads(file_of(store).read_bytes())
    file_of(store).write_text(json.dumps(holder | fields))
