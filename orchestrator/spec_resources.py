"""The sections ``resources``, ``limits`` and ``budget`` of a study file."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from orchestrator.resources import STAGES, ArchitectureAsk, Ask, Budget, Device, Limits, Resources
from orchestrator.spec_findings import Findings, Node, Wrong
from orchestrator.spec_values import (
    Reader,
    at_most,
    between,
    choice,
    fail,
    known,
    mapping,
    number,
    section,
    whole,
)

T = TypeVar("T")
MOST_HOURS = 24 * 366 * 10  # ten years: a larger number is in seconds
MOST_CPUS, MOST_GPUS = 1024, 64  # of one worker: no machine has more
# Stages that run inside another's item and have no worker of their own.
INNER = {"score_neurons": "unlearn", "evaluate": "train_victim and relearn"}


def read_resources(node: Node, architectures: Iterable[str], found: Findings) -> Resources:
    """Return the section ``resources``; `architectures` are the names in the grid."""
    names = sorted(set(architectures))
    by_stage = partial(_by_stage, read=partial(_ask, found=found), found=found)
    readers: dict[str, Reader] = {
        "workers": _times,
        "cpu": _cpus,
        "gpu": _gpu,
        "device": partial(choice, enum=Device),
        "stages": by_stage,
        "architectures": partial(_by_architecture, names=names, by_stage=by_stage, found=found),
    }
    resources = Resources(**section(node, readers, found))
    _check_cpus(node, resources, found)
    _check_gpus(node, resources, found)
    return resources


def read_limits(node: Node, found: Findings) -> Limits:
    """Return the section ``limits``."""
    readers: dict[str, Reader] = {
        "minutes": partial(_minutes, found=found),
        "attempts": _times,
    }
    return Limits(**section(node, readers, found))


def read_budget(node: Node, found: Findings) -> Budget:
    """Return the section ``budget``."""
    readers: dict[str, Reader] = {
        "hours": partial(_duration, most=MOST_HOURS),
        "trials": _times,
    }
    return Budget(**section(node, readers, found))


def _count(most: int) -> Callable[[Node], int]:
    """Return a reader of whole numbers from 1 to `most`."""

    def read(node: Node) -> int:
        count = whole(node)
        between(node, count, 1)
        at_most(node, count, most)
        return count

    return read


_cpus, _times = _count(MOST_CPUS), _count(1_000_000)


def _gpu(node: Node) -> float:
    share = number(node)
    between(node, share, 0)
    at_most(node, share, MOST_GPUS)
    if share > 1 and not share.is_integer():
        raise fail(node, "at most 1, or a whole number")
    return share


def _ask(node: Node, found: Findings) -> Ask:
    return Ask(**section(node, {"cpu": _cpus, "gpu": _gpu}, found))


def _by_stage(node: Node, read: Callable[[Node], T], found: Findings) -> Mapping[str, T]:
    refused = {
        stage: f"{stage} has no worker of its own; it runs with {other}"
        for stage, other in INNER.items()
    }
    values: dict[str, T] = {}
    for stage, part in mapping(node, STAGES, found, refused).items():
        with found.collecting():
            values[stage] = read(part)
    return values


def _by_architecture(
    node: Node, names: list[str], by_stage: Reader, found: Findings
) -> Mapping[str, ArchitectureAsk]:
    if not isinstance(node.value, dict):
        raise fail(node, "a mapping of architectures to what each takes")
    complaint = "no architecture of this grid is called {!r}"
    readers: dict[str, Reader] = {"cpu": _cpus, "gpu": _gpu, "stages": by_stage}
    entries = known(node.value, names, found, complaint, "they are") if names else node.value
    values = {}
    for name, part in entries.items():
        with found.collecting():
            values[name] = ArchitectureAsk(**section(part, readers, found))
    return values


def _minutes(node: Node, found: Findings) -> Mapping[str, float]:
    read = partial(_duration, most=MOST_HOURS * 60)
    if isinstance(node.value, dict):
        return _by_stage(node, read, found)
    return dict.fromkeys(STAGES, read(node))


def _duration(node: Node, most: float) -> float:
    value = number(node)
    if not 0 < value <= most:
        raise fail(node, f"above 0 and at most {most:g}")
    return value


def _check_cpus(node: Node, resources: Resources, found: Findings) -> None:
    """Note where fewer CPUs are asked for than torch has threads."""
    for ask in _nested(node):
        cpu = ask.value.get("cpu") if isinstance(ask.value, dict) else None
        with suppress(Wrong):  # what is no number of CPUs is noted where it is read
            if cpu is not None and _cpus(cpu) < resources.cpu:
                rule = f"at least resources.cpu, torch's threads, which are {resources.cpu}"
                found.add(cpu, str(fail(cpu, rule)))


def _check_gpus(node: Node, resources: Resources, found: Findings) -> None:
    """Note a study that would compute on two kinds of device, or on one that it lacks."""
    gpus = resources.gpus
    if 0 in gpus and any(gpus):
        found.add(
            node,
            "all stages have a share of a GPU or none has: a study computes on one kind of "
            "device; gpu is 0 in one place and above 0 in another",
        )
    if resources.device is Device.CUDA and 0 in gpus:
        found.add(node, "device cuda wants a share of a GPU; gpu is 0")


def _nested(node: Node) -> Iterable[Node]:
    """Yield the lines of a section that ask for stages and architectures."""
    parts: Any = node.value if isinstance(node.value, dict) else {}
    for key in ("stages", "architectures"):
        inner = parts[key].value if key in parts else None
        for ask in (inner if isinstance(inner, dict) else {}).values():
            yield ask
            if key == "architectures":
                yield from _nested(ask)
