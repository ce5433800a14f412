"""What a study was computed with: the exact command, the machine, the versions.

Only starts that had work to do are recorded, so that a report made again says the same. None
of this enters the table of results.
"""

import json
import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from orchestrator.address import redacted
from orchestrator.folder import whole_lines
from orchestrator.reporting.provenance import FILE

_PACKAGES = (
    *("ulrl-orchestrator", "torch", "torchvision", "timm", "numpy", "ray", "optuna", "mlflow"),
)


class StartLog:
    """The observer that notes a start of the driver once it has something computed.

    Attributes:
        executor: ``inline``, Ray on this machine, or the address of a cluster.
    """

    def __init__(self, logs: Path, device: str) -> None:
        self.executor = ""
        self._logs, self._device, self._noted = logs, device, False

    def started(self, item: Any) -> None:
        del item
        if not self._noted:
            self._noted = True
            whole_lines(self._logs / FILE)  # a line torn by a kill is cut off
            start = describe_start(self.executor, self._device)
            with (self._logs / FILE).open("a", encoding="utf-8") as file:
                file.write(json.dumps(start) + "\n")

    def progressed(self, item: Any, progress: Any) -> None:
        """The start said it."""

    def ended(self, item: Any, result: Any) -> None:
        """The start said it."""

    def victim(self, scenario: Any, finding: Any) -> None:
        """Read from the store, perhaps."""

    def decided(self, verdict: Any) -> None:
        """From what the store has, perhaps."""


def describe_start(executor: str, device: str) -> dict[str, Any]:
    """Return how this process was called, where it runs and with what."""
    return {
        "command": _command(),
        "executor": executor,
        "device": device,
        "hardware": _hardware(device),
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "versions": {"python": platform.python_version(), **_versions()},
        "commit": _commit(),
    }


def _command() -> str:
    """Return the command as a shell takes it, without secrets."""
    words = [redacted(word) for word in sys.argv[1:]]
    return shlex.join(["python", "-m", "orchestrator.study", *words])


def _hardware(device: str) -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    told = f"{os.cpu_count()} × {_processor()}, {memory:.0f} GiB"
    if device != "cuda":
        return told
    import torch

    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return "; ".join([told, *(f"{names.count(n)} × {n}" for n in dict.fromkeys(names))])


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _versions() -> dict[str, Any]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _commit() -> str:
    """Return the checkout's commit, with a plus if files differ from it; "" outside of one."""
    here = Path(__file__).resolve().parents[1]
    if not (here / ".git").exists():
        return ""
    git = ["git", "-C", str(here)]
    try:
        head = subprocess.run(  # noqa: S603 - our own words
            [*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(  # noqa: S603 - our own words
            [*git, "status", "--porcelain"], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f"{head}+" if changed else head
