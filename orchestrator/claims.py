"""Who computes what now: claims in the store, so that drivers that share it share the work.

A claim saves work and decides nothing: where it is lost or two hold it, a result is made twice
and is the same.
"""

import json
import os
import secrets
import socket
import threading
import time
from contextlib import suppress
from functools import lru_cache
from types import TracebackType
from typing import Any, Self

from orchestrator.claimfiles import WRITING, ClaimFiles, Sight
from orchestrator.processes import born, place

BEAT = 10.0  # seconds between signs of life of a holder
SILENCE = 60.0  # seconds without one, after which a holder is taken for dead


class Turn:
    """A place in the queue for one result; left, whatever it claimed is free again."""

    def __init__(self, files: ClaimFiles, name: str) -> None:
        self._files = files
        self._name = name
        self._token = secrets.token_hex(8)
        self._content = b""
        self._seen: Sight | None = None
        self._since = 0.0  # when the claim that was seen changed last, by this process's clock
        self._held = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._held:
            return
        self._held = False
        _HEART.drop(self._token)
        with suppress(Exception):  # it is found dead, then, by whoever needs it
            if self._is_ours():
                self._files.remove(self._name)

    def mine(self) -> bool:
        """Whether it is this process's turn; if not, another one works on it now.

        A store that can keep no claims keeps nobody from working.
        """
        if self._held:
            return True
        _HEART.add(self._token, self)  # first, or another thread would find it forgotten
        try:
            self._held = self._take()
        except Exception:  # noqa: BLE001 - any back end, any error: no result rests on it
            return True
        finally:
            if not self._held:
                _HEART.drop(self._token)
        return self._held

    def beat(self) -> None:
        """Give a sign of life, unless the claim is another's meanwhile."""
        with suppress(Exception):  # the next may arrive
            if self._is_ours():
                self._files.touch(self._name, self._content)

    def _take(self) -> bool:
        self._content = self._content or _signed(self._token)
        if self._files.create(self._name, self._content):
            return True
        sight = self._files.look(self._name)
        if sight is None or not self.is_dead(sight):
            return False
        return self._files.seize(self._name, sight.content, self._content)

    def is_dead(self, sight: Sight) -> bool:
        """Whether whoever made a claim gives no sign of life any more."""
        holder = _holder(sight.content)
        if holder is not None and holder["place"] == place() != "":
            if born(holder["pid"]) != holder["born"]:
                return True
            if holder["pid"] == os.getpid() and not _HEART.beats_for(holder["token"]):
                return True
        return self._silent(sight) > (WRITING if holder is None else SILENCE)

    def _silent(self, sight: Sight) -> float:
        """Return the seconds without a sign of life: no two machines' clocks are compared."""
        if sight != self._seen:
            known = self._seen is not None
            age = 0.0 if known else max(0.0, self._files.now() - sight.changed)
            self._seen, self._since = sight, time.monotonic() - age
        return time.monotonic() - self._since

    def _is_ours(self) -> bool:
        sight = self._files.look(self._name)
        return sight is not None and sight.content == self._content


def is_held(files: ClaimFiles, name: str) -> bool:
    """Whether somebody is at a result now, as far as one look tells."""
    try:
        sight = files.look(name)
        return sight is not None and not Turn(files, name).is_dead(sight)
    except Exception:  # noqa: BLE001 - any back end, any error: no result rests on it
        return False


class _Heart:
    """A thread that gives a sign of life for every claim this process holds."""

    def __init__(self) -> None:
        self._turns: dict[str, Turn] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, token: str, turn: Turn) -> None:
        with self._lock:
            self._turns[token] = turn
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._beat, daemon=True)
                self._thread.start()

    def drop(self, token: str) -> None:
        with self._lock:
            self._turns.pop(token, None)

    def beats_for(self, token: str) -> bool:
        return token in self._turns

    def _beat(self) -> None:
        while True:
            time.sleep(BEAT)
            with self._lock:
                turns = tuple(self._turns.values())
            for turn in turns:
                turn.beat()


_HEART = _Heart()


def _signed(token: str) -> bytes:
    """Return what says that this process holds a claim."""
    return json.dumps({"token": token, **_myself(os.getpid())}).encode()


@lru_cache(maxsize=1)
def _myself(pid: int) -> dict[str, Any]:
    return {"place": place(), "pid": pid, "born": born(pid), "host": socket.gethostname()}


def _holder(content: bytes) -> dict[str, Any] | None:
    """Return who holds a claim, if it says so."""
    try:
        found = json.loads(content)
        token, place, pid, born = (found[name] for name in ("token", "place", "pid", "born"))
    except (ValueError, KeyError, TypeError):
        return None
    sound = isinstance(pid, int) and all(isinstance(text, str) for text in (token, place, born))
    return found if sound else None
