"""Ray and Ray Tune: the executor for a machine's cores, its GPUs, or a cluster."""

from orchestrator.cluster.membership import Membership, embedded, joined
from orchestrator.cluster.tuning import run_on_ray

__all__ = ["Membership", "embedded", "joined", "run_on_ray"]
