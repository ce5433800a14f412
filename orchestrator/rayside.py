"""What has to be right around Ray before it is started or joined."""

import os
import socket

from orchestrator.errors import Unusable
from orchestrator.resources import Resources

KNOCK_SECONDS = 10.0  # until an address counts as unreachable


def configure() -> None:
    """Switch off what a study has no use for."""
    os.environ |= {
        "RAY_AIR_NEW_OUTPUT": "0",
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the study has its own
        "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
        "TUNE_GLOBAL_CHECKPOINT_S": "1000000",  # Tune's own snapshots are never read
    }


def knock(address: str) -> None:
    """Refuse an address where nobody listens; Ray itself would ask for minutes, aloud.

    Raises:
        Unusable: Nobody listens there.
    """
    if address.startswith("ray://"):
        raise Unusable(
            f"{address} is a Ray Client, through which a study cannot run; start the command "
            f"on a node of the cluster and name its HOST:PORT, or auto"
        )
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        return  # "auto" and the like, which Ray resolves
    try:
        place = (host.strip("[]"), int(port))
        socket.create_connection(place, timeout=KNOCK_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise Unusable(f"the Ray cluster at {address} cannot be used ({error})") from error


def embedded_cpus(resources: Resources) -> int:
    """Return the CPUs that an embedded Ray offers: what is asked for, or the machine's."""
    if resources.workers is not None:
        return resources.workers * resources.cpu
    return max(os.cpu_count() or 1, resources.cpu)
