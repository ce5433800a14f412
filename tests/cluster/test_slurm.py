"""docs/cluster/slurm.sh on a real Slurm: two nodes, started on this machine for these tests.

``make cluster-test``, as root, with Debian's packages munge, slurm-client, slurmctld and slurmd.
Their services need not run: the tests have daemons, ports and files of their own.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp
from typing import Self

import pytest

from tests.system_tests.clusters import free_port
from tests.system_tests.commands import (
    MARK,
    ROOT,
    TINY,
    Command,
    computed,
    environment,
    killed,
    processes_with,
    same,
    wait_until,
)

SCRIPT = ROOT / "docs" / "cluster" / "slurm.sh"
# The GPUs are declared, and the computing is done on the CPU. One CPU each needs minutes for it.
GRID = """\
name: small
grid:
  attack: [badnets, {name: blended, alpha: 0.3}, {name: sig, poison_ratio: 0.05}]
  dataset: digits
  architecture: {name: preact_resnet18, width: 6}
  seed: [0, 1, 2]
  clean_ratio: 0.05
  unlearn_threshold: [0.3, 0.6]
  reinit_ratio: [1.0, 0.0]
  relearn_epochs: 20
  unlearn_epochs: 8
victim: {epochs: 12, batch_size: 64, min_acc: 0.2, min_asr: 0}
prune: none
resources: {device: cpu, gpu: 1}
mlflow: {log_models: none}
"""
CONFIGURATION = """\
ClusterName=ulrl
FirstJobId={first}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=n1 NodeAddr=127.0.0.1 NodeHostname={host} Port={ports[1]} CPUs=1 Gres=gpu:1
NodeName=n2 NodeAddr=127.0.0.1 NodeHostname={host} Port={ports[2]} CPUs=1 Gres=gpu:1
PartitionName=all Nodes=ALL Default=YES
"""


class Slurm:
    """Two nodes of one CPU and one GPU that is only declared, and what users type at them."""

    def __init__(self) -> None:
        self.folder = Path(mkdtemp(prefix="ulrl-slurm-", dir="/tmp"))
        self.mark = uuid.uuid4().hex
        self._daemons: list[subprocess.Popen[bytes]] = []
        path = f"{environment()['PATH']}{os.pathsep}/usr/sbin{os.pathsep}/sbin"
        conf = self.folder / "slurm.conf"
        self.environment = {**environment(), "PATH": path, "SLURM_CONF": str(conf), MARK: self.mark}
        ports = [free_port() for _ in range(3)]
        host, first = socket.gethostname(), os.getpid()  # a job's number names a port and a folder
        text = CONFIGURATION.format(folder=self.folder, ports=ports, host=host, first=first)
        conf.write_text(text)
        (self.folder / "gres.conf").write_text("Name=gpu File=/dev/null\n")
        (self.folder / "state").mkdir()
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))

    def __enter__(self) -> Self:
        files = {"key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        options = [f"--{name}={self.folder}/munge.{end}" for name, end in files.items()]
        self._start(
            "munged", "--foreground", "--force", f"--socket={self.folder}/munge.socket", *options
        )
        wait_until((self.folder / "munge.socket").exists, "munged listens", 30)
        self._start("slurmctld", "-D")
        for node in ("n1", "n2"):
            self._start("slurmd", "-D", "-N", node)
        wait_until(lambda: self.say("sinfo", "-h", "-o", "%T %D") == "idle 2", "two nodes idle", 60)
        return self

    def __exit__(self, *reason: object) -> None:
        for log in sorted(self.folder.glob("*.log")):
            print(log.name, log.read_text()[-5000:], sep="\n")  # noqa: T201 - shown if a test fails
        wait_until(lambda: not killed(processes_with(MARK, self.mark)), "the daemons are gone", 60)
        for daemon in self._daemons:
            daemon.wait()
        shutil.rmtree(self.folder)

    def _start(self, *command: str) -> None:
        with (self.folder / f"{command[0]}-{command[-1]}.log".replace("/", "-")).open("w") as log:
            daemon = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )
        self._daemons.append(daemon)

    def say(self, *command: str, cwd: Path | None = None) -> str:
        """Return what a command of Slurm prints."""
        done = subprocess.run(
            command,
            cwd=cwd,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return (done.stdout + done.stderr).strip()


class Checkout:
    """A folder from which jobs are submitted, and its jobs."""

    def __init__(self, slurm: Slurm, folder: Path) -> None:
        self.slurm = slurm
        self.folder = folder
        (folder / ".venv").symlink_to(sys.prefix)
        self.runs = Command(folder)
        self.job = ""

    def submit(self, *options: str, study: str = "grid.yaml") -> None:
        """Submit the script, for two nodes with a GPU each unless options say otherwise."""
        nodes = ("--nodes=2", "--gpus-per-node=1", "--cpus-per-task=1", "--time=30")
        command = ("sbatch", "--parsable", *nodes, *options, str(SCRIPT), study)
        self.job = self.slurm.say(*command, cwd=self.folder)
        assert self.job.isdecimal(), self.job

    @property
    def temporary(self) -> Path:
        return Path("/tmp", f"ray-{self.job}")

    def state(self) -> dict[str, str]:
        """Return what Slurm knows of the job."""
        said = self.slurm.say("scontrol", "show", "job", "--oneliner", self.job)
        return dict(re.findall(r"(\S+?)=(\S*)", said))

    def wait_for(self, state: str, restarts: int = 0, timeout: float = 900) -> dict[str, str]:
        """Return what Slurm knows once the job is in a state and the nodes are done with it."""

        def there() -> bool:
            listed = self.slurm.say("squeue", "-h", "-o", "%t")
            now = self.state()
            if (now["JobState"], now["Restarts"]) == (state, str(restarts)):
                return listed in {"", "PD"}
            assert listed, f"the job is {now['JobState']} after {now['Restarts']} restarts"
            return False

        wait_until(there, f"the job is {state} after {restarts} restarts", timeout)
        return self.state()

    def change(self, *values: str) -> None:
        """Change what was asked for the job."""
        assert not self.slurm.say("scontrol", "update", f"JobId={self.job}", *values)

    def log(self) -> str:
        return (self.folder / f"ulrl-{self.job}.log").read_text()

    def results(self) -> dict[str, tuple[int, int]]:
        """Return the stored results, each with what changes when it is written again."""
        found = (self.folder / "runs" / "store").rglob("*.safetensors")
        results = [path for path in found if "pace" not in path.parts]  # speeds are no results
        return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in results}

    def tidy(self) -> bool:
        """Say whether the job removed what it made beside the study's files."""
        return not (self.temporary.exists() or list((self.folder / "runs").glob("*.token")))

    def cancel(self) -> None:
        """Cancel the job if it still runs, and remove what it then leaves."""
        self.slurm.say("scancel", self.job)
        wait_until(lambda: not self.slurm.say("squeue", "-h"), "no job is left", 120)
        shutil.rmtree(self.temporary, ignore_errors=True)


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    missing = [
        name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(name)
    ]
    if missing or os.geteuid() != 0:
        pytest.skip(
            "Slurm runs as root, with Debian's packages munge, slurm-client, slurmctld and slurmd"
        )
    with Slurm() as slurm:
        yield slurm


