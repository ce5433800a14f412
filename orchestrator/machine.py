"""What a study takes of the machine that it is started on."""

import os

from orchestrator.definition import Study
from orchestrator.keys import Compute


def has_gpu() -> bool:
    """Whether torch finds a GPU here."""
    import torch

    return torch.cuda.is_available()


def gpu_of(study: Study) -> float:
    """Return a trial's share of a GPU: as the study says, else all of one if there is one."""
    if study.resources.gpu is not None:
        return study.resources.gpu
    return 1.0 if has_gpu() else 0.0


def compute_of(study: Study, gpu: float) -> Compute:
    """Return what of the machine the results' keys know."""
    return Compute(device="cuda" if gpu else "cpu", threads=study.resources.cpu)


def workers_of(study: Study, gpu: float) -> int:
    """Return the trials at once: as the study says, else as many as fit."""
    if study.resources.workers is not None:
        return study.resources.workers
    import torch

    by_cpu = (os.cpu_count() or 1) // study.resources.cpu
    return max(1, min(by_cpu, int(torch.cuda.device_count() / gpu)) if gpu else by_cpu)
