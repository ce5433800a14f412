"""Machines of a cluster on this one: each has its own network, processes, mounts and name.

The namespaces of a machine live as long as its first process. To kill that kills all of the
machine at once, as if its power went off, and leaves nothing of it: no device, no mount.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import mkdtemp
from typing import Self

import psutil

from tests.system_tests.commands import environment, wait_until

NET = "10.77.0"  # of the machines; none of it is seen outside of their namespaces
PORT = 6379  # of the head, as Ray has it: nothing else is on its network
GLUSTER_PORT = 24007
KINDS = ("net", "pid", "mount", "uts", "ipc")
OWN = ("/run", "/var/log")  # folders that what runs on a machine writes to, empty on each
NEEDED = ("ip", "unshare", "nsenter", "mount")
# For a loaded machine, on which Ray's own 30 seconds for a start may pass and its workers, which
# give way to all others, may not be heard of for minutes.
RAY = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": "0123456789abcdef" * 4,
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_raylet_start_wait_time_s": "300",
    "RAY_worker_niceness": "0",
}


def why_not() -> str:
    """Return why there can be no namespaces here, or ""."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if lacking := [name for name in NEEDED if shutil.which(name) is None]:
        return f"{', '.join(lacking)} not installed; on Debian in iproute2, util-linux and mount"
    words = ["unshare", *(f"--{kind}" for kind in KINDS), "--fork", "true"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return f"no namespaces: {done.stderr.strip()}" if done.returncode else ""


class Machine:
    """A machine that is on, from when it is made until it is killed.

    Args:
        name: Its host name.
        place: A folder of all machines; ``local`` in it is each one's own, in memory.
    """

    def __init__(self, name: str, place: Path) -> None:
        self.name, self.local = name, place / "local"
        # Its first process ends with this one, by the pipe. It leaves no dead orphans about, since
        # it ignores the signal of their end.
        first = ["env", "--ignore-signal=CHLD", "cat"]
        words = ["unshare", *(f"--{kind}" for kind in KINDS), "--fork", "--kill-child"]
        self._unshare = subprocess.Popen(
            [*words, "--mount-proc", *first],
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,
        )
        wait_until(self._is_there, f"{name} is on", 30)
        (self._first,) = psutil.Process(self._unshare.pid).children()
        self.run("hostname", name)
        self.run("ip", "link", "set", "lo", "up")
        for folder in (*OWN, str(self.local)):
            self.run("mount", "-t", "tmpfs", "ulrl", folder)

    def _is_there(self) -> bool:
        children = psutil.Process(self._unshare.pid).children()
        return bool(children) and children[0].name() == "cat"

    @property
    def pid(self) -> int:
        """The process of this machine whose namespaces are the other one's."""
        return self._first.pid

    @property
    def is_on(self) -> bool:
        return self._unshare.poll() is None

    def words(self, folder: Path | str = "/") -> list[str]:
        """Return the words that run the ones after them on the machine, in a folder."""
        kinds = [f"--{kind}" for kind in KINDS]
        return ["nsenter", f"--target={self.pid}", *kinds, f"--wdns={folder}"]

    def run(self, *words: str, **variables: str) -> str:
        """Run a program to its end, and return what it printed."""
        done = subprocess.run(
            [*self.words(), *words],
            env={**environment(), **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=400,
            check=False,
        )
        assert done.returncode == 0, f"{self.name}: {words}\n{done.stdout}"
        return done.stdout

    def processes(self) -> list[psutil.Process]:
        """Return what runs on the machine, but for its first process."""
        own, found = _space(self.pid), []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                alive = process.status() != psutil.STATUS_ZOMBIE
                if process.pid != self.pid and alive and _space(process.pid) == own:
                    found.append(process)
        return found

    def kill(self) -> None:
        """Kill all that runs on the machine at once."""
        with contextlib.suppress(psutil.Error):
            self._first.kill()
        self._unshare.communicate()


def _space(pid: int) -> str:
    return str(Path(f"/proc/{pid}/ns/pid").readlink())


class Cluster:
    """Machines on one switch, and the Ray on some of them.

    Attributes:
        place: A folder that is the same on all machines, but for ``local`` and ``shared``.
        machines: Those that were on, by name.
    """

    def __init__(self) -> None:
        self.place = Path(mkdtemp(prefix="ulrl-", dir="/tmp"))  # short, for Ray's sockets
        (self.place / "local").mkdir()
        self.shared = self.place / "shared"
        self.shared.mkdir()
        self.machines: dict[str, Machine] = {}
        self._ports: dict[str, str] = {}
        self._head = ""

    def __enter__(self) -> Self:
        self._switch = Machine("switch", self.place)
        self._switch.run("ip", "link", "add", "name", "hub", "type", "bridge")
        self._switch.run("ip", "link", "set", "hub", "up")
        return self

    def __exit__(self, *reason: object) -> None:
        for machine in (*self.machines.values(), self._switch):
            machine.kill()
        shutil.rmtree(self.place)

    @property
    def address(self) -> str:
        """Of the Ray."""
        return f"{self.ip(self._head)}:{PORT}"

    def ip(self, name: str) -> str:
        return f"{NET}.{1 + list(self.machines).index(name)}"

    def on(self, name: str) -> Machine:
        """Return a machine, switched on and plugged in if it is not."""
        machine = self.machines.get(name)
        if machine is not None and machine.is_on:
            return machine
        machine = self.machines[name] = Machine(name, self.place)
        number = list(self.machines).index(name)
        port = self._ports[name] = f"to-{name}-{time.monotonic_ns() % 10**6}"[:15]
        ends = ["ip", "link", "add", port, "netns", str(self._switch.pid), "type", "veth"]
        ends += ["peer", "name", "eth0", "netns", str(machine.pid)]
        subprocess.run(ends, check=True)
        self._switch.run("ip", "link", "set", port, "master", "hub", "up")
        machine.run("ip", "address", "add", f"{NET}.{number + 1}/24", "dev", "eth0")
        machine.run("ip", "link", "set", "eth0", "up")
        return machine

    def plug(self, name: str, *, up: bool) -> None:
        """Cut a machine's link, or heal the cut."""
        state = "up" if up else "down"
        self._switch.run("ip", "link", "set", self._ports[name], state)

    def start_ray(self, name: str, *, cpus: int, head: bool = False) -> Machine:
        """Start Ray on a machine as an administrator would, unless it runs there."""
        machine = self.on(name)
        if any(process.name() == "raylet" for process in machine.processes()):
            return machine
        role = [f"--address={self.address}"] if not head else []
        if head:
            self._head = name
            role = ["--head", f"--port={PORT}", "--include-dashboard=false"]
            role.append(f"--temp-dir={self.place / 'local' / 'ray'}")
        machine.run(
            *(sys.executable, "-m", "ray.scripts.scripts", "start", *role),
            *(f"--node-ip-address={self.ip(name)}", f"--num-cpus={cpus}", "--num-gpus=0"),
            "--object-store-memory=100000000",
            **RAY,
        )
        return machine

    def members(self) -> int:
        """Return how many nodes the head of the Ray takes for alive."""
        words = (sys.executable, "-m", "ray.scripts.scripts", "status", "--address", self.address)
        text = self.machines[self._head].run(*words, **RAY)
        return text.partition("Active:")[2].partition("Pending:")[0].count("node_")

    def serve_files(self, name: str) -> None:
        """Let a machine serve a folder to the others, with locks."""
        brick, volume = self.place / "brick", self.place / "server.vol"
        brick.mkdir()
        volume.write_text(SERVER.format(folder=brick, port=GLUSTER_PORT))
        self.on(name).run("mkdir", "-p", "/run/gluster")
        self.machines[name].run("glusterfsd", f"--volfile={volume}", "--log-file=/var/log/server")

    def mount(self, name: str, server: str) -> None:
        """Mount the served folder as ``shared`` on a machine."""
        volume = self.place / "client.vol"
        volume.write_text(CLIENT.format(host=self.ip(server), port=GLUSTER_PORT))
        machine = self.on(name)
        machine.run("mkdir", "-p", "/run/gluster")
        words = ("glusterfs", f"--volfile={volume}", "--log-file=/var/log/client")
        machine.run(*words, str(self.shared))
        machine.run("ls", str(self.shared))


SERVER = """\
volume files
  type storage/posix
  option directory {folder}
end-volume
volume locks
  type features/locks
  subvolumes files
end-volume
volume server
  type protocol/server
  option transport-type tcp
  option transport.socket.listen-port {port}
  option auth.addr.locks.allow *
  subvolumes locks
end-volume
"""
CLIENT = """\
volume client
  type protocol/client
  option transport-type tcp
  option remote-host {host}
  option remote-port {port}
  option remote-subvolume locks
  option ping-timeout 10
end-volume
"""
