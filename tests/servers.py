"""Servers that tests talk to, on ports of this machine alone."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import ProxyHandler, build_opener

import pytest

ROOT = Path(__file__).parents[1]
SETTINGS = ROOT / "mlflow" / "server.env"


def free_port() -> int:
    """Return a port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
    return number


def fetch(url: str) -> str:
    """Return what a server of this machine says."""
    try:
        with build_opener(ProxyHandler({})).open(url, timeout=60) as answer:
            content: bytes = answer.read()
    except HTTPError as refusal:
        refusal.close()
        raise
    return content.decode()


def wait_for(url: str, seconds: float = 150) -> None:
    """Return once a server answers, be it with a refusal."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            fetch(url)
        except HTTPError:
            return
        except OSError:
            time.sleep(0.2)
        else:
            return
    pytest.fail(f"{url} did not answer within {seconds} s")


@contextmanager
def running(
    command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program, and in the end stop it with all that it started."""
    with (
        (folder / "server.log").open("ab") as log,
        subprocess.Popen(
            command,
            env={**os.environ, **(environment or {})},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process,
    ):
        try:
            yield process
        finally:
            try:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


@contextmanager
def tracking_server(
    folder: Path, port: int, options: Sequence[str] = (), **settings: str
) -> Iterator[str]:
    """Run MLflow with the settings that the repository gives, and return its address."""
    command = [sys.executable, "-m", "mlflow", "--env-file", str(SETTINGS), "server", *options]
    environment = {
        "MLFLOW_PORT": str(port),
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{folder}/mlflow.db",
        "MLFLOW_ARTIFACTS_DESTINATION": str(folder / "artifacts"),
        **settings,
    }
    with running(command, folder, environment):
        yield f"http://127.0.0.1:{port}"
