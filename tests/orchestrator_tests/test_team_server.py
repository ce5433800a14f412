"""The server for a team: PostgreSQL and passwords started by hand, the compose file by its form."""

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.error import HTTPError

import pytest
import yaml

from orchestrator.tracking.records import Record
from orchestrator.tracking.sync import SyncState, open_sync
from tests.installed import program
from tests.servers import ROOT, fetch, free_port, running, tracking_server, wait_for

PASSWORD = "a password of twelve"


def as_nobody(command: list[str]) -> list[str]:
    """Return a command as PostgreSQL takes it, which refuses to run as root."""
    return command if os.getuid() else ["runuser", "-u", "nobody", "--", *command]


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """Run an empty PostgreSQL, and return its address."""
    with TemporaryDirectory() as place:
        yield from serve_database(place)


def serve_database(place: str) -> Iterator[str]:
    initdb, postgres = program("initdb", "postgresql"), program("postgres", "postgresql")
    port, folder = free_port(), Path(place)
    folder.chmod(0o755)  # its user is not ours
    data = folder / "data"
    data.mkdir()
    if not os.getuid():
        subprocess.run(["chown", "nobody", str(data)], check=True)
    make = [initdb, "--no-sync", "--auth=trust", "--username=mlflow", "--pgdata", str(data)]
    subprocess.run(as_nobody(make), check=True, capture_output=True, cwd="/")
    options = {
        "listen_addresses": "127.0.0.1",
        "port": str(port),
        "unix_socket_directories": "",
        "fsync": "off",
    }
    settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    with running(as_nobody([postgres, "-D", str(data), *settings]), folder):
        ready = [program("pg_isready", "postgresql"), "-h", "127.0.0.1", "-p", str(port)]
        until = time.monotonic() + 60
        while subprocess.run(ready, capture_output=True, check=False).returncode:
            assert time.monotonic() < until, (folder / "server.log").read_text()
            time.sleep(0.1)
        yield f"postgresql+psycopg2://mlflow@127.0.0.1:{port}/postgres"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / "mlflow/compose.yaml").read_text())
    return content


@pytest.fixture(scope="module")
def address(
    database: str, compose: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Run MLflow on PostgreSQL as `compose.yaml` does, and return its address."""
    folder, port = tmp_path_factory.mktemp("team"), free_port()
    auth = compose["configs"]["auth"]["content"]
    place = "postgresql+psycopg2://mlflow:${DATABASE_PASSWORD}@database/mlflow"
    assert place in auth
    (folder / "auth.ini").write_text(auth.replace(place, database))
    upgrade, serve = commands(compose)
    assert upgrade == ["mlflow", "db", "upgrade", "$MLFLOW_BACKEND_STORE_URI"]
    command = [sys.executable, "-W", "ignore", "-m", *upgrade[:-1], database]
    subprocess.run(command, check=True, capture_output=True, cwd=folder, timeout=300)
    given = compose["services"]["server"]["environment"]
    settings = {
        "MLFLOW_BACKEND_STORE_URI": database,
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
        "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "0" * 64,
        "MLFLOW_SERVER_ALLOWED_HOSTS": given["MLFLOW_SERVER_ALLOWED_HOSTS"].replace(
            "${HOSTS:-}", "team.example.org"
        ),
        "MLFLOW_AUTH_ADMIN_USERNAME": given["MLFLOW_AUTH_ADMIN_USERNAME"],
    }
    name, value = serve[serve.index("--app-name") :][:2]
    with ExitStack() as stack:
        url = stack.enter_context(tracking_server(folder, port, options=(name, value), **settings))
        wait_for(f"{url}/health")
        yield url


def commands(compose: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Return the two commands of the server's container."""
    shell, flag, script = shlex.split(compose["services"]["server"]["command"])
    assert (shell, flag) == ("sh", "-c")
    first, second = script.replace("$$", "$").split(" && exec ")
    return shlex.split(first), shlex.split(second)


def records(trials: int) -> list[Record]:
    study = Record(key="study", parent=None, name="team", params={"trials": str(trials)})
    return [
        study,
        *(
            Record(
                key=f"trial-{number}",
                parent="study",
                name=f"trial {number}",
                metrics={"acc": number / 3},
                curves={"relearn/acc": tuple((step, step / 7) for step in range(1, 21))},
                tags={"attack": ("badnets", "sig")[number % 2]},
            )
            for number in range(trials)
        ),
    ]


def send(uri: str, table: Path, trials: int) -> SyncState:
    worker = open_sync(uri, "team", table, table.parent.name)
    for record in records(trials):
        worker.record(record)
    return worker.close(120)


def test_a_study_on_postgresql_behind_a_password(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    refused = send(address, tmp_path / "refused.sqlite", 1)
    assert (refused.delivered, refused.left) == (0, 2)
    assert refused.error is not None
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    assert send(address, tmp_path / "mlflow.sqlite", 6) == SyncState(7, 0, None)
    assert send(address, tmp_path / "mlflow.sqlite", 6) == SyncState(0, 0, None)
    from mlflow import MlflowClient

    client = MlflowClient(address)
    experiment = client.get_experiment_by_name("team")
    assert experiment is not None
    assert experiment.artifact_location.startswith("mlflow-artifacts:")
    runs = client.search_runs([experiment.experiment_id], "tags.attack = 'sig'")
    assert sorted(run.info.run_name for run in runs) == ["trial 1", "trial 3", "trial 5"]
    for run in runs:
        points = client.get_metric_history(run.info.run_id, "relearn/acc")
        assert sorted((p.step, p.value) for p in points) == [(s, s / 7) for s in range(1, 21)]


def test_nobody_reads_without_a_password(address: str) -> None:
    with pytest.raises(HTTPError) as refusal:
        fetch(f"{address}/api/2.0/mlflow/experiments/get?experiment_id=0")
    assert refusal.value.code == 401


def test_a_study_writes_to_postgresql_itself(database: str, address: str, tmp_path: Path) -> None:
    del address  # it has made the tables
    assert send(database, tmp_path / "mlflow.sqlite", 2) == SyncState(3, 0, None)


def test_the_compose_file_is_whole(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert set(services) == {"database", "objects", "bucket", "server"}
    for name, service in services.items():
        assert "image" in service or "build" in service
        lasting = service.get("restart") == "unless-stopped"
        assert lasting is ("healthcheck" in service) is (name != "bucket")
        conditions = {"service_healthy", "service_completed_successfully"}
        for needed, how in service.get("depends_on", {}).items():
            assert needed in services
            assert how["condition"] in conditions
        for volume in service.get("volumes", ()):
            assert volume.partition(":")[0] in compose["volumes"]
    text = (ROOT / "mlflow/compose.yaml").read_text()
    wanted = set(re.findall(r"(?<!\$)\$\{([A-Z_]+)", text))
    offered = set(re.findall(r"^([A-Z_]+)=", (ROOT / "mlflow/team.env").read_text(), re.MULTILINE))
    assert wanted == offered
    _, serve = commands(compose)
    told = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "mlflow", "server", "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert not [flag for flag in serve if flag.startswith("--") and flag not in told]
    pinned = re.search(
        r"mlflow\[auth\]==(\S+?)\"", services["server"]["build"]["dockerfile_inline"]
    )
    assert pinned is not None
    assert f"mlflow=={pinned[1]}" in (ROOT / "constraints.txt").read_text().splitlines()