@pytest.fixture
def checkout(slurm: Slurm, tmp_path: Path) -> Iterator[Checkout]:
    checkout = Checkout(slurm, tmp_path)
    yield checkout
    print(*(log.read_text() for log in tmp_path.glob("*.log")))  # noqa: T201 - shown if it fails
    checkout.cancel()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """The study, run inline from start to end."""
    with Command(tmp_path_factory.mktemp("alone")) as command:
        command.write(GRID)
        command.run("grid.yaml", "--inline", timeout=900)
        yield command


@pytest.mark.timeout(2400)
def test_the_time_limit_requeues_the_job_which_ends_with_the_same_table(
    checkout: Checkout, alone: Command
) -> None:
    checkout.runs.write(GRID)
    checkout.submit()
    wait_until(lambda: checkout.runs.listed() >= 3, "3 stages are listed", 600)
    # Slurm looks every 30 seconds for jobs with less than the 120 seconds of --signal left, and
    # half a minute. The limit is in minutes: now from 90 to 150 seconds are left.
    hours, minutes, seconds = map(int, checkout.state()["RunTime"].split(":"))
    checkout.change(f"TimeLimit={60 * hours + minutes + (seconds + 30) // 60 + 2}")
    checkout.wait_for("PENDING", restarts=1)
    stored = checkout.results()
    assert "SIGUSR1" in checkout.log()
    assert 0 < checkout.runs.listed() < len(alone.stages())
    checkout.change("TimeLimit=30")  # Slurm starts it again after two minutes
    assert checkout.wait_for("COMPLETED", restarts=1)["ExitCode"] == "0:0"
    same(checkout.runs.results(), alone.results())
    assert computed(checkout.runs.stages()) == computed(alone.stages())
    assert stored
    assert stored.items() <= checkout.results().items()
    assert checkout.tidy()


@pytest.mark.timeout(2400)
def test_a_cancelled_job_stays_so_and_the_next_one_goes_on(
    checkout: Checkout, alone: Command
) -> None:
    checkout.runs.write(GRID)
    checkout.submit()
    wait_until(lambda: checkout.runs.listed() >= 3, "3 stages are listed", 600)
    checkout.cancel()
    checkout.wait_for("CANCELLED")
    stored = checkout.results()
    checkout.submit()
    checkout.wait_for("COMPLETED")
    same(checkout.runs.results(), alone.results())
    assert stored
    assert stored.items() <= checkout.results().items()
    assert checkout.tidy()


@pytest.mark.timeout(2400)
def test_a_node_set_down_requeues_the_job_which_ends_with_the_same_table(
    checkout: Checkout, alone: Command
) -> None:
    checkout.runs.write(GRID)
    checkout.submit()
    wait_until(lambda: checkout.runs.listed() >= 3, "3 stages are listed", 600)
    checkout.slurm.say("scontrol", "update", "NodeName=n2", "State=DOWN", "Reason=test")
    checkout.wait_for("PENDING", restarts=1)
    stored = checkout.results()
    checkout.slurm.say("scontrol", "update", "NodeName=n2", "State=RESUME")
    checkout.wait_for("COMPLETED", restarts=1)
    same(checkout.runs.results(), alone.results())
    assert stored
    assert stored.items() <= checkout.results().items()
    assert checkout.tidy()


@pytest.mark.parametrize(
    ("study", "error"),
    [
        ("none.yaml", "none.yaml: there is no such file\n"),
        (
            "mistake.yaml",
            "mistake.yaml:7: grid.relearn_epochs: relearn_epochs is from 1 to 1000; got -1\n",
        ),
    ],
    ids=["no file", "a mistake"],
)
def test_a_mistake_ends_the_job_with_one_error(checkout: Checkout, study: str, error: str) -> None:
    """On one node without GPUs."""
    checkout.runs.write(TINY.replace("[1, 2, 3]", "-1"), "mistake.yaml")
    checkout.submit("--nodes=1", "--gpus-per-node=0", study=study)
    assert checkout.wait_for("FAILED")["ExitCode"] == "2:0"
    assert error in checkout.log()
    assert "Traceback" not in checkout.log()
    assert checkout.tidy()
