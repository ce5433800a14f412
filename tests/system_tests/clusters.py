"""A Ray cluster of several nodes on this machine, each killed when the test wants it."""

import shutil
import socket
import subprocess
import sys
import uuid
from pathlib import Path
from tempfile import mkdtemp
from typing import Self

from tests.system_tests.commands import environment, killed, processes_with, wait_until

MARK = "ULRL_TEST_NODE"
CLUSTER = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


class Cluster:
    """Nodes started by ``ray start``, as an administrator would."""

    def __init__(self) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self._temporary = Path(mkdtemp(prefix="ulrl-nodes-", dir="/tmp"))
        self._marks: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        for mark in self._marks:
            self.kill(mark)
        shutil.rmtree(self._temporary, ignore_errors=True)

    @property
    def head(self) -> str:
        return self._marks[0]

    def start(self, *, cpus: int, gpus: int, path: Path | None = None) -> str:
        """Start a node, the head first, and return its mark; `path` is its PYTHONPATH."""
        mark = uuid.uuid4().hex
        host, port = self.address.split(":")
        role = [f"--address={self.address}"]
        if not self._marks:
            role = ["--head", f"--port={port}", "--include-dashboard=false"]
            role.append(f"--temp-dir={self._temporary}")
        command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", *role),
            *(f"--node-ip-address={host}", f"--num-cpus={cpus}", f"--num-gpus={gpus}"),
            *("--min-worker-port=0", "--max-worker-port=0", "--object-store-memory=100000000"),
        ]
        done = subprocess.run(
            command,
            cwd=self._temporary,
            env={**environment(), **CLUSTER, "PYTHONPATH": str(path or ""), MARK: mark},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        self._marks.append(mark)
        assert done.returncode == 0, done.stdout + done.stderr
        return mark

    def kill(self, mark: str) -> None:
        """Kill all of a node at once, as if its power went off."""
        wait_until(lambda: not killed(processes_with(MARK, mark)), "a node is gone")
